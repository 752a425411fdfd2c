"""How far the block map of a VDI points."""

from __future__ import annotations

import struct

from oneconvert.images.layout.source import DamagedError, Source

# Little endian (VirtualBox, src/VBox/Storage/VDICore.h):
#
# Offset  Size  Field
#  0x154   4    offset of the block map
#  0x158   4    offset of the data
#  0x170   8    virtual size in bytes
#  0x178   4    block size
#  0x180   4    blocks, the entries of the map
#
# An entry is the number of a block of data; 0xffffffff was never written and 0xfffffffe is zeros.
FIRST_UNALLOCATED = 0xFFFFFFFE
SECTOR = 512
# The limit of qemu (block/vdi.c).
MOST_BLOCKS = 0x3FFFFFFF


def check(source: Source) -> None:
    """Raise TruncatedError or DamagedError unless the block map and all blocks are in the file."""
    map_offset, data_offset, size, block, blocks = struct.unpack_from("<II20xQI4xI", source.read(0, SECTOR), 0x154)
    needed = -(-size // block)
    if needed > blocks or blocks > MOST_BLOCKS or map_offset % SECTOR or data_offset % SECTOR:
        raise DamagedError(f"its block map of {blocks} entries does not fit its size")
    safe = (source.size - data_offset) // block - 1
    number = 0
    for piece in source.numbers(map_offset, needed, "I", "little"):
        for index, entry in enumerate(piece):
            if safe < entry < FIRST_UNALLOCATED:
                visible = min(block, size - (number + index) * block)
                source.need(data_offset + entry * block + visible)
        number += len(piece)
