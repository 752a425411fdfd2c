"""The partition tables of a raw disk: they tell how long the disk is before its end has come, and whether it did.

Source: UEFI Specification 2.10, 5.2.1 "Legacy Master Boot Record", 5.3.2 "GPT Header", 5.3.3 "GPT Partition Entry
Array".
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

SECTOR = 512
SIGNATURE = b"EFI PART"
# Signature, revision, bytes of the header, its CRC-32, reserved, its own LBA, that of its copy in the last sector,
# first and last usable LBA, GUID of the disk, LBA of the entries, their number, their size.
HEADER = struct.Struct("<8sIIIIQQQQ16sQII")
SMALLEST_HEADER = 92
CRC = slice(16, 20)
# Type, GUID, first and last LBA.
ENTRY = struct.Struct("<16s16sQQ")
UNUSED = bytes(16)
TABLES = 34 * SECTOR
"""Bytes that hold the MBR, the header and the usual 128 entries."""

MBR_ENTRIES = 446
# Status, CHS (3), type, CHS (3), first LBA, number of sectors.
MBR_ENTRY = struct.Struct("<B3xB3xII")
EMPTY, PROTECTIVE = 0, 0xEE
CYLINDER = 255 * 63
"""Sectors by which a partition may reach beyond the disk, where programs rounded up to whole cylinders."""


@dataclass(frozen=True)
class _Header:
    copy: int
    entries: int
    count: int
    entry_size: int


def disk_length(head: bytes) -> int | None:
    """Bytes of the disk that begins with ``head``, by its GPT; None where it has none. It may be wrong: a disk that was
    made larger keeps the table it had.
    """
    header = _header(head)
    return (header.copy + 1) * SECTOR if header else None


def partitions_end(head: bytes) -> int:
    """Bytes that the partitions of the disk that begins with ``head`` need at least; 0 where no table tells.

    TABLES bytes of it matter.
    """
    header = _header(head)
    if header:
        return _last_of_gpt(head, header)
    return _last_of_mbr(head)


def _header(head: bytes) -> _Header | None:
    header = head[SECTOR : 2 * SECTOR]
    if len(header) < SECTOR or not header.startswith(SIGNATURE):
        return None
    _, _, size, crc, _, own, copy, _, _, _, entries, count, entry_size = HEADER.unpack_from(header)
    if not SMALLEST_HEADER <= size <= SECTOR or own != 1 or copy <= own:
        return None
    counted = bytearray(header[:size])
    counted[CRC] = bytes(4)
    return _Header(copy, entries, count, entry_size) if zlib.crc32(counted) == crc else None


def _last_of_gpt(head: bytes, header: _Header) -> int:
    """The entries are there in full where they are in the usual place."""
    end = 0
    if header.entry_size < ENTRY.size:
        return end
    for start in range(header.entries * SECTOR, min(len(head), TABLES) - ENTRY.size + 1, header.entry_size):
        if start >= header.entries * SECTOR + header.count * header.entry_size:
            break
        kind, _, _, last = ENTRY.unpack_from(head, start)
        if kind != UNUSED:
            end = max(end, (last + 1) * SECTOR)
    return end


def _last_of_mbr(head: bytes) -> int:
    entries = [MBR_ENTRY.unpack_from(head, MBR_ENTRIES + 16 * number) for number in range(4)]
    # The boot sector of a file system has the same signature, and code here.
    if any(status not in (0, 0x80) for status, _, _, _ in entries):
        return 0
    ends = [first + count for _, kind, first, count in entries if kind not in (EMPTY, PROTECTIVE)]
    return max((end - CYLINDER for end in ends), default=0) * SECTOR
