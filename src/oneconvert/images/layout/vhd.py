"""How far the block table of a VHD points."""

from __future__ import annotations

import struct

from oneconvert.images.inspectors.vhd import COOKIE, FOOTER_SIZE, LARGEST_SECTORS, Footer
from oneconvert.images.layout.source import DamagedError, Source

# The dynamic disk header, big endian (Microsoft, "Virtual Hard Disk Image Format Specification"), at the offset that
# the footer (offset 0x10, 8 bytes) tells:
#
# Offset  Size  Field
#  0x00    8    cookie "cxsparse"
#  0x10    8    offset of the block allocation table (BAT)
#  0x1c    4    entries of the BAT
#  0x20    4    block size
#
# An entry is the sector of a block, 0xffffffff for none. A block begins with a bitmap of its sectors, in whole
# sectors itself.
SECTOR = 512
HEADER_SIZE = 1024
UNALLOCATED = 0xFFFFFFFF


def check(source: Source) -> None:
    """Raise TruncatedError or DamagedError unless all blocks and the footer are in the file."""
    first = source.read(0, FOOTER_SIZE)
    if first.startswith(COOKIE):
        _check_dynamic(source, first)
    else:
        _check_fixed(source)


def _check_fixed(source: Source) -> None:
    """A fixed VHD is the disk and the footer, and nothing in between."""
    source.need(FOOTER_SIZE)
    footer = Footer.parse(source.read(source.size - FOOTER_SIZE, FOOTER_SIZE))
    source.need(max(footer.current_size, footer.virtual_size) + FOOTER_SIZE)
    if source.size != footer.current_size + FOOTER_SIZE:
        raise DamagedError(f"a fixed VHD of {footer.current_size} bytes is not {source.size} bytes long")


def _check_dynamic(source: Source, first: bytes) -> None:
    size = Footer.parse(first).virtual_size
    (header_offset,) = struct.unpack_from(">Q", first, 0x10)
    header = source.read(header_offset, HEADER_SIZE)
    table, entries, block = struct.unpack_from(">Q4xII", header, 0x10)
    if not header.startswith(b"cxsparse") or block < SECTOR or block & (block - 1):
        raise DamagedError("its dynamic disk header makes no sense")
    if entries > LARGEST_SECTORS * SECTOR // block or entries * block < size:
        raise DamagedError(f"its block table of {entries} entries does not fit its size")
    bitmap = -(-block // (8 * SECTOR) // SECTOR) * SECTOR
    for piece in source.numbers(table, entries, "I", "big"):
        last = max((entry for entry in piece if entry != UNALLOCATED), default=None)
        if last is not None:
            source.need(last * SECTOR + bitmap + block + FOOTER_SIZE)
    if not source.read(source.size - FOOTER_SIZE, FOOTER_SIZE).startswith(COOKIE):
        source.need(source.size + FOOTER_SIZE)
