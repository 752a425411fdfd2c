"""What oned is asked, with a mock of its API."""

from __future__ import annotations

import xmlrpc.server
from pathlib import Path

import pytest

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
