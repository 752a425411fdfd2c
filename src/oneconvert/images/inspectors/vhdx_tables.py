"""The tables that tell where things are in a VHDX, for the inspector and for the check of its extents.

Offsets are those of [MS-VHDX], sections 2.2.3 (region table) and 2.6.1 (metadata table).
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

from oneconvert.images.inspectors.base import Refusal

BAT = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
FILE_PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
VIRTUAL_DISK_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
LOGICAL_SECTOR_SIZE = uuid.UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")

MOST_ENTRIES = 2047
HAS_PARENT = 2


@dataclass(frozen=True)
class Region:
    """A part of the file; both in bytes."""

    offset: int
    length: int


@dataclass(frozen=True)
class Metadata:
    """The items that count here; sizes in bytes."""

    block_size: int
    has_parent: bool
    virtual_size: int
    logical_sector: int

    @classmethod
    def parse(cls, region: bytes) -> Metadata:
        """Read the items in whatever order the table names them.

        Raises Refusal where the table makes no sense, or names an item twice or not at all.
        """
        if len(region) < 32 or region[:8] != b"metadata":
            raise Refusal("is damaged: its VHDX metadata is not where the region table says")
        items = _entries(region, 32, int.from_bytes(region[10:12], "little"))
        block_size, flags = struct.unpack("<II", _item(region, items, FILE_PARAMETERS, 8))
        return cls(
            block_size=block_size,
            has_parent=bool(flags & HAS_PARENT),
            virtual_size=int.from_bytes(_item(region, items, VIRTUAL_DISK_SIZE, 8), "little"),
            logical_sector=int.from_bytes(_item(region, items, LOGICAL_SECTOR_SIZE, 4), "little"),
        )


def find_regions(table: bytes) -> dict[uuid.UUID, Region]:
    """The regions of a region table (64 KiB) by their GUID; raises Refusal where it makes no sense."""
    if table[:4] != b"regi":
        raise Refusal("is damaged: its VHDX region table is missing")
    entries = _entries(table, 16, int.from_bytes(table[8:12], "little"))
    regions = {guid: Region(*struct.unpack("<QI", entry[:12])) for guid, entry in entries.items()}
    inorder = sorted(regions.values(), key=lambda region: region.offset)
    if any(one.offset + one.length > other.offset for one, other in zip(inorder, inorder[1:])):
        raise Refusal("is damaged: the regions of the VHDX overlap")
    return regions


def header_valid(header: bytes) -> bool:
    """True for a header (4 KiB) with its signature and the right checksum."""
    if header[:4] != b"head":
        return False
    return _crc32c(header[:4] + bytes(4) + header[8:]) == int.from_bytes(header[4:8], "little")


def _entries(table: bytes, first: int, count: int) -> dict[uuid.UUID, bytes]:
    """The entries of a table, 32 bytes each, by their GUID and without it."""
    if count > MOST_ENTRIES or first + 32 * count > len(table):
        raise Refusal(f"is damaged: a table of the VHDX claims {count} entries")
    entries: dict[uuid.UUID, bytes] = {}
    for start in range(first, first + 32 * count, 32):
        guid = uuid.UUID(bytes_le=table[start : start + 16])
        if guid in entries:
            raise Refusal("is damaged: a table of the VHDX names the same thing twice")
        entries[guid] = table[start + 16 : start + 32]
    return entries


def _item(region: bytes, items: dict[uuid.UUID, bytes], guid: uuid.UUID, length: int) -> bytes:
    if guid not in items:
        raise Refusal("is damaged: an item of the VHDX metadata is missing")
    offset, claimed = struct.unpack_from("<II", items[guid])
    data = region[offset : offset + length]
    if claimed != length or len(data) != length:
        raise Refusal("is damaged: an item of the VHDX metadata is not where its table says")
    return data


def _crc_table() -> tuple[int, ...]:
    """CRC-32C (Castagnoli), reflected; the standard library has only CRC-32."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE = _crc_table()


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
