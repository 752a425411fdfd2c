"""How far the block table of a VHDX points."""

from __future__ import annotations

from oneconvert.images.inspectors import vhdx_tables
from oneconvert.images.inspectors.vhdx import METADATA_READ, REGION_TABLE, REGION_TABLE_SIZE
from oneconvert.images.layout.source import DamagedError, Source

# Little endian ([MS-VHDX], section 2.5): the block allocation table (BAT) has entries of 8 bytes. Bits 0-2 are the
# state of the block, bits 20-63 its offset. After every ``ratio`` entries of payload blocks follows that of a sector
# bitmap, which only differencing images use: ratio = 2^23 * logical sector size / block size.
STATE = 7
FULLY_PRESENT = 6
PARTIALLY_PRESENT = 7
OFFSET_MASK = ~0xFFFFF
SECTORS_OF_A_BITMAP = 1 << 23


def check(source: Source) -> None:
    """Raise TruncatedError or DamagedError unless the regions and all payload blocks are in the file."""
    regions = vhdx_tables.find_regions(source.read(REGION_TABLE, REGION_TABLE_SIZE))
    for region in regions.values():
        source.need(region.offset + region.length)
    if vhdx_tables.BAT not in regions or vhdx_tables.METADATA not in regions:
        raise DamagedError("its region table is incomplete")
    bat, where = regions[vhdx_tables.BAT], regions[vhdx_tables.METADATA]
    metadata = vhdx_tables.Metadata.parse(source.read(where.offset, min(where.length, METADATA_READ)))
    if metadata.logical_sector not in (512, 4096):
        raise DamagedError(f"its logical sectors of {metadata.logical_sector} bytes are impossible")
    block, size = metadata.block_size, metadata.virtual_size
    ratio = SECTORS_OF_A_BITMAP * metadata.logical_sector // block
    blocks = -(-size // block)
    entries = blocks + (blocks - 1) // ratio
    if entries * 8 > bat.length:
        raise DamagedError(f"its block table of {bat.length} bytes does not fit its size")
    position = 0
    for piece in source.numbers(bat.offset, entries, "Q", "little"):
        for index, entry in enumerate(piece, position):
            state = entry & STATE
            # Most entries of a fixed image are FULLY_PRESENT; the bitmaps between them have states 0 and 6 too.
            if state < FULLY_PRESENT or index % (ratio + 1) == ratio:
                continue
            if state == PARTIALLY_PRESENT:
                raise DamagedError("a block is only partly in this file, as in a differencing image")
            number = index - index // (ratio + 1)
            source.need((entry & OFFSET_MASK) + min(block, size - number * block))
        position += len(piece)
