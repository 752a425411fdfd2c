"""Images that are files of the front-end."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oneconvert.errors import NotAllowedError, TransferError
from oneconvert.transfer.directories import DirectoryRules

CHUNK = 1024 * 1024


class LocalFile:
    """An open file, read to the length that it had when it was opened."""

    def __init__(self, descriptor: int, name: str, length: int) -> None:
        self.name = name
        self.length = length
        self._descriptor = descriptor

    def parts(self) -> None:
        """A file of this host arrives fast enough."""

    def stop(self) -> None:
        """Nothing to do: a read of a file does not wait for anybody."""

    def __iter__(self) -> Iterator[bytes]:
        position = 0
        while position < self.length:
            try:
                chunk = os.pread(self._descriptor, min(CHUNK, self.length - position), position)
            except OSError as error:
                raise TransferError(f"cannot read {self.name}: {error.strerror}") from None
            if not chunk:
                raise TransferError(f"{self.name} became shorter while it was read")
            position += len(chunk)
            yield chunk


@contextmanager
def open_file(location: str, rules: DirectoryRules) -> Iterator[LocalFile]:
    """Open a file by its path.

    The rules are asked about the file that was opened, by the path the kernel gives for its descriptor, and only that
    descriptor is read: a link that is changed in between changes nothing.
    Raises NotAllowedError or TransferError.
    """
    if not location.startswith("/"):
        raise NotAllowedError(f"{location} is neither a URL nor an absolute path on the front-end")
    # Not blocking: the other end of a FIFO may never come.
    try:
        descriptor = os.open(location, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        # Whether a file exists is told about allowed places only.
        if not rules.allow(Path(os.path.realpath(location))):
            raise _forbidden(location) from None
        reason = error.strerror if isinstance(error, OSError) else "the path is not valid"
        raise TransferError(f"cannot read {location} on the front-end: {reason}") from None
    try:
        if not rules.allow(Path(os.readlink(f"/proc/self/fd/{descriptor}"))):  # noqa: PTH115 (no path of ours)
            raise _forbidden(location)
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise NotAllowedError(f"{location} is neither a regular file nor a block device")
        yield LocalFile(descriptor, location, os.lseek(descriptor, 0, os.SEEK_END))
    finally:
        os.close(descriptor)


def _forbidden(location: str) -> NotAllowedError:
    return NotAllowedError(
        f"not allowed to copy an image from {location}: check SAFE_DIRS and RESTRICTED_DIRS of the datastore"
    )
