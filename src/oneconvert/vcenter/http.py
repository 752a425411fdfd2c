"""Files over HTTP: of datastores from the vCenter, of leases from the host that has the disk.

No proxy, no redirect, no ~/.netrc: urllib3 itself knows nothing of these. The cookie of the login goes to the vCenter
alone; in the URL of a lease is what the host wants to see.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Callable
from urllib.parse import urlsplit

import urllib3

from oneconvert.errors import VCenterError
from oneconvert.vcenter.faults import explained
from oneconvert.vcenter.server import HTTPS, VCenterServer
from oneconvert.vcenter.tls import trusted_context

CHUNK = 1024 * 1024
STATUS_FAULTS = {401: "NotAuthenticated", 403: "NoPermission", 404: "FileNotFound", 507: "NoDiskSpace"}


@dataclass(frozen=True)
class Answer:
    """The headers of an answer, and its body to be read once."""

    status: int
    headers: Mapping[str, str]
    _response: Any
    _explain: Callable[[Exception], Exception]

    @property
    def length(self) -> int | None:
        """Bytes of the body as announced (or, to HEAD, of the file), None where they are not."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isdecimal() else None

    def chunks(self) -> Iterator[bytes]:
        """The body. Raises VCenterError when it ends too early or stays away."""
        stream = self._response.stream(CHUNK, decode_content=False)
        while True:
            try:
                chunk = next(stream, None)
            except Exception as error:  # whatever urllib3 and what is below it raise
                raise self._explain(error) from None
            if chunk is None:
                return
            yield chunk


@dataclass(frozen=True)
class FileAddress:
    """Where a file can be asked for: at ``url``, with the header Cookie, if the server's certificate has this SHA-256
    digest.
    """

    url: str
    cookie: str = field(repr=False)
    fingerprint: str


class HttpFiles:
    """HTTP with a vCenter and its hosts; ``cookie`` gives the header of the login as it is now."""

    def __init__(self, server: VCenterServer, context: ssl.SSLContext, cookie: Callable[[], str]) -> None:
        self._server = server
        self._context = context
        self._cookie = cookie

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        body: Iterable[bytes] | None = None,
        length: int = 0,
        headers: Mapping[str, str] | None = None,
        thumbprint: str = "",
    ) -> Iterator[Answer]:
        """Ask, and give the answer whose body is to be read.

        ``url`` is a path of the vCenter, or that of a lease, where ``*`` stands for the vCenter and ``thumbprint`` is
        what the lease says of the host's certificate. ``body`` is sent as it comes and must be ``length`` bytes.

        Raises VCenterError for every answer but a 2xx, and when there is none; what ``body`` raises comes through.
        """
        place = self._place(url)
        source = _Body(body, length) if body is not None else None

        def explain(error: Exception) -> Exception:
            return explained(error, self._server, place.host, place.port)

        try:
            pool = self._pool(place, thumbprint)
            response = pool.urlopen(
                method,
                place.target,
                body=source,
                headers={
                    "User-Agent": "oneconvert",
                    **({"Cookie": self._cookie()} if place.own else {}),
                    **({"Content-Length": str(length)} if source else {}),
                    **(headers or {}),
                },
                retries=False,
                redirect=False,
                preload_content=False,
                enforce_content_length=True,
            )
        except Exception as error:  # whatever urllib3 and what is below it raise
            if source and source.error:
                raise source.error from None
            raise explain(error) from None
        try:
            if not 200 <= response.status < 300:
                fault = STATUS_FAULTS.get(response.status, "")
                raise VCenterError(
                    f"{self._server.name}: {method} {place.shown} is answered with {response.status} {response.reason}",
                    fault,
                )
            yield Answer(response.status, response.headers, response, explain)
        finally:
            response.close()
            pool.close()

    def address(self, url: str, thumbprint: str = "") -> FileAddress:
        """Where somebody else can ask for ``url`` (see ``open``). Raises VCenterError where none is trusted."""
        place = self._place(url)
        try:
            plain = socket.create_connection((place.host, place.port), self._server.timeout)
            with plain, self._trust(place, thumbprint).wrap_socket(plain, server_hostname=place.host) as secure:
                digest = hashlib.sha256(secure.getpeercert(binary_form=True) or b"").hexdigest()
        except OSError as error:
            raise explained(error, self._server, place.host, place.port) from None
        host = f"[{place.host}]" if ":" in place.host else place.host
        return FileAddress(f"https://{host}:{place.port}{place.target}", self._cookie() if place.own else "", digest)

    def _place(self, url: str) -> _Place:
        parts = urlsplit(url)
        if parts.scheme not in ("", "https"):
            raise VCenterError(f"{self._server.name}: it names an address that is not https")
        own = not parts.netloc or parts.hostname in ("*", self._server.host)
        host = self._server.host if own else parts.hostname or ""
        port = parts.port or (self._server.port if own else HTTPS)
        return _Place(host, port, own and port == self._server.port, parts.path, parts.query)

    def _trust(self, place: _Place, thumbprint: str) -> ssl.SSLContext:
        if place.own:
            return self._context
        server = self._server
        pins = (thumbprint,) if thumbprint else server.thumbprints
        return trusted_context(place.host, place.port, server.ca_file, pins, server.timeout)

    def _pool(self, place: _Place, thumbprint: str) -> urllib3.HTTPSConnectionPool:
        context = self._trust(place, thumbprint)
        return urllib3.HTTPSConnectionPool(
            place.host,
            place.port,
            timeout=urllib3.Timeout(connect=self._server.timeout, read=self._server.timeout),
            maxsize=1,
            ssl_context=context,
            # Where one certificate is trusted its name does not matter, and urllib3 would look at it all the same.
            assert_hostname=None if context.check_hostname else False,
        )


@dataclass(frozen=True)
class _Place:
    """Whom to ask for what; ``own`` says that it is the vCenter."""

    host: str
    port: int
    own: bool
    path: str
    query: str

    @property
    def shown(self) -> str:
        """What messages say: of a lease, the path is the right to it."""
        return self.path if self.own and self.path.startswith("/folder/") else self.host

    @property
    def target(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path


class _Body:
    """What is uploaded; keeps what its source raises, which urllib3 might take for trouble with the server."""

    def __init__(self, source: Iterable[bytes], length: int) -> None:
        self._source = source
        self._left = length
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._source:
                self._left -= len(chunk)
                if self._left < 0:
                    break
                yield chunk
            if self._left:
                raise VCenterError("the upload is not as long as it was said to be")
        except Exception as error:
            self.error = error
            raise
