"""How the C library deals with memory that comes and goes."""

from __future__ import annotations

import ctypes
from contextlib import suppress

# malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 16 * 1024 * 1024
"""Bytes of free memory, of each of a few arenas, that are not given back to the kernel."""
LARGE = 4 * 1024 * 1024


def keep_freed_memory() -> None:
    """Have what was freed be used again: or else every chunk of a download is a mapping that the kernel makes, clears
    and takes apart, for a tenth of the time of an import.

    Source: mallopt(3). Other libraries than glibc do not have it.
    """
    libc = ctypes.CDLL(None)
    with suppress(AttributeError):
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE)
