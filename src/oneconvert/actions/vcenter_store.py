"""The ways of a finished image into the datastore of a vCenter: an import of our own, or the native driver's upload."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from oneconvert.errors import OneconvertError, SettingsError, VCenterError
from oneconvert.images.format import ImageFormat
from oneconvert.images.vmdk_descriptor import flat_descriptor, stream_descriptor
from oneconvert.images.vmdk_writer import write_stream_optimized
from oneconvert.jobs.signals import interruptible
from oneconvert.opennebula.handover import FinishedImage, HandOver, Stored
from oneconvert.opennebula.request import Request, VCenterPlace
from oneconvert.opennebula.vcenter_access import access_to
from oneconvert.settings import Settings
from oneconvert.vcenter.connection import connected
from oneconvert.vcenter.datastore import Datastore
from oneconvert.vcenter.server import VCenterServer
from oneconvert.vcenter.upload import Disk, import_disk, remove_disk

LOG = logging.getLogger(__name__)

UNIT = 1024
"""Bytes: disks of vSphere have whole KiB."""
MIB = 1024 * 1024
# What the native driver looks for in the words of file(1), which repeat the path.
MISLEADING = ("ISO", "VMware")


@contextmanager
def opened_datastore(place: VCenterPlace, settings: Settings) -> Iterator[Datastore]:
    """The datastore of a vCenter, with a login for as long as the context lasts.

    Raises VCenterError when it cannot be reached, OnedError or SettingsError when nobody knows how to log in.
    """
    access = access_to(place, settings.vcenter_credentials)
    server = VCenterServer(
        access.host,
        access.user,
        access.password,
        access.port,
        settings.vcenter_ca_file,
        settings.vcenter_thumbprint,
        settings.idle_timeout,
    )
    with connected(server) as connection:
        yield Datastore(connection, place.datastore_ref)


def check_datastore(place: VCenterPlace, settings: Settings) -> None:
    """Find out, before an image is fetched, that there is a datastore for it. Raises as ``opened_datastore`` does, and
    SettingsError for a kind of adapter that no disk has.
    """
    stream_descriptor("disk.vmdk", UNIT, place.adapter_type)
    with opened_datastore(place, settings) as datastore:
        if not datastore.space().accessible:
            raise VCenterError(f"{datastore.connection.server.name}: no host reaches datastore {datastore.name}")


class VCenterImport:
    """An import. As a context manager it removes what was stored when the block fails."""

    def __init__(self, request: Request, place: VCenterPlace, settings: Settings, workspace: Path) -> None:
        self._request = request
        self._place = place
        self._settings = settings
        self._workspace = workspace
        self._path = ""
        """What was stored, and is ours."""

    def __enter__(self) -> VCenterImport:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not self._path:
            return
        try:
            with opened_datastore(self._place, self._settings) as datastore:
                self._remove(datastore)
        except OneconvertError as error:
            LOG.error("%s may be left: %s", self._path, error.sentence)

    def store(self, image: FinishedImage) -> Stored:
        """Make a streamOptimized VMDK of the raw disk, and import it.

        Raises VCenterError, and TransferError where there is no space for the VMDK.
        """
        path = self._place.path_of(self._request.image.id)
        with interruptible():
            disk = self._streamed(image, path)
        with opened_datastore(self._place, self._settings) as datastore:
            thin = disk.disk_type == "thin"
            _check_space(datastore, image.path.stat().st_blocks * 512 if thin else disk.capacity)
            import_disk(datastore, disk)
            self._path = path
        return Stored(path.replace(" ", "%20"), ImageFormat.VMDK)

    def settle(self) -> None:
        """The image belongs to oned now: nothing can go wrong any more."""

    def _streamed(self, image: FinishedImage, path: str) -> Disk:
        place, target = self._place, self._workspace / "disk.vmdk"
        capacity = _whole(image)
        length = write_stream_optimized(image.path, target, capacity, place.adapter_type)
        LOG.info("a streamOptimized VMDK of %d bytes for a disk of %d", length, capacity)
        return Disk(target, capacity, place.disk_type, place.adapter_type, path, self._workspace)

    def _remove(self, datastore: Datastore) -> None:
        remove_disk(datastore, self._path)


class FileUpload(VCenterImport):
    """An upload of a file as it is: of a CD-ROM image."""

    def store(self, image: FinishedImage) -> Stored:
        """Upload it. Raises VCenterError."""
        path = str(PurePosixPath(self._place.path_of(self._request.image.id)).with_suffix(".iso"))
        directory = path.rpartition("/")[0]
        length = image.path.stat().st_size
        with opened_datastore(self._place, self._settings) as datastore:
            _check_space(datastore, length)
            datastore.make_directory(directory)
            try:
                with image.path.open("rb", buffering=0) as file:
                    datastore.put(path, iter(lambda: file.read(MIB), b""), length)
            except BaseException:
                with suppress(VCenterError):
                    datastore.delete_directory_if_empty(directory)
                raise
            self._path = path
        # Native drivers call it that, too.
        return Stored(path.replace(" ", "%20"), ImageFormat.VMDK)

    def _remove(self, datastore: Datastore) -> None:
        datastore.delete_file(self._path, missing_ok=True)
        datastore.delete_directory_if_empty(self._path.rpartition("/")[0])


def _check_space(datastore: Datastore, needed: int) -> None:
    free = datastore.space().free
    if needed > free:
        raise VCenterError(
            f"{datastore.connection.server.name}: datastore {datastore.name} is full: the image takes "
            f"{-(-needed // MIB)} MiB, and {free // MIB} MiB are free",
            "NoDiskSpace",
        )


class FlatUpload:
    """The native driver's upload, of the only VMDK that it passes on as it is: a descriptor and a flat extent.

    What its uploader does with the extent, and whether it does, it does not tell; so that is looked at.
    """

    def __init__(
        self, hand_over: HandOver, request: Request, place: VCenterPlace, settings: Settings, workspace: Path
    ) -> None:
        """Raises SettingsError for a workspace in whose name the native driver finds something else."""
        self._hand_over = hand_over
        self._place = place
        self._settings = settings
        self._path = place.path_of(request.image.id)
        self._directory = workspace / "flat"
        self._begun = False
        if any(word in str(workspace) for word in MISLEADING):
            raise SettingsError(
                f"the native vcenter driver takes everything in {workspace} for something else; set scratch_dir in "
                "oneconvert.conf"
            )

    def __enter__(self) -> FlatUpload:
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        self._hand_over.__exit__(kind, *others)
        if kind is None or not self._begun:
            return
        try:
            with opened_datastore(self._place, self._settings) as datastore:
                for path in (self._path, self._extent):
                    datastore.delete_file(path, missing_ok=True)
                datastore.delete_directory_if_empty(self._path.rpartition("/")[0])
        except OneconvertError as error:
            LOG.error("%s may be left: %s", self._path, error.sentence)

    @property
    def _extent(self) -> str:
        return self._path.replace(".vmdk", "-flat.vmdk")

    def store(self, image: FinishedImage) -> Stored:
        """Write a descriptor for the raw disk, and have both uploaded.

        Raises HandOverError with what the native driver said, VCenterError when it did not store all of the disk.
        """
        capacity = _whole(image)
        self._directory.mkdir()
        descriptor = self._directory / PurePosixPath(self._path).name
        extent = image.path.rename(self._directory / PurePosixPath(self._extent).name)
        descriptor.write_text(flat_descriptor(extent.name, capacity, self._place.adapter_type), encoding="utf-8")
        with opened_datastore(self._place, self._settings) as datastore:
            _check_space(datastore, capacity)
            datastore.check_absent(self._path)
        self._begun = True
        stored = self._hand_over.store(FinishedImage(descriptor, ImageFormat.VMDK, image.virtual_size))
        with opened_datastore(self._place, self._settings) as datastore:
            found = datastore.size(self._extent)
            if found != capacity:
                raise VCenterError(
                    f"{datastore.connection.server.name}: of {datastore.path(self._path)} the native driver stored "
                    f"{found or 0} of {capacity} bytes"
                )
        return stored

    def settle(self) -> None:
        """The image belongs to oned now."""
        self._hand_over.settle()


def _whole(image: FinishedImage) -> int:
    """Bytes of the disk in whole KiB; the raw file is made as large."""
    capacity = -(-image.virtual_size // UNIT) * UNIT
    os.truncate(image.path, capacity)
    return capacity
