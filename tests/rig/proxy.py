"""A forward proxy for the tests: it looks names up by itself, and tunnels https."""

from __future__ import annotations

import http.client
import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from rig.running import running

CHUNK = 1 << 16


@dataclass
class Proxy:
    """A proxy on loopback that knows every name, as one of this host. ``asked`` has method and target of requests."""

    port: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    credentials: list[str | None] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serve_proxy() -> Iterator[Proxy]:
    proxy = Proxy()

    class Requests(http.server.BaseHTTPRequestHandler):
        def note(self) -> None:
            proxy.asked.append((self.command, self.path))
            proxy.credentials.append(self.headers.get("Proxy-Authorization"))

        def do_GET(self) -> None:
            self.note()
            target = urlsplit(self.path)
            server = http.client.HTTPConnection("127.0.0.1", target.port or 80, timeout=30)
            path = target.path + (f"?{target.query}" if target.query else "")
            server.request("GET", path, headers={"Host": target.netloc})
            answer = server.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.read())
            server.close()

        def do_CONNECT(self) -> None:
            self.note()
            with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2])), timeout=30) as server:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=pump, args=(server, self.connection), daemon=True)
                back.start()
                pump(self.connection, server)
                back.join()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    server.daemon_threads = True
    proxy.port = server.server_port
    with running(server):
        yield proxy


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
