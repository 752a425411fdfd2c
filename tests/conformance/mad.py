"""OpenNebula's datastore MAD as oned runs it: a process at the end of two pipes that carry one line per message."""

from __future__ import annotations

import base64
import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from conformance.layout import Installation

_START_SECONDS = 30
_STOP_SECONDS = 15


class MadError(Exception):
    """The MAD did not behave as oned needs it: no answer, lines that are no message, processes left behind."""


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    action: str
    success: bool
    ident: int
    info: str
    log: tuple[str, ...]

    @property
    def line(self) -> str:
        """The message, as oned reads it."""
        return f"{self.action} {'SUCCESS' if self.success else 'FAILURE'} {self.ident} {self.info}"


class DatastoreMad:
    """A running ``one_datastore``. Leaving the ``with`` block finalizes it and checks that nothing is left over."""

    def __init__(self, installation: Installation, *, documents_on_stdin: bool = False) -> None:
        self._installation = installation
        self._separator = "  " if installation.tree.version >= (6,) else " "
        # oned passes the whole of ARGUMENTS as one argument; the MAD's shell wrapper splits it.
        arguments = f"-t 15 -d {','.join(installation.drivers())} -s shared,ssh"
        if documents_on_stdin:
            arguments += " -i"
        self._arguments = arguments
        self._lines: queue.Queue[str | None] = queue.Queue()

    def __enter__(self) -> DatastoreMad:
        root = self._installation.root
        self._process = subprocess.Popen(
            [root / "lib/mads/one_datastore", self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=root / "var",
            env=self._installation.environment(),
            encoding="utf-8",
            errors="backslashreplace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._send("INIT")
            self._wait_for("INIT", None, _START_SECONDS)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        left_over = self._stop()
        if error is None and left_over:
            raise MadError("after the MAD had ended: " + "; ".join(left_over))

    def request(self, action: str, ident: int, document: str, *, seconds: float = 90) -> Answer:
        """Send one action and wait for its result line."""
        encoded = base64.b64encode(document.encode()).decode()
        self._send(f"{action}{self._separator}{ident} {encoded}")
        return self._wait_for(action, ident, seconds)

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _wait_for(self, action: str, ident: int | None, seconds: float) -> Answer:
        deadline = time.monotonic() + seconds
        log: list[str] = []
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise MadError(f"no answer to {action} within {seconds:g} s; log so far: {log}") from None
            if line is None:
                raise MadError(f"the MAD ended before it answered {action}; log so far: {log}")
            words = line.split(" ", 3)
            if words[0] == "LOG":
                log.append(line)
            elif words[0] == action and words[1:2] in (["SUCCESS"], ["FAILURE"]) and len(words) > 2:
                answered = int(words[2]) if words[2].isdigit() else -1
                if ident is not None and answered != ident:
                    raise MadError(f"asked {action} {ident}, got: {line}")
                return Answer(action, words[1] == "SUCCESS", answered, "".join(words[3:]), tuple(log))
            else:
                raise MadError(f"oned cannot read this line: {line!r}")

    def _stop(self) -> list[str]:
        """End the MAD as oned does; say what had to be ended by force and which lines nobody had asked for."""
        left_over: list[str] = []
        with contextlib.suppress(OSError):
            self._send("FINALIZE")
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            left_over.append("it did not end when it was finalized")
            self._process.kill()
            self._process.wait()
        left_over += [f"process {what!r} was still running" for what in _end_processes_of(self._installation.root)]
        self._reader.join(_STOP_SECONDS)
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        if not self._reader.is_alive():
            assert self._process.stdout is not None
            self._process.stdout.close()
        while not self._lines.empty():
            line = self._lines.get()
            if line is not None and not line.startswith(("LOG ", "FINALIZE ")):
                left_over.append(f"oned would have read {line!r}")
        return left_over


def _processes_of(root: Path) -> Iterator[tuple[int, str]]:
    """The processes that were started in this ONE_LOCATION, whoever is their parent by now."""
    mark = f"ONE_LOCATION={root}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it ended, or belongs to somebody else
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            ours = mark in (entry / "environ").read_bytes().split(b"\0") or f"{root}/" in command
            if ours and command:
                yield int(entry.name), command


def _end_processes_of(root: Path) -> list[str]:
    """Give what is ending a moment, kill the rest one by one, and name what had to be killed."""
    deadline = time.monotonic() + 5
    while left := list(_processes_of(root)):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for pid, _ in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [command for _, command in left]
