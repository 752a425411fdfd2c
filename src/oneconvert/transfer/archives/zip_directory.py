"""The central directory of a zip archive: what every other program believes the archive to hold.

PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.12 (entries), 4.3.14 to 4.3.16 (the ends), 4.4.15 (external attributes) and
4.5.3 (zip64). It comes after the members, so here it can only confirm what was read, or have all of it refused.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass

from oneconvert.errors import ImageRefusedError
from oneconvert.transfer.archives.feed import Feed
from oneconvert.transfer.archives.member import quoted

CENTRAL = b"PK\x01\x02"
END_64 = b"PK\x06\x06"
LOCATOR_64 = b"PK\x06\x07"
END = b"PK\x05\x06"
ENTRY = struct.Struct("<4s12xIIIHHH4xII")
END_RECORD = struct.Struct("<4s6xH8xH")
END_64_HEAD = struct.Struct("<4sQ20xQ")
LOCATOR_LENGTH = 20
END_64_REST = 44
"""Bytes that the zip64 end counts as its own when it has no extensions."""
LONGEST_END_64 = 64 * 1024
ZIP64_EXTRA = 1
NOT_HERE = 0xFFFFFFFF
"""In place of a number of 4 bytes: it is in the zip64 field."""


@dataclass(frozen=True)
class Stored:
    """A member as it was read: where its local header began, and what its bytes came to."""

    offset: int
    checksum: int
    packed: int
    size: int


def decoded(raw_name: bytes) -> str:
    """A name as text: UTF-8, flagged or not, else the character set of the first PKZIP."""
    try:
        return raw_name.decode("utf-8")
    except UnicodeDecodeError:
        return raw_name.decode("cp437")


def sizes(extra: bytes, *numbers: int) -> tuple[int, ...]:
    """The numbers, those that are NOT_HERE from the zip64 field of ``extra``: size, packed size and offset in order.

    The field of a local header holds both sizes, that of a directory entry only what is missing.
    """
    start = 0
    while start + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, start)
        field = extra[start + 4 : start + 4 + length]
        if kind == ZIP64_EXTRA:
            values = list(struct.unpack_from(f"<{len(field) // 8}Q", field))
            if len(values) == len(numbers):
                return tuple(value if each == NOT_HERE else each for each, value in zip(numbers, values))
            return tuple(values.pop(0) if each == NOT_HERE and values else each for each in numbers)
        start += 4 + length
    return numbers


def check_directory(feed: Feed, stored: dict[bytes, Stored]) -> None:
    """Read the directory and the end of the archive; ``stored`` has the members by their names as bytes.

    Raises ImageRefusedError for a link or a device, and where the directory says anything but what was read.
    """
    left = dict(stored)
    count = 0
    while feed.peek(4) == CENTRAL:
        _check_entry(feed, left)
        count += 1
    if left:
        raise feed.damaged(f"its member {quoted(decoded(min(left)))} is not in the directory of the zip archive")
    announced = None
    if feed.peek(4) == END_64:
        _, length, announced = END_64_HEAD.unpack(feed.take(END_64_HEAD.size))
        if not END_64_REST <= length <= LONGEST_END_64:
            raise feed.damaged("the end of the zip archive cannot be read")
        feed.skip(length + 12 - END_64_HEAD.size)
        if feed.take(LOCATOR_LENGTH)[:4] != LOCATOR_64:
            raise feed.damaged("the end of the zip archive cannot be read")
    signature, entries, comment = END_RECORD.unpack(feed.take(END_RECORD.size))
    if signature != END or count != (entries if announced is None else announced):
        raise feed.damaged("the directory of the zip archive does not end as it should")
    feed.skip(comment)


def _check_entry(feed: Feed, left: dict[bytes, Stored]) -> None:
    fields = ENTRY.unpack(feed.take(ENTRY.size))
    _, checksum, packed, size, name_length, extra_length, comment_length, attributes, offset = fields
    raw_name = feed.take(name_length)
    size, packed, offset = sizes(feed.take(extra_length), size, packed, offset)
    feed.skip(comment_length)
    if left.pop(raw_name, None) != Stored(offset, checksum, packed, size):
        raise feed.damaged(
            f"the directory of the zip archive says something else about {quoted(decoded(raw_name))} than is in it"
        )
    # The upper half is the mode of Unix; other systems leave it empty.
    kind = stat.S_IFMT(attributes >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ImageRefusedError(
            f"{feed.name} is refused: its member {quoted(decoded(raw_name))} is a link or a device; "
            "pack the file itself"
        )
