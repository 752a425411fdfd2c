"""Archives, read as they stream by: what kind one is, and its members one after the other.

Nothing is extracted: no file is ever made under a name that an archive holds, and no member is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import MappingProxyType

from oneconvert.transfer.archives import tar, zip_stream
from oneconvert.transfer.archives.feed import PIECE, Feed
from oneconvert.transfer.archives.member import Member

__all__ = ["HEAD", "PIECE", "Member", "find_archive", "members"]

HEAD = tar.BLOCK
"""The number of bytes with which find_archive is sure."""

READERS: MappingProxyType[str, Callable[[Feed], Iterator[Member]]] = MappingProxyType(
    {"tar": tar.members, "zip": zip_stream.members}
)


def find_archive(head: bytes) -> str | None:
    """The kind of archive that ``head``, the first HEAD bytes of a stream or all of a shorter one, shows.

    A key of READERS, or None for what is no archive.
    """
    if zip_stream.begins_with(head):
        return "zip"
    return "tar" if tar.begins_with(head) else None


def members(chunks: Iterable[bytes], kind: str, name: str) -> Iterator[Member]:
    """The members of an archive of ``kind``, a key of READERS, in the order in which they are stored.

    Each is iterated for its bytes before the next is asked for; what is left of it then is skipped. Directories are
    left out. ``chunks`` are read to their end before the iterator ends, so that whoever makes them can verify them.
    ``name`` is what messages call the archive.

    Memory is bounded, whatever the archive claims. Raises ImageRefusedError for what is damaged, truncated,
    ambiguous, or holds anything but plain files: some of it only after the last member, where a zip archive tells
    which of its members are links, so nothing may be stored before the iterator has ended.
    """
    return READERS[kind](Feed(chunks, name, kind))
