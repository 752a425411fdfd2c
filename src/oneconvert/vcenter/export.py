"""A disk of a virtual machine, or of a template, by a lease: as a streamOptimized VMDK, whatever it is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable

from pyVmomi import vim

from oneconvert.errors import VCenterError
from oneconvert.vcenter.connection import Connection
from oneconvert.vcenter.inventory import children, plain_name
from oneconvert.vcenter.lease import Lease, LeasedDisk, held

REFERENCE = re.compile(r"vm-[0-9]+")


@dataclass(frozen=True)
class ExportedDisk:
    """A disk that can be fetched at ``url`` while its lease is held."""

    lease: Lease
    disk: LeasedDisk

    def verify(self, size: int) -> None:
        """Hold the ``size`` bytes that were fetched against what the vCenter says that it sent. Raises VCenterError."""
        sent = self.lease.sent(self.disk)
        if sent is not None and sent != size:
            raise VCenterError(f"{self.lease.server_name}: {size} bytes of the disk arrived, and {sent} were sent")


@contextmanager
def exported(
    connection: Connection, datacenter: Any, machine: str, number: str, progress: Callable[[], float]
) -> Iterator[ExportedDisk]:
    """Disk ``number``, from 1, of a virtual machine: its reference (``vm-42``) or its name, within a datacenter.

    An empty number is for the only disk there is. Raises VCenterError; a machine that runs has no disks to be exported.
    """
    found = _find(connection, datacenter, machine)
    server = connection.server.name
    state = connection.properties(found, "runtime.powerState").get("runtime.powerState")
    if state != vim.VirtualMachine.PowerState.poweredOff:
        raise VCenterError(f"{server}: {machine} is not powered off; shut it down, or clone it, to export its disk")
    with held(connection, connection.call(lambda: found.ExportVm()), progress) as lease:
        disks = lease.disks()
        yield ExportedDisk(lease, disks[_index(server, machine, number, len(disks))])


def capacity(connection: Connection, datacenter: Any, machine: str, number: str) -> int:
    """Bytes of a disk of a virtual machine, without a number of the largest one; see ``exported``."""
    found = _find(connection, datacenter, machine)
    devices = connection.properties(found, "config.hardware.device").get("config.hardware.device", ())
    disks: list[Any] = [each for each in devices if isinstance(each, vim.vm.device.VirtualDisk)]
    sizes = [int(each.capacityInBytes or each.capacityInKB * 1024) for each in disks]
    # oned does not tell which disk will be wanted, only where the machine is.
    return sizes[_index(connection.server.name, machine, number, len(sizes))] if number or not sizes else max(sizes)


def _index(server: str, machine: str, number: str, count: int) -> int:
    if not number and count == 1:
        return 0
    if not (number.isascii() and number.isdecimal() and len(number) < 4 and 1 <= int(number) <= count):
        raise VCenterError(
            f"{server}: {machine} has {count} disks; choose one by its number, with param_disk in the location or with "
            "the image's attribute ONECONVERT_DISK"
        )
    return int(number) - 1


def _find(connection: Connection, datacenter: Any, machine: str) -> Any:
    if REFERENCE.fullmatch(machine):
        return connection.object(vim.VirtualMachine, machine)
    manager = connection.content.viewManager
    view = connection.call(lambda: manager.CreateContainerView(datacenter, [vim.VirtualMachine], True))
    try:
        machines = children(connection, view, "view", vim.VirtualMachine, "name")
    finally:
        connection.call(lambda: view.DestroyView())
    same = [each.managed for each in machines if plain_name(each.properties.get("name", "")) == machine]
    if len(same) != 1:
        raise VCenterError(
            f"{connection.server.name}: {len(same)} virtual machines are called {machine}; name it by its "
            "reference, as in vm-42"
        )
    return same[0]
