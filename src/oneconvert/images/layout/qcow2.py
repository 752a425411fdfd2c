"""How far the tables of a qcow2 point."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from oneconvert.images.layout.source import DamagedError, Seen, Source
from oneconvert.zstd import ZstdDecompressor, ZstdError

# The header, big endian (qemu, docs/interop/qcow2.txt):
#
# Offset  Size  Field
#  0x04    4    version
#  0x14    4    cluster_bits
#  0x18    8    virtual size in bytes
#  0x24    4    entries of the L1 table
#  0x28    8    offset of the L1 table
#  0x30    8    offset of the refcount table
#  0x38    4    clusters of the refcount table
#  0x3c    4    internal snapshots
#  0x40    8    offset of the snapshot table
#  0x48    8    incompatible features (version 3)
#  0x58    8    autoclear features (version 3): bit 0, the bitmaps are those of the disk
#  0x64    4    length of the header (version 3)
#  0x68    1    compression type (version 3, where the header is long enough)
#
# Behind the header its extensions: type (4), length (4), data, filled up to 8 bytes. That of bitmaps: number (4),
# reserved (4), size (8) and offset (8) of their directory.
#
# Entry of the snapshot table: offset (8) and entries (4) of its L1 table, lengths of its id (2) and its name (2),
# 20 bytes, length of what else there is (4), that itself (with the size of the disk at its byte 8), id, name, filled
# up to 8 bytes.
# Entry of the bitmap directory: offset (8) and entries (4) of its table, flags (4), type (1), granularity (1), lengths
# of its name (2) and of what else there is (4), that itself, name, filled up to 8 bytes.
#
# L1 entry, refcount table entry, bitmap table entry: bits 9-55 are the offset of a table of one cluster, 0 for none.
# L2 entry: bit 62 compressed; else bit 0 reads as zeros (version 3), bits 9-55 offset of the data cluster.
# Compressed: with x = 62 - (cluster_bits - 8), bits 0 to x-1 are the offset, the rest up to bit 61 the number of
# further sectors of 512 bytes.
# Extended L2 entry: a second number follows, whose bits 0-31 tell the allocated of the 32 subclusters.
OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
COMPRESSED = 1 << 62
NOT_COPIED = (1 << 63) - 1
ZERO = 1
EXTENDED_L2 = 1 << 4
SUBCLUSTERS = 32
SECTOR = 512
# The limits of qemu (block/qcow2.h), in bytes.
LARGEST_L1 = 32 << 20
LARGEST_REFCOUNT_TABLE = 8 << 20
MOST_BITMAPS = 65535
LARGEST_DIRECTORY = 64 << 20
V2_HEADER_LENGTH = 72
AUTOCLEAR_BITMAPS = 1
EXTENSION_END, EXTENSION_BITMAPS = 0, 0x23852875


@dataclass(frozen=True)
class Header:
    """What the check needs of the header; sizes and offsets in bytes."""

    version: int
    cluster_bits: int
    virtual_size: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshots: int
    snapshots_offset: int
    length: int
    bitmaps: bool
    extended: bool
    zstd: bool

    @classmethod
    def read(cls, source: Source) -> Header:
        """Read it from a file that the inspector has accepted."""
        data = source.read(0, 0x69)
        version, bits, size, l1_entries, l1_offset, refcounts, clusters, snapshots, snapshots_offset = (
            struct.unpack_from(">4xI8x4xIQ4xIQQIIQ", data)
        )
        features, autoclear, length = struct.unpack_from(">Q8xQ4xI", data, 0x48)
        modern = version >= 3
        return cls(
            version=version,
            cluster_bits=bits,
            virtual_size=size,
            l1_entries=l1_entries,
            l1_offset=l1_offset,
            refcount_offset=refcounts,
            refcount_clusters=clusters,
            snapshots=snapshots,
            snapshots_offset=snapshots_offset,
            length=length if modern else V2_HEADER_LENGTH,
            bitmaps=modern and bool(autoclear & AUTOCLEAR_BITMAPS),
            extended=modern and bool(features & EXTENDED_L2),
            zstd=modern and length > 0x68 and data[0x68] == 1,
        )

    @property
    def cluster(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.cluster_bits

    @property
    def l2_entries(self) -> int:
        """Entries of one L2 table."""
        return self.cluster // (16 if self.extended else 8)


def check(source: Source) -> None:
    """Raise TruncatedError or DamagedError unless everything the disk, its snapshots and its bitmaps use is in the
    file: an image that is stored unchanged keeps them.
    """
    header = Header.read(source)
    _check_refcounts(source, header)
    tables = -(-header.virtual_size // (header.cluster * header.l2_entries))
    if tables > header.l1_entries or header.l1_entries * 8 > LARGEST_L1:
        raise DamagedError(f"its L1 table of {header.l1_entries} entries does not fit its size")
    seen = Seen(source.size, header.cluster)
    _check_l1(source, header, seen, tables)
    for snapshot in _snapshots(source, header):
        _check_l1(source, snapshot, seen, snapshot.l1_entries)
    if header.bitmaps:
        _check_bitmaps(source, header)


def _check_l1(source: Source, header: Header, seen: Seen, tables: int) -> None:
    index = 0
    for piece in source.numbers(header.l1_offset, tables, "Q", "big"):
        for entry in piece:
            offset = entry & OFFSET_MASK
            if offset % header.cluster:
                raise DamagedError("an L2 table is not at the start of a cluster")
            if offset and seen.first_time(offset):
                _check_l2(source, header, offset, index * header.l2_entries)
            index += 1


def _snapshots(source: Source, header: Header) -> Iterator[Header]:
    """The header as it would be with each snapshot for its disk."""
    position, tables = header.snapshots_offset, 0
    for _ in range(header.snapshots):
        l1_offset, entries, id_length, name_length, more = struct.unpack(">QIHH20xI", source.read(position, 40))
        # Each has a table of its own; one that counted for many would be read for each.
        tables += entries * 8
        if entries * 8 > LARGEST_L1 or tables > source.size:
            raise DamagedError(f"the L1 table of a snapshot, of {entries} entries, does not fit the file")
        size = int.from_bytes(source.read(position + 48, 8), "big") if more >= 16 else header.virtual_size
        length = 40 + more + id_length + name_length
        source.need(position + length)
        position += -(-length // 8) * 8
        yield replace(header, l1_offset=l1_offset, l1_entries=entries, virtual_size=size)


def _check_bitmaps(source: Source, header: Header) -> None:
    """Check the directory of bitmaps, and the tables and clusters that it leads to."""
    for start, extension in _extensions(source, header, EXTENSION_BITMAPS):
        if extension < 24:
            raise DamagedError(f"its header extension for bitmaps has {extension} bytes")
        count, size, position = struct.unpack(">I4xQQ", source.read(start, 24))
        if count > MOST_BITMAPS or size > LARGEST_DIRECTORY:
            raise DamagedError(f"its directory of {count} bitmaps, of {size} bytes, is too large")
        source.need(position + size)
        tables = 0
        for _ in range(count):
            table, entries, name_length, more = struct.unpack(">QI6xHI", source.read(position, 24))
            length = 24 + more + name_length
            source.need(position + length)
            position += -(-length // 8) * 8
            tables += entries * 8
            if tables > source.size:
                raise DamagedError(f"the table of a bitmap, of {entries} entries, does not fit the file")
            for piece in source.numbers(table, entries, "Q", "big"):
                last = max(map(OFFSET_MASK.__and__, piece))
                if last:
                    source.need(last + SECTOR)


def _extensions(source: Source, header: Header, wanted: int) -> Iterator[tuple[int, int]]:
    """Where the data of the header extensions of a type begins, and its length."""
    position = header.length
    while position + 8 <= min(header.cluster, source.size):
        kind, length = struct.unpack(">II", source.read(position, 8))
        if kind == EXTENSION_END:
            return
        if kind == wanted:
            yield position + 8, length
        position += 8 + -(-length // 8) * 8


def _check_refcounts(source: Source, header: Header) -> None:
    length = header.refcount_clusters * header.cluster
    if length > LARGEST_REFCOUNT_TABLE:
        raise DamagedError(f"its refcount table of {length} bytes is too large")
    last = 0
    for piece in source.numbers(header.refcount_offset, length // 8, "Q", "big"):
        last = max(last, max(piece) & OFFSET_MASK)
    if last:
        source.need(last + header.cluster)


def _check_l2(source: Source, header: Header, offset: int, first: int) -> None:
    """Check one L2 table, whose first entry is that of the guest's cluster number ``first``."""
    clusters = -(-header.virtual_size // header.cluster) - first
    # Behind the disk of a snapshot there may be the state of its machine.
    used = min(clusters, header.l2_entries) if clusters > 0 else header.l2_entries
    source.need(offset + header.cluster)
    number = first
    plain_end = source.size - header.cluster
    for piece in source.numbers(offset, used * (2 if header.extended else 1), "Q", "big"):
        entries = piece[::2] if header.extended else piece
        bitmaps = piece[1::2] if header.extended else None
        # Most tables point nowhere near the end of the file; compressed clusters have a high bit set and stay.
        if max(map(NOT_COPIED.__and__, entries)) <= plain_end:
            number += len(entries)
            continue
        for index, entry in enumerate(entries):
            if entry & COMPRESSED:
                _check_compressed(source, header, entry)
            elif (entry & OFFSET_MASK) > plain_end:
                _check_plain(source, header, entry, number + index, bitmaps[index] if bitmaps else None)
        number += len(entries)


def _check_plain(source: Source, header: Header, entry: int, number: int, bitmap: int | None) -> None:
    """Check the data cluster of the guest's cluster ``number``, known to reach beyond the end of the file."""
    if header.version >= 3 and bitmap is None and entry & ZERO:
        return
    length = max(min(header.cluster, header.virtual_size - number * header.cluster), SECTOR)
    if bitmap is not None:
        allocated = (bitmap & 0xFFFF_FFFF).bit_length()
        length = min(length, allocated * header.cluster // SUBCLUSTERS)
    if length:
        source.need((entry & OFFSET_MASK) + length)


def _check_compressed(source: Source, header: Header, entry: int) -> None:
    bits = 62 - (header.cluster_bits - 8)
    offset = entry & ((1 << bits) - 1)
    sectors = (entry & (COMPRESSED - 1)) >> bits
    end = (offset // SECTOR + sectors + 1) * SECTOR
    if end <= source.size:
        return
    # The length is in whole sectors. Not every program pads the last one, so its data decides.
    if end - source.size >= SECTOR or not _unpacks(source.read(offset, source.size - offset), header):
        source.need(end)


def _unpacks(data: bytes, header: Header) -> bool:
    """True when ``data`` unpacks to a whole cluster."""
    try:
        if header.zstd:
            unpacked = ZstdDecompressor().decompress(data, header.cluster)
        else:
            unpacked = zlib.decompressobj(-12).decompress(data, header.cluster)
    except (zlib.error, ZstdError):
        return False
    return len(unpacked) == header.cluster
