"""Bounded reading of an image file, and the two ways it can disappoint."""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Iterator

PIECE = 1 << 20
"""Bytes of a table in memory at a time."""


class TruncatedError(Exception):
    """The file ends before ``needed`` bytes."""

    def __init__(self, needed: int) -> None:
        super().__init__(f"needs {needed} bytes")
        self.needed = needed


class DamagedError(Exception):
    """A number in the file contradicts the format; the text says which: "its L1 table ..."."""


class Seen:
    """Which blocks of a file were met, one bit each: a table used twice is read once, so that the work stays in
    proportion to the file, and so does the memory.
    """

    def __init__(self, size: int, block: int) -> None:
        self._block = block
        self._bits = bytearray(size // block // 8 + 1)

    def first_time(self, offset: int) -> bool:
        """Whether ``offset`` is met for the first time; always for one beyond the end of the file."""
        byte, bit = divmod(offset // self._block, 8)
        if byte >= len(self._bits):
            return True
        met = self._bits[byte] >> bit & 1
        self._bits[byte] |= 1 << bit
        return not met


class Source:
    """An image file, open for reading by its descriptor ``fd``, of ``size`` bytes."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self.size = size

    def need(self, end: int) -> None:
        """Raise TruncatedError when the file has less than ``end`` bytes."""
        if end > self.size:
            raise TruncatedError(end)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset`` on; raises TruncatedError when they are not there."""
        if offset < 0:
            raise TruncatedError(self.size - offset)
        self.need(offset + length)
        data = os.pread(self._fd, length, offset)
        while len(data) < length:
            more = os.pread(self._fd, length - len(data), offset + len(data))
            if not more:
                raise TruncatedError(offset + length)
            data += more
        return data

    def numbers(self, offset: int, count: int, code: str, order: str) -> Iterator[array[int]]:
        """A table of ``count`` numbers, a piece at a time.

        ``code`` is array's: "I" for 4 bytes, "Q" for 8; ``order`` is "big" or "little". Raises TruncatedError before
        anything is read when the file cannot hold the table.
        """
        width = array(code).itemsize
        self.need(offset + count * width)
        for start in range(0, count * width, PIECE):
            yield numbers(self.read(offset + start, min(PIECE, count * width - start)), code, order)


def numbers(data: bytes, code: str, order: str) -> array[int]:
    """The numbers in ``data``, whole ones; parameters as in ``Source.numbers``."""
    found = array(code, data)
    if order != sys.byteorder:
        found.byteswap()
    return found
