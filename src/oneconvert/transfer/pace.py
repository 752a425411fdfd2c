"""How fast an image may and must come: a server that drips keeps a worker of oned for ever, and there are fifteen."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

from oneconvert.errors import TransferError
from oneconvert.transfer.options import NetworkOptions


class Pace:
    """Watches one transfer, from its first question to its last byte.

    Fewer than ``min_rate`` bytes per second, counted over ``idle_timeout``, are too few; 0 allows any pace. A limit of
    ``bandwidth`` must be above it. ``sleep`` waits.
    """

    def __init__(self, name: str, options: NetworkOptions, sleep: Callable[[float], object]) -> None:
        self._name = name
        self._options = options
        self._sleep = sleep
        self._started = self._since = time.monotonic()
        self._total = self._bytes = 0

    def begin_content(self) -> None:
        """The content starts now; what was waited for the answer is not held against its pace."""
        self._since, self._bytes = time.monotonic(), 0

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Meanwhile who takes the bytes is at work with them: that does not count for ``min_rate``."""
        before = time.monotonic()
        yield
        self._since += time.monotonic() - before

    def remaining(self) -> float:
        """Seconds that are left for the whole, infinite without a limit. Raises TransferError when there are none."""
        limit = self._options.transfer_timeout
        left = self._started + limit - time.monotonic() if limit else math.inf
        if left <= 0:
            raise TransferError(
                f"{self._name}: the download takes longer than the {limit:.0f} seconds of transfer_timeout in "
                "oneconvert.conf"
            )
        return left

    def passed(self, count: int) -> None:
        """``count`` more bytes have arrived; waits where that was too fast.

        Raises TransferError when they were too few for their time, or there is no time left.
        """
        self._total += count
        self._bytes += count
        if self._options.bandwidth:
            early = self._total / self._options.bandwidth - (time.monotonic() - self._started)
            self._sleep(max(0.0, min(early, self.remaining())))
        self.remaining()
        elapsed = time.monotonic() - self._since
        if elapsed < self._options.idle_timeout:
            return
        if self._bytes < self._options.min_rate * elapsed:
            raise TransferError(
                f"{self._name}: the server sends {self._bytes / elapsed:.0f} bytes per second, less than min_rate in "
                "oneconvert.conf"
            )
        self._since, self._bytes = time.monotonic(), 0
