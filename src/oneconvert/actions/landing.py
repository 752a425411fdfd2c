"""One image out of its bytes: inspected, announced while it still arrives, and written to a file of the workspace;
or unfolded, and passed on to who converts it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from oneconvert.errors import ImageRefusedError
from oneconvert.images import partitions
from oneconvert.images.extents import check_complete
from oneconvert.images.format import ImageFormat
from oneconvert.images.inspect import Inspection, StreamInspector
from oneconvert.images.vmdk_header import SECTOR, SparseHeader
from oneconvert.images.vmdk_stream import NotSequentialError, StreamedDisk, streamed_header
from oneconvert.transfer.passing import PassingDisk
from oneconvert.transfer.spool import Spool

# Where an image has not said what it is by then, it is looked at when it is there.
LONGEST_HEAD = 8 * 1024 * 1024


class NotWhileArrivingError(Exception):
    """What has arrived cannot be used, though nothing is wrong with it: fetched again, without a conversion meanwhile,
    it can.
    """


@dataclass(frozen=True)
class Head:
    """An image that has begun to arrive. ``found`` is what all but its end can tell.

    ``spool`` grows, and holds the image; it stays empty where the raw disk in the image is ``passing``, which must be
    read, or abandoned. ``length`` is the number of bytes that the image will have, None when nobody knows; with
    ``estimated`` it is what a partition table says, which may be wrong. ``position`` is where they begin in the source,
    None when they are not there as they are. ``certain`` says that this is the image that is wanted, and no other.
    """

    found: Inspection
    spool: Spool
    length: int | None
    estimated: bool
    position: int | None
    certain: bool
    passing: PassingDisk | None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.spool.name


@dataclass(frozen=True)
class Landed:
    """An image that has arrived in ``path``; nothing is left of one that ``passed``, as the head said it would."""

    path: Path
    found: Inspection
    passed: bool = False


@dataclass(frozen=True)
class Announcement:
    """Who wants to know, by ``call``, of an image as soon as its head is there, if ``converts`` says that it will be
    converted. See Head for ``certain``.
    """

    call: Callable[[Head], None]
    converts: Callable[[Inspection], bool]
    certain: bool


@dataclass(frozen=True)
class Arrival:
    """A disk image in the workspace, or one that ``passed``, as in Landed. ``extents`` are the files beside ``path``
    that belong to it, for a split VMDK.
    """

    name: str
    path: Path
    found: Inspection
    extents: frozenset[Path] = frozenset()
    passed: bool = False


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a file that comes in.

    ``disk`` is the number or file name of one of several disks (ONECONVERT_DISK, empty where there is one only).
    Without ``unpack`` the bytes are the image. What is compressed must not unpack to more than ``most`` bytes.
    ``converts`` tells of an image whether it will be converted. ``algorithms`` are those of the digests that a member
    of an appliance gets as long as its manifest, which says which it needs, has not come.
    """

    disk: str
    unpack: bool
    most: int
    converts: Callable[[Inspection], bool]
    algorithms: frozenset[str]


def land(
    chunks: Iterator[bytes],
    name: str,
    path: Path,
    length: int | None,
    position: int | None,
    announcement: Announcement | None,
    *,
    keep: bool = False,
) -> Landed:
    """Write ``chunks`` to ``path`` and inspect them. ``length`` and ``position`` as in Head.

    Raises ImageRefusedError as soon as that is certain; the rest of ``chunks`` is left, or with ``keep`` written all
    the same, for it may be something else than an image.
    """
    inspector = StreamInspector(name)
    inspected = _inspected(chunks, inspector, keep)
    with Spool(path, name) as spool:
        try:
            return _land(inspected, inspector, spool, length, position, announcement)
        except ImageRefusedError:
            if keep:
                spool.failed = True  # as an image
                spool.finish()
            raise


def _land(
    inspected: Iterator[bytes],
    inspector: StreamInspector,
    spool: Spool,
    length: int | None,
    position: int | None,
    announcement: Announcement | None,
) -> Landed:
    begun: list[bytes] = []
    begins_as, expected = _begin(inspected, begun, inspector, length) if announcement else (None, length)
    layout, passing, certain = None, None, False
    if announcement and begins_as and announcement.converts(begins_as):
        certain = announcement.certain
        if certain and expected == length and begins_as.format is ImageFormat.VMDK:
            layout = streamed_header(b"".join(begun))
            passing = PassingDisk(layout.capacity * SECTOR) if layout else None
        head = Head(
            begins_as,
            spool,
            expected,
            estimated=expected != length,
            position=position,
            certain=certain,
            passing=passing,
        )
        announcement.call(head)
    every = itertools.chain(begun, inspected)
    if layout and passing:
        _unfold(every, layout, passing, spool.name)
    else:
        for chunk in every:
            spool.write(chunk)
    found = inspector.finish()
    if certain and found != begins_as:
        raise NotWhileArrivingError(f"{spool.name} does not end as it began")
    spool.finish()
    return Landed(spool.path, found, passed=passing is not None)


def _begin(
    inspected: Iterator[bytes], begun: list[bytes], inspector: StreamInspector, length: int | None
) -> tuple[Inspection | None, int | None]:
    """Take the first chunks into ``begun``, until it is known what they are, and how long: None for what takes too
    many.
    """
    found, expected = None, length
    while found is None and sum(map(len, begun)) < LONGEST_HEAD:
        chunk = next(inspected, b"")
        begun.append(chunk)
        found = inspector.so_far(length)
        if found is None and length is None:
            expected = partitions.disk_length(b"".join(begun))
            found = inspector.so_far(expected)
        if not chunk:
            break
    return found, expected


def _inspected(chunks: Iterator[bytes], inspector: StreamInspector, keep: bool) -> Iterator[bytes]:
    for chunk in chunks:
        try:
            inspector.feed(chunk)
        except ImageRefusedError:
            if keep:
                yield chunk
                yield from chunks
            raise
        yield chunk


def _unfold(chunks: Iterator[bytes], layout: SparseHeader, passing: PassingDisk, name: str) -> None:
    try:
        with passing:
            for offset, data in StreamedDisk(chunks, layout):
                passing.put(offset, data)
    except NotSequentialError:
        # What is wrong with it, if anything is, is the inspector's to say.
        for _ in chunks:
            pass
        raise NotWhileArrivingError(f"{name} is not laid out in the order of its disk") from None


def arrived(name: str, landed: Landed) -> Arrival:
    """The image that landed, under the name that messages call it, if it is whole. Raises ImageRefusedError."""
    if not landed.passed:
        check_complete(landed.path, landed.found, name)
    return Arrival(name, landed.path, landed.found, passed=landed.passed)
