"""The jobs that are compared: each brings one image from the web server into an empty datastore directory."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.corpus import FORMATS, Corpus
from bench.errors import BenchError
from bench.sampling import Peaks, Sampler
from conformance.layout import Installation, Tree
from rig.front_end import RELEASES, REPOSITORY, FrontEnd, processes_of
from rig.messages import Datastore, Messages

_SERIAL = Path(__file__).with_name("serial.sh")
_CURL = ("curl", "--fail", "-sS", "-L")


@dataclass(frozen=True)
class Pair:
    """What is imported, and into which format."""

    image: str
    target: str

    def __str__(self) -> str:
        return f"{self.image} → {self.target}"


PAIRS = (
    *(Pair(name, "qcow2") for name in ("raw", *FORMATS)),
    *(Pair(name, "raw") for name in ("qcow2", "qcow2-zlib", "qcow2-zstd", "raw")),
)


@dataclass(frozen=True)
class Task:
    """One import: the image of a pair, at a rate of the web server, whose address is ``server``."""

    corpus: Corpus
    pair: Pair
    server: str
    rate: str

    @property
    def url(self) -> str:
        return f"{self.server}/{self.rate}/{self.corpus.directory.name}/{self.pair.image}"


@dataclass(frozen=True)
class Outcome:
    """What one run of a job took, and the file that it left."""

    seconds: float
    peaks: Peaks
    result: Path


class Job(Protocol):
    """One of the ways to do a task."""

    name: str

    def can(self, pair: Pair) -> bool:
        """Whether this way leads from the image to the target."""

    def run(self, task: Task, directory: Path) -> Outcome:
        """Do it in the directory, which is empty."""


def _measured(process: subprocess.Popen[bytes], directory: Path, stdin: bytes = b"") -> tuple[float, Peaks, str]:
    """Wait for a job that leads a session of its own. Returns its seconds, its peaks and what it printed."""
    started = time.monotonic()
    try:
        with Sampler(process.pid, directory) as sampler:
            stdout, stderr = process.communicate(stdin)
            seconds = time.monotonic() - started
    except BaseException:
        _end(process)
        raise
    if process.returncode:
        command = process.args if isinstance(process.args, (list, tuple)) else [process.args]
        output = (stdout + stderr).decode(errors="replace")
        raise BenchError(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{output}")
    return seconds, sampler.peaks, stdout.decode()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole session, and give it the time to clean up."""
    for number, seconds in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + seconds
        for pid in processes_of(process.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        while processes_of(process.pid) and time.monotonic() < deadline:
            process.poll()
            time.sleep(0.05)
    process.wait()


def _start(command: list[str], directory: Path) -> subprocess.Popen[bytes]:
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=directory,
        env=inherited,
        start_new_session=True,
    )


class Serial:
    """Public tools, one after the other."""

    name = "serial"

    def can(self, pair: Pair) -> bool:
        return True

    def run(self, task: Task, directory: Path) -> Outcome:
        result = directory / "image"
        unpacker = FORMATS[task.pair.image].unpacker if task.pair.image in FORMATS else "cat"
        command = [str(_SERIAL), task.url, str(result), task.corpus.md5(task.pair.image), task.pair.target, unpacker]
        seconds, peaks, _ = _measured(_start(command, directory), directory)
        return Outcome(seconds, peaks, result)


class Download:
    """What nothing can be faster than: the download alone."""

    name = "download"

    def can(self, pair: Pair) -> bool:
        return True

    def run(self, task: Task, directory: Path) -> Outcome:
        result = directory / "image"
        seconds, peaks, _ = _measured(_start([*_CURL, "-o", str(result), task.url], directory), directory)
        return Outcome(seconds, peaks, result)


class Driver:
    """A datastore driver, called as oned calls it."""

    def __init__(self, name: str, front_end: FrontEnd, ds_mad: str, release: str, environment: dict[str, str]) -> None:
        self.name = name
        self._front_end = front_end
        self._ds_mad = ds_mad
        self._release = release
        self._environment = environment

    def can(self, pair: Pair) -> bool:
        return self._ds_mad != "fs" or pair.image not in FORMATS or FORMATS[pair.image].native

    def run(self, task: Task, directory: Path) -> Outcome:
        store = Datastore(100, str(directory), self._ds_mad, task.pair.target)
        md5: dict[str, object] = {"MD5": task.corpus.md5(task.pair.image)}
        messages = Messages(RELEASES[self._release])
        document = messages.cp(42, task.url, task.corpus.size_mb, store, attributes=md5)
        process, stdin = self._front_end.start("cp", document, self._ds_mad, release=self._release, **self._environment)
        seconds, peaks, answer = _measured(process, directory, stdin)
        words = answer.split()
        if len(words) < 2 or words[1] != task.pair.target:
            raise BenchError(f"{self.name} made something else than {task.pair.target} of {task.url}: {answer}")
        return Outcome(seconds, peaks, Path(words[0]))


def drivers(temporary: Path, opennebula: Path | None) -> tuple[FrontEnd, list[Job]]:
    """oneconvert in front of a stand-in for OpenNebula; with a source tree, its fs driver and oneconvert before it."""
    root = temporary / "one"
    if opennebula is None:
        front_end = FrontEnd.install(root)
        return front_end, [Driver("oneconvert", front_end, "oneconvert_fs", "7.4", {})]
    for program in ("ruby", "file", "openssl", "getopt"):
        if not shutil.which(program):
            raise BenchError(f"OpenNebula's drivers need {program}")
    tree = Tree.at(opennebula)
    root.mkdir()
    installation = Installation(tree, root)
    installation.lay_out()
    front_end = FrontEnd(root)
    install = [str(REPOSITORY / "install.sh"), "--no-packages", "--drivers", "fs"]
    subprocess.run(install, env=front_end.environment(), check=True, stdout=subprocess.DEVNULL)
    release = max((name for name in RELEASES if RELEASES[name] <= tree.version), key=lambda name: RELEASES[name])
    environment = installation.environment()
    return front_end, [
        Driver("native", front_end, "fs", release, environment),
        Driver("oneconvert", front_end, "oneconvert_fs", release, environment),
    ]
