"""The local copy of an image while it arrives: a sparse file that others may read as it grows."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import TracebackType
from typing import Callable

from oneconvert.errors import TransferError
from oneconvert.jobs.workspace import write_failure

BLOCK = 64 * 1024
ZEROS = bytes(BLOCK)
# fallocate(2), linux/falloc.h
KEEP_SIZE, PUNCH_HOLE = 1, 2


class Spool:
    """A file that is written from front to back; blocks of zeros become holes.

    Raises TransferError when the file system is full.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Raises TransferError when the file cannot be made."""
        self.path = path
        self.name = name
        self.length = 0
        """How many bytes have arrived; others may read them."""
        self.complete = False
        self.failed = False
        """Nothing more will arrive, though not all has."""
        self._call: Callable[[], None] = lambda: None
        try:
            self._file = path.open("xb+", buffering=0)
        except OSError as error:
            raise self._failure(error) from None

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.failed |= not self.complete
        self._call()
        self._file.close()

    def on_growth(self, call: Callable[[], None]) -> None:
        """Have ``call`` called, by the thread that writes, whenever there is more; once for what is there already."""
        self._call = call
        call()

    def write(self, chunk: bytes) -> None:
        """Append ``chunk``."""
        start, size = 0, len(chunk)
        while start < size:
            end = start
            hole = self._is_zeros(chunk, start)
            while end < size and self._is_zeros(chunk, end) is hole:
                end = min(end + BLOCK, size)
            if not hole:
                self._write_at(memoryview(chunk)[start:end], self.length + start)
            start = end
        self.length += size
        self._call()

    def finish(self) -> None:
        """Give the file its full length: a hole at its end exists only then."""
        try:
            self._file.truncate(self.length)
        except OSError as error:
            raise self._failure(error) from None
        self.complete = True
        self._call()

    @staticmethod
    def _is_zeros(chunk: bytes, start: int) -> bool:
        # Without a copy, and by memcmp(3).
        return chunk.startswith(ZEROS[: len(chunk) - start], start)

    def _write_at(self, data: memoryview, offset: int) -> None:
        try:
            while data:
                written = os.pwrite(self._file.fileno(), data, offset)
                data, offset = data[written:], offset + written
        except OSError as error:
            raise self._failure(error) from None

    def _failure(self, error: OSError) -> TransferError:
        return write_failure(self.path, self.length, self.name, error)


def forget(file: int, start: int, length: int) -> None:
    """Give back the space of bytes of a file that nobody will read again, where the file system can.

    Source: fallocate(2), for which Python has no function.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_int(KEEP_SIZE | PUNCH_HOLE)
    libc.fallocate(ctypes.c_int(file), flags, ctypes.c_int64(start), ctypes.c_int64(length))
