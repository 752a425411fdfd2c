"""How far the tables of a sparse VMDK point."""

from __future__ import annotations

from oneconvert.images.layout.source import DamagedError, Seen, Source
from oneconvert.images.vmdk_header import (
    DEFLATE,
    FLAG_COMPRESSED,
    GD_AT_END,
    GRAIN_MARKER,
    SECTOR,
    ZERO_GRAIN,
    SparseHeader,
)

FOOTER_FROM_END = 2 * SECTOR
# The limits of qemu (vmdk_add_extent() and vmdk_open_vmdk4() in block/vmdk.c).
LARGEST_GRAIN = 0x200000  # sectors
MOST_DIRECTORY_ENTRIES = 32 << 20
MOST_TABLE_ENTRIES = 512


def check(source: Source) -> None:
    """Raise TruncatedError or DamagedError unless the directory, the tables and the grains are in the file."""
    header = _header(source)
    if not 0 < header.grain <= LARGEST_GRAIN or not 0 < header.table_entries <= MOST_TABLE_ENTRIES:
        raise DamagedError("its VMDK header claims impossible grains")
    if header.tables > MOST_DIRECTORY_ENTRIES:
        raise DamagedError(f"its grain directory of {header.tables} entries is too large")
    seen = Seen(source.size, SECTOR)
    index = 0
    for piece in source.numbers(header.directory * SECTOR, header.tables, "I", "little"):
        for table in piece:
            if table and seen.first_time(table * SECTOR):
                _check_table(source, header, table, index * header.table_entries)
            index += 1


def _header(source: Source) -> SparseHeader:
    """The header that counts: in front, or at the end of a stream."""
    header = _consistent(SparseHeader.parse(source.read(0, SECTOR)))
    if header.directory == GD_AT_END:
        return _consistent(SparseHeader.parse(source.read(source.size - FOOTER_FROM_END, SECTOR)))
    return header


def _consistent(header: SparseHeader) -> SparseHeader:
    compressed = bool(header.flags & FLAG_COMPRESSED)
    if (header.compression == DEFLATE) != header.has_markers or compressed != header.has_markers:
        raise DamagedError("its VMDK header contradicts itself about compression")
    return header


def _check_table(source: Source, header: SparseHeader, table: int, first: int) -> None:
    """Check one grain table, whose first entry is that of the guest's grain number ``first``."""
    used = min(header.table_entries, -(-header.capacity // header.grain) - first)
    # A compressed grain can be a little larger than its content; only those near the end are worth a look.
    safe = source.size // SECTOR - (2 * header.grain + 1 if header.has_markers else header.grain)
    for piece in source.numbers(table * SECTOR, used, "I", "little"):
        if max(piece) <= safe:
            continue
        for index, entry in enumerate(piece):
            if entry > max(safe, ZERO_GRAIN):
                _check_grain(source, header, entry, first + index)


def _check_grain(source: Source, header: SparseHeader, sector: int, number: int) -> None:
    """Check the guest's grain ``number`` at ``sector``, which is near the end of the file."""
    if header.has_markers:
        _, size = GRAIN_MARKER.unpack(source.read(sector * SECTOR, GRAIN_MARKER.size))
        source.need(sector * SECTOR + GRAIN_MARKER.size + size)
    else:
        visible = min(header.grain, header.capacity - number * header.grain)
        source.need((sector + visible) * SECTOR)
