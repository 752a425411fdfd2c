"""How fast an image must come: a server that drips keeps a worker of oned for ever, and there are fifteen."""

from __future__ import annotations

import time

from oneconvert.errors import TransferError


class Pace:
    """Watches a transfer: fewer than ``least`` bytes per second, counted over ``window`` seconds, are too few.

    0 for ``least`` allows any pace. The admin's own limit of bandwidth must be above it.
    """

    def __init__(self, least: int, window: float, name: str) -> None:
        self._least = least
        self._window = window
        self._name = name
        self._since = time.monotonic()
        self._bytes = 0

    def passed(self, count: int) -> None:
        """``count`` more bytes have arrived. Raises TransferError when they were too few for their time."""
        self._bytes += count
        elapsed = time.monotonic() - self._since
        if elapsed < self._window:
            return
        if self._bytes < self._least * elapsed:
            raise TransferError(
                f"{self._name}: the server sends {self._bytes / elapsed:.0f} bytes per second, less than min_rate in "
                "oneconvert.conf"
            )
        self._since, self._bytes = time.monotonic(), 0
