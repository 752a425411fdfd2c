"""What arrives: the disk image out of the bytes of a source, be it plain, compressed or a member of an archive."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Callable

from oneconvert.actions.archive import receive_disk
from oneconvert.actions.landing import Announcement, Arrival, Head, Wanted, arrived, land
from oneconvert.actions.opening import Opened, unpacked
from oneconvert.actions.sizes import bounded
from oneconvert.transfer.archives import find_archive

LOG = logging.getLogger(__name__)

ROOM = 64 * 1024 * 1024


def receive(
    chunks: Iterable[bytes],
    name: str,
    length: int | None,
    wanted: Wanted,
    directory: Path,
    announce: Callable[[Head], None],
) -> Arrival:
    """Bring the image in ``chunks`` into ``directory``.

    ``name`` is what messages call the source, ``length`` the number of its bytes, None where it is not known. An image
    that will be converted is announced as soon as its head is there; what is returned may then still turn out to be
    another. Raises ImageRefusedError, TransferError or NotWhileArrivingError.
    """
    opened = Opened(b"", iter(chunks), length, 0)
    if wanted.unpack:
        opened = unpacked(opened, name, wanted.most)
    kind = find_archive(opened.head)
    if kind is None:
        # The tables and the footer of an image may make it longer than its disk.
        chunks = bounded(opened.chunks, wanted.most + wanted.most // 64 + ROOM, name)
        announcement = Announcement(announce, wanted.converts, certain=True)
        return arrived(name, land(chunks, name, directory / "source", opened.length, opened.position, announcement))
    LOG.info("%s is a %s archive", name, kind)
    return receive_disk(opened, kind, name, wanted, directory, announce)
