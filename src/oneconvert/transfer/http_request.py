"""One question to a web server, and its answer; redirects are followed, to http and https only."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3

from oneconvert.errors import HttpStatusError, NotAllowedError, NotConnectedError, TransferError
from oneconvert.transfer.connection import Adapter, Watchdog
from oneconvert.transfer.options import HttpOptions

MAX_REDIRECTS = 10
LENGTH = re.compile("[0-9]{1,19}")
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-[0-9]{1,19}/([0-9]{1,19})")


@dataclass(frozen=True)
class Part:
    """The bytes from ``offset`` on, ``length`` of them or all, of the file that has this validator."""

    offset: int
    validator: str
    length: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """RFC 9110, 14.2 and 13.1.5."""
        end = "" if self.length is None else str(self.offset + self.length - 1)
        return {"Range": f"bytes={self.offset}-{end}", "If-Range": self.validator}


class Answer:
    """The headers of an answer, and its body to be read. Whoever asked closes it."""

    def __init__(self, session: requests.Session, response: requests.Response, watchdog: Watchdog) -> None:
        self._session = session
        self.response = response
        self._watchdog = watchdog

    @property
    def length(self) -> int | None:
        """Bytes of the body as announced, None where they are not."""
        text = self.response.headers.get("Content-Length", "")
        chunked = "chunked" in self.response.headers.get("Transfer-Encoding", "").lower()
        return int(text) if LENGTH.fullmatch(text) and not chunked else None

    @property
    def validator(self) -> str | None:
        """What says later whether the file is still the same (RFC 9110, 8.8); None where parts cannot be asked for."""
        headers = self.response.headers
        if "bytes" not in headers.get("Accept-Ranges", "").lower() or self.length is None:
            return None
        tag = headers.get("ETag", "")
        # RFC 9110, 13.1.5: a weak one says nothing about bytes, and a date is for files without any.
        return (tag if tag.startswith('"') else None) if tag else headers.get("Last-Modified")

    def begins_at(self, offset: int, length: int) -> bool:
        """Whether this is the part from ``offset`` on of a file of ``length`` bytes (RFC 9110, 14.4)."""
        part = CONTENT_RANGE.fullmatch(self.response.headers.get("Content-Range", ""))
        return part is not None and (int(part[1]), int(part[2])) == (offset, length)

    def is_of_another(self, validator: str) -> bool:
        """Whether this is of another file, or another version of it: some servers give parts whatever If-Range says."""
        field = "ETag" if validator.startswith('"') else "Last-Modified"
        return self.response.headers.get(field, validator) != validator

    def close(self) -> None:
        """End the connection."""
        self._watchdog.stop()
        self.response.close()
        self._session.close()


def ask(
    location: str, options: HttpOptions, name: str, within: float, watchdog: Watchdog, part: Part | None = None
) -> Answer:
    """Ask for ``location``, or for a part of it; each server on the way gets connect_timeout and idle_timeout to
    answer, and no more than ``within`` seconds. ``watchdog`` sees to that, and then watches the answer's body.

    Raises NotAllowedError for a host that may not be contacted, NotConnectedError when there is no connection,
    HttpStatusError when the answer is not the file, TransferError when there is none.
    """
    session = requests.Session()
    session.max_redirects = MAX_REDIRECTS
    # With it requests would look for a password for the host in ~/.netrc, and prefer REQUESTS_CA_BUNDLE to us.
    session.trust_env = False
    adapter = Adapter(
        options.rules,
        watchdog,
        min(options.patience, within),
        options.downgrade,
        fingerprint=options.fingerprint,
        direct=options.direct,
    )
    headers = {"Accept-Encoding": "identity", "User-Agent": "oneconvert", **(part.headers if part else {})}
    if options.cookie:
        headers["Cookie"] = options.cookie
    for prefix in ("http://", "https://"):
        session.mount(prefix, adapter)
    try:
        response = session.get(
            location,
            stream=True,
            verify=_trusted(options),
            timeout=(min(options.connect_timeout, within), min(options.idle_timeout, within)),
            headers=headers,
        )
    except BaseException as error:
        watchdog.stop()
        session.close()
        if isinstance(error, (NotAllowedError, TransferError)):
            raise type(error)(f"{name}: {error}") from None
        if watchdog.expired:
            raise TransferError(f"{name}: the server does not answer") from None
        if isinstance(error, (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError)):
            raise _explained(error, name, options) from None
        raise
    answer = Answer(session, response, watchdog)
    wanted = (requests.codes.ok, requests.codes.partial_content) if part else (requests.codes.ok,)
    if response.status_code not in wanted:
        answer.close()
        reason = f"{response.status_code} {response.reason or ''}".rstrip()
        raise HttpStatusError(
            f"{name}: the server answered {reason}; check the address of the image", response.status_code
        )
    return answer


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


def _trusted(options: HttpOptions) -> str | bool:
    if options.fingerprint:
        return False  # the connection verifies it
    if not options.verify:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        return False
    trusted = options.ca_file or system_certificates()
    return str(trusted) if trusted else True


def _explained(error: Exception, name: str, options: HttpOptions) -> TransferError:
    """What went wrong, without the URL that the texts of requests repeat."""
    if isinstance(error, requests.exceptions.SSLError) and options.fingerprint:
        return TransferError(f"{name}: the server shows another certificate than a moment ago")
    if isinstance(error, requests.exceptions.SSLError):
        return TransferError(
            f"{name}: the server's TLS certificate is not trusted; set tls_ca_file (or tls_verify = no) in "
            "oneconvert.conf"
        )
    if isinstance(error, requests.TooManyRedirects):
        return TransferError(f"{name}: more than {MAX_REDIRECTS} redirects")
    if isinstance(error, requests.exceptions.InvalidSchema):
        return TransferError(f"{name}: the server redirects to something that is neither http nor https")
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)) or _timed_out(error):
        return TransferError(f"{name}: the server does not answer")
    if isinstance(error, requests.exceptions.ProxyError):
        return NotConnectedError(f"{name}: the proxy cannot be reached")
    if isinstance(error, requests.exceptions.InvalidHeader) or _is_no_http(error):
        return TransferError(f"{name}: the server's answer is not understood; does it speak HTTP on that port?")
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, ValueError)):
        return TransferError(f"{name}: the URL is not valid")
    return NotConnectedError(f"{name}: the server cannot be reached")


def _timed_out(error: BaseException) -> bool:
    """Whether it is about a timeout, which requests and urllib3 wrap more than once."""
    found = (socket.timeout, urllib3.exceptions.TimeoutError)
    # To urllib3 each connection that fails is one that timed out.
    return any(
        isinstance(each, found) and not isinstance(each, urllib3.exceptions.NewConnectionError)
        for each in (*error.args, getattr(error.args[0] if error.args else None, "reason", None))
    )


def _is_no_http(error: BaseException) -> bool:
    inner = error.args[0] if error.args and isinstance(error.args[0], BaseException) else error
    causes = (inner, *inner.args)
    return any(
        isinstance(each, http.client.HTTPException) and not isinstance(each, http.client.RemoteDisconnected)
        for each in causes
    )
