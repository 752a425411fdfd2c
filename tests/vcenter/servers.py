"""How the tests reach the vCenter that they run."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from oneconvert.vcenter.server import VCenterServer
from rig.vcenter import SimulatedVCenter


def server(vcenter: SimulatedVCenter, **changes: Any) -> VCenterServer:
    known: dict[str, Any] = {
        "host": vcenter.host,
        "port": vcenter.port,
        "user": vcenter.user,
        "password": vcenter.password,
        "ca_file": vcenter.ca_file,
        "timeout": 20.0,
    }
    return VCenterServer(**{**known, **changes})


@contextmanager
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        yield listening.getsockname()[1]
