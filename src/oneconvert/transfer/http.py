"""Images behind http:// and https://."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, NoReturn
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from oneconvert.errors import TransferError
from oneconvert.transfer.pace import Pace

CHUNK = 1024 * 1024
MAX_REDIRECTS = 10
# Tries to get an answer at all; a transfer that has begun is not repeated.
RETRIES = 3


@dataclass(frozen=True)
class HttpOptions:
    """How to talk to servers. Timeouts in seconds; ``bandwidth``, the most that is taken, and ``min_rate``, the least
    that is tolerated, in bytes per second. None: the system's certificates, no limit.
    """

    connect_timeout: float
    idle_timeout: float
    verify: bool
    ca_file: Path | None
    bandwidth: int | None
    min_rate: int


class HttpBody:
    """The body of one answer, as sent: a Content-Encoding is left in place, it is undone with other compression."""

    def __init__(self, response: requests.Response, name: str, options: HttpOptions) -> None:
        self.name = name
        self.length = _content_length(response)
        # What has arrived, without waiting for more: or else nobody would notice how slowly it comes. urllib3 1.26,
        # which botocore wants on Python 3.9, cannot.
        self._read: Callable[..., bytes] = getattr(response.raw, "read1", response.raw.read)
        self._options = options

    def __iter__(self) -> Iterator[bytes]:
        received, started = 0, time.monotonic()
        bandwidth = self._options.bandwidth
        pace = Pace(self._options.min_rate, self._options.idle_timeout, self.name)
        gathered = bytearray()
        while True:
            try:
                piece = self._read(CHUNK, decode_content=False)
            except urllib3.exceptions.ReadTimeoutError:
                raise TransferError(f"{self.name}: the server stopped sending after {received} bytes") from None
            except urllib3.exceptions.HTTPError:
                self._fail_short(received)
            received += len(piece)
            gathered += piece
            if len(gathered) >= CHUNK or (gathered and not piece):
                yield bytes(gathered)
                gathered.clear()
            if not piece:
                break
            pace.passed(len(piece))
            if bandwidth:
                time.sleep(max(0.0, received / bandwidth - (time.monotonic() - started)))
        if self.length is not None and received != self.length:
            self._fail_short(received)

    def _fail_short(self, received: int) -> NoReturn:
        announced = "" if self.length is None else f" of {self.length}"
        raise TransferError(
            f"{self.name}: the download is incomplete, the connection ended after {received}{announced} bytes"
        ) from None


@contextmanager
def open_url(location: str, options: HttpOptions) -> Iterator[HttpBody]:
    """Ask for ``location`` and follow redirects, to http and https only.

    Raises TransferError when there is no answer, or not the file.
    """
    name = public_name(location)
    with requests.Session() as session:
        session.max_redirects = MAX_REDIRECTS
        # With it requests would look for a password for the host in ~/.netrc, and prefer REQUESTS_CA_BUNDLE to us.
        session.trust_env = False
        retries = urllib3.Retry(
            total=None, connect=RETRIES, read=0, status=RETRIES, other=0, redirect=False, backoff_factor=1,
            status_forcelist=(502, 503, 504), allowed_methods=("GET",), raise_on_status=False,
        )  # fmt: skip
        for prefix in ("http://", "https://"):
            session.mount(prefix, HTTPAdapter(max_retries=retries))
        trusted = options.ca_file or system_certificates()
        verify = (str(trusted) if trusted else True) if options.verify else False
        if not options.verify:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        try:
            response = session.get(
                location,
                stream=True,
                proxies=requests.utils.get_environ_proxies(location, no_proxy=None),
                verify=verify,
                timeout=(options.connect_timeout, options.idle_timeout),
                headers={"Accept-Encoding": "identity", "User-Agent": "oneconvert"},
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise TransferError(f"{name}: {_reason(error)}") from None
        with response:
            if response.status_code != requests.codes.ok:
                raise TransferError(
                    f"{name}: the server answered {response.status_code} {response.reason or ''}".rstrip()
                    + "; check the address of the image"
                )
            yield HttpBody(response, name, options)


def public_name(location: str) -> str:
    """A URL without user, password and query, which may hold secrets: for messages and logs."""
    try:
        parts = urlsplit(location)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "the image's URL"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path}"


def system_certificates() -> Path | None:
    """The certificates that this host trusts, as OpenSSL finds them: requests would bring a list of its own.

    None when the host has none at all.
    """
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return Path(paths.cafile)
    directory = Path(paths.capath) if paths.capath else None
    return directory if directory and any(directory.iterdir()) else None


def _content_length(response: requests.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    return int(text) if text.isascii() and text.isdecimal() and not chunked else None


def _reason(error: Exception) -> str:
    """What went wrong, without the URL that the texts of requests repeat."""
    if isinstance(error, requests.exceptions.SSLError):
        return "the server's TLS certificate is not trusted; set tls_ca_file (or tls_verify = no) in oneconvert.conf"
    if isinstance(error, requests.TooManyRedirects):
        return f"more than {MAX_REDIRECTS} redirects"
    if isinstance(error, requests.exceptions.InvalidSchema):
        return "the server redirects to something that is neither http nor https"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy cannot be reached"
    if isinstance(error, requests.Timeout):
        return "the server does not answer"
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, ValueError)):
        return "the URL is not valid"
    return "the server cannot be reached"
