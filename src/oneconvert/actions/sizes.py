"""How large an image may be: the quota that its owner was charged, the ceiling of the administrator, free space."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from oneconvert.errors import ImageRefusedError, TransferError
from oneconvert.jobs.workspace import place_of
from oneconvert.opennebula.request import Image
from oneconvert.settings import Settings

LOG = logging.getLogger(__name__)

MIB = 1024 * 1024


def check_virtual_size(virtual_size: int, name: str, image: Image, settings: Settings) -> None:
    """Hold the disk of ``virtual_size`` bytes against the ceiling and, by policy, against the SIZE of the image.

    oned takes SIZE from the marketplace and never asks for the truth. Raises ImageRefusedError.
    """
    if virtual_size > settings.max_virtual_size:
        raise ImageRefusedError(
            f"{name} is a disk of {_mib(virtual_size)} MiB, more than max_virtual_size in oneconvert.conf allows "
            f"({_mib(settings.max_virtual_size)} MiB)"
        )
    if virtual_size > image.size_mib * MIB:
        sentence = (
            f"{name} is a disk of {_mib(virtual_size)} MiB, but the image has SIZE={image.size_mib}; its app should "
            f"declare SIZE={_mib(virtual_size)}"
        )
        if settings.size_policy == "refuse":
            raise ImageRefusedError(f"{sentence} (size_policy in oneconvert.conf is refuse)")
        LOG.warning("%s", sentence)


def check_free_space(length: int | None, name: str, directory: Path) -> None:
    """Raise TransferError when ``length`` bytes, if that is known, have no room in ``directory``."""
    free = os.statvfs(directory)
    if length is not None and length > free.f_bavail * free.f_frsize:
        raise TransferError(
            f"no space left in {place_of(directory)} for {name}: it has {_mib(length)} MiB, and "
            f"{free.f_bavail * free.f_frsize // MIB} MiB are free; free some, or set scratch_dir in oneconvert.conf"
        )


def bounded(chunks: Iterable[bytes], most: int, name: str) -> Iterator[bytes]:
    """Pass ``chunks`` on; raise ImageRefusedError after ``most`` bytes of them: a few can unpack to any number."""
    passed = 0
    for chunk in chunks:
        passed += len(chunk)
        if passed > most:
            raise ImageRefusedError(
                f"{name} has more than {_mib(most)} MiB, which is more than max_virtual_size in oneconvert.conf allows"
            )
        yield chunk


def _mib(size: int) -> int:
    return -(-size // MIB)
