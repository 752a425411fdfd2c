"""What to do with an image, decided from the request alone, before a byte of it is fetched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from oneconvert.errors import NotAllowedError, SettingsError
from oneconvert.images.format import ImageFormat
from oneconvert.opennebula.native import NOT_OURS, ONLY_FORMAT, REGISTERS_ONLY, VCENTER
from oneconvert.opennebula.request import Request
from oneconvert.settings import Settings
from oneconvert.transfer.sources import OPENERS, scheme_of

# The DRIVER of a datastore -> the format of its images.
TARGETS = {
    "qcow2": ImageFormat.QCOW2,
    "raw": ImageFormat.RAW,
    "vmdk": ImageFormat.VMDK,
    "vcenter": ImageFormat.VMDK,
}
DISKS = frozenset({"OS", "DATABLOCK"})
# What downloader.sh of some release fetches in its own way: containers, backups, volumes of other stores.
NATIVE_SCHEMES = frozenset(
    {
        "docker", "dockerfile", "lxd", "netapp", "onebex", "purefa", "rbd", "restic", "restic+rbd", "rsync",
        "rsync+rbd",
    }
)  # fmt: skip
# Where URL_ARGS has a place to go.
WITH_QUERY = frozenset({"http", "https"})
# Not in the PATH of an image that is passed on: no name of a file or a URL needs them as they are.
ODD = re.compile("['\"`$\\\\;|<>\x00-\x1f\x7f]")


@dataclass(frozen=True)
class PassThrough:
    """The native driver does it all. ``path`` is the PATH to give it, unchanged but for odd characters in a URL."""

    reason: str
    path: str


@dataclass(frozen=True)
class Import:
    """Fetch ``location``, convert to ``target`` unless that is None, hand over.

    For a vCenter ``vcenter`` is the way in. ``import`` and ``native``: there the raw disk becomes a VMDK; ``file``: a
    CD-ROM image stays what it is.
    """

    location: str
    target: ImageFormat | None
    vcenter: str = ""


@dataclass(frozen=True)
class Register:
    """A disk of the vCenter datastore is the image: nothing is copied. ``source`` is its path, escaped as in SOURCE."""

    source: str


def plan(request: Request, native: str, settings: Settings, *, alone: bool = False) -> PassThrough | Import | Register:
    """Decide; ``alone`` says that there is no native driver. Raises NotAllowedError or SettingsError for what can only
    go wrong.
    """
    image, datastore = request.image, request.datastore
    scheme = scheme_of(image.path)
    if len(datastore.base_path.split()) > 1:
        raise SettingsError(f"BASE_PATH of datastore {datastore.id} has a blank, which oned cannot take in a SOURCE")
    if not image.path:
        raise NotAllowedError(f"image {image.id} has no PATH to copy from")
    if alone and native != VCENTER:
        raise NotAllowedError(f"OpenNebula has no driver {native} here; install it, or run install.sh again")
    if alone and _is_there_already(native, image.path):
        return Register(image.path.partition("://")[2].replace(" ", "%20"))
    location = f"{image.path}&{image.url_args}" if scheme in WITH_QUERY and image.url_args else image.path
    if alone and image.type == "CDROM" and scheme in OPENERS:
        return Import(location, None, vcenter="file")
    reason = _why_not_ours(request, native, scheme)
    if reason and alone:
        raise NotAllowedError(
            f"image {image.id} cannot be stored: {reason}, and OpenNebula has no driver {native} here"
        )
    if reason:
        return PassThrough(reason, _plain_path(image.path, image.url_args))
    if scheme not in OPENERS:
        raise NotAllowedError(
            f"image {image.id} cannot be fetched by {scheme}://; use http://, https://, s3://, ssh://, vcenter:// or a "
            "path on the front-end"
        )
    if native in REGISTERS_ONLY:
        if scheme:
            raise NotAllowedError(
                f"datastore {datastore.id} cannot store a download: its driver {native} only registers devices that "
                "are there already; choose another datastore"
            )
        return PassThrough(f"{native} registers devices", _plain_path(image.path, image.url_args))
    if native == VCENTER:
        if alone and settings.vcenter_upload == "native":
            raise SettingsError(
                "vcenter_upload in oneconvert.conf is native, but OpenNebula has no driver vcenter here"
            )
        return Import(location, ImageFormat.RAW, vcenter=settings.vcenter_upload)
    return Import(location, _target(datastore.id, datastore.driver, native, settings))


def _why_not_ours(request: Request, native: str, scheme: str) -> str:
    """Why the native driver does this one alone; empty when we do it."""
    if _is_there_already(native, request.image.path):
        return "the disk is in the datastore already"
    if request.image.type not in DISKS:
        return f"an image of type {request.image.type} is no disk"
    if request.datastore.type != "IMAGE_DS":
        return f"a datastore of type {request.datastore.type} holds no disks"
    if not request.datastore.convert:
        return "the datastore has CONVERT=no"
    if native in NOT_OURS:
        return f"{native} stores no disks that can be converted"
    if scheme in NATIVE_SCHEMES:
        return f"{scheme}:// is the native driver's own"
    return ""


def _is_there_already(native: str, path: str) -> bool:
    """Whether this is a disk of the vCenter datastore itself, as onevcenter imports it; others have a query."""
    return native == VCENTER and scheme_of(path) == VCENTER and "?" not in path


def _target(datastore_id: int, driver: str, native: str, settings: Settings) -> ImageFormat | None:
    if native in ONLY_FORMAT:
        return ONLY_FORMAT[native]
    if not driver:
        return None if settings.unset_driver == "keep" else TARGETS[settings.unset_driver]
    if driver not in TARGETS:
        raise SettingsError(
            f"datastore {datastore_id} has DRIVER={driver}, which cannot be written; use qcow2, raw or vmdk"
        )
    return TARGETS[driver]


def _plain_path(path: str, url_args: str) -> str:
    if ODD.search(url_args):
        raise NotAllowedError("URL_ARGS of the image has characters that are not allowed in a URL")
    if not ODD.search(path):
        return path
    if scheme_of(path) in ("http", "https"):
        return ODD.sub(lambda found: quote(found[0]), path)
    raise NotAllowedError(
        "the path of the image has a quote or another character that is not allowed in one; rename the file"
    )
