"""Results that are kept: the same image, asked for again, costs a copy and no download.

An entry is a directory with the image and a description of it, which appears and disappears as a whole. Where the file
system can, copies share their blocks (copy_file_range(2) does that by itself on XFS, Btrfs and NFS 4.2).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Callable

from oneconvert.errors import OneconvertError
from oneconvert.jobs.signals import interruptible
from oneconvert.jobs.sparse import data_ranges

LOG = logging.getLogger(__name__)

LOCK = "lock"
IMAGE, DESCRIPTION = "image", "description"
KEY = re.compile(r"[0-9a-f]{64}")
UNFINISHED = "unfinished-"
STEP = 64 * 1024 * 1024
"""Bytes that are copied at once: between two steps a signal is heard."""
# The kernel does not copy between these two files by itself: copy_file_range(2).
NOT_IN_THE_KERNEL = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Original:
    """What an image was before it was converted. ``name`` is for messages and holds nothing secret; ``virtual_size``
    is in bytes.
    """

    name: str
    format: str
    virtual_size: int


def key_of(*parts: object) -> str:
    """The name of an entry: a digest of all that the result depends on, so that nothing secret is in it.

    The caller puts in how the image is reached, with every password and key: who only knows the checksum of an image
    must not get it by a source that would not have given it to him.
    """
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def open_entry(directory: Path, limit: int, key: str) -> Entry | None:
    """The place of one image in the cache in ``directory``, which is made, of up to ``limit`` bytes.

    None, and a warning in the log, when the directory cannot be used.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        LOG.warning("the cache %s cannot be used: %s", directory, error.strerror)
        return None
    # Whoever could write there could exchange what was verified.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        LOG.warning("the cache %s is not used: not a directory that this user owns and nobody else writes", directory)
        return None
    return Entry(directory, limit, key)


class Entry:
    """The place of one image in the cache. Its own troubles are warnings in the log: no import fails for them."""

    def __init__(self, directory: Path, limit: int, key: str) -> None:
        self._directory = directory
        self._limit = limit
        self._place = directory / key

    def take(
        self, target: Path, approve: Callable[[Original, int], None], confirm: Callable[[Original], None]
    ) -> Original | None:
        """Copy the image that is kept here to ``target``, a new file; None where there is none that is whole.

        ``approve`` is told of the image and the bytes it takes before it is copied; what it raises is raised.
        ``confirm`` looks at the copy; for a damaged one it raises OneconvertError, and the entry is removed.
        """
        with ExitStack() as stack:
            try:
                with self._locked():
                    if not self._place.exists():
                        return None
                    image = stack.enter_context((self._place / IMAGE).open("rb"))
                    original = self._described(image)
                    os.utime(self._place)
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._discard(error)
                return None
            approve(original, _allocated(image))
            try:
                with interruptible():
                    with target.open("xb") as copy:
                        _copy(image, copy)
                    confirm(original)
            except OSError as error:
                LOG.warning("the cache %s did not give the image: %s", self._directory, error.strerror)
            except OneconvertError as error:
                self._discard(error)
            else:
                return original
            target.unlink(missing_ok=True)
            return None

    def store(self, image: Path, original: Original) -> None:
        """Keep a copy of ``image``, in place of those that nobody took for the longest time."""
        try:
            with image.open("rb") as file:
                self._store(file, original)
        except OSError as error:
            LOG.warning("the cache %s did not take the image: %s", self._directory, error.strerror)

    def _store(self, image: BinaryIO, original: Original) -> None:
        needed = _allocated(image)
        if needed > self._limit:
            LOG.info("the image is larger than cache_size: it is not kept")
            return
        with ExitStack() as stack:
            with self._locked():
                self._make_room(self._limit - needed)
                free = os.statvfs(self._directory)
                if free.f_bavail * free.f_frsize < 2 * needed:
                    LOG.warning("the cache %s did not take the image: little space is left", self._directory)
                    return
                place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=self._directory)))
                copy = stack.enter_context((place / IMAGE).open("xb"))
                os.fchmod(copy.fileno(), 0o600)
                fcntl.flock(copy, fcntl.LOCK_EX)  # tells it from what a process that was killed left
            with interruptible():
                _copy(image, copy)
            description = {**asdict(original), "length": os.fstat(image.fileno()).st_size}
            (place / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")
            with self._locked():
                if not self._place.exists():  # another import may have been faster
                    place.rename(self._place)
                self._make_room(self._limit)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else looks for entries, adds or removes one. Who has opened one may go on reading."""
        with (self._directory / LOCK).open("a") as lock:
            with interruptible():
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _described(self, image: BinaryIO) -> Original:
        """Raises ValueError, KeyError or TypeError where the description is damaged, or the image not of its length."""
        description = dict(json.loads((self._place / DESCRIPTION).read_text(encoding="utf-8")))
        if os.fstat(image.fileno()).st_size != description.pop("length"):
            raise ValueError("its image has another length than it had")
        return Original(**description)

    def _discard(self, reason: Exception) -> None:
        LOG.warning("an entry of the cache %s is damaged, and removed: %s", self._directory, reason)
        with suppress(OSError), self._locked():
            shutil.rmtree(self._place, ignore_errors=True)

    def _make_room(self, limit: int) -> None:
        """Remove what dead processes left, and the oldest entries until the others take up to ``limit`` bytes."""
        for left in self._directory.glob(f"{UNFINISHED}*"):
            with suppress(OSError), (left / IMAGE).open("r+b") as image:
                fcntl.flock(image, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            with suppress(OSError):
                left.rmdir()  # if it is empty: nobody who lives is between making and filling it, by the lock
        entries = [each for each in self._directory.iterdir() if KEY.fullmatch(each.name)]
        taken = 0
        for entry in sorted(entries, key=lambda each: each.stat().st_mtime_ns, reverse=True):
            with suppress(OSError), (entry / IMAGE).open("rb") as image:
                taken += _allocated(image)
            if taken > limit:
                shutil.rmtree(entry, ignore_errors=True)


def _allocated(file: BinaryIO) -> int:
    """Bytes that it takes on its file system; holes take none."""
    return os.fstat(file.fileno()).st_blocks * 512


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    """Copy all data of a file, and its holes as holes, into an empty one. Raises OSError."""
    reader, writer = source.fileno(), target.fileno()
    length = os.fstat(reader).st_size
    os.truncate(writer, length)
    for position, end in data_ranges(reader, length):
        while position < end:
            copied = _copy_step(reader, writer, position, min(STEP, end - position))
            if not copied:
                raise OSError(errno.EIO, "the image became shorter while it was copied")
            position += copied


def _copy_step(reader: int, writer: int, position: int, length: int) -> int:
    """Copy up to ``length`` bytes at ``position``, and return how many they were."""
    try:
        return os.copy_file_range(reader, writer, length, position, position)
    except OSError as error:
        if error.errno not in NOT_IN_THE_KERNEL:
            raise
    os.lseek(writer, position, os.SEEK_SET)
    return os.sendfile(writer, reader, position, length)
