"""A web server for the tests: files, and the misbehaviour of servers."""

from __future__ import annotations

import http.server
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rig.running import running

Handler = http.server.BaseHTTPRequestHandler
Behaviour = Callable[[Handler], None]


@dataclass
class Web:
    """A server on loopback. ``pages`` says what it does for a path; other paths are files of ``directory``."""

    directory: Path
    port: int = 0
    scheme: str = "http"
    host: str = "127.0.0.1"
    pages: dict[str, Behaviour] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def url(self, path: str) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/{path}"


@contextmanager
def serve(directory: Path, certificate: Path | None = None, host: str = "127.0.0.1") -> Iterator[Web]:
    """Serve ``directory``; with a PEM file that holds a certificate and its key, by https."""
    web = Web(directory, scheme="https" if certificate else "http", host=host)

    class Requests(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.split("?")[0].lstrip("/")
            web.requests.append((self.path, dict(self.headers)))
            try:
                web.pages.get(path, send_file(directory / path))(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def handle(self) -> None:
            with suppress(ConnectionResetError):  # between two questions
                super().handle()

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    server = Server((host, 0), Requests)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    web.port = server.server_port
    with running(server):
        yield web


def send_file(path: Path) -> Behaviour:
    def behave(request: Handler) -> None:
        if not path.is_file():
            return status(404)(request)
        request.send_response(200)
        request.send_header("Content-Length", str(path.stat().st_size))
        request.end_headers()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                request.wfile.write(chunk)
        return None

    return behave


def status(code: int) -> Behaviour:
    def behave(request: Handler) -> None:
        request.send_response(code)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return behave


def redirect(location: str) -> Behaviour:
    def behave(request: Handler) -> None:
        request.send_response(302)
        request.send_header("Location", location)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return behave


def chunked(path: Path) -> Behaviour:
    """The file without a length."""

    def behave(request: Handler) -> None:
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        data = path.read_bytes()
        for start in range(0, len(data), 100_000):
            piece = data[start : start + 100_000]
            request.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        request.wfile.write(b"0\r\n\r\n")

    return behave


def cut_off(path: Path, after: int) -> Behaviour:
    """Announces the whole file and closes the connection after some bytes of it."""

    def behave(request: Handler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(path.stat().st_size))
        request.end_headers()
        request.wfile.write(path.read_bytes()[:after])
        request.close_connection = True

    return behave


def ranges(path: Path, breaks: Iterable[int] = (), **validators: str) -> Behaviour:
    """Sends parts of the file to those who ask with the right one of ``validators``: ETag, or Last_Modified.

    The connection ends at the first of ``breaks``, counted from the beginning of the file, the next one at the second.
    """
    headers = {name.replace("_", "-"): value for name, value in validators.items()}
    pending = iter(breaks)

    def behave(request: Handler) -> None:
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        start, end = 0, len(data)
        if asked and request.headers.get("If-Range") in headers.values():
            start, end = int(asked[1]), int(asked[2] or len(data) - 1) + 1
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        else:
            request.send_response(200)
        for name, value in {"Accept-Ranges": "bytes", "Content-Length": str(end - start), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data[start : min(end, next(pending, end))])
        request.close_connection = True

    return behave


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """One after the other; the last of them from then on."""
    pending = iter(behaviours)
    return lambda request: next(pending, behaviours[-1])(request)


def stall(path: Path, after: int, released: threading.Event) -> Behaviour:
    """Sends some bytes, then nothing until ``released``."""

    def behave(request: Handler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(path.stat().st_size))
        request.end_headers()
        request.wfile.write(path.read_bytes()[:after])
        request.wfile.flush()
        released.wait(60)
        request.close_connection = True

    return behave


def drip(path: Path, seconds: float) -> Behaviour:
    """Sends a byte now and then, for some time."""

    def behave(request: Handler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(path.stat().st_size))
        request.end_headers()
        end = time.monotonic() + seconds
        for byte in path.read_bytes():
            if time.monotonic() > end:
                break
            request.wfile.write(bytes([byte]))
            request.wfile.flush()
            time.sleep(0.1)
        request.close_connection = True

    return behave


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
