"""What a job takes while it runs: memory of its processes, and space below its directory."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

INTERVAL = 0.2
"""Seconds between two samples."""

_ENDED = (FileNotFoundError, ProcessLookupError)


@dataclass
class Peaks:
    """Bytes. Memory is the proportional set size (PSS): pages that processes share count once."""

    memory: int = 0
    qemu_img: int = 0
    scratch: int = 0


class Sampler:
    """Samples a process and all that it starts until the end of the ``with`` block."""

    def __init__(self, pid: int, directory: Path) -> None:
        self.peaks = Peaks()
        self._known = {pid}
        self._directory = directory
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._failure and not error:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._ended.wait(INTERVAL):
                self._sample()
            self.peaks.scratch = max(self.peaks.scratch, allocated(self._directory))
        except BaseException as error:
            self._failure = error

    def _sample(self) -> None:
        memory = qemu_img = 0
        for pid in self._living():
            try:
                name = Path(f"/proc/{pid}/comm").read_text()
                used = _pss(pid)
            except _ENDED:
                continue
            if name.startswith("qemu-img"):
                qemu_img += used
            else:
                memory += used
        self.peaks.memory = max(self.peaks.memory, memory)
        self.peaks.qemu_img = max(self.peaks.qemu_img, qemu_img)
        self.peaks.scratch = max(self.peaks.scratch, allocated(self._directory))

    def _living(self) -> set[int]:
        """The job's processes. One whose parent ended remains known."""
        pending, living = list(self._known), set()
        while pending:
            pid = pending.pop()
            if pid in living:
                continue
            try:
                children = [task.joinpath("children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
            except _ENDED:
                continue
            living.add(pid)
            pending += [int(child) for child in " ".join(children).split()]
        self._known = living
        return living


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def allocated(directory: Path) -> int:
    """Bytes on disk of all files below the directory."""
    total = 0
    try:
        entries = list(os.scandir(directory))
    except _ENDED:
        return 0
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                total += allocated(Path(entry.path))
            else:
                total += entry.stat(follow_symlinks=False).st_blocks * 512
        except _ENDED:
            continue
    return total
