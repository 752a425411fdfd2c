"""A disk that passes through memory: one thread writes it from front to back, another reads it, once, and it is never
in a file. Who writes waits for who reads.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType
from typing import Callable

from oneconvert.transfer.nbd import Data, Piece, Zeros

# Bytes that wait for the reader; for what it asks for there is always room.
MOST_WAITING = 32 * 1024 * 1024


class PassingDisk:
    """A disk of ``size`` bytes. As a context it is the writer's: left too early, the rest will never arrive."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, Data]] = deque()
        """Offsets and bytes, ascending."""
        self._waiting_bytes = 0
        self._arrived = 0
        """What is before this and was not put is zeros."""
        self._awaited: list[int] = []
        """Ends of what somebody waits for."""
        self._given: list[tuple[int, int]] = []
        """Beginnings and ends of what was read."""
        self._failed = False
        self._abandoned = False
        self._call: Callable[[], None] = lambda: None

    def __enter__(self) -> PassingDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._arrived = self.size
        else:
            self._failed = True
        self._call()

    def put(self, offset: int, data: Data) -> None:
        """Write ``data`` at ``offset``, which is not before the end of what was written; waits for the reader."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting_bytes < MOST_WAITING or self._awaited or self._abandoned)
            if self._abandoned:
                return
            self._waiting.append((offset, data))
            self._waiting_bytes += len(data)
            self._arrived = offset + len(data)
            still_awaited = [end for end in self._awaited if end > self._arrived]
            reached, self._awaited = len(still_awaited) < len(self._awaited), still_awaited
        if reached:
            self._call()

    def abandon(self) -> None:
        """Nobody reads any more: what is written from now on is forgotten."""
        with self._changed:
            self._abandoned = True
            self._waiting.clear()
            self._changed.notify_all()

    def has(self, offset: int, length: int) -> bool:
        """Whether these bytes are there. Raises LookupError when they were read before."""
        end = offset + length
        if any(start < end and offset < stop for start, stop in self._given):
            raise LookupError(f"bytes from {offset} on are read a second time")
        return end <= self._arrived

    def pieces(self, offset: int, length: int) -> list[Piece]:
        """These bytes, which must be there."""
        found: list[Piece] = []
        at, end = offset, offset + length
        with self._changed:
            for start, data in self._waiting:
                stop = start + len(data)
                if stop <= at:
                    continue
                if start >= end:
                    break
                if start > at:
                    found.append(Zeros(start - at))
                    at = start
                found.append(data if start == at and stop <= end else data[at - start : end - start])
                at = min(stop, end)
        if at < end:
            found.append(Zeros(end - at))
        return found

    def lost(self) -> bool:
        """Whether what is missing will never arrive."""
        return self._failed

    def on_arrival(self, call: Callable[[], None]) -> None:
        """Have ``call`` called, by the thread that writes, whenever something is there that was ``wanted``, and at the
        end; once for what is there already.
        """
        self._call = call
        call()

    def wanted(self, offset: int, length: int) -> None:
        """Somebody waits for these bytes: however much waits to be read, they must come."""
        with self._changed:
            self._awaited.append(offset + length)
            self._changed.notify_all()

    def taken(self, offset: int, length: int) -> None:
        """These bytes were read: forget them."""
        with self._changed:
            self._given = _merged([*self._given, (offset, offset + length)])
            first, last = self._given[0]
            while first == 0 and self._waiting and self._waiting[0][0] + len(self._waiting[0][1]) <= last:
                self._waiting_bytes -= len(self._waiting.popleft()[1])
            self._changed.notify_all()


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same bytes in as few ranges as they need, ascending."""
    ranges.sort()
    merged = ranges[:1]
    for start, end in ranges[1:]:
        if start > merged[-1][1]:
            merged.append((start, end))
        else:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
    return merged
