"""How fast an image may and must come: a server that drips keeps a worker of oned for ever, and there are fifteen."""

from __future__ import annotations

import math
import time
from typing import Callable

from oneconvert.errors import TransferError


class Pace:
    """Watches one transfer, from its first question to its last byte.

    Fewer than ``least`` bytes per second, counted over ``window`` seconds, are too few; 0 allows any pace. ``most``
    is a limit of bandwidth in bytes per second, above ``least``, None for none. ``limit`` is the most seconds that
    the whole may take, 0 for no limit. ``sleep`` waits.
    """

    def __init__(
        self,
        name: str,
        least: int,
        most: int | None,
        window: float,
        limit: float,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._name = name
        self._least = least
        self._most = most
        self._window = window
        self._limit = limit
        self._sleep = sleep
        self._started = self._since = time.monotonic()
        self._total = self._bytes = 0

    def begin_content(self) -> None:
        """The content starts now; what was waited for the answer is not held against its pace."""
        self._since, self._bytes = time.monotonic(), 0

    def remaining(self) -> float:
        """Seconds that are left for the whole, infinite without a limit. Raises TransferError when there are none."""
        left = self._started + self._limit - time.monotonic() if self._limit else math.inf
        if left <= 0:
            raise TransferError(
                f"{self._name}: the download takes longer than the {self._limit:.0f} seconds of transfer_timeout in "
                "oneconvert.conf"
            )
        return left

    def passed(self, count: int) -> None:
        """``count`` more bytes have arrived; waits where that was too fast.

        Raises TransferError when they were too few for their time, or there is no time left.
        """
        self._total += count
        self._bytes += count
        if self._most:
            early = self._total / self._most - (time.monotonic() - self._started)
            self._sleep(max(0.0, min(early, self.remaining())))
        self.remaining()
        elapsed = time.monotonic() - self._since
        if elapsed < self._window:
            return
        if self._bytes < self._least * elapsed:
            raise TransferError(
                f"{self._name}: the server sends {self._bytes / elapsed:.0f} bytes per second, less than min_rate in "
                "oneconvert.conf"
            )
        self._since, self._bytes = time.monotonic(), 0
