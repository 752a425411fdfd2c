"""Images out of a vCenter: ``vcenter://``.

    vcenter://one/7/one-7.vmdk?param_dsid=100       a disk in a datastore; 100 is the number that OpenNebula gave it
    vcenter://?param_dsid=100&param_vm=web&param_disk=2
                                                    a disk of a virtual machine, in the datacenter of that datastore

The first is how OpenNebula's own drivers write it. A machine is named or given by its reference (vm-42), its disk by
its number, which may be left out where there is one only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import parse_qs, unquote

from oneconvert.actions.vcenter_store import opened_datastore
from oneconvert.errors import ImageRefusedError, NotAllowedError, TransferError, VCenterError
from oneconvert.images.vmdk_set import LARGEST, VmdkSet, is_descriptor, read_set
from oneconvert.opennebula.request import Request, VCenterPlace
from oneconvert.opennebula.vcenter_access import place_of_datastore
from oneconvert.settings import Settings
from oneconvert.transfer.addresses import AddressRules
from oneconvert.transfer.http import Download, open_url
from oneconvert.transfer.options import HttpOptions
from oneconvert.transfer.sources import Source
from oneconvert.vcenter.datastore import Datastore
from oneconvert.vcenter.export import ExportedDisk, capacity, exported
from oneconvert.vcenter.http import FileAddress

ADMINS = 0
"""The number of the group oneadmin."""
SILENCE = 600.0  # seconds


@dataclass(frozen=True)
class Location:
    """A disk: ``path`` in a datastore, or number ``disk`` of the virtual machine ``machine``."""

    datastore_id: int
    path: str
    machine: str
    disk: str

    @classmethod
    def parse(cls, location: str) -> Location:
        """Raises NotAllowedError for what names no disk."""
        path, _, query = location.partition("://")[2].partition("?")
        given = {name: values[-1] for name, values in parse_qs(query).items()}
        number, machine = given.get("param_dsid", ""), given.get("param_vm", "")
        if not (number.isascii() and number.isdecimal() and len(number) < 10) or bool(path) == bool(machine):
            raise NotAllowedError(
                "the vcenter:// location of the image is not understood; write vcenter://PATH?param_dsid=NUMBER or "
                "vcenter://?param_dsid=NUMBER&param_vm=NAME"
            )
        return cls(int(number), unquote(path), machine, given.get("param_disk", ""))


class MachineDisk:
    """A disk of a virtual machine that is being exported; see transfer.sources.Source."""

    def __init__(self, name: str, exported_disk: ExportedDisk, download: Download) -> None:
        self.name = name
        self.length = download.length
        self._exported = exported_disk
        self._download = download

    def __iter__(self) -> Iterator[bytes]:
        received = 0
        for chunk in self._download:
            received += len(chunk)
            yield chunk
        # Without a length from the host, this is how an end that came too early is found.
        self._exported.verify(received)

    def parts(self) -> None:
        """Nothing out of turn: the host makes the VMDK while it sends it."""

    def stop(self) -> None:
        """Make another thread that waits for bytes give up."""
        self._download.stop()


@contextmanager
def open_disk(location: str, request: Request, settings: Settings, network: HttpOptions) -> Iterator[Source]:
    """Open the disk at ``location``: as raw content where the vCenter has it so, else as a VMDK.

    Raises NotAllowedError, VCenterError, ImageRefusedError for a disk that is only a part of one.
    """
    check_allowed(request, settings)
    wanted = Location.parse(location)
    with opened_datastore(place_of_datastore(wanted.datastore_id), settings) as datastore:
        if wanted.machine:
            opened = _of_machine(datastore, wanted, wanted.disk or request.image.disk, network)
        else:
            opened = _of_datastore(datastore, wanted.path, network)
        with opened as source:
            yield source


def check_allowed(request: Request, settings: Settings) -> None:
    """Raise NotAllowedError for users who must not have the disks of a vCenter."""
    if settings.vcenter_sources == "admins" and request.image.gid != ADMINS:
        raise NotAllowedError(
            f"image {request.image.id}: only the group oneadmin may take disks of a vCenter, for every disk of it "
            "could be taken so; vcenter_sources = all in oneconvert.conf allows it to everybody"
        )


def check_registered(source: str, request: Request, place: VCenterPlace, settings: Settings) -> None:
    """Raise NotAllowedError or VCenterError unless the user may have the disk ``source`` of a datastore, which is
    there.
    """
    check_allowed(request, settings)
    with opened_datastore(place, settings) as datastore:
        size_in(datastore, unquote(source))


def disk_size(location: str, settings: Settings) -> int:
    """Bytes of the disk at ``location``. Raises NotAllowedError, OnedError or VCenterError."""
    wanted = Location.parse(location)
    with opened_datastore(place_of_datastore(wanted.datastore_id), settings) as datastore:
        if wanted.machine:
            return capacity(datastore.connection, datastore.datacenter, wanted.machine, wanted.disk)
        return size_in(datastore, wanted.path)


def size_in(datastore: Datastore, path: str) -> int:
    """Bytes of a disk, or of a file that is none, in a datastore. Raises VCenterError."""
    found = datastore.look_up(path)
    if found is None:
        raise VCenterError(f"{datastore.connection.server.name}: there is no {datastore.path(path)}", "FileNotFound")
    return found.capacity or found.size


@contextmanager
def _of_machine(datastore: Datastore, wanted: Location, number: str, network: HttpOptions) -> Iterator[Source]:
    connection = datastore.connection
    # How much there will be nobody knows; so its signs of life say nothing of that.
    with exported(connection, datastore.datacenter, wanted.machine, number, lambda: 0.0) as disk:
        address = connection.files.address(disk.disk.url, disk.disk.thumbprint)
        # The host says nothing while it reads zeros.
        network = replace(_at(address, network), idle_timeout=max(network.idle_timeout, SILENCE), min_rate=0)
        with open_url(address.url, network, f"vcenter://{wanted.machine}") as download:
            yield MachineDisk(download.name, disk, download)


@contextmanager
def _of_datastore(datastore: Datastore, path: str, network: HttpOptions) -> Iterator[Source]:
    server, name = datastore.connection.server.name, datastore.path(path)
    size = datastore.size(path)
    if size is None:
        raise VCenterError(f"{server}: there is no {name}", "FileNotFound")
    descriptor = _descriptor(datastore, path, size, name)
    if descriptor:
        (extent,) = descriptor.extents
        path = str(PurePosixPath(path).with_name(extent.file_name))
        size = descriptor.virtual_size
    address = datastore.address(path)
    network = _at(address, network)
    with datastore.connection.kept_alive(), open_url(address.url, network, f"vcenter://{name}") as download:
        if download.length != size:
            raise TransferError(f"{server}: {name} has {download.length} bytes instead of {size}")
        yield download


def _descriptor(datastore: Datastore, path: str, size: int, name: str) -> VmdkSet | None:
    """The descriptor at ``path``, of one extent that is all of the disk; None where the file is the disk itself."""
    if size > LARGEST:
        return None
    with datastore.get(path) as answer:
        text = b"".join(answer.chunks())
    if not is_descriptor(text):
        return None
    found = read_set(text, name)
    if len(found.extents) != 1 or found.extents[0].kind == "SPARSE" or found.extents[0].offset:
        raise ImageRefusedError(
            f"{name} is a disk in {len(found.extents)} sparse or split extents; name its virtual machine instead "
            "(param_vm), which exports it as one"
        )
    return found


def _at(address: FileAddress, network: HttpOptions) -> HttpOptions:
    """The vCenter itself says where it is, and its administrator is OpenNebula's: no rules for strangers, no proxy."""
    return replace(
        network,
        rules=AddressRules(private=True),
        fingerprint=address.fingerprint,
        cookie=address.cookie,
        direct=True,
        downgrade=False,
    )
