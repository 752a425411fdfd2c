"""Threads: none of them ever gets a signal, and those that do not end by themselves live within a 'with'."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Callable

from oneconvert.jobs.signals import ENDING

MOST_THREADS = 4
"""Threads of a pool; behind them one thread hands on what they make."""


def start_quietly(worker: threading.Thread) -> None:
    """Start a thread that ends by itself, and that no signal reaches."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        worker.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def thread(name: str, work: Callable[[], None], stop: Callable[[], None]) -> Iterator[None]:
    """Run ``work`` in a thread; at the end of the context call ``stop``, which makes it end, and wait for it.

    ``work`` keeps its errors to itself, or tells them elsewhere. Signals stay with the main thread: one that the kernel
    gave to another would not interrupt what the main thread waits for.
    """
    worker = threading.Thread(target=work, name=name, daemon=True)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    worker.start()
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield
    finally:
        try:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        finally:
            stop()
            worker.join()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def pool_size() -> int:
    """The number of threads in a pool: one for each core, up to a few."""
    return min(MOST_THREADS, os.cpu_count() or 1)


def pool(name: str) -> ThreadPoolExecutor:
    """Threads for decoders and encoders, which work beside each other because they release Python's lock."""
    return ThreadPoolExecutor(pool_size(), name, signal.pthread_sigmask, (signal.SIG_BLOCK, ENDING))
