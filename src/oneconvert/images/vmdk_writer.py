"""A streamOptimized VMDK of a raw disk, as VMware's tools write it: what ESXi and vCenter import.

Its grains are deflated one by one, so all cores can do it, where qemu-img deflates on one. ISA-L does it at level 2 as
well as zlib does at level 1 (38 % of the files of /usr), and four times as fast.

Layout: header and descriptor in the first 128 sectors; the grains that are not zeros in the order of the disk, each
with its marker; behind the last grain of each table a marker and the table; a marker and the grain directory; a marker
and the footer; the end-of-stream marker. A table without grains is left out. So nothing is written twice, and the file
can be sent while it is made. ``vmdk_stream`` reads it.

Source: VMware, "Virtual Disk Format 5.0", section "Stream-Optimized Compressed Sparse Extents".
"""

from __future__ import annotations

import os
import sys
from array import array
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

from isal import igzip_lib

from oneconvert.errors import ImageRefusedError, TransferError
from oneconvert.images.vmdk_descriptor import stream_descriptor
from oneconvert.images.vmdk_header import (
    DEFLATE,
    END_OF_STREAM,
    FLAG_COMPRESSED,
    FLAG_MARKERS,
    FLAG_NEWLINES,
    FOOTER,
    GD_AT_END,
    GRAIN_DIRECTORY,
    GRAIN_MARKER,
    GRAIN_TABLE,
    MAGIC,
    METADATA_MARKER,
    SECTOR,
    TABLE_ENTRIES,
    SparseHeader,
)
from oneconvert.jobs.sparse import data_ranges
from oneconvert.jobs.threads import pool, pool_size
from oneconvert.jobs.workspace import write_failure

GRAIN = 64 * 1024  # bytes
ZEROS = bytes(GRAIN)
LEVEL = 2
DESCRIPTOR_SECTORS = 20
OVERHEAD = 128  # sectors; as VMware's tools have it
LARGEST_CAPACITY = 62 << 40
"""Bytes of the disk, in vSphere."""
MOST_SECTORS = 0xFFFFFFFF
"""Of the file: tables have 4 bytes for the number of one."""
BATCH = 8  # grains that a thread deflates at a time


def _no_progress(done: int) -> None:
    """Nobody asked for it."""


@dataclass(frozen=True)
class StreamedGrain:
    """A grain as it is in the file, with marker and padding: ``number`` counts grains of the disk."""

    number: int
    sectors: bytes


def write_stream_optimized(
    raw: Path,
    target: Path,
    capacity: int,
    adapter_type: str = "lsilogic",
    *,
    name: str = "the image",
    progress: Callable[[int], None] = _no_progress,
) -> int:
    """Write the new file ``target``, and return how many bytes it has; parameters and errors as in stream_optimized().

    Raises TransferError also when the file system is full. After any error the target may be there in part.
    """
    length = 0
    content = stream_optimized(raw, capacity, adapter_type, file_name=target.name, name=name, progress=progress)
    with closing(content):
        with _writing(target, length, name):
            file = target.open("xb", buffering=0)
        with file:
            for piece in content:
                rest = memoryview(piece)
                while rest:
                    with _writing(target, length, name):
                        written = file.write(rest)
                    rest, length = rest[written:], length + written
            with _writing(target, length, name):
                file.close()
    return length


def stream_optimized(
    raw: Path,
    capacity: int,
    adapter_type: str = "lsilogic",
    *,
    file_name: str = "disk.vmdk",
    name: str = "the image",
    progress: Callable[[int], None] = _no_progress,
) -> Generator[bytes]:
    """The bytes of the VMDK while they are made, in pieces of up to half a MiB, and the directory at the end.

    ``raw`` holds ``capacity`` bytes, filled up to a whole sector or not; it must not change, and its holes are not
    read. ``file_name`` is what the descriptor calls the VMDK, ``name`` what messages call the image. ``progress`` is
    given how many bytes of the disk are done. Memory is bounded. Threads work ahead until the generator ends, by
    itself, by an error of ``progress`` or by close(): who may leave it before its end has to close it.

    Raises ImageRefusedError when the raw disk is not of this size or does not fit into a VMDK, TransferError when it
    cannot be read, SettingsError for an adapter that no VMDK has.
    """
    if not 0 < capacity <= LARGEST_CAPACITY:
        raise ImageRefusedError(f"{name} is a disk of {capacity} bytes, and one in vSphere has 1 byte to 62 TiB")
    layout = _Layout(capacity, stream_descriptor(file_name, capacity, adapter_type), name)
    with _reading(name):
        file = raw.open("rb", buffering=0)
    with file:
        size = os.fstat(file.fileno()).st_size
        if size not in (capacity, layout.header.capacity * SECTOR):
            raise ImageRefusedError(f"{name} should be a disk of {capacity} bytes, and has {size}")
        yield layout.head()
        with closing(_deflated(file.fileno(), size, name)) as batches:
            for end, grains in batches:
                if piece := b"".join(layout.place(grains)):
                    yield piece
                progress(min(end * GRAIN, capacity))
        if os.fstat(file.fileno()).st_size != size:
            raise ImageRefusedError(f"{name} was changed while it was read")
    yield layout.tail()
    progress(capacity)


