"""What oned is asked, with a mock of its API."""

from __future__ import annotations

import socket
import threading
import time
import xmlrpc.server
from pathlib import Path

import pytest

from oneconvert.opennebula import api
from oneconvert.opennebula.api import image_was_deleted
from rig.running import running


def test_the_password_of_oneadmin_never_goes_to_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False)
    server.register_function(lambda *_: [False, "no such image", 0x0400, 42, ""], "one.image.info")
    auth = tmp_path / "one_auth"
    auth.write_text("oneadmin:opennebula\n")
    monkeypatch.setenv("ONE_AUTH", str(auth))
    monkeypatch.setenv("ONE_XMLRPC", f"http://127.0.0.1:{server.server_address[1]}/RPC2")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "example.org")
    with running(server):
        assert image_was_deleted(42), "asked directly"


def test_an_oned_that_is_silent_is_waited_for_no_longer_than_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (tmp_path / "one_auth").write_text("oneadmin:opennebula\n")
        monkeypatch.setenv("ONE_AUTH", str(tmp_path / "one_auth"))
        monkeypatch.setenv("ONE_XMLRPC", f"http://127.0.0.1:{silent.getsockname()[1]}/RPC2")
        monkeypatch.setattr(api, "TIMEOUT", 0.5)
        started = time.monotonic()
        assert not image_was_deleted(42)
        assert time.monotonic() - started < 10
    assert socket.getdefaulttimeout() is None, "other connections are not affected"


@pytest.mark.parametrize("answer", [b"HTTP/1.0 502 Bad Gateway\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n<html>", b"nonsense"])
def test_an_answer_that_is_none_is_no_reason_to_take_an_image_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        (tmp_path / "one_auth").write_text("oneadmin:opennebula\n")
        monkeypatch.setenv("ONE_AUTH", str(tmp_path / "one_auth"))
        monkeypatch.setenv("ONE_XMLRPC", f"http://127.0.0.1:{server.getsockname()[1]}/RPC2")

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            assert not image_was_deleted(42)
        finally:
            thread.join()
