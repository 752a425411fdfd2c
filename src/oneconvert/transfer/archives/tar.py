"""Tar archives in every dialect: v7, ustar, GNU and pax.

A header is decoded by the standard library (``TarInfo.frombuf``). Its stream mode is not used: it reads the records
of a pax header whole, however long, goes backwards for a negative size (CVE-2025-8194), takes quadratic time for
crafted records (CVE-2024-6232), all depending on the version of Python, and reads GNU's map of a sparse member into
memory before anyone can refuse it.

The format is that of POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; "Basic Tar Format" in the
GNU tar manual has the types of GNU.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from types import MappingProxyType

from oneconvert.errors import ImageRefusedError
from oneconvert.transfer.archives.feed import Feed
from oneconvert.transfer.archives.member import Member, Names, quoted

BLOCK = tarfile.BLOCKSIZE
ZEROS = bytes(BLOCK)
MAGIC = slice(257, 262)
LARGEST_SIZE = 1 << 62
LONGEST_RECORDS = 1024 * 1024
"""Bytes of one extended header: extended attributes can be long, one of 1 MiB is not."""
MOST_EXTENDED = 8
"""Extended headers in front of one member; writers make one of each kind at most."""

PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
EXTENDED = (*PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
REFUSED_KINDS: MappingProxyType[bytes, str] = MappingProxyType(
    {
        tarfile.LNKTYPE: "a hard link",
        tarfile.SYMTYPE: "a symbolic link",
        tarfile.CHRTYPE: "a character device",
        tarfile.BLKTYPE: "a block device",
        tarfile.FIFOTYPE: "a FIFO",
        tarfile.GNUTYPE_SPARSE: "a sparse file of GNU tar",
    }
)
SPARSE_RECORDS = ("GNU.sparse.", "SCHILY.realsize", "SUN.holesdata")


def begins_with(head: bytes) -> bool:
    """True when ``head`` begins with the header of a tar archive.

    Those of v7 have no magic, so there the checksum has to be right; a file of zeros has none.
    """
    if len(head) < BLOCK:
        return False
    if head[MAGIC] == b"ustar" and head[MAGIC.stop] in b"\0 ":
        return True
    try:
        return bool(tarfile.TarInfo.frombuf(head[:BLOCK], "utf-8", "surrogateescape").name)
    except tarfile.HeaderError:
        return False


def members(feed: Feed) -> Iterator[Member]:
    """The members of a tar archive; see the package. The end of the archive must be marked by a block of zeros."""
    names = Names(feed.name)
    while True:
        entry = _next_entry(feed)
        if entry is None:
            break
        names.admit(entry.name, directory=entry.isdir())
        if entry.isdir():
            if entry.size:
                raise feed.damaged(f"its member {quoted(entry.name)} is a directory with content")
            continue
        if entry.type not in tarfile.REGULAR_TYPES or entry.type == tarfile.GNUTYPE_SPARSE:
            kind = REFUSED_KINDS.get(entry.type, f"of the unknown type {quoted(entry.type.decode('latin-1'))}")
            advice = "pack it without --sparse" if entry.type == tarfile.GNUTYPE_SPARSE else "pack the file itself"
            raise ImageRefusedError(f"{feed.name} is refused: its member {quoted(entry.name)} is {kind}; {advice}")
        member = Member(entry.name, entry.size, feed.position, feed.pieces(entry.size))
        yield member
        member.pass_by()
        feed.skip(-entry.size % BLOCK)
    feed.finish()


def _next_entry(feed: Feed) -> tarfile.TarInfo | None:
    """The next header with what extended headers say about it; None at the end of the archive."""
    name, size = "", None
    for _ in range(MOST_EXTENDED + 1):
        entry = _header(feed)
        if entry is None or entry.type not in EXTENDED:
            if entry is None:
                return None
            entry.name = name or entry.name
            entry.size = entry.size if size is None else size
            # With room for what offsets are added up from it.
            if not 0 <= entry.size < LARGEST_SIZE:
                raise feed.damaged(f"its member {quoted(entry.name)} claims a size of {entry.size} bytes")
            return entry
        if not 0 <= entry.size <= LONGEST_RECORDS:
            raise feed.damaged(f"the tar archive has an extended header of {entry.size} bytes")
        data = feed.take(entry.size)
        feed.skip(-entry.size % BLOCK)
        if entry.type == tarfile.GNUTYPE_LONGNAME:
            # Terminated by one NUL, which belongs to the size; further ones stay, and are refused.
            name = data[: len(data) - data.endswith(b"\0")].decode("utf-8", "surrogateescape")
        elif entry.type in PAX:
            records = _records(data, feed)
            name = records.get("path", name)
            size = _decimal(records["size"], feed) if records.get("size") else size
        elif entry.type == tarfile.XGLTYPE and _records(data, feed).keys() & {"path", "size"}:
            raise feed.damaged("a global header of the tar archive names a member")
    raise feed.damaged(f"more than {MOST_EXTENDED} extended headers precede a member of the tar archive")


def _header(feed: Feed) -> tarfile.TarInfo | None:
    block = feed.take(BLOCK)
    if block == ZEROS:
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise feed.damaged(f"there is no valid header at byte {feed.position - BLOCK} of the tar archive") from None


def _records(data: bytes, feed: Feed) -> dict[str, str]:
    """The records of a pax header: "LENGTH KEY=VALUE" and a line feed, LENGTH being that of the whole record."""
    records: dict[str, str] = {}
    start = 0
    while start < len(data):
        digits, space, _ = data[start : start + 9].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = data[start + len(digits) + 1 : start + length]
        key, separator, value = record.decode("utf-8", "surrogateescape").partition("=")
        if start + length > len(data) or not (key and separator and record.endswith(b"\n")):
            raise feed.damaged("an extended header of the tar archive cannot be read")
        if key.startswith(SPARSE_RECORDS):
            raise ImageRefusedError(
                f"{feed.name} is refused: one of its members is a sparse file of tar; pack it without --sparse"
            )
        records[key] = value[:-1]
        start += length
    return records


def _decimal(text: str, feed: Feed) -> int:
    # Up to 19 digits, so that no text of thousands is made a number.
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise feed.damaged(f"an extended header of the tar archive has the size {quoted(text)}")
    return int(text)
