"""What holds for every source that is reached by a network."""

from __future__ import annotations

from dataclasses import dataclass

from oneconvert.transfer.addresses import AddressRules


@dataclass(frozen=True)
class NetworkOptions:
    """How to talk to hosts. Timeouts in seconds: ``transfer_timeout`` is for the whole download, 0 for no limit.
    ``bandwidth``, the most that is taken, None for no limit, and ``min_rate``, the least that is tolerated, in bytes
    per second.
    """

    connect_timeout: float
    idle_timeout: float
    transfer_timeout: float
    bandwidth: int | None
    min_rate: int
    rules: AddressRules

    @property
    def patience(self) -> float:
        """Seconds that an answer may take to begin."""
        return self.connect_timeout + self.idle_timeout
