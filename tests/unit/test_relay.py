"""Stages of a transfer: in order, with their errors, never far ahead of each other, and all of them stopped."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from oneconvert.errors import TransferError
from oneconvert.jobs.relay import DEPTH, Relay
from oneconvert.jobs.signals import ENDING

CHUNKS = [bytes([n]) * 10 for n in range(100)]


def test_chunks_pass_all_stages_in_order() -> None:
    with Relay(lambda: None) as relay:
        chunks = relay.ahead("one", CHUNKS)
        chunks = relay.ahead("two", (chunk * 2 for chunk in chunks))
        assert list(chunks) == [chunk * 2 for chunk in CHUNKS]


def test_an_error_comes_after_the_chunks_before_it() -> None:
    def broken() -> Iterator[bytes]:
        yield from CHUNKS[:3]
        raise TransferError("the end")

    taken = []
    with Relay(lambda: None) as relay, pytest.raises(TransferError, match="the end"):
        for chunk in relay.ahead("two", relay.ahead("one", broken())):
            taken.append(chunk)
    assert taken == CHUNKS[:3]


def test_a_stage_runs_only_a_little_ahead() -> None:
    made = 0

    def endless() -> Iterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield bytes(10)

    with Relay(lambda: None) as relay:
        chunks = relay.ahead("one", endless())
        for _ in range(20):
            next(chunks)
        time.sleep(0.2)
        assert made <= 20 + DEPTH + 1


def test_the_end_of_the_context_ends_a_stage_that_waits_for_its_source() -> None:
    stopped = threading.Event()

    def silent() -> Iterator[bytes]:
        yield b"first"
        stopped.wait(30)

    before = threading.active_count()
    with Relay(stopped.set) as relay:
        chunks = relay.ahead("two", relay.ahead("one", silent()))
        assert next(chunks) == b"first"
    assert stopped.is_set()
    assert threading.active_count() == before


def test_the_end_of_the_context_ends_a_stage_that_nobody_reads() -> None:
    before = threading.active_count()
    with Relay(lambda: None) as relay:
        chunks = relay.ahead("two", relay.ahead("one", iter(lambda: bytes(10), None)))
        next(chunks)
    assert threading.active_count() == before


def test_signals_stay_with_the_main_thread() -> None:
    masks = []

    def look() -> Iterator[bytes]:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        yield b"x"

    ours = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with Relay(lambda: None) as relay:
        list(relay.ahead("one", look()))
    assert set(ENDING) <= masks[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == ours


def test_a_stage_that_waits_for_something_else_is_stopped_too_however_late_it_says_so() -> None:
    begun, ended = threading.Event(), threading.Event()
    calls: list[str] = []

    def work() -> None:
        begun.set()
        assert ended.wait(30)
        relay.on_stop(lambda: calls.append("late"))

    def stop_source() -> None:
        ended.set()

    with Relay(stop_source) as relay:
        relay.on_stop(lambda: calls.append("in time"))
        relay.start("work", work)
        assert begun.wait(30)
        assert calls == []
    assert "in time" in calls
    assert "late" in calls
