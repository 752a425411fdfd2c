"""Bringing a streamOptimized VMDK into a datastore, where the ESXi host makes a disk of it while it arrives.

A vCenter takes such disks only with a virtual machine around them: so one is imported that exists for that only, its
disk is detached and moved to its place, and the machine is removed. ``govc import.vmdk`` goes the same way.

Signals are to be held: they are heard where it takes long, and nowhere else.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pyVmomi import vim

from oneconvert.errors import VCenterError
from oneconvert.jobs.signals import interruptible
from oneconvert.vcenter.connection import Connection
from oneconvert.vcenter.datastore import Datastore
from oneconvert.vcenter.import_spec import envelope
from oneconvert.vcenter.inventory import children
from oneconvert.vcenter.lease import held
from oneconvert.vcenter.placement import Place, find_place

LOG = logging.getLogger(__name__)

MACHINE_PREFIX = "oneconvert."
"""Of the names of machines that exist for an import; vSphere allows 80 characters."""
CHUNK = 1024 * 1024
STREAM = {"Content-Type": "application/x-vnd.vmware-streamVmdk"}
# VCENTER_DISK_TYPE of OpenNebula -> how the vCenter is to provision; others are thin.
PROVISIONING = {"thick": "thick", "preallocated": "thick", "eagerZeroedThick": "eagerZeroedThick"}
MACHINE_ID = Path("/etc/machine-id")


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
class Note:
    """What the annotation of a machine says of the import that it is for."""

    front_end: str
    workspace: str
    datastore: str
    path: str

    def text(self) -> str:
        """The annotation."""
        return "\n".join(("For an import of oneconvert", self.front_end, self.workspace, self.datastore, self.path))

    @classmethod
    def read(cls, annotation: str) -> Note | None:
        """None for a machine that is for something else."""
        lines = annotation.split("\n")
        note = cls(*lines[1:]) if len(lines) == 5 else None
        return note if note and note.text() == annotation else None

    @property
    def is_left(self) -> bool:
        """Whether the import was one of this front-end, and is gone."""
        if self.front_end != _front_end() or not self.workspace.startswith("/"):
            return False
        try:
            os.lstat(self.workspace)
        except FileNotFoundError:
            return True
        except OSError:
            pass
        return False


def import_disk(datastore: Datastore, disk: Disk) -> None:
    """Bring ``disk`` to its place. Raises VCenterError, also when something is there already.

    After any error nothing of it is left.
    """
    datastore.check_absent(disk.path)
    place = find_place(datastore)
    _remove_leftovers(datastore, place)
    directory = disk.path.rpartition("/")[0]
    datastore.make_directory(directory)
    moved = False
    try:
        with _imported(datastore, place, disk) as machine:
            _move_disk_of(machine, datastore, disk)
            moved = True
        _verify(datastore, disk)
    except BaseException:
        if moved:
            remove_disk(datastore, disk.path)
        else:
            _remove_directory(datastore, directory)
        raise


def remove_disk(datastore: Datastore, path: str) -> None:
    """Remove a disk, if it is there, and its directory, if that is empty then. Errors go to the log."""
    try:
        datastore.delete_disk(path, missing_ok=True)
    except VCenterError as error:
        LOG.error("%s may be left: %s", datastore.path(path), error.sentence)
    _remove_directory(datastore, path.rpartition("/")[0])


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

    managed = connection.call(partial(place.pool.ImportVApp, spec.importSpec, place.folder, place.host))
    machine = None
    try:
        with held(connection, managed, lambda: sent / size) as lease:
            machine = lease.machine()
            (target,) = lease.disks()
            with (
                interruptible(),
                connection.files.open(
                    "POST", target.url, body=content(), length=size, headers=STREAM, thumbprint=target.thumbprint
                ),
            ):
                pass
        yield machine
    except BaseException:
        if machine is not None:
            try:
                _destroy(connection, machine)
            except VCenterError as error:
                LOG.error("the virtual machine of the import may be left: %s", error.sentence)
        raise
    # If it stayed, the next import would take it, and the disk, for those of one that was killed.
    _destroy(connection, machine)


def _import_spec(datastore: Datastore, place: Place, disk: Disk, size: int) -> Any:
    connection = datastore.connection
    name = MACHINE_PREFIX + disk.workspace.name.partition(".")[2]
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
    note = Note(_front_end(), str(disk.workspace), datastore.reference, disk.path)
    spec.importSpec.configSpec.annotation = note.text()
    return spec


def _move_disk_of(machine: Any, datastore: Datastore, disk: Disk) -> None:
    connection = datastore.connection
    devices = connection.properties(machine, "config.hardware.device")["config.hardware.device"]
    device: Any
    (device,) = [each for each in devices if isinstance(each, vim.vm.device.VirtualDisk)]
    source = device.backing.fileName.partition("] ")[2]
    edit = vim.vm.device.VirtualDeviceSpec(operation="remove", device=device)
    try:
        connection.run(partial(machine.ReconfigVM_Task, vim.vm.ConfigSpec(deviceChange=[edit])))
        datastore.move_disk(source, disk.path)
    except VCenterError as error:
        # The machine may not have it any more.
        remove_disk(datastore, source)
        if not error.fault:  # nobody knows what became of the move
            remove_disk(datastore, disk.path)
        raise


def _verify(datastore: Datastore, disk: Disk) -> None:
    found = datastore.look_up(disk.path)
    size = found.capacity or 0 if found else 0
    if size < disk.capacity:
        raise VCenterError(
            f"{datastore.connection.server.name}: {datastore.path(disk.path)} is a disk of {size} bytes instead of "
            f"{disk.capacity}"
        )
    if size > disk.capacity:
        LOG.warning("%s is a disk of %d bytes, which its storage made of %d", disk.path, size, disk.capacity)


def _destroy(connection: Connection, machine: Any) -> None:
    try:
        connection.run(machine.Destroy_Task)
    except VCenterError as error:
        if error.fault != "ManagedObjectNotFound":
            raise


def _remove_directory(datastore: Datastore, directory: str) -> None:
    try:
        datastore.delete_directory_if_empty(directory)
    except VCenterError as error:
        LOG.error("%s may be left: %s", datastore.path(directory), error.sentence)


def _remove_leftovers(datastore: Datastore, place: Place) -> None:
    """Remove what imports of this front-end into this datastore left that were killed: machines and their disks.

    An import whose machine is there has not told oned of its disk.
    """
    names = ("name", "config.annotation")
    for each in children(datastore.connection, place.folder, "childEntity", vim.VirtualMachine, *names):
        name, note = each.properties.get("name", ""), Note.read(each.properties.get("config.annotation", ""))
        if not name.startswith(MACHINE_PREFIX) or not note or note.datastore != datastore.reference or not note.is_left:
            continue
        LOG.warning("removing the virtual machine %s, which an import that was killed left", name)
        try:
            _destroy(datastore.connection, each.managed)
        except VCenterError as error:
            LOG.error("it stays: %s", error.sentence)
        else:
            remove_disk(datastore, note.path)


def _front_end() -> str:
    """What tells this host from others, also from those of the same name."""
    try:
        return MACHINE_ID.read_text().strip() or platform.node()
    except OSError:
        return platform.node()
