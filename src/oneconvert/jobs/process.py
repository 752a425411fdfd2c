"""The one place that runs programs: argument lists, never a shell; limits; and no child that outlives us."""

from __future__ import annotations

import logging
import os
import signal
import subprocess  # noqa: TID251 (the one place)
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from oneconvert.errors import CommandError
from oneconvert.jobs import confine
from oneconvert.jobs.signals import BLOCKED_WHILE_STARTING

LOG = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds between the polite signal and the other one
TAIL = 400  # characters of standard error that a message quotes


@dataclass(frozen=True)
class Limits:
    """What a program may use: bytes of address space, seconds of CPU, bytes of one file (0: no limit); the network."""

    address_space: int = 0
    cpu_seconds: int = 0
    file_size: int = 0
    network: bool = False


UNLIMITED = Limits(network=True)


@dataclass(frozen=True)
class Completed:
    """How a program ended. ``status`` is its exit status, negative for the number of the signal that killed it."""

    program: str
    status: int
    seconds: float
    stdout: bytes
    stderr: bytes

    def explain(self) -> str:
        """Why it failed, in a few words for a message: its own last line, or the signal that killed it."""
        if self.status == -signal.SIGXCPU or self.status == -signal.SIGKILL:
            return f"{self.program} was killed (out of memory, or over its limit of CPU time)"
        if self.status < 0:
            return f"{self.program} was killed by {signal.Signals(-self.status).name}"
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return f"{self.program}: {lines[-1][:TAIL]}" if lines else f"{self.program} ended with status {self.status}"


def run(
    arguments: Sequence[str | Path],
    limits: Limits,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Run a program to its end and return how it ended, whatever its status.

    The program gets a process group of its own, which is killed when this call is left by an exception (a signal to
    us becomes one). ``environment`` replaces ours. Raises CommandError when it cannot be started.
    """
    command = [os.fspath(each) for each in arguments]
    launcher = [
        sys.executable, "-I", "-S", os.fspath(confine.__file__), str(os.getpid()),
        str(limits.address_space), str(limits.cpu_seconds), str(limits.file_size),
        "yes" if limits.network else "no",
    ]  # fmt: skip
    started = time.monotonic()
    # A signal that arrives between the start of the child and the 'try' would leave the child behind.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_WHILE_STARTING)
    try:
        process = subprocess.Popen(
            [*launcher, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if environment is None else dict(environment),
            start_new_session=True,
        )
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise CommandError(f"cannot start {command[0]}: {error.strerror}") from None
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        stdout, stderr = process.communicate(stdin)
    except BaseException:
        _end(process)
        raise
    completed = Completed(Path(command[0]).name, process.returncode, time.monotonic() - started, stdout, stderr)
    # Not the arguments: before 6.8 the whole document, with the keys of the marketplace, is one of them.
    if completed.status:
        LOG.warning("%s ended with status %d", completed.program, completed.status)
    for line in stderr.decode(errors="replace").splitlines():
        LOG.info("%s: %s", completed.program, line)
    return completed


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=PATIENCE)
            return
