"""The header of a sparse VMDK extent: for inspection, the walk through the tables, the stream that is read or written.

Source: VMware, "Virtual Disk Format 5.0", section "Hosted Sparse Extents". Little endian:

Offset  Size  Field
 0x00    4    magic "KDMV"
 0x04    4    version, 1 to 3
 0x08    4    flags: bit 16 compressed grains, bit 17 markers
 0x0c    8    capacity in sectors
 0x14    8    grain size in sectors
 0x1c    8    offset of the embedded descriptor in sectors
 0x24    8    size of the descriptor in sectors
 0x2c    4    entries of one grain table
 0x30    8    offset of the redundant grain directory in sectors
 0x38    8    offset of the grain directory in sectors; all ones: it is in the footer
 0x40    8    sectors of metadata before the first grain
 0x48    1    whether the disk was not closed
 0x49    4    line breaks, which a transfer as text would change; of no meaning without bit 0 of the flags
 0x4d    2    compression of the grains: 0 none, 1 deflate; zeros follow up to the end of the sector

Grain directory and grain tables hold sector numbers of 4 bytes: 0 for none, and in a table 1 for a grain of zeros.
Where there are markers, a grain begins with its sector (8) and the size of its data in bytes (4).

A stream ends with a footer marker, a copy of the header that knows where the grain directory is, and the end-of-stream
marker, of one sector each. A marker is: value (8), size (4), type (4), zeros.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass

SECTOR = 512
MAGIC = b"KDMV"
TABLE_ENTRIES = 512
"""Of one grain table, in all files of which the data is compressed."""
FLAG_NEWLINES = 1
FLAG_COMPRESSED, FLAG_MARKERS = 1 << 16, 1 << 17
DEFLATE = 1
GD_AT_END = 0xFFFFFFFFFFFFFFFF
ZERO_GRAIN = 1
GRAIN_MARKER = struct.Struct("<QI")
METADATA_MARKER = struct.Struct("<QII")
END_OF_STREAM, GRAIN_TABLE, GRAIN_DIRECTORY, FOOTER = range(4)
"""The types of markers."""
LAYOUT = struct.Struct("<4sIIQQQQIQQQ5xH")
NEWLINES_AT, NEWLINES = 0x49, b"\n \r\n"


@dataclass(frozen=True)
class SparseHeader:
    """The fields of a header, or of a footer; sizes and offsets in sectors."""

    magic: bytes
    version: int
    flags: int
    capacity: int
    grain: int
    descriptor_offset: int
    descriptor_size: int
    table_entries: int
    redundant_directory: int
    directory: int
    overhead: int
    compression: int

    @classmethod
    def parse(cls, data: bytes) -> SparseHeader:
        """Read the header from the beginning of ``data``; raises struct.error for fewer than 79 bytes."""
        return cls(*LAYOUT.unpack_from(data))

    def pack(self) -> bytes:
        """The sector that parse() reads."""
        sector = bytearray(LAYOUT.pack(*astuple(self)).ljust(SECTOR, b"\0"))
        sector[NEWLINES_AT : NEWLINES_AT + len(NEWLINES)] = NEWLINES
        return bytes(sector)

    @property
    def has_markers(self) -> bool:
        """Whether grains say where they belong."""
        return bool(self.flags & FLAG_MARKERS)

    @property
    def tables(self) -> int:
        """The number of grain tables, and of entries in the grain directory. Grains must have a size."""
        return -(-self.capacity // (self.grain * self.table_entries))
