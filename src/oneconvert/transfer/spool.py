"""The local copy of an image while it arrives: a sparse file."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType

from oneconvert.errors import TransferError

BLOCK = 64 * 1024
ZEROS = bytes(BLOCK)


class Spool:
    """A file that is written from front to back; blocks of zeros become holes.

    Raises TransferError when the file system is full.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Raises TransferError when the file cannot be made."""
        self.path = path
        self.length = 0
        self._name = name
        try:
            self._file = path.open("xb", buffering=0)
        except OSError as error:
            raise self._failure(error) from None

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, chunk: bytes) -> None:
        """Append ``chunk``."""
        view = memoryview(chunk)
        start = 0
        while start < len(view):
            end = start
            hole = self._is_zeros(view[start : start + BLOCK])
            while end < len(view) and self._is_zeros(view[end : end + BLOCK]) is hole:
                end = min(end + BLOCK, len(view))
            if not hole:
                self._write_at(view[start:end], self.length + start)
            start = end
        self.length += len(view)

    def finish(self) -> None:
        """Give the file its full length: a hole at its end exists only then."""
        try:
            self._file.truncate(self.length)
        except OSError as error:
            raise self._failure(error) from None

    @staticmethod
    def _is_zeros(block: memoryview) -> bool:
        return block == ZEROS if len(block) == BLOCK else not any(block)

    def _write_at(self, data: memoryview, offset: int) -> None:
        try:
            while data:
                written = os.pwrite(self._file.fileno(), data, offset)
                data, offset = data[written:], offset + written
        except OSError as error:
            raise self._failure(error) from None

    def _failure(self, error: OSError) -> TransferError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return TransferError(
                f"no space left in {self.path.parent} after {self.length} bytes of {self._name}: free some, or set "
                "scratch_dir in oneconvert.conf to a larger file system"
            )
        return TransferError(f"cannot write {self._name} to {self.path.parent}: {error.strerror}")
