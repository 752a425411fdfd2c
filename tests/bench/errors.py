"""What ends a measurement."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path


class BenchError(Exception):
    """A step failed, or its result is wrong. The message is for people."""


def run(command: Sequence[str | Path]) -> str:
    """Run a step that is not measured, and return what it printed."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = done.stdout.decode(errors="replace")
    if done.returncode:
        raise BenchError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{output}")
    return output
