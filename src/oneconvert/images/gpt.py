"""The GUID partition table of a raw disk: it tells how long the disk is before its end has come."""

from __future__ import annotations

import struct
import zlib

SECTOR = 512
SIGNATURE = b"EFI PART"
# Signature, revision, bytes of the header, its CRC-32, reserved, its own LBA, that of its copy in the last sector.
HEADER = struct.Struct("<8sIIIIQQ")
CRC = slice(16, 20)


def disk_length(head: bytes) -> int | None:
    """Bytes of the disk that begins with ``head``, by its partition table; None where it has none. It may be wrong: a
    disk that was made larger keeps the table it had.

    Source: UEFI Specification 2.10, 5.3.2 "GPT Header".
    """
    header = head[SECTOR : 2 * SECTOR]
    if len(header) < SECTOR or not header.startswith(SIGNATURE):
        return None
    _, _, size, crc, _, own, copy = HEADER.unpack_from(header)
    if not HEADER.size <= size <= SECTOR or own != 1 or copy <= own:
        return None
    counted = bytearray(header[:size])
    counted[CRC] = bytes(4)
    return (copy + 1) * SECTOR if zlib.crc32(counted) == crc else None
