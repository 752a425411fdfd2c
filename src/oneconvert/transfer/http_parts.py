"""Parts of a file on a web server, read out of turn while another connection brings the whole."""

from __future__ import annotations

import urllib3

from oneconvert.errors import OneconvertError
from oneconvert.transfer.connection import Watchdog
from oneconvert.transfer.http_request import Part, ask
from oneconvert.transfer.options import HttpOptions


class Parts:
    """Reads the file of ``length`` bytes that has this validator."""

    def __init__(self, location: str, options: HttpOptions, name: str, validator: str, length: int) -> None:
        self._location = location
        self._options = options
        self._name = name
        self._validator = validator
        self._length = length
        self._stopped = False
        self._watchdog = Watchdog()

    def read_at(self, offset: int, length: int) -> bytes | None:
        """These bytes; None where the server does not give them, or not those."""
        if self._stopped:
            return None
        part = Part(offset, self._validator, length)
        patience = self._options.patience
        try:
            answer = ask(self._location, self._options, self._name, patience, self._watchdog, part)
        except OneconvertError:
            return None
        try:
            right = answer.begins_at(offset, self._length) and not answer.is_of_another(self._validator)
            if not right or answer.length != length:
                return None
            self._watchdog.allow(patience)
            data: bytes = answer.response.raw.read(length, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError):
            return None
        finally:
            answer.close()
        return data if len(data) == length else None

    def stop(self) -> None:
        """Make another thread that reads give up."""
        self._stopped = True
        self._watchdog.end()
