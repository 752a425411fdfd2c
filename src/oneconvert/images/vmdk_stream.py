"""The disk in a streamOptimized VMDK, while the file streams by.

Its grains are deflated one by one, in the order of the disk, and each says where it belongs; so the disk can be had
from front to back without the tables, on all cores, where qemu-img needs tables that may be at the end and inflates on
one. The tables are held against what was read: a file whose tables lead elsewhere is not ours to interpret.

Source: VMware, "Virtual Disk Format 5.0", section "Stream-Optimized Compressed Sparse Extents"; for the tables in
front, which qemu writes, its block/vmdk.c.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from oneconvert.images.inflate import InflateError, inflated
from oneconvert.images.layout.source import numbers
from oneconvert.images.vmdk_header import (
    DEFLATE,
    END_OF_STREAM,
    FLAG_COMPRESSED,
    FLAG_MARKERS,
    FOOTER,
    GD_AT_END,
    GRAIN_DIRECTORY,
    GRAIN_MARKER,
    GRAIN_TABLE,
    MAGIC,
    METADATA_MARKER,
    SECTOR,
    TABLE_ENTRIES,
    ZERO_GRAIN,
    SparseHeader,
)
from oneconvert.jobs.threads import pool, pool_size

LARGEST_GRAIN = 2 * 1024 * 1024  # bytes
# Bytes in front of the grains: the tables of a disk of almost 512 GiB with the usual grains, which qemu writes twice.
LARGEST_TABLES = 64 * 1024 * 1024
LARGEST_METADATA = 64 * 1024 * 1024
MOST_UNCONFIRMED = 1 << 18  # grains: 16 GiB of the disk
MOST_TABLES = 1 << 18
BATCH = 512 * 1024  # bytes of the disk that a thread inflates at a time


class NotSequentialError(Exception):
    """The file is not laid out in the order of its disk, or its tables say something else than its grains."""


def streamed_header(head: bytes) -> SparseHeader | None:
    """The header in the first sector of a file; None when this is no stream, or one of unusual dimensions."""
    if len(head) < SECTOR or not head.startswith(MAGIC):
        return None
    header = SparseHeader.parse(head)
    both = FLAG_COMPRESSED | FLAG_MARKERS
    compressed = header.flags & both == both and header.compression == DEFLATE
    usual = 0 < header.grain * SECTOR <= LARGEST_GRAIN and header.table_entries == TABLE_ENTRIES
    known = header.capacity and 0 < header.overhead * SECTOR <= LARGEST_TABLES
    return header if compressed and usual and known else None


@dataclass(frozen=True)
class Grain:
    """A piece of the disk as it is in the file: ``number`` counts grains of the disk."""

    number: int
    data: memoryview


class StreamedDisk:
    """Reads the disk. Iterating gives ``(offset, bytes)`` in ascending order; what is in no piece is zeros.

    Raises NotSequentialError; all that was given until then may be wrong.
    """

    def __init__(self, chunks: Iterable[bytes], header: SparseHeader) -> None:
        self._chunks = iter(chunks)
        self._header = header
        self._buffer = memoryview(b"")
        self._start = 0
        self._at = 0
        """Bytes of the file that were read."""

    def __iter__(self) -> Iterator[tuple[int, bytes | bytearray]]:
        with pool("inflate") as threads:
            waiting: deque[Future[list[tuple[int, bytes | bytearray]]]] = deque()
            for batch in self._batches():
                waiting.append(threads.submit(self._inflate, batch))
                while waiting and (waiting[0].done() or len(waiting) > 2 * pool_size()):
                    yield from waiting.popleft().result()
            for each in waiting:
                yield from each.result()
        for _ in self._chunks:  # padding
            pass

    def _batches(self) -> Iterator[list[Grain]]:
        most = max(1, BATCH // (self._header.grain * SECTOR))
        batch: list[Grain] = []
        for grain in self._grains():
            batch.append(grain)
            if len(batch) == most:
                yield batch
                batch = []
        yield batch

    def _grains(self) -> Iterator[Grain]:
        header = self._header
        tables = Tables(header, self._read(header.overhead * SECTOR))
        last = -1
        # qemu writes no marker at the end; then the tables say whether it is one.
        while header.directory == GD_AT_END or self._has_more():
            sector = self._at // SECTOR
            marker = self._read(SECTOR)
            lba, size = GRAIN_MARKER.unpack_from(marker)
            if size:
                number, odd = divmod(lba, header.grain)
                if odd or not last < number or lba >= header.capacity or size > 2 * header.grain * SECTOR:
                    raise NotSequentialError
                rest = max(0, size + GRAIN_MARKER.size - SECTOR)
                # Copied: a view would keep all of the buffer for as long as the grain waits.
                data = b"".join((marker[GRAIN_MARKER.size :], self._read(-(-rest // SECTOR) * SECTOR)))
                tables.met(number, sector)
                last = number
                yield Grain(number, memoryview(data)[:size])
                continue
            sectors, _, kind = METADATA_MARKER.unpack_from(marker)
            if kind == END_OF_STREAM:
                break
            if sectors * SECTOR > LARGEST_METADATA:
                raise NotSequentialError
            tables.take(kind, sector + 1, bytes(self._read(sectors * SECTOR)))
        tables.check()

    def _inflate(self, batch: list[Grain]) -> list[tuple[int, bytes | bytearray]]:
        size = self._header.grain * SECTOR
        end = self._header.capacity * SECTOR
        return [
            (grain.number * size, _content(grain.data, size, min(size, end - grain.number * size))) for grain in batch
        ]

    def _has_more(self) -> bool:
        if self._start == len(self._buffer):
            self._buffer, self._start = memoryview(next(self._chunks, b"")), 0
        return bool(self._buffer)

    def _read(self, count: int) -> memoryview:
        """The next bytes. Raises NotSequentialError where the file ends before."""
        self._at += count
        data = self._buffer[self._start : self._start + count]
        self._start += len(data)
        missing = count - len(data)
        if not missing:
            return data
        pieces = [data]
        while missing:
            self._buffer = memoryview(next(self._chunks, b""))
            if not self._buffer:
                raise NotSequentialError
            pieces.append(self._buffer[:missing])
            self._start = len(pieces[-1])
            missing -= self._start
        return memoryview(b"".join(pieces))


class Tables:
    """What the tables say, held against the grains that were met."""

    def __init__(self, header: SparseHeader, front: memoryview) -> None:
        self._header = header
        self._grains: dict[int, int] = {}
        """Sector -> number, of those met that no table has confirmed."""
        self._table_at: dict[int, int] = {}
        """Number -> sector, of tables that are not empty."""
        self._directory_at = 0
        self._front = None if header.directory == GD_AT_END else self._read_front(front)
        self._confirmed = 0

    def met(self, number: int, sector: int) -> None:
        """The grain of this number is at this sector."""
        if self._front is None:
            # A table follows its grains; a file that keeps them all for its end is not worth the memory.
            if len(self._grains) == MOST_UNCONFIRMED:
                raise NotSequentialError
            self._grains[sector] = number
            return
        if self._front[number] != sector:
            raise NotSequentialError
        self._confirmed += 1

    def take(self, kind: int, sector: int, data: bytes) -> None:
        """A table, a directory or a footer that came by at this sector."""
        if kind == GRAIN_TABLE and self._front is None:
            self._take_table(sector, _numbers(data))
        elif kind == GRAIN_DIRECTORY and self._front is None:
            directory = {number: table for number, table in enumerate(_numbers(data)[: self._header.tables]) if table}
            if self._grains or any(directory.get(number) != at for number, at in self._table_at.items()):
                raise NotSequentialError
            if set(directory) - set(self._table_at):
                raise NotSequentialError
            self._directory_at = sector
        elif kind == FOOTER and self._front is None:
            footer = streamed_header(data)
            if footer is None or footer.directory != self._directory_at:
                raise NotSequentialError

    def check(self) -> None:
        """After the last: every grain was confirmed, and every confirmation was met."""
        if self._front is None:
            if self._grains or not self._directory_at:
                raise NotSequentialError
        elif self._confirmed != sum(1 for sector in self._front if sector > ZERO_GRAIN):
            raise NotSequentialError

    def _take_table(self, sector: int, entries: array[int]) -> None:
        """One whose number follows from the grains in it; one of zero grains only has none, and needs none."""
        if len(entries) != self._header.table_entries:
            raise NotSequentialError
        tables = set()
        for index, entry in enumerate(entries):
            if entry > ZERO_GRAIN:
                table, place = divmod(self._grains.pop(entry, -1), self._header.table_entries)
                if place != index or table < 0:
                    raise NotSequentialError
                tables.add(table)
        if len(tables) == 1:
            if len(self._table_at) == MOST_TABLES:
                raise NotSequentialError
            self._table_at[tables.pop()] = sector
        elif tables:
            raise NotSequentialError

    def _read_front(self, front: memoryview) -> array[int]:
        """All entries of all tables, from what precedes the first grain."""
        start = self._header.directory * SECTOR
        if 4 * self._header.table_entries * self._header.tables > LARGEST_TABLES:
            raise NotSequentialError
        directory = _numbers(bytes(front[start : start + 4 * self._header.tables]))
        if len(directory) != self._header.tables or start % 4:
            raise NotSequentialError
        entries = array("I")
        empty = bytes(4 * self._header.table_entries)
        for table in directory:
            data = bytes(front[table * SECTOR :][: len(empty)]) if table else empty
            if len(data) != len(empty):
                raise NotSequentialError
            entries += _numbers(data)
        return entries


def _numbers(data: bytes) -> array[int]:
    return numbers(data[: len(data) // 4 * 4], "I", "little")


def _content(data: memoryview, size: int, visible: int) -> bytes | bytearray:
    """The content of a grain of ``size`` bytes, of which ``visible`` are within the disk."""
    try:
        content = inflated(data, size)
    except InflateError:
        raise NotSequentialError from None
    if len(content) < visible:
        raise NotSequentialError
    return content if len(content) == visible else content[:visible]
