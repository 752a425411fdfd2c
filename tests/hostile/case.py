"""What a hostile input is, and what it may find and do."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rig.front_end import FrontEnd, processes_of
from rig.images import MIB, Images
from rig.messages import Datastore
from rig.web import Behaviour, Handler, Web

GIB = 1024 * MIB

HARMLESS = "harmless"
"""Instead of the words of a refusal: the image is stored, and that hurts nobody."""
EITHER = "either"
"""Stored or refused, as versions of qemu-img and of libraries differ; both without harm."""


@dataclass(frozen=True)
class Scene:
    """Where a case plays. ``canary`` is a file of the front-end that no image may read; ``spoils`` is a file that is
    made when a shell or qemu-img is talked into it; ``bait`` is a server that nobody may connect to; ``directory`` is
    the builder's own."""

    directory: Path
    canary: Path
    spoils: Path
    bait: socket.socket
    store: Datastore
    images: Images
    web: Web

    def filled(self, text: str) -> str:
        """A text with the names of these in place of {canary}, {spoils}, {bait} and its {port}, and {directory}."""
        host, port = self.bait.getsockname()
        values = {"canary": self.canary, "spoils": self.spoils, "bait": f"{host}:{port}", "directory": self.directory}
        for name, value in {**values, "port": port}.items():
            text = text.replace("{" + name + "}", str(value))
        return text


@dataclass(frozen=True)
class Case:
    """One hostile input.

    ``build`` makes what the class of the case is about: the bytes of an image or an archive, a document, the behaviour
    of a server. ``words`` are in the refusal, or it is HARMLESS, or EITHER, and then ``differs`` says between what.
    ``driver`` is the DRIVER of the datastore: raw has everything converted but raw. The seconds, of the clock and of
    all processors, and the sizes in bytes are what it may use; a refusal takes 55 MiB of memory, 100 where the document
    is large. ``bug`` says what the product does instead.
    """

    id: str
    why: str
    build: Callable[[Scene], Any]
    words: str
    reference: str = ""
    differs: str = ""
    driver: str | None = "raw"
    attributes: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    seconds: float = 20.0
    cpu_seconds: float = 10.0
    memory: int = 160 * MIB
    address_space: int = GIB
    scratch: int = 16 * MIB
    bug: str = ""


@dataclass(frozen=True)
class Outcome:
    """What an action did and used. ``cpu_seconds`` are those of all its processes. The others are peaks in bytes, as
    far as samples show: ``memory`` of all processes, ``address_space`` of the one that has most."""

    status: int
    stdout: str
    stderr: str
    seconds: float
    cpu_seconds: float
    memory: int
    address_space: int
    scratch: int


def send(data: bytes, **headers: str) -> Behaviour:
    """Answer with ``data``; underscores in the names of headers are hyphens."""

    def behave(request: Handler) -> None:
        request.send_response(200)
        for name, value in {"Content_Length": str(len(data)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(data)

    return behave


def observe(front_end: FrontEnd, document: str | bytes, store: Datastore, most_seconds: float) -> Outcome:
    """Run ``cp`` and look at what it uses; end it after ``most_seconds``, with status -9."""
    started, before = time.monotonic(), _cpu_seconds()
    process, stdin = front_end.start("cp", document)
    with _watch(process.pid, Path(store.base_path)) as peaks:
        killer = threading.Timer(most_seconds, _end, [process.pid])
        killer.start()
        try:
            stdout, stderr = process.communicate(stdin)
        finally:
            killer.cancel()
            killer.join()
    seconds, cpu_seconds = time.monotonic() - started, _cpu_seconds() - before
    return Outcome(process.returncode, stdout.decode(), stderr.decode(), seconds, cpu_seconds, **peaks)


def _cpu_seconds() -> float:
    """Of all children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _end(session: int) -> None:
    for pid in (session, *processes_of(session)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def _watch(session: int, directory: Path) -> Iterator[dict[str, int]]:
    peaks = {"memory": 0, "address_space": 0, "scratch": 0}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.03):
            processes = [_peaks_of(pid) for pid in processes_of(session)]
            seen = {
                "memory": sum(resident for resident, _ in processes),
                "address_space": max((mapped for _, mapped in processes), default=0),
                "scratch": _allocated(directory),
            }
            peaks.update({name: max(peaks[name], value) for name, value in seen.items()})

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peaks
    finally:
        ended.set()
        watcher.join()


def _peaks_of(pid: int) -> tuple[int, int]:
    """Bytes that a process had in memory at most, and bytes that it had mapped."""
    try:
        lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return 0, 0
    values = {words[0]: 1024 * int(words[1]) for words in lines if words[0] in ("VmHWM:", "VmPeak:")}
    return values.get("VmHWM:", 0), values.get("VmPeak:", 0)


def _allocated(directory: Path) -> int:
    total = 0
    # What is looked at goes away in the meantime: files, and whole directories.
    with suppress(OSError):
        for path in directory.rglob("*"):
            with suppress(OSError):
                total += path.lstat().st_blocks * 512
    return total
