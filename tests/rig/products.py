"""Disk images as other products write them, where qemu-img cannot be told to: the same content in another shape."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from rig.crafted import patched, vmdk_descriptor, with_vhd_checksum

SECTOR = 512
VHD_FOOTER = 512
VDI_BLOCK = 1 << 20


@dataclass(frozen=True)
class Vmdk:
    """The choices that writers of a sparse VMDK have (VMware, "Virtual Disk Format 5.0", "Hosted Sparse Extents")."""

    version: int = 1
    kind: str = "monolithicSparse"
    grain: int = 128
    """In sectors."""
    table_entries: int = 512
    descriptor_sectors: int = 20
    more: str = ""
    """Further lines of the descriptor."""
    compressed: bool = False
    footer: bool = False
    redundant: bool = False
    zero_entries: bool = False
    """Grains of zeros are marked as such, not left out."""

    @property
    def flags(self) -> int:
        return 1 | self.redundant << 1 | self.zero_entries << 2 | self.compressed * 0x30000

    def header(self, capacity: int, redundant_directory: int, directory: int, overhead: int) -> bytes:
        numbers = (capacity, self.grain, 1, self.descriptor_sectors, self.table_entries)
        places = (redundant_directory, directory, overhead)
        fixed = struct.pack("<4sIIQQQQI", b"KDMV", self.version, self.flags, *numbers)
        return (fixed + struct.pack("<QQQB4sH", *places, 0, b"\n \r\n", self.compressed)).ljust(SECTOR, b"\0")

    def write(self, content: bytes) -> bytes:
        """The whole image; ``content`` is in whole sectors."""
        capacity, size = len(content) // SECTOR, self.grain * SECTOR
        grains = [content[start : start + size].ljust(size, b"\0") for start in range(0, len(content), size)]
        extent = f'RW {capacity} SPARSE "the disk.vmdk"'
        text = vmdk_descriptor(self.kind, extent, self.more).ljust(self.descriptor_sectors * SECTOR, b"\0")
        count = -(-len(grains) // self.table_entries)
        # Directory and tables, once or twice, or room for nothing where they follow the grains.
        tables = -(-count * 4 // SECTOR) + count * (self.table_entries * 4 // SECTOR)
        start = 1 + self.descriptor_sectors
        copies = 0 if self.footer else 1 + self.redundant
        body = bytearray()
        entries = []
        data_start = start + copies * tables
        for number, grain in enumerate(grains):
            if not any(grain):
                entries.append(1 if self.zero_entries else 0)
                continue
            entries.append(data_start + len(body) // SECTOR)
            if self.compressed:
                packed = zlib.compress(grain, 1)
                body += struct.pack("<QI", number * self.grain, len(packed)) + packed
                body += bytes(-len(body) % SECTOR)
            else:
                body += grain
        if not self.footer:
            index = b"".join(self._index(entries, count, start + copy * tables) for copy in range(copies))
            places = (start, start + tables) if self.redundant else (0, start)
            return self.header(capacity, *places, data_start) + text + index + bytes(body)
        at_end = self._index(entries, count, data_start + len(body) // SECTOR)
        footer = self.header(capacity, 0, data_start + len(body) // SECTOR, data_start)
        end = struct.pack("<QII", 1, 0, 3).ljust(SECTOR, b"\0") + footer + bytes(SECTOR)
        return self.header(capacity, 0, 2**64 - 1, data_start) + text + bytes(body) + at_end + end

    def _index(self, entries: Sequence[int], count: int, start: int) -> bytes:
        """A grain directory at sector ``start``, and the ``count`` tables behind it."""
        room = -(-count * 4 // SECTOR)
        table = self.table_entries * 4 // SECTOR
        directory = struct.pack(f"<{count}I", *(start + room + number * table for number in range(count)))
        padded = [*entries, *[0] * (count * self.table_entries - len(entries))]
        return directory.ljust(room * SECTOR, b"\0") + struct.pack(f"<{len(padded)}I", *padded)


def with_vhd_creator(image: bytes, creator: bytes) -> bytes:
    """A VHD, dynamic or fixed, that another program made. Its geometry is a little smaller than the disk, because it is
    in whole cylinders.
    """
    places = [len(image) - VHD_FOOTER] + ([0] if image.startswith(b"conectix") else [])
    for place in places:
        (size,) = struct.unpack_from(">Q", image, place + 0x30)
        geometry = struct.pack(">HBB", size // SECTOR // (4 * 17), 4, 17)
        footer = patched(image[place : place + VHD_FOOTER], (0x1C, creator), (0x38, geometry))
        image = patched(image, (place, with_vhd_checksum(footer)))
    return image


def with_shuffled_vhd_blocks(image: bytes) -> bytes:
    """A dynamic VHD that was filled in another order."""
    (header,) = struct.unpack_from(">Q", image, 0x10)
    table, entries, block = struct.unpack_from(">Q4xII", image, header + 0x10)
    block += -(-block // (8 * SECTOR) // SECTOR) * SECTOR
    blocks = list(struct.unpack_from(f">{entries}I", image, table))
    used = [number for number, sector in enumerate(blocks) if sector != 0xFFFFFFFF]
    sectors = [blocks[number] for number in used]
    random.Random(3).shuffle(sectors)
    moved = bytearray(image)
    for number, sector in zip(used, sectors):
        old = blocks[number] * SECTOR
        moved[sector * SECTOR : sector * SECTOR + block] = image[old : old + block]
        struct.pack_into(">I", moved, table + 4 * number, sector)
    return bytes(moved)


def with_shuffled_vdi_blocks(image: bytes) -> bytes:
    """A dynamic VDI that was filled in another order; holes become both kinds of hole that there are."""
    map_start, data_start = struct.unpack_from("<II", image, 0x154)
    (entries,) = struct.unpack_from("<I", image, 0x180)
    blocks = list(struct.unpack_from(f"<{entries}I", image, map_start))
    used = [number for number, block in enumerate(blocks) if block < 0xFFFFFFFE]
    places = [blocks[number] for number in used]
    random.Random(3).shuffle(places)
    moved = bytearray(image)
    for number, place in zip(used, places):
        old, new = (data_start + block * VDI_BLOCK for block in (blocks[number], place))
        moved[new : new + VDI_BLOCK] = image[old : old + VDI_BLOCK]
        blocks[number] = place
    holes = [number for number in range(entries) if number not in used]
    for number in holes[::2]:
        blocks[number] = 0xFFFFFFFE
    struct.pack_into(f"<{entries}I", moved, map_start, *blocks)
    return bytes(moved)
