"""How a file came into a directory: created there and written, or moved there whole. The kernel (inotify) tells."""

from __future__ import annotations

import ctypes
import os
import select
import struct
from pathlib import Path
from types import TracebackType

_CREATE, _MOVED_TO = 0x100, 0x80
_NONBLOCK = os.O_NONBLOCK
_HEADER = struct.Struct("iIII")


class Arrivals:
    """Watches a directory from the beginning of the ``with`` block on."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: list[tuple[str, str]] = []

    def __enter__(self) -> Arrivals:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.inotify_init1(_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(self._directory), _CREATE | _MOVED_TO) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot watch {self._directory}: {os.strerror(number)}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def of(self, name: str) -> list[str]:
        """``created`` and ``moved in`` events of this name so far, in their order."""
        while select.select([self._fd], [], [], 0)[0]:
            events = os.read(self._fd, 65536)
            offset = 0
            while offset < len(events):
                _, mask, _, length = _HEADER.unpack_from(events, offset)
                offset += _HEADER.size
                entry = os.fsdecode(events[offset : offset + length].rstrip(b"\0"))
                offset += length
                self._seen.append((entry, "created" if mask & _CREATE else "moved in"))
        return [how for entry, how in self._seen if entry == name]
