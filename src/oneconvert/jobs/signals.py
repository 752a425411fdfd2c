"""Signals become an exception in the main thread, so that leaving the action by a signal cleans up like an error."""

from __future__ import annotations

import signal
from types import FrameType

from oneconvert.errors import InterruptedBySignalError

# SIGTERM: oned's timeout, systemd. SIGINT, SIGHUP: a person at a terminal.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
BLOCKED_WHILE_STARTING = ENDING


def _raise(number: int, _frame: FrameType | None) -> None:
    # Once: a second signal must not interrupt the cleaning up.
    ignore_signals()
    raise InterruptedBySignalError(number, signal.Signals(number).name)


def raise_on_signals() -> None:
    """From now on the first ending signal raises InterruptedBySignalError; those after it are ignored."""
    for each in ENDING:
        signal.signal(each, _raise)


def ignore_signals() -> None:
    """From now on the action goes on to its end, whatever signal arrives."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
