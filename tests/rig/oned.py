"""A mock of oned's API, which cannot run here: it knows a few hosts, datastores and images."""

from __future__ import annotations

import xmlrpc.server
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rig.running import running

ENCRYPTED = "b64=="
NO_EXISTS = 0x0400


def _attributes(values: dict[str, str]) -> str:
    return "".join(f"<{name}><![CDATA[{value}]]></{name}>" for name, value in values.items())


def _host(ident: int, values: dict[str, str]) -> str:
    return (
        f"<HOST><ID>{ident}</ID><NAME>h{ident}</NAME><STATE>2</STATE><PREV_STATE>2</PREV_STATE><IM_MAD>vcenter</IM_MAD>"
        f"<VM_MAD>vcenter</VM_MAD><CLUSTER_ID>0</CLUSTER_ID><CLUSTER>default</CLUSTER>"
        f"<TEMPLATE>{_attributes(values)}</TEMPLATE><MONITORING/></HOST>"
    )


@dataclass
class MockOned:
    """What it knows, by number: attributes of the templates of hosts and datastores, and where images are.

    The passwords of hosts are encrypted unless decryption is asked for, as oned does it.
    """

    hosts: dict[int, dict[str, str]] = field(default_factory=dict)
    datastores: dict[int, dict[str, str]] = field(default_factory=dict)
    images: dict[int, int] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    """What tells OpenNebula's clients where it is, and who they are."""

    def host_pool(self, _session: str) -> list[object]:
        hosts = "".join(_host(ident, self._encrypted(values)) for ident, values in self.hosts.items())
        return [True, f"<HOST_POOL>{hosts}</HOST_POOL>", 0]

    def host(self, _session: str, ident: int, decrypt: bool = False) -> list[object]:
        if ident not in self.hosts:
            return [False, "no such host", NO_EXISTS, ident, ""]
        values = self.hosts[ident]
        return [True, _host(ident, values if decrypt else self._encrypted(values)), 0]

    def datastore(self, _session: str, ident: int, _decrypt: bool = False) -> list[object]:
        if ident not in self.datastores:
            return [False, f"[one.datastore.info] Error getting datastore [{ident}].", NO_EXISTS, ident, ""]
        template = _attributes(self.datastores[ident])
        return [True, f"<DATASTORE><ID>{ident}</ID><NAME>ds</NAME><TEMPLATE>{template}</TEMPLATE></DATASTORE>", 0]

    def image(self, _session: str, ident: int, _decrypt: bool = False) -> list[object]:
        if ident not in self.images:
            return [False, f"[one.image.info] Error getting image [{ident}].", NO_EXISTS, ident, ""]
        where = self.images[ident]
        return [True, f"<IMAGE><ID>{ident}</ID><NAME>image</NAME><DATASTORE_ID>{where}</DATASTORE_ID></IMAGE>", 0]

    @staticmethod
    def _encrypted(values: dict[str, str]) -> dict[str, str]:
        return {**values, "VCENTER_PASSWORD": ENCRYPTED} if values.get("VCENTER_PASSWORD") else values


@contextmanager
def mock_oned(directory: Path) -> Iterator[MockOned]:
    """Serve one that knows nothing yet."""
    oned = MockOned()
    server = xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False)
    for name, method in (
        ("hostpool", oned.host_pool),
        ("host", oned.host),
        ("datastore", oned.datastore),
        ("image", oned.image),
    ):
        server.register_function(method, f"one.{name}.info")
    auth = directory / "one_auth"
    auth.write_text("oneadmin:opennebula\n")
    oned.environment = {"ONE_AUTH": str(auth), "ONE_XMLRPC": f"http://127.0.0.1:{server.server_address[1]}/RPC2"}
    with running(server):
        yield oned
