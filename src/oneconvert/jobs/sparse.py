"""Where a sparse file has data."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator


def data_ranges(file: int, length: int) -> Iterator[tuple[int, int]]:
    """The beginnings and ends, in bytes, of what is no hole in the first ``length`` bytes of an open file.

    A file system that knows no holes, or only those of its blocks, gives more. Raises OSError. Source: lseek(2).
    """
    end = 0
    while end < length:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        end = os.lseek(file, start, os.SEEK_HOLE)
        if start < length:
            yield start, min(end, length)
