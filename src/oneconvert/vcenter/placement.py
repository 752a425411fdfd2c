"""Where a virtual machine can be, and what it can be there: clusters, resource pools, folders, guest systems.

ComputeResource, ResourcePool, Folder and EnvironmentBrowser of the "vSphere Web Services API" reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from oneconvert.errors import VCenterError
from oneconvert.vcenter.connection import Connection
from oneconvert.vcenter.datastore import Datastore
from oneconvert.vcenter.inventory import children, escaped_name, plain_name

# The kinds of SCSI controllers, by the names that vSphere's tools have for them. OpenNebula attaches disks to no other
# controllers, and adds one of its own choice where there is none of these.
CONTROLLERS = {
    "pvscsi": vim.vm.device.ParaVirtualSCSIController,
    "lsilogic": vim.vm.device.VirtualLsiLogicController,
    "lsilogicsas": vim.vm.device.VirtualLsiLogicSASController,
    "buslogic": vim.vm.device.VirtualBusLogicController,
}


@dataclass(frozen=True)
class Cluster:
    """A cluster, ``domain-c7``, and a host of it that works and reaches the datastore, ``host-12``."""

    reference: str
    name: str
    host: str


@dataclass(frozen=True)
class Pool:
    """A resource pool; ``path`` is that below the cluster, as OpenNebula writes it, empty for the cluster's own."""

    reference: str
    path: str


@dataclass(frozen=True)
class Guest:
    """A guest system, and what a cluster can give it: names of ``CONTROLLERS``, and bios or efi.

    The recommended one comes first. Empty where the vCenter does not tell.
    """

    id: str
    controllers: tuple[str, ...] = ()
    firmwares: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a virtual machine can be: the datacenter's folder, a resource pool, and a host that reaches its datastore.

    The managed objects are those of pyVmomi.
    """

    folder: Any
    pool: Any
    host: Any


def find_place(datastore: Datastore) -> Place:
    """A place for a machine on a datastore. Raises VCenterError when no host that works can write to that."""
    connection = datastore.connection
    for host, parent in _working_hosts(datastore):
        folder = connection.properties(datastore.datacenter, "vmFolder")["vmFolder"]
        return Place(folder, connection.properties(parent, "resourcePool")["resourcePool"], host)
    raise VCenterError(
        f"{connection.server.name}: no connected host can write to datastore {datastore.name}, so nothing can be "
        "imported into it"
    )


def clusters_of(datastore: Datastore) -> tuple[Cluster, ...]:
    """The clusters with a connected host that can write to the datastore, by name. Raises VCenterError."""
    connection = datastore.connection
    found: dict[str, Cluster] = {}
    for host, parent in _working_hosts(datastore):
        # Hosts outside of clusters have a compute resource of their own, which OpenNebula does not import.
        if isinstance(parent, vim.ClusterComputeResource) and parent._moId not in found:
            name = connection.properties(parent, "name")["name"]
            found[parent._moId] = Cluster(parent._moId, plain_name(name), host._moId)
    return tuple(sorted(found.values(), key=lambda each: each.name))


def pools_of(connection: Connection, cluster: Cluster) -> tuple[Pool, ...]:
    """The resource pools of a cluster, its own first. Raises VCenterError."""
    managed = connection.object(vim.ClusterComputeResource, cluster.reference)
    root = connection.properties(managed, "resourcePool")["resourcePool"]
    pools = [Pool(root._moId, "")]
    pending = [(root, "")]
    while pending:
        parent, prefix = pending.pop(0)
        below = children(connection, parent, "resourcePool", vim.ResourcePool, "name")
        for each in sorted(below, key=lambda one: str(one.properties["name"])):
            if isinstance(each.managed, vim.VirtualApp):
                continue
            path = f"{prefix}{each.properties['name']}"
            pools.append(Pool(each.managed._moId, path))
            pending.append((each.managed, f"{path}/"))
    return tuple(pools)


def guests_of(connection: Connection, cluster: Cluster, wanted: str) -> dict[str, Guest]:
    """The guest system with the id ``wanted``, ``debian12_64Guest``, by its id; where a cluster does not have that, all
    that it has. Raises VCenterError.
    """
    managed = connection.object(vim.ClusterComputeResource, cluster.reference)
    browser = connection.properties(managed, "environmentBrowser")["environmentBrowser"]
    query = vim.EnvironmentBrowser.ConfigOptionQuerySpec(guestId=[wanted])
    options = connection.call(lambda: browser.QueryConfigOptionEx(query))
    found = {each.id: _guest(each) for each in (options.guestOSDescriptor if options else None) or ()}
    if not found:
        raise VCenterError(
            f"{connection.server.name}: it does not tell which guest systems cluster {cluster.name} can run; is one of "
            "its hosts connected?"
        )
    return {wanted: found[wanted]} if wanted in found else found


def find_folder(datastore: Datastore, path: str) -> tuple[Any, tuple[str, ...]]:
    """The folder for virtual machines of a path, ``Linux/cloud``, in the datacenter of the datastore.

    Of a path that is not there, the last folder that is, and the names of those that are not. Raises VCenterError.
    """
    connection = datastore.connection
    folder = connection.properties(datastore.datacenter, "vmFolder")["vmFolder"]
    names = [plain_name(each) for each in path.split("/") if each]
    for number, name in enumerate(names):
        below = children(connection, folder, "childEntity", vim.Folder, "name")
        found = [each.managed for each in below if plain_name(each.properties["name"]) == name]
        if not found:
            return folder, tuple(escaped_name(each) for each in names[number:])
        folder = found[0]
    return folder, ()


def _working_hosts(datastore: Datastore) -> Iterator[tuple[Any, Any]]:
    """Connected hosts that can write to a datastore, each with the compute resource that it is in."""
    connection = datastore.connection
    for mount in connection.properties(datastore.managed, "host").get("host", ()):
        info = mount.mountInfo
        if info.accessMode != "readWrite" or info.accessible is False or info.mounted is False:
            continue
        host = connection.properties(mount.key, "parent", "runtime.connectionState", "runtime.inMaintenanceMode")
        if host.get("runtime.connectionState") == "connected" and not host.get("runtime.inMaintenanceMode"):
            yield mount.key, host["parent"]


def _guest(descriptor: Any) -> Guest:
    types = [descriptor.recommendedSCSIController, *(descriptor.supportedDiskControllerList or ())]
    names = {kind: name for name, kind in CONTROLLERS.items()}
    controllers = [names[each] for each in types if each in names]
    firmwares = [descriptor.recommendedFirmware, *(descriptor.supportedFirmware or ())]
    return Guest(
        id=descriptor.id,
        controllers=tuple(dict.fromkeys(controllers)),
        firmwares=tuple(dict.fromkeys(each for each in firmwares if each)),
    )
