"""What a vCenter has: managed objects in folders, with a few properties each, in one question."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyVmomi import vmodl

from oneconvert.vcenter.connection import Connection

# What vSphere escapes in names (ManagedEntity.name of the "vSphere Web Services API" reference).
ESCAPES = {"%": "%25", "/": "%2f", "\\": "%5c"}
ESCAPED = re.compile("%(25|2f|5c)", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A managed object of pyVmomi, and those of the wanted properties that are set."""

    managed: Any
    properties: dict[str, Any]


def children(connection: Connection, parent: Any, path: str, kind: Any, *names: str) -> list[Found]:
    """The objects of a ``kind`` (vim.VirtualMachine) that the property ``path`` of ``parent`` lists, with these
    properties. Raises VCenterError.
    """
    collector = vmodl.query.PropertyCollector
    step = collector.TraversalSpec(type=type(parent), path=path, skip=False)
    spec = collector.FilterSpec(
        objectSet=[collector.ObjectSpec(obj=parent, skip=True, selectSet=[step])],
        propSet=[collector.PropertySpec(type=kind, pathSet=list(names))],
    )
    asked = connection.content.propertyCollector
    result = connection.call(lambda: asked.RetrievePropertiesEx([spec], collector.RetrieveOptions()))
    found = []
    while result:
        found += [Found(each.obj, {one.name: one.val for one in each.propSet or ()}) for each in result.objects or ()]
        if not result.token:
            break
        result = connection.call(partial(asked.ContinueRetrievePropertiesEx, result.token))
    return found


def plain_name(name: str) -> str:
    """The name that people gave, of one that vSphere tells."""
    return ESCAPED.sub(lambda match: bytes.fromhex(match[1]).decode(), name)


def escaped_name(name: str) -> str:
    """A name, escaped or not, as vSphere has it."""
    return "".join(ESCAPES.get(each, each) for each in plain_name(name))
