"""A file that still arrives, to be served as a block device: what is there, and what is fetched out of turn."""

from __future__ import annotations

import errno
import logging
import os
import queue
from pathlib import Path
from types import TracebackType
from typing import Callable, Protocol

from oneconvert.errors import SourceChangedError
from oneconvert.transfer.nbd import InFile, Piece, Zeros
from oneconvert.transfer.spool import forget

LOG = logging.getLogger(__name__)

SECTOR = 512
BLOCK = 64 * 1024
# A read this far behind what has arrived is worth a question of its own: at 1 Gbit/s it would wait for 0.1 s.
FAR = 8 * 1024 * 1024
# What is fetched out of turn is fetched twice; tables of 1 TiB in a qcow2 image, and then no more.
MOST_FETCHED = 128 * 1024 * 1024
LARGEST_FETCH = 1024 * 1024
# qemu-img reads a raw disk once, from front to back, with eight requests of 2 MiB at a time.
KEPT_IN_FRONT = 4 * 1024 * 1024  # for what looks at the image when all of it has passed
KEPT_BEHIND = 64 * 1024 * 1024
FORGET_STEP = 16 * 1024 * 1024


class PartReader(Protocol):
    """Reads parts of the source by itself; None where that cannot be done."""

    def read_at(self, offset: int, length: int) -> bytes | None: ...  # noqa: D102


class Filling(Protocol):
    """A file that is filled from front to back, as a Spool."""

    path: Path
    length: int
    complete: bool
    failed: bool

    def on_growth(self, call: Callable[[], None]) -> None: ...  # noqa: D102


class Filled:
    """A file that is there already."""

    complete, failed = True, False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = path.stat().st_size

    def on_growth(self, call: Callable[[], None]) -> None:
        """Nothing will come."""


class GrowingFile:
    """A spool of ``length`` bytes in the end.

    With ``read_once`` what was read is given back. ``parts`` reads the source of the spool, whose byte ``position`` is
    the first of the file.
    """

    def __init__(
        self, spool: Filling, length: int, *, read_once: bool, parts: PartReader | None = None, position: int = 0
    ) -> None:
        self.size = -(-length // SECTOR) * SECTOR
        self.forgotten = KEPT_IN_FRONT
        """What is before this, and behind KEPT_IN_FRONT, was given back."""
        self.fetched: dict[int, bytes] = {}
        """Blocks that were fetched out of turn, by number."""
        self._spool = spool
        self._length = length
        self._read_once = read_once
        self._parts = parts
        self._position = position
        self._wanted: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._arrived: Callable[[], None] = lambda: None
        self._file = spool.path.open("rb+")

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def has(self, offset: int, length: int) -> bool:
        """Whether these bytes are there, or are behind the end. Raises LookupError when they were given back."""
        if max(offset, KEPT_IN_FRONT) < min(offset + length, self.forgotten):
            raise LookupError(f"bytes from {offset} on are read a second time")
        if self._spool.complete or offset + length <= self._spool.length:
            return True
        first = max(offset, self._spool.length // BLOCK * BLOCK)
        return all(number in self.fetched for number in _blocks(first, offset + length))

    def pieces(self, offset: int, length: int) -> list[Piece]:
        """These bytes, out of the file or, where they have not arrived, of what was fetched out of turn."""
        if not self._spool.complete and offset + length > self._spool.length:
            return [self._out_of_turn(offset, length)]
        if _is_hole(self._file.fileno(), offset, length):
            return [Zeros(length)]
        return [InFile(self._file.fileno(), offset, length)]

    def _out_of_turn(self, offset: int, length: int) -> bytes:
        data = bytearray()
        for number in _blocks(offset, offset + length):
            block = self.fetched.get(number)
            # A hole at the end of what has arrived is not in the file yet.
            block = os.pread(self._file.fileno(), BLOCK, number * BLOCK) if block is None else block
            data += block.ljust(BLOCK, b"\0")
        start = offset % BLOCK
        return bytes(data[start : start + length])

    def lost(self) -> bool:
        """Whether what is missing will never arrive."""
        return self._spool.failed

    def on_arrival(self, call: Callable[[], None]) -> None:
        """Have ``call`` called whenever there is more."""
        self._arrived = call
        self._spool.on_growth(call)

    def wanted(self, offset: int, length: int) -> None:
        """Somebody waits for these bytes."""
        if self._parts and offset + length > self._spool.length + FAR and length <= LARGEST_FETCH:
            self._wanted.put((offset, length))

    def taken(self, offset: int, length: int) -> None:
        """These bytes were read."""
        end = offset + length - KEPT_BEHIND
        if self._read_once and end - self.forgotten > FORGET_STEP:
            forget(self._file.fileno(), self.forgotten, end - self.forgotten)
            self.forgotten = end

    def abandon(self) -> None:
        """Nobody reads any more; what arrives is in the file all the same."""

    def fetch(self) -> None:
        """Fetch out of turn what is wanted, until ``stop_fetching``."""
        while (wanted := self._wanted.get()) is not None:
            offset, length = wanted
            missing = [number for number in _blocks(offset, offset + length) if number not in self.fetched]
            if not missing or self._parts is None:
                continue
            start, end = missing[0] * BLOCK, min((missing[-1] + 1) * BLOCK, self._length)
            data = self._parts.read_at(self._position + start, end - start)
            if data is None:
                LOG.info("the server gives no parts out of turn: what is needed early is waited for")
                self._parts = None
                continue
            for number in missing:
                self.fetched[number] = data[number * BLOCK - start :][:BLOCK]
            if len(self.fetched) * BLOCK > MOST_FETCHED:
                self._parts = None
            self._arrived()

    def stop_fetching(self) -> None:
        """Make ``fetch`` end."""
        self._wanted.put(None)


def check_fetched(fetched: dict[int, bytes], path: Path, name: str) -> None:
    """Raise SourceChangedError unless what was fetched out of turn is what arrived in its turn, in ``path``."""
    with path.open("rb") as file:
        for number, block in fetched.items():
            if os.pread(file.fileno(), len(block), number * BLOCK) != block:
                raise SourceChangedError(f"{name} was changed while it was downloaded")


def _is_hole(file: int, offset: int, length: int) -> bool:
    try:
        return os.lseek(file, offset, os.SEEK_DATA) >= offset + length
    except OSError as error:
        if error.errno == errno.ENXIO:  # lseek(2): no data behind the offset, or it is behind the end
            return True
        raise


def _blocks(start: int, end: int) -> range:
    return range(start // BLOCK, -(-end // BLOCK))
