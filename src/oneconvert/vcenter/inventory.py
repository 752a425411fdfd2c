"""What a vCenter has: managed objects in folders, with a few properties each, in one question."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from pyVmomi import vmodl

from oneconvert.vcenter.connection import Connection


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
