"""Images behind http:// and https://: their bytes from the first to the last, however often the connection breaks."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

import requests
import urllib3

from oneconvert.errors import HttpStatusError, NotConnectedError, SourceChangedError, TransferError
from oneconvert.transfer.connection import Watchdog
from oneconvert.transfer.http_parts import Parts
from oneconvert.transfer.http_request import Answer, Part, ask, public_name
from oneconvert.transfer.options import HttpOptions
from oneconvert.transfer.pace import Pace

LOG = logging.getLogger(__name__)

CHUNK = 1024 * 1024
# Tries that follow a failed one, and what is waited before the first of them; each next one waits twice as long.
RETRIES = 4
FIRST_RETRIES = 2  # of the question that begins the download: a wrong port should be told soon
BACK_OFF = 0.5  # seconds
UNAVAILABLE = (502, 503, 504)


class Download:
    """One file, as sent: a Content-Encoding is left in place, it is undone with other compression.

    A connection that breaks is made again and goes on where it broke, where the server can (Range and a validator).
    """

    def __init__(self, location: str, options: HttpOptions, name: str) -> None:
        self.name = name
        self._location = location
        self._options = options
        self._stopped = threading.Event()
        self._pace = Pace(self.name, options, self._stopped.wait)
        self._watchdog = Watchdog()
        self._answer = self._first_answer()
        self.length = self._answer.length
        self._validator = self._answer.validator

    def close(self) -> None:
        """End the connection."""
        self._answer.close()

    def stop(self) -> None:
        """Make another thread that reads, or asks, or waits to ask again, give up."""
        self._stopped.set()
        self._watchdog.end()

    def __iter__(self) -> Iterator[bytes]:
        received, since, tries = 0, 0, 0
        self._pace.begin_content()
        while True:
            try:
                for chunk in self._body(received):
                    received += len(chunk)
                    with self._pace.pause():
                        yield chunk
                return
            except _BrokenError as broken:
                hopeless = tries >= RETRIES and received - since < CHUNK
                if self._validator is None or hopeless or self._stopped.is_set():
                    raise TransferError(f"{self.name}: {broken}") from None
                LOG.warning("%s: %s; the download goes on from there", self.name, broken)
            # A server that gives a byte at a time must not do so for ever.
            if received - since >= CHUNK:
                since, tries = received, 0
            while not self._resume(received, tries):
                tries += 1
            tries += 1

    def parts(self) -> Parts | None:
        """Another way to the same file; None where the server gives no parts."""
        if self._validator is None or self.length is None:
            return None
        return Parts(self._location, self._options, self.name, self._validator, self.length)

    def _ask(self, part: Part | None = None) -> Answer:
        try:
            return ask(self._location, self._options, self.name, self._pace.remaining(), self._watchdog, part)
        except TransferError:
            # What has failed for want of time says so.
            self._pace.remaining()
            raise

    def _first_answer(self) -> Answer:
        for tries in range(FIRST_RETRIES + 1):
            try:
                return self._ask()
            except (NotConnectedError, HttpStatusError) as error:
                hopeless = isinstance(error, HttpStatusError) and error.status not in UNAVAILABLE
                if hopeless or tries == FIRST_RETRIES:
                    raise
                self._wait(tries)
        raise AssertionError("the last try returns or raises")

    def _resume(self, received: int, tries: int) -> bool:
        """Ask for what is missing; False when it is worth to try that again.

        Raises SourceChangedError when the file is another one by now.
        """
        assert self._validator is not None
        self._answer.close()
        self._wait(tries)
        try:
            answer = self._ask(Part(received, self._validator))
        except TransferError:
            if tries >= RETRIES or self._stopped.is_set():
                raise
            return False
        self._answer = answer
        if answer.response.status_code == requests.codes.ok or answer.is_of_another(self._validator):
            raise SourceChangedError(
                f"{self.name} was changed while it was downloaded, or its server sends no parts of it"
            )
        if not answer.begins_at(received, self.length or 0):
            raise TransferError(f"{self.name}: the server sends another part than the one that is missing")
        return True

    def _wait(self, tries: int) -> None:
        self._stopped.wait(min(BACK_OFF * 2**tries, self._pace.remaining()))

    def _body(self, received: int) -> Iterator[bytes]:
        """What this connection has, in chunks. Raises _BrokenError when it ends early."""
        raw = self._answer.response.raw
        # What has arrived, without waiting for more: or else nobody would notice how slowly it comes. urllib3 1.26,
        # which botocore wants on Python 3.9, cannot.
        read: Callable[..., bytes] = getattr(raw, "read1", raw.read)
        gathered = bytearray()
        while True:
            piece, broken, silent = b"", self._incomplete(received + len(gathered)), False
            # Some bytes are no content: those of headers of chunks, and of trailers. They must come to an end, too.
            self._watchdog.allow(min(2 * self._options.idle_timeout, self._pace.remaining()))
            try:
                piece = read(CHUNK, decode_content=False)
                self._watchdog.allow(math.inf)
            except urllib3.exceptions.ReadTimeoutError:
                silent = True
            except (urllib3.exceptions.HTTPError, OSError):
                broken = broken or f"the download is incomplete, it broke after {received + len(gathered)} bytes"
            if silent or self._watchdog.expired:
                piece, broken = b"", f"the server stopped sending after {received + len(gathered)} bytes"
            gathered += piece
            if len(gathered) >= CHUNK or (gathered and not piece):
                received += len(gathered)
                yield bytes(gathered)
                gathered.clear()
            if not piece:
                self._pace.remaining()
                if broken:
                    raise _BrokenError(broken)
                return
            self._pace.passed(len(piece))

    def _incomplete(self, received: int) -> str:
        """What is said of a connection that ends here; empty where it may."""
        if self.length in (None, received):
            return ""
        return f"the download is incomplete, the connection ended after {received} of {self.length} bytes"


class _BrokenError(Exception):
    """The connection ended before the file did; the text says how."""


@contextmanager
def open_url(location: str, options: HttpOptions, name: str = "") -> Iterator[Download]:
    """Ask for ``location``, which messages call ``name``, and follow redirects, to http and https only.

    Without a name it is the location, without what may be secret in it. Raises NotAllowedError for hosts that may not
    be asked, TransferError when there is no answer, or not the file.
    """
    download = Download(location, options, name or public_name(location))
    try:
        yield download
    finally:
        download.close()