class _Layout:
    """Where everything is in the file: what comes next in it, from front to back."""

    def __init__(self, capacity: int, descriptor: str, name: str) -> None:
        self.header = SparseHeader(
            magic=MAGIC,
            version=3,
            flags=FLAG_NEWLINES | FLAG_COMPRESSED | FLAG_MARKERS,
            capacity=-(-capacity // SECTOR),
            grain=GRAIN // SECTOR,
            descriptor_offset=1,
            descriptor_size=DESCRIPTOR_SECTORS,
            table_entries=TABLE_ENTRIES,
            redundant_directory=0,
            directory=GD_AT_END,
            overhead=OVERHEAD,
            compression=DEFLATE,
        )
        self._descriptor = descriptor.encode()
        self._name = name
        self._sector = OVERHEAD
        """The next to be written."""
        self._directory = _zeros(self.header.tables)
        self._table = _zeros(TABLE_ENTRIES)
        self._number: int | None = None
        """Of the table that is being filled."""

    def head(self) -> bytes:
        return (self.header.pack() + self._descriptor).ljust(OVERHEAD * SECTOR, b"\0")

    def place(self, grains: list[StreamedGrain]) -> Iterator[bytes]:
        """These grains, which follow the last in the order of the disk, and the tables that are full by them."""
        for grain in grains:
            number, index = divmod(grain.number, TABLE_ENTRIES)
            if number != self._number:
                yield self._end_table()
                self._number = number
            self._table[index] = self._sector
            yield self._counted(grain.sectors)

    def tail(self) -> bytes:
        table = self._end_table()
        directory, position = self._with_marker(GRAIN_DIRECTORY, _little_endian(self._directory))
        footer, _ = self._with_marker(FOOTER, replace(self.header, directory=position).pack())
        end, _ = self._with_marker(END_OF_STREAM, b"")
        return table + directory + footer + end

    def _end_table(self) -> bytes:
        if self._number is None:
            return b""
        table, self._directory[self._number] = self._with_marker(GRAIN_TABLE, _little_endian(self._table))
        self._table = _zeros(TABLE_ENTRIES)
        return table

    def _with_marker(self, kind: int, data: bytes) -> tuple[bytes, int]:
        """Metadata as it is written, and the sector where it begins behind its marker."""
        position = self._sector + 1
        marker = METADATA_MARKER.pack(-(-len(data) // SECTOR), 0, kind)
        return self._counted(_whole_sectors(marker) + _whole_sectors(data)), position

    def _counted(self, sectors: bytes) -> bytes:
        self._sector += len(sectors) // SECTOR
        if self._sector > MOST_SECTORS:
            raise ImageRefusedError(f"{self._name} has more data than a compressed VMDK can hold, which is 2 TiB")
        return sectors


def _deflated(file: int, size: int, name: str) -> Generator[tuple[int, list[StreamedGrain]]]:
    """The grains of a raw disk of ``size`` bytes that are not zeros, and how many of the disk are done with them."""
    threads = pool("deflate")
    try:
        waiting: deque[tuple[int, Future[list[StreamedGrain]]]] = deque()
        for batch in _batches(file, size, name):
            waiting.append((batch[-1] + 1, threads.submit(_deflate, file, batch, name)))
            while waiting and (waiting[0][1].done() or len(waiting) > 2 * pool_size()):
                end, grains = waiting.popleft()
                yield end, grains.result()
        for end, grains in waiting:
            yield end, grains.result()
    finally:
        threads.shutdown(cancel_futures=True)


def _batches(file: int, size: int, name: str) -> Iterator[list[int]]:
    """The numbers of the grains with data in them, some at a time."""
    batch: list[int] = []
    following = 0
    with _reading(name):
        for start, end in data_ranges(file, size):
            for number in range(max(following, start // GRAIN), -(-end // GRAIN)):
                batch.append(number)
                following = number + 1
                if len(batch) == BATCH:
                    yield batch
                    batch = []
    if batch:
        yield batch


def _deflate(file: int, numbers: list[int], name: str) -> list[StreamedGrain]:
    grains = []
    for number in numbers:
        with _reading(name):
            content = os.pread(file, GRAIN, number * GRAIN)
        # Every reader takes a last grain that is whole; there are some that take no other.
        content = content.ljust(GRAIN, b"\0")
        if content != ZEROS:
            data = igzip_lib.compress(content, LEVEL, igzip_lib.COMP_ZLIB)
            marker = GRAIN_MARKER.pack(number * (GRAIN // SECTOR), len(data))
            grains.append(StreamedGrain(number, _whole_sectors(marker + data)))
    return grains


def _whole_sectors(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // SECTOR) * SECTOR, b"\0")


def _zeros(count: int) -> array[int]:
    return array("I", bytes(4 * count))


def _little_endian(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers = array("I", numbers)
        numbers.byteswap()
    return numbers.tobytes()


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TransferError(f"{name} cannot be read: {error.strerror}") from None


@contextmanager
def _writing(target: Path, length: int, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_failure(target, length, name, error) from None
