"""A server that drips is given up; one whose bytes have to wait for us is not."""

from __future__ import annotations

import pytest

from oneconvert.errors import TransferError
from oneconvert.transfer.addresses import AddressRules
from oneconvert.transfer.options import NetworkOptions
from oneconvert.transfer.pace import Pace

OPTIONS = NetworkOptions(
    connect_timeout=1.0,
    idle_timeout=0.2,
    transfer_timeout=0.0,
    bandwidth=None,
    min_rate=1_000_000,
    rules=AddressRules.of("yes", ()),
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes only when a test says so."""
    now = [0.0]
    monkeypatch.setattr("oneconvert.transfer.pace.time.monotonic", lambda: now[0])
    return now


def test_a_server_that_drips_is_given_up(clock: list[float]) -> None:
    pace = Pace("disk.img", OPTIONS, lambda _: None)
    pace.begin_content()
    clock[0] += 0.3
    with pytest.raises(TransferError, match="less than min_rate"):
        pace.passed(1000)


def test_what_a_slow_disk_takes_is_not_held_against_the_server(clock: list[float]) -> None:
    pace = Pace("disk.img", OPTIONS, lambda _: None)
    pace.begin_content()
    with pace.pause():
        clock[0] += 0.3
    pace.passed(1000)
