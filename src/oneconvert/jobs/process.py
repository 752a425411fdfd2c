"""The one place that runs programs: argument lists, never a shell; limits; and no child that outlives us."""

from __future__ import annotations

import json
import logging
import os
import selectors
import shutil
import signal
import subprocess  # noqa: TID251 (the one place)
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from oneconvert.errors import CommandError
from oneconvert.jobs import confine
from oneconvert.jobs.signals import ENDING

LOG = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds between the polite signal and the other one
TAIL = 400  # characters of standard error that a message quotes
CHUNK = 1024 * 1024
STDERR_KEPT = 64 * 1024  # bytes of standard error that are kept of a program whose output is streamed
GLANCE = 0.1  # seconds between two looks whether a program that closed its output has ended


@dataclass(frozen=True)
class Limits:
    """What a program may use: bytes of address space, seconds of CPU, bytes of one file (0: no limit); the network;
    the files at and below some paths, beside the system's programs and libraries (None: all).

    The network and files are given up as far as the kernel can: see jobs.seccomp and jobs.landlock.
    """

    address_space: int = 0
    cpu_seconds: int = 0
    file_size: int = 0
    network: bool = False
    files: tuple[str, ...] | None = None


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
            return f"{self.program} was killed: out of memory, over its limit of CPU time, or by somebody"
        if self.status < 0:
            return f"{self.program} was killed by {signal.Signals(-self.status).name}"
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return f"{self.program}: {lines[-1][:TAIL]}" if lines else f"{self.program} ended with status {self.status}"


def run(
    arguments: Sequence[str | Path],
    limits: Limits,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    descriptors: Collection[int] = (),
) -> Completed:
    """Run a program to its end and return how it ended, whatever its status.

    The program gets a process group of its own, which is killed when this call is left by an exception (a signal to
    us becomes one). ``environment`` replaces ours; ``descriptors`` are open files that it inherits. Raises
    CommandError when it cannot be started.
    """
    started = time.monotonic()
    process, before = _start(arguments, limits, subprocess.PIPE, environment, descriptors)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        stdout, stderr = process.communicate(stdin)
    except BaseException:
        _end(process)
        raise
    completed = Completed(Path(arguments[0]).name, process.returncode, time.monotonic() - started, stdout, stderr)
    _log(completed)
    return completed


@contextmanager
def stream(arguments: Sequence[str | Path], limits: Limits) -> Iterator[Output]:
    """Run a program and read its standard output while it runs; its standard input is empty.

    The program and all it started are ended when the context is left before the output was read to its end. Raises
    CommandError when it cannot be started.
    """
    process, before = _start(arguments, limits, subprocess.DEVNULL, None, ())
    output = Output(process, Path(arguments[0]).name)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield output
    finally:
        output.close()


class Output:
    """The standard output of a running program."""

    def __init__(self, process: subprocess.Popen[bytes], program: str) -> None:
        self.completed: Completed | None = None
        """How the program ended, without its output; None until that was read to its end."""
        self._process = process
        self._program = program
        self._started = time.monotonic()
        self._stderr = bytearray()
        assert process.stdout is not None
        assert process.stderr is not None
        self._stdout = process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(process.stdout, selectors.EVENT_READ)
        self._selector.register(process.stderr, selectors.EVENT_READ)

    def read(self, timeout: float) -> bytes:
        """Return the next bytes, as soon as there are any; none at the end, when ``completed`` is set.

        Raises TimeoutError when nothing comes for ``timeout`` seconds. Standard error is read on the way, so that a
        program that complains a lot does not wait for us; only the end of it is kept.
        """
        end = time.monotonic() + timeout
        while self.completed is None:
            remaining = end - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            if self._stdout in self._selector.get_map():
                data = self._read_ready(remaining)
                if data:
                    return data
            elif self._selector.get_map() and self._process.poll() is None:
                self._read_ready(min(remaining, GLANCE))
            else:
                self._finish(remaining)
        return b""

    def _read_ready(self, timeout: float) -> bytes:
        """Keep what has come on standard error, and return what has come on standard output."""
        for key, _ in self._selector.select(timeout):
            data = os.read(key.fd, CHUNK)
            if not data:
                self._selector.unregister(key.fileobj)
            elif key.fileobj is self._stdout:
                return data
            else:
                self._stderr = (self._stderr + data)[-STDERR_KEPT:]
        return b""

    def _finish(self, timeout: float) -> None:
        """Standard output is at its end; standard error may not be: what the program left behind has it, too."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        self._read_ready(0)
        seconds = time.monotonic() - self._started
        self.completed = Completed(self._program, status, seconds, b"", bytes(self._stderr))
        _log(self.completed)

    def stop(self) -> None:
        """Have the program end, while another thread reads: for that it ends early."""
        if self.completed is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the program unless it has ended by itself and was read to its end."""
        self._selector.close()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        if self.completed is None:
            _end(self._process)


def _start(
    arguments: Sequence[str | Path],
    limits: Limits,
    stdin: int,
    environment: Mapping[str, str] | None,
    descriptors: Collection[int],
) -> tuple[subprocess.Popen[bytes], set[int]]:
    """Start a program behind the launcher, in a process group of its own.

    Returns it with the ending signals blocked, and the mask to restore inside the 'try' that ends the program: a
    signal that arrives between the start and that 'try' would leave the program behind.
    """
    command = [os.fspath(each) for each in arguments]
    # Found here: behind the launcher's fences the search itself could be refused.
    program = shutil.which(command[0], path=None if environment is None else environment.get("PATH"))
    if program is None:
        raise CommandError(f"cannot run {command[0]}: it is not there, or not executable")
    command[0] = program
    launcher = [
        sys.executable, "-I", "-S", os.fspath(confine.__file__), str(os.getpid()),
        json.dumps(asdict(limits)),
    ]  # fmt: skip
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        process = subprocess.Popen(
            [*launcher, *command],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if environment is None else dict(environment),
            pass_fds=tuple(descriptors),
            start_new_session=True,
        )
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise CommandError(f"cannot start {command[0]}: {error.strerror}") from None
    return process, before


def _log(completed: Completed) -> None:
    # Not the arguments: before 6.8 the whole document, with the keys of the marketplace, is one of them.
    if completed.status:
        LOG.warning("%s ended with status %d", completed.program, completed.status)
    for line in completed.stderr.decode(errors="replace").splitlines():
        LOG.info("%s: %s", completed.program, line)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=PATIENCE)
            return
