"""Zip archives, read from their local headers, and held against their central directory in the end.

The format is that of PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.9 (data descriptor), 4.4.4
(flags), 4.4.5 (methods) and 4.5.3 (zip64). Python's zipfile needs the whole file, and stream-unzip does not look at
the central directory, which alone tells links from files and a whole archive from a cut one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from isal import igzip_lib, isal_zlib

from oneconvert.errors import ImageRefusedError
from oneconvert.transfer.archives.feed import PIECE, Feed
from oneconvert.transfer.archives.member import Member, Names, quoted
from oneconvert.transfer.archives.zip_directory import CENTRAL, END, END_64, Stored, check_directory, decoded, sizes
from oneconvert.transfer.compression import COMPRESSIONS, ERRORS, Decompressor

LOCAL = b"PK\x03\x04"
DESCRIPTOR = b"PK\x07\x08"
LOCAL_HEADER = struct.Struct("<4s2xHH4xIIIHH")
LARGEST_SIZE = 1 << 62
LONGEST_DESCRIPTOR = 24

ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
WITH_DESCRIPTOR = 1 << 3
PATCHED = 1 << 5

STORED = 0
DEFLATE64 = 9
"""What Windows takes for files of more than 2 GiB."""
DEFLATE64_PIECE = 256
"""Bytes; 18 bits can stand for 64 KiB of content, so this may become 7 MiB."""
DECOMPRESSORS: MappingProxyType[int, Callable[[], Decompressor]] = MappingProxyType(
    {
        8: lambda: cast(Decompressor, igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE)),
        12: COMPRESSIONS["bzip2"][1],
    }
)
OTHER_METHODS: MappingProxyType[int, str] = MappingProxyType({14: "LZMA", 93: "Zstandard", 95: "XZ"})


@dataclass
class Header:
    """A local header, and what has come of its member since; sizes and checksum are None until they are known."""

    raw_name: bytes
    name: str
    offset: int
    method: int
    with_descriptor: bool
    checksum: int | None
    packed: int | None
    size: int | None


def begins_with(head: bytes) -> bool:
    """True for the first local header, or for the end of an archive without members."""
    return head.startswith((LOCAL, END))


def members(feed: Feed) -> Iterator[Member]:
    """The members of a zip archive; see the package."""
    names = Names(feed.name)
    stored: dict[bytes, Stored] = {}
    while True:
        signature = feed.peek(len(LOCAL))
        if signature in (CENTRAL, END, END_64):
            break
        if signature != LOCAL:
            if len(signature) < len(LOCAL):
                raise feed.truncated()
            raise feed.damaged(
                f"at byte {feed.position} of the zip archive there is neither a member nor its directory"
            )
        header = _local_header(feed)
        directory = header.name.endswith("/")
        names.admit(header.name, directory=directory)
        content = _content(feed, header, stored)
        if directory:
            if any(content):
                raise feed.damaged(f"its member {quoted(header.name)} is a directory with content")
            continue
        member = Member(header.name, header.size, feed.position if header.method == STORED else None, content)
        yield member
        member.pass_by()
    check_directory(feed, stored)
    feed.finish()


def _local_header(feed: Feed) -> Header:
    """Read a local header; raises ImageRefusedError for what cannot be read as a stream or not at all."""
    offset = feed.position
    fields = LOCAL_HEADER.unpack(feed.take(LOCAL_HEADER.size))
    _, flags, method, checksum, packed, size, name_length, extra_length = fields
    raw_name = feed.take(name_length)
    size, packed = sizes(feed.take(extra_length), size, packed)
    name = decoded(raw_name)
    member = f"{feed.name} is refused: its member {quoted(name)}"
    if flags & ENCRYPTED:
        raise ImageRefusedError(f"{member} is encrypted; publish the archive without a password")
    if flags & PATCHED or method not in (STORED, DEFLATE64, *DECOMPRESSORS):
        kind = OTHER_METHODS.get(method, f"method {method}")
        raise ImageRefusedError(f"{member} is compressed with {kind}; pack it with the method Deflate")
    if max(size, packed) >= LARGEST_SIZE or (method == STORED and packed != size):
        raise feed.damaged(f"its member {quoted(name)} claims sizes of {packed} and {size} bytes")
    header = Header(raw_name, name, offset, method, bool(flags & WITH_DESCRIPTOR), checksum, packed, size)
    if header.with_descriptor:
        header.checksum = None
        if method in DECOMPRESSORS:
            header.packed = header.size = None
        elif method == DEFLATE64:
            if not packed:
                raise ImageRefusedError(
                    f"{member} is compressed with Deflate64 without its size in front of it; "
                    "pack it with the method Deflate, or into a file instead of a pipe"
                )
            header.size = None
        elif size == 0 and not _descriptor_length(feed, 0, 0, 0):
            raise ImageRefusedError(
                f"{member} is stored without its size in front of it, so its end cannot be found; "
                "pack it with compression, or into a file instead of a pipe"
            )
    return header


def _content(feed: Feed, header: Header, stored: dict[bytes, Stored]) -> Iterator[bytes]:
    """The bytes of a member; after the last one they are verified and noted in ``stored``."""
    start, size, checksum = feed.position, 0, 0
    for piece in _unpacked(feed, header):
        size += len(piece)
        checksum = isal_zlib.crc32(piece, checksum)
        if header.size is not None and size > header.size:
            raise _mismatch(feed, header)
        yield piece
    packed = feed.position - start
    if header.with_descriptor:
        length = _descriptor_length(feed, checksum, packed, size)
        if not length:
            # Shorter than this there is no room for a descriptor and what must follow it.
            raise feed.truncated() if len(feed.peek(20)) < 20 else _mismatch(feed, header)
        feed.skip(length)
    elif (checksum, packed, size) != (header.checksum, header.packed, header.size):
        raise _mismatch(feed, header)
    stored[header.raw_name] = Stored(header.offset, checksum, packed, size)


def _unpacked(feed: Feed, header: Header) -> Iterator[bytes]:
    if header.method == STORED:
        yield from feed.pieces(header.packed or 0)
        return
    if header.method == DEFLATE64:
        yield from _inflated64(feed, header)
        return
    decompressor = DECOMPRESSORS[header.method]()
    data = b""
    while True:
        try:
            output = decompressor.decompress(data, PIECE)
        except ERRORS:
            raise _not_inflated(feed, header) from None
        if output:
            yield output
        data = b""
        if decompressor.eof:
            feed.give_back(len(decompressor.unused_data))
            return
        if decompressor.needs_input:
            data = feed.some()
            if not data:
                raise feed.truncated()


def _inflated64(feed: Feed, header: Header) -> Iterator[bytes]:
    """Undo Deflate64, whose library neither limits its output nor tells how much of its input it left over."""
    # Only here: it takes a while to load, and hardly any archive needs it.
    import inflate64

    inflater = inflate64.Inflater()
    # It never lets go of what it was given either (1.0.4 releases no buffer), so it is given this one every time.
    buffer = bytearray(DEFLATE64_PIECE)
    left = header.packed or 0
    while left and not inflater.eof:
        # The last byte comes alone: the data must end with it, and not before.
        piece = feed.take(min(left - 1, DEFLATE64_PIECE) or 1)
        left -= len(piece)
        whole = len(piece) == DEFLATE64_PIECE
        if whole:
            buffer[:] = piece
        try:
            output = inflater.inflate(buffer if whole else piece)
        except ERRORS:
            raise _not_inflated(feed, header) from None
        for start in range(0, len(output), PIECE):
            yield output[start : start + PIECE]
    if left or not inflater.eof:
        raise _not_inflated(feed, header)


def _descriptor_length(feed: Feed, checksum: int, packed: int, size: int) -> int:
    """How long the data descriptor is that follows, if it says these numbers; 0 if it does not.

    It is 12 to 24 bytes long: its signature is optional, and nothing in it tells sizes of 4 from sizes of 8 bytes.
    What follows it tells.
    """
    ahead = feed.peek(LONGEST_DESCRIPTOR + len(LOCAL))
    for layout in ("<IQQ", "<III"):
        if layout == "<III" and max(packed, size) >= 1 << 32:
            continue
        numbers = struct.pack(layout, checksum, packed, size)
        for descriptor in (DESCRIPTOR + numbers, numbers):
            after = ahead[len(descriptor) : len(descriptor) + len(LOCAL)]
            if ahead.startswith(descriptor) and after in (LOCAL, CENTRAL):
                return len(descriptor)
    return 0


def _not_inflated(feed: Feed, header: Header) -> ImageRefusedError:
    return feed.damaged(f"its member {quoted(header.name)} cannot be decompressed")


def _mismatch(feed: Feed, header: Header) -> ImageRefusedError:
    return feed.damaged(f"its member {quoted(header.name)} has not the size and checksum that the zip archive says")
