"""The stages of a transfer, each in a thread of its own: network, checksum, decoder and disk work side by side."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Callable

from oneconvert.jobs.threads import thread

# Chunks, of a MiB at most, that wait between two stages.
DEPTH = 8


class StoppedError(Exception):
    """The relay was stopped; nobody waits for what a stage still has."""


class Relay:
    """A chain of stages. The end of the context stops all of them and waits for them; ``stop_source`` must make the
    source of the first one give up at once.
    """

    def __init__(self, stop_source: Callable[[], None]) -> None:
        self._stops = [stop_source]
        self._stopped = False
        self._channels: list[_Channel] = []
        self._threads = ExitStack()

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.close()

    def ahead(self, name: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Take ``chunks`` in a thread of that ``name``, a few before they are asked for. Its errors come with them."""
        channel = _Channel()
        self._channels.append(channel)

        def work() -> None:
            try:
                for chunk in chunks:
                    channel.put(chunk)
            except StoppedError:
                pass
            except Exception as error:
                channel.end(error)
            else:
                channel.end(None)

        self.start(name, work)
        return iter(channel)

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Run ``work``, the last stage, in a thread of that ``name``; it ends early when ``ahead`` raises."""
        self._threads.enter_context(thread(name, work, self._stop))

    def on_stop(self, stop: Callable[[], None]) -> None:
        """Have ``stop`` called, too, for a stage that waits for something else than its chunks; at once when it is too
        late for that.
        """
        self._stops.append(stop)
        if self._stopped:
            stop()

    def _stop(self) -> None:
        for channel in self._channels:
            channel.end(StoppedError())
        self._stopped = True
        for stop in self._stops:
            stop()


class _Channel:
    """A few chunks between two threads."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._error: Exception | None = None

    def put(self, chunk: bytes) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._chunks) < DEPTH or self._ended)
            if self._ended:
                raise StoppedError
            self._chunks.append(chunk)
            self._changed.notify_all()

    def end(self, error: Exception | None) -> None:
        """No more is put; those that are there are still given, unless it ends with StoppedError."""
        with self._changed:
            if isinstance(error, StoppedError):
                self._chunks.clear()
            if not self._ended or isinstance(error, StoppedError):
                self._ended, self._error = True, error
            self._changed.notify_all()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._chunks or self._ended)
                if not self._chunks:
                    break
                chunk = self._chunks.popleft()
                self._changed.notify_all()
            yield chunk
        if self._error is not None:
            raise self._error
