"""A mock of oned: a few answers of its XML-RPC API, from what a test puts there. It keeps VM templates."""

from __future__ import annotations

import threading
import time
import xmlrpc.server
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lxml import etree

from rig.running import running

# ErrorCode of include/Request.h
NO_EXISTS, ALLOCATE = 0x0400, 0x2000
# PoolObjectSQL::INVALID_NAME_CHARS
NOT_IN_NAMES = set("&|:\\\";/'#{}$<>")


def element(name: str, content: object) -> str:
    """An element with a text, or with the elements of a dict."""
    node = etree.Element(name)
    if isinstance(content, dict):
        for key, value in content.items():
            node.append(etree.fromstring(element(key, value)))
    else:
        node.text = str(content)
    return etree.tostring(node, encoding="unicode")


@dataclass
class MockedOned:
    """The objects are dicts of what is in their documents, by id. ``endpoint`` is where it answers.

    ``refuses`` makes it refuse VM templates with that text; ``slow`` is for how many seconds it keeps the answer to one
    that it took. ``arrived`` is set when one comes.
    """

    endpoint: str = ""
    images: dict[int, dict[str, Any]] = field(default_factory=dict)
    datastores: dict[int, dict[str, Any]] = field(default_factory=dict)
    hosts: dict[int, dict[str, str]] = field(default_factory=dict)
    networks: dict[int, dict[str, Any]] = field(default_factory=dict)
    templates: dict[int, str] = field(default_factory=dict)
    refuses: str = ""
    slow: float = 0.0
    arrived: threading.Event = field(default_factory=threading.Event)

    def template(self, ident: int) -> Any:
        """A VM template that it keeps, as an element."""
        return etree.fromstring(self.templates[ident])

    def image_info(self, _session: str, ident: int, _decrypt: bool = False) -> list[object]:
        return self._one("IMAGE", self.images, ident)

    def datastore_info(self, _session: str, ident: int, _decrypt: bool = False) -> list[object]:
        return self._one("DATASTORE", self.datastores, ident)

    def host_info(self, _session: str, ident: int, decrypt: bool = False) -> list[object]:
        return [True, self._host(ident, decrypt), 0]

    def host_pool(self, _session: str) -> list[object]:
        return [True, f"<HOST_POOL>{''.join(self._host(each, False) for each in self.hosts)}</HOST_POOL>", 0]

    def network_pool(self, _session: str, *_filter: int) -> list[object]:
        found = "".join(element("VNET", {"ID": ident, **values}) for ident, values in self.networks.items())
        return [True, f"<VNET_POOL>{found}</VNET_POOL>", 0]

    def template_pool(self, _session: str, *_filter: int) -> list[object]:
        found = "".join(
            f"<VMTEMPLATE><ID>{ident}</ID><NAME>{etree.fromstring(text).findtext('NAME')}</NAME>{text}</VMTEMPLATE>"
            for ident, text in self.templates.items()
        )
        return [True, f"<VMTEMPLATE_POOL>{found}</VMTEMPLATE_POOL>", 0]

    def template_allocate(self, _session: str, text: str) -> list[object]:
        self.arrived.set()
        if self.refuses:
            return [False, self.refuses, ALLOCATE]
        name = etree.fromstring(text).findtext("NAME") or ""
        if wrong := NOT_IN_NAMES & set(name):
            return [False, f"[one.template.allocate] Invalid NAME, char '{wrong.pop()}' is not allowed", ALLOCATE]
        if any(etree.fromstring(each).findtext("NAME") == name for each in self.templates.values()):
            return [False, f"[one.template.allocate] NAME is already taken: {name}", ALLOCATE]
        ident = max(self.templates, default=-1) + 1
        self.templates[ident] = text
        time.sleep(self.slow)
        return [True, ident, 0]

    def _one(self, kind: str, objects: dict[int, dict[str, Any]], ident: int) -> list[object]:
        if ident not in objects:
            return [False, f"[one.{kind.lower()}.info] Error getting {kind.lower()} [{ident}].", NO_EXISTS]
        return [True, element(kind, {"ID": ident, **objects[ident]}), 0]

    def _host(self, ident: int, decrypt: bool) -> str:
        values = dict(self.hosts[ident])
        if not decrypt:
            values["VCENTER_PASSWORD"] = "b64=="
        return element("HOST", {"ID": ident, "NAME": f"h{ident}", "STATE": 2, "TEMPLATE": values})


@contextmanager
def mocked_oned(directory: Path) -> Iterator[tuple[MockedOned, dict[str, str]]]:
    """Run one, with the environment by which OpenNebula's tools find it."""
    mock = MockedOned()
    server = _Server(("127.0.0.1", 0), logRequests=False)
    for name, answer in {
        "image.info": mock.image_info,
        "datastore.info": mock.datastore_info,
        "host.info": mock.host_info,
        "hostpool.info": mock.host_pool,
        "vnpool.info": mock.network_pool,
        "templatepool.info": mock.template_pool,
        "template.allocate": mock.template_allocate,
    }.items():
        server.register_function(answer, f"one.{name}")
    mock.endpoint = f"http://127.0.0.1:{server.server_address[1]}/RPC2"
    auth = directory / "one_auth"
    auth.write_text("oneadmin:opennebula\n")
    with running(server):
        yield mock, {"ONE_AUTH": str(auth), "ONE_XMLRPC": mock.endpoint}


class _Server(xmlrpc.server.SimpleXMLRPCServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was interrupted does not wait for its answer."""
