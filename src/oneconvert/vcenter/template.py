"""An empty template in a vCenter: a virtual machine without disks that is only there to be cloned."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Callable

from pyVmomi import vim

from oneconvert.errors import VCenterError
from oneconvert.vcenter.connection import Connection
from oneconvert.vcenter.datastore import Datastore
from oneconvert.vcenter.inventory import children, escaped_name, plain_name
from oneconvert.vcenter.placement import CONTROLLERS, find_folder

LONGEST_NAME = 80
"""Characters of the name of a virtual machine."""
CONTROLLER_KEY = 1000

PROPERTIES = ("name", "config.annotation", "config.template", "config.instanceUuid", "config.guestId",
              "config.firmware", "config.hardware.device")  # fmt: skip


@dataclass(frozen=True)
class TemplateSpec:
    """A template to make. ``memory`` is in MiB; ``guest`` is an id of vSphere, ``firmware`` bios or efi, ``controller``
    one of ``CONTROLLERS``; ``pool`` and ``host`` are references, ``folder`` is a path in the datacenter's folder of
    virtual machines.
    """

    name: str
    annotation: str
    guest: str
    firmware: str
    controller: str
    cpus: int
    memory: int
    pool: str
    host: str
    folder: str


@dataclass(frozen=True)
class Machine:
    """A virtual machine that there is, or a template. ``controller`` is empty where it has none of ``CONTROLLERS``."""

    reference: str
    annotation: str
    is_template: bool
    has_disks: bool
    guest: str
    firmware: str
    controller: str


def find_by_reference(connection: Connection, reference: str) -> Machine | None:
    """The machine with a reference, ``vm-12``; None where there is none. Raises VCenterError."""
    managed = connection.object(vim.VirtualMachine, reference)
    try:
        return _machine(managed, connection.properties(managed, *PROPERTIES))
    except VCenterError as error:
        if error.fault != "ManagedObjectNotFound":
            raise
    return None


def find_by_name(datastore: Datastore, folder: str, name: str) -> Machine | None:
    """The machine of a name in a folder of the datacenter; None where there is none. Raises VCenterError."""
    managed, missing = find_folder(datastore, folder)
    if missing:
        return None
    for each in children(datastore.connection, managed, "childEntity", vim.VirtualMachine, *PROPERTIES):
        # vSphere takes names for the same that differ in upper and lower case.
        if plain_name(each.properties.get("name", "")).casefold() == name.casefold():
            return _machine(each.managed, each.properties)
    return None


def mark_as_template(connection: Connection, reference: str) -> None:
    """Make a template of a machine. Raises VCenterError."""
    managed = connection.object(vim.VirtualMachine, reference)
    connection.call(lambda: managed.MarkAsTemplate())


class NewTemplate:
    """The making of a template: ``start``, then ``finish``; or ``undo``, after whatever went wrong in between.

    ``start`` takes as long as a few calls, and should not be interrupted: what a call has begun may then be unknown.
    """

    def __init__(self, datastore: Datastore, spec: TemplateSpec) -> None:
        self._datastore = datastore
        self._connection = datastore.connection
        self._spec = spec
        # By it the machine is found when the answer of the vCenter is lost.
        self._instance_uuid = str(uuid.uuid4())
        self._made_folders: list[Any] = []
        self._folder: Any = None
        self._task: Any = None

    def start(self) -> None:
        """Make the folders that are missing, and have the vCenter begin. Raises VCenterError."""
        self._folder, missing = find_folder(self._datastore, self._spec.folder)
        for name in missing:
            self._folder = self._connection.call(self._creation_of(name))
            self._made_folders.append(self._folder)
        pool = self._connection.object(vim.ResourcePool, self._spec.pool)
        # Clusters without DRS do not choose a host.
        host = self._connection.object(vim.HostSystem, self._spec.host)
        self._task = self._connection.call(lambda: self._folder.CreateVM_Task(self._config(), pool, host))

    def finish(self) -> str:
        """Wait for the machine, mark it as a template, and return its reference. Raises VCenterError."""
        machine = self._connection.wait(self._task)
        mark_as_template(self._connection, machine._moId)
        return str(machine._moId)

    def undo(self) -> bool:
        """Remove what was made; whether there was anything. Raises VCenterError."""
        removed = False
        if self._folder is not None:
            names = ("config.instanceUuid",)
            for each in children(self._connection, self._folder, "childEntity", vim.VirtualMachine, *names):
                if each.properties.get("config.instanceUuid", "").lower() == self._instance_uuid:
                    self._destroy(each.managed)
                    removed = True
        for folder in reversed(self._made_folders):
            # Destroying a folder destroys all that is in it.
            if not self._connection.properties(folder, "childEntity").get("childEntity"):
                self._destroy(folder)
                removed = True
        return removed

    def _creation_of(self, name: str) -> Callable[[], Any]:
        folder = self._folder
        return lambda: folder.CreateFolder(name)

    def _destroy(self, managed: Any) -> None:
        self._connection.run(managed.Destroy_Task)

    def _config(self) -> Any:
        spec = self._spec
        controller = CONTROLLERS[spec.controller](key=CONTROLLER_KEY, busNumber=0, sharedBus="noSharing")
        return vim.vm.ConfigSpec(
            name=escaped_name(spec.name),
            annotation=spec.annotation,
            instanceUuid=self._instance_uuid,
            guestId=spec.guest,
            firmware=spec.firmware,
            numCPUs=spec.cpus,
            memoryMB=spec.memory,
            files=vim.vm.FileInfo(vmPathName=f"[{self._datastore.name}]"),
            deviceChange=[vim.vm.device.VirtualDeviceSpec(operation="add", device=controller)],
        )


def _machine(managed: Any, properties: dict[str, Any]) -> Machine:
    kinds = {kind: name for name, kind in CONTROLLERS.items()}
    devices = properties.get("config.hardware.device", ())
    return Machine(
        reference=managed._moId,
        annotation=properties.get("config.annotation", ""),
        is_template=bool(properties.get("config.template")),
        has_disks=any(isinstance(each, vim.vm.device.VirtualDisk) for each in devices),
        guest=properties.get("config.guestId", ""),
        firmware=properties.get("config.firmware", ""),
        controller=next((kinds[type(each)] for each in devices if type(each) in kinds), ""),
    )
