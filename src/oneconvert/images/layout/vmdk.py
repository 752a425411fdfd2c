"""How far the tables of a sparse VMDK point."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from oneconvert.images.layout.source import DamagedError, Seen, Source

# The header, little endian (VMware, "Virtual Disk Format 5.0", section "Hosted Sparse Extents"):
#
# Offset  Size  Field
#  0x08    4    flags: bit 16 compressed grains, bit 17 markers
#  0x0c    8    capacity in sectors
#  0x14    8    grain size in sectors
#  0x2c    4    entries of one grain table
#  0x38    8    offset of the grain directory in sectors; all ones: the footer (1024 bytes before the end) knows
#  0x4d    2    compression: 1 deflate
#
# Grain directory and grain tables hold sector numbers of 4 bytes: 0 for none, and in a table 1 for a grain of zeros.
# Where there are markers, a grain begins with its sector (8) and the size of its data in bytes (4).
SECTOR = 512
FOOTER_FROM_END = 2 * SECTOR
GD_AT_END = 0xFFFFFFFFFFFFFFFF
ZERO_GRAIN = 1
GRAIN_MARKER = 12
FLAG_COMPRESSED = 1 << 16
FLAG_MARKERS = 1 << 17
# The limits of qemu (vmdk_add_extent() and vmdk_open_vmdk4() in block/vmdk.c).
LARGEST_GRAIN = 0x200000
MOST_DIRECTORY_ENTRIES = 32 << 20
MOST_TABLE_ENTRIES = 512


@dataclass(frozen=True)
class Header:
    """What the check needs of the header or of a stream's footer; sizes and offsets in sectors."""

    capacity: int
    grain: int
    table_entries: int
    directory: int
    markers: bool

    @classmethod
    def read(cls, source: Source) -> Header:
        """Read the header that counts."""
        header = cls._parse(source.read(0, SECTOR))
        if header.directory == GD_AT_END:
            return cls._parse(source.read(source.size - FOOTER_FROM_END, SECTOR))
        return header

    @classmethod
    def _parse(cls, data: bytes) -> Header:
        flags, capacity, grain, entries, directory = struct.unpack_from("<8xIQQ16xI8xQ", data)
        (compression,) = struct.unpack_from("<H", data, 0x4D)
        markers = bool(flags & FLAG_MARKERS)
        if (compression == 1) != markers or bool(flags & FLAG_COMPRESSED) != markers:
            raise DamagedError("its VMDK header contradicts itself about compression")
        return cls(capacity, grain, entries, directory, markers)


def check(source: Source) -> None:
    """Raise TruncatedError or DamagedError unless the directory, the tables and the grains are in the file."""
    header = Header.read(source)
    if not 0 < header.grain <= LARGEST_GRAIN or not 0 < header.table_entries <= MOST_TABLE_ENTRIES:
        raise DamagedError("its VMDK header claims impossible grains")
    tables = -(-header.capacity // (header.grain * header.table_entries))
    if tables > MOST_DIRECTORY_ENTRIES:
        raise DamagedError(f"its grain directory of {tables} entries is too large")
    seen = Seen(source.size, SECTOR)
    index = 0
    for piece in source.numbers(header.directory * SECTOR, tables, "I", "little"):
        for table in piece:
            if table and seen.first_time(table * SECTOR):
                _check_table(source, header, table, index * header.table_entries)
            index += 1


def _check_table(source: Source, header: Header, table: int, first: int) -> None:
    """Check one grain table, whose first entry is that of the guest's grain number ``first``."""
    used = min(header.table_entries, -(-header.capacity // header.grain) - first)
    # A compressed grain can be a little larger than its content; only those near the end are worth a look.
    safe = source.size // SECTOR - (2 * header.grain + 1 if header.markers else header.grain)
    for piece in source.numbers(table * SECTOR, used, "I", "little"):
        if max(piece) <= safe:
            continue
        for index, entry in enumerate(piece):
            if entry > max(safe, ZERO_GRAIN):
                _check_grain(source, header, entry, first + index)


def _check_grain(source: Source, header: Header, sector: int, number: int) -> None:
    """Check the guest's grain ``number`` at ``sector``, which is near the end of the file."""
    if header.markers:
        (size,) = struct.unpack_from("<8xI", source.read(sector * SECTOR, GRAIN_MARKER))
        source.need(sector * SECTOR + GRAIN_MARKER + size)
    else:
        visible = min(header.grain, header.capacity - number * header.grain)
        source.need((sector + visible) * SECTOR)
