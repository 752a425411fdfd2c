"""Signals become an exception, at the places that say so and nowhere else.

Everywhere else they wait in the kernel. So nothing that cleans up can be interrupted, and no file, process or answer of
a driver is lost between two lines; what takes long is done inside ``interruptible``.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from oneconvert.errors import InterruptedBySignalError

# SIGTERM: oned's timeout, systemd. SIGINT, SIGHUP: a person at a terminal.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _raise(number: int, _frame: FrameType | None) -> None:
    # Once: the action is ending already.
    ignore_signals()
    raise InterruptedBySignalError(number, signal.Signals(number).name)


def hold_signals() -> None:
    """From now on ending signals wait for the next ``interruptible``; the first one ends the action."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    for each in ENDING:
        signal.signal(each, _raise)


@contextmanager
def interruptible() -> Iterator[None]:
    """Here an ending signal, also one that has waited, raises InterruptedBySignalError; afterwards it is as before."""
    # pthread_sigmask itself runs the handler of a signal that is due; after the second one none can run any more.
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """From now on the action goes on to its end, whatever signal arrives."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)


def restore_signals() -> None:
    """As a new process expects them: nothing blocked, nothing ignored (Python itself ignores two)."""
    for each in (*ENDING, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
