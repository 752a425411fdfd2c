"""The marketplace's web server: an nginx of our own on the loopback interface."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import BenchError

# Bytes per second of one connection: nginx would read 100m as MiB.
RATES = {"limited": 100_000_000, "unlimited": 0}
_START_SECONDS = 10

_CONFIGURATION = """
{user}
worker_processes 1;
daemon off;
pid {temporary}/nginx.pid;
error_log {temporary}/error.log;
events {{ }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    client_body_temp_path {temporary}/body;
    proxy_temp_path {temporary}/proxy;
    fastcgi_temp_path {temporary}/fastcgi;
    uwsgi_temp_path {temporary}/uwsgi;
    scgi_temp_path {temporary}/scgi;
    server {{
        listen 127.0.0.1:{port};
        {locations}
    }}
}}
"""


@contextmanager
def serve(directory: Path, temporary: Path) -> Iterator[str]:
    """Serve ``directory``, below a path for each of RATES. Gives the address of the server."""
    temporary.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = temporary / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            user="user root;" if os.geteuid() == 0 else "",
            temporary=temporary,
            port=port,
            locations="\n        ".join(
                f"location /{name}/ {{ alias {directory}/; limit_rate {rate}; }}" for name, rate in RATES.items()
            ),
        )
    )
    log = temporary / "error.log"
    process = subprocess.Popen(
        ["nginx", "-c", configuration, "-p", temporary, "-e", log],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(process, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise BenchError(f"nginx does not start:\n{log.read_text() if log.exists() else ''}")
