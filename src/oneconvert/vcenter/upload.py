"""Bringing a streamOptimized VMDK into a datastore, where the ESXi host makes a disk of it while it arrives.

A vCenter takes such disks only with a virtual machine around them: so one is imported that exists for that only, its
disk is detached and moved to its place, and the machine is removed. ``govc import.vmdk`` goes the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyVmomi import vim

from oneconvert.errors import VCenterError
from oneconvert.vcenter.connection import Connection
from oneconvert.vcenter.datastore import Datastore
from oneconvert.vcenter.import_spec import envelope
from oneconvert.vcenter.inventory import children
from oneconvert.vcenter.lease import held

LOG = logging.getLogger(__name__)

MACHINE_PREFIX = "oneconvert."
"""Of the names of machines that exist for an import; what follows is the name of its workspace."""
CHUNK = 1024 * 1024
STREAM = {"Content-Type": "application/x-vnd.vmware-streamVmdk"}
# VCENTER_DISK_TYPE of OpenNebula -> how the vCenter is to provision; others are thin.
PROVISIONING = {"thick": "thick", "preallocated": "thick", "eagerZeroedThick": "eagerZeroedThick"}


@dataclass(frozen=True)
class Disk:
    """A streamOptimized VMDK in ``file``, of a disk of ``capacity`` bytes, and where it goes: ``path`` in a datastore.

    ``disk_type`` is one of vSphere's (thin, thick, eagerZeroedThick), ``adapter_type`` that in the descriptor.
    ``workspace`` is the directory of the import, which is gone when the import is.
    """

    file: Path
    capacity: int
    disk_type: str
    adapter_type: str
    path: str
    workspace: Path


@dataclass(frozen=True)
class Place:
    """Where a virtual machine can be: a folder, a resource pool, and a host that reaches its datastore."""

    folder: Any
    pool: Any
    host: Any


def import_disk(datastore: Datastore, disk: Disk) -> None:
    """Bring ``disk`` to its place, where nothing may be yet.

    Raises VCenterError. After any error nothing is left there.
    """
    place = find_place(datastore)
    _remove_leftovers(datastore, place, disk.workspace)
    directory = disk.path.rpartition("/")[0]
    datastore.make_directory(directory)
    try:
        with _imported(datastore, place, disk) as machine:
            _move_disk_of(machine, datastore, disk)
        _verify(datastore, disk)
    except BaseException:
        remove_disk(datastore, disk.path)
        raise


def remove_disk(datastore: Datastore, path: str) -> None:
    """Remove a disk, if it is there, and its directory, if that is empty then. Errors go to the log."""
    try:
        datastore.delete_disk(path, missing_ok=True)
        datastore.delete_directory_if_empty(path.rpartition("/")[0])
    except VCenterError as error:
        LOG.error("%s may be left: %s", datastore.path(path), error.sentence)


def find_place(datastore: Datastore) -> Place:
    """Raises VCenterError when no host that works reaches the datastore."""
    connection = datastore.connection
    folder = connection.properties(datastore.datacenter, "vmFolder")["vmFolder"]
    for mount in connection.properties(datastore.managed, "host").get("host", ()):
        info = mount.mountInfo
        if info.accessMode != "readWrite" or info.accessible is False or info.mounted is False:
            continue
        host = connection.properties(mount.key, "runtime.connectionState", "runtime.inMaintenanceMode", "parent")
        if host.get("runtime.connectionState") == "connected" and not host.get("runtime.inMaintenanceMode"):
            pool = connection.properties(host["parent"], "resourcePool")["resourcePool"]
            return Place(folder, pool, mount.key)
    raise VCenterError(
        f"{connection.server.name}: no connected host can write to datastore {datastore.name}, so nothing can be "
        "imported into it"
    )


@contextmanager
def _imported(datastore: Datastore, place: Place, disk: Disk) -> Iterator[Any]:
    """A virtual machine with the disk, which is destroyed at the end, with all that it still has."""
    connection = datastore.connection
    size = disk.file.stat().st_size
    spec = _import_spec(datastore, place, disk, size)
    sent = 0

    def content() -> Iterator[bytes]:
        nonlocal sent
        with disk.file.open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                yield chunk
                sent += len(chunk)

    managed = connection.call(lambda: place.pool.ImportVApp(spec.importSpec, place.folder, place.host))
    with held(connection, managed, lambda: sent / size) as lease:
        machine = lease.machine()
        (target,) = lease.disks()
        with connection.files.open(
            "POST", target.url, body=content(), length=size, headers=STREAM, thumbprint=target.thumbprint
        ):
            pass
    try:
        yield machine
    finally:
        _destroy(connection, machine)


def _import_spec(datastore: Datastore, place: Place, disk: Disk, size: int) -> Any:
    connection = datastore.connection
    name = MACHINE_PREFIX + disk.workspace.name
    descriptor = envelope(name, size, disk.capacity, disk.adapter_type)
    parameters = vim.OvfManager.CreateImportSpecParams(
        locale="US",
        deploymentOption="",
        entityName=name,
        diskProvisioning=PROVISIONING.get(disk.disk_type, "thin"),
        networkMapping=[],
        propertyMapping=[],
    )
    spec = connection.call(
        lambda: connection.content.ovfManager.CreateImportSpec(descriptor, place.pool, datastore.managed, parameters)
    )
    if spec.error or not spec.fileItem:
        reasons = "; ".join(str(each.msg) for each in spec.error or ()) or "it asks for no file"
        raise VCenterError(f"{connection.server.name}: it does not import the disk: {reasons}")
    spec.importSpec.configSpec.annotation = f"{disk.workspace}\n{disk.path}"
    return spec


def _move_disk_of(machine: Any, datastore: Datastore, disk: Disk) -> None:
    connection = datastore.connection
    devices = connection.properties(machine, "config.hardware.device")["config.hardware.device"]
    device: Any
    (device,) = [each for each in devices if isinstance(each, vim.vm.device.VirtualDisk)]
    source = device.backing.fileName.partition("] ")[2]
    edit = vim.vm.device.VirtualDeviceSpec(operation="remove", device=device)
    connection.wait(connection.call(lambda: machine.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[edit]))))
    try:
        datastore.move_disk(source, disk.path)
    except BaseException:
        # The machine does not have it any more.
        with suppress(VCenterError):
            datastore.delete_disk(source, missing_ok=True)
        raise


def _verify(datastore: Datastore, disk: Disk) -> None:
    found = datastore.look_up(disk.path)
    if found is None or found.capacity != disk.capacity:
        size = found.capacity if found else 0
        raise VCenterError(
            f"{datastore.connection.server.name}: {datastore.path(disk.path)} is a disk of {size} bytes instead of "
            f"{disk.capacity}"
        )


def _destroy(connection: Connection, machine: Any) -> None:
    try:
        connection.wait(connection.call(lambda: machine.Destroy_Task()))
    except VCenterError as error:
        if error.fault != "ManagedObjectNotFound":
            LOG.error("the virtual machine of the import is left: %s", error.sentence)


def _remove_leftovers(datastore: Datastore, place: Place, workspace: Path) -> None:
    """Remove what imports on this host left that were killed: machines whose workspaces are gone, and their disks."""
    ours = MACHINE_PREFIX + workspace.name.split(".", 1)[0] + "."
    names = ("name", "config.annotation")
    for each in children(datastore.connection, place.folder, "childEntity", vim.VirtualMachine, *names):
        name, annotation = (each.properties.get(key, "") for key in names)
        directory, _, path = annotation.partition("\n")
        if name.startswith(ours) and directory.startswith("/") and not Path(directory).exists():
            LOG.warning("removing the virtual machine %s, which an import that was killed left", name)
            _destroy(datastore.connection, each.managed)
            remove_disk(datastore, path)
