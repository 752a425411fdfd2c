"""What a hostile input is, and what it may find and do."""

from __future__ import annotations

import os
import signal
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

HARMLESS = "harmless"
"""Instead of the words of a refusal: the image is stored, and that hurts nobody."""
EITHER = "either"
"""Stored or refused, as versions of qemu-img and of libraries differ; both without harm."""


@dataclass(frozen=True)
class Scene:
    """Where a case plays. ``canary`` is a file of the front-end that no image may read; ``spoils`` is a file that is
    made when a shell or qemu-img is talked into it; ``directory`` is the builder's own."""

    directory: Path
    canary: Path
    spoils: Path
    store: Datastore
    images: Images
    web: Web


@dataclass(frozen=True)
class Case:
    """One hostile input.

    ``build`` makes what the class of the case is about: the bytes of an image or an archive, a document, the behaviour
    of a server. ``words`` are in the refusal, or it is HARMLESS, or EITHER, and then ``differs`` says between what.
    ``driver`` is the DRIVER of the datastore: raw has everything converted but raw. ``seconds`` and the sizes in bytes
    are what it may use; a refusal takes 55 MiB of memory, 100 where the document is large. ``bug`` says what the
    product does instead.
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
    memory: int = 160 * MIB
    scratch: int = 16 * MIB
    bug: str = ""


@dataclass(frozen=True)
class Outcome:
    """What an action did and used; ``memory`` and ``scratch`` are peaks in bytes, as far as samples show."""

    status: int
    stdout: str
    stderr: str
    seconds: float
    memory: int
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
    started = time.monotonic()
    process, stdin = front_end.start("cp", document)
    with _watch(process.pid, Path(store.base_path)) as peaks:
        killer = threading.Timer(most_seconds, _end, [process.pid])
        killer.start()
        try:
            stdout, stderr = process.communicate(stdin)
        finally:
            killer.cancel()
            killer.join()
    seconds = time.monotonic() - started
    return Outcome(process.returncode, stdout.decode(), stderr.decode(), seconds, peaks["memory"], peaks["scratch"])


def _end(session: int) -> None:
    for pid in (session, *processes_of(session)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def _watch(session: int, directory: Path) -> Iterator[dict[str, int]]:
    peaks = {"memory": 0, "scratch": 0}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.03):
            memory = sum(map(_peak_memory, processes_of(session)))
            peaks["memory"] = max(peaks["memory"], memory)
            peaks["scratch"] = max(peaks["scratch"], _allocated(directory))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield peaks
    finally:
        ended.set()
        watcher.join()


def _peak_memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _allocated(directory: Path) -> int:
    total = 0
    # What is looked at goes away in the meantime: files, and whole directories.
    with suppress(OSError):
        for path in directory.rglob("*"):
            with suppress(OSError):
                total += path.lstat().st_blocks * 512
    return total
