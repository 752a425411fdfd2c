"""What a ``cp`` document asks for, as typed values: nothing below this module knows about XML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from oneconvert.errors import MessageError
from oneconvert.opennebula.document import Document
from oneconvert.transfer.checksums import Checksum
from oneconvert.transfer.options import S3Credentials

# include/Image.h (ImageType) and include/Datastore.h (DatastoreType) of OpenNebula.
IMAGE_TYPES = {
    0: "OS",
    1: "CDROM",
    2: "DATABLOCK",
    3: "KERNEL",
    4: "RAMDISK",
    5: "CONTEXT",
    6: "BACKUP",
    7: "FILESYSTEM",
}
DATASTORE_TYPES = {0: "IMAGE_DS", 1: "SYSTEM_DS", 2: "FILE_DS", 3: "BACKUP_DS"}

# Their monitors make the MD5 up from options and a date: it is the checksum of no file.
MARKETS_WITHOUT_CHECKSUM = frozenset({"linuxcontainers", "turnkeylinux", "dockerhub", "docker_registry"})

# What an image, and what its app, may say about its content. Native drivers read the first two only.
IMAGE_CHECKSUMS = ("MD5", "SHA1", "SHA256", "SHA512")
APP_CHECKSUM = "FROM_APP_MD5"
# Of vCenter datastores without VCENTER_DS_IMAGE_DIR.
IMAGE_DIRECTORY = "one"
# What OpenNebula ships in its vcenter_driver.default.
DISK_TYPE, ADAPTER_TYPE = "thin", "lsiLogic"
OF_THE_IMAGE = frozenset({"VCENTER_DISK_TYPE", "VCENTER_ADAPTER_TYPE"})
LONGEST_TEXT = 8192
"""Characters of a path, a URL or a name: signed URLs have up to 4 KiB, paths 4095 bytes."""


@dataclass(frozen=True)
class Image:
    """The image to store, for a user of the group ``gid``. ``size_mib`` is what the quota was charged; ``url_args``
    exists up to 6.8; ``disk`` is the number or name of one of several disks.
    """

    id: int
    gid: int
    type: str
    path: str
    url_args: str
    size_mib: int
    disk: str
    checksums: tuple[Checksum, ...]


@dataclass(frozen=True)
class Datastore:
    """The datastore it goes to. Directories are as written by the admin; the limit is bytes per second or None."""

    id: int
    type: str
    base_path: str
    driver: str
    convert: bool
    decompress: bool
    safe_dirs: tuple[str, ...]
    restricted_dirs: tuple[str, ...]
    bandwidth: int | None
    has_bridge: bool
    automounts_nfs: bool


@dataclass(frozen=True)
class VCenterPlace:
    """A datastore of a vCenter, as OpenNebula's importer describes it.

    ``host`` may be empty, as up to 5.12: then the host with the same ``instance_id`` has it. ``datastore_ref`` is the
    managed object id (``datastore-12``), ``image_dir`` the directory for images in it, without slashes around it.
    ``disk_type`` and ``adapter_type`` are in vSphere's words.
    """

    datastore_id: int
    host: str
    instance_id: str
    datastore_ref: str
    image_dir: str
    disk_type: str
    adapter_type: str

    def path_of(self, image_id: int) -> str:
        """Where the disk of an image is, in the datastore."""
        return f"{self.image_dir}/{image_id}/one-{image_id}.vmdk"


@dataclass(frozen=True)
class Request:
    """One image for one datastore. ``s3`` has the keys of the marketplace that it comes from, if that has any."""

    image: Image
    datastore: Datastore
    s3: S3Credentials | None


def read_request(document: Document) -> Request:
    """Raises MessageError naming the first value that cannot be used."""
    return Request(_image(document), _datastore(document), _s3(document))


def read_vcenter(document: Document) -> VCenterPlace:
    """The vCenter behind the datastore of a document. Raises MessageError when there is none.

    The image, whose attributes are its user's, may choose how its disk is made, and nothing else.
    """

    def attribute(name: str) -> str:
        chosen = document.text(f"IMAGE/TEMPLATE/{name}") if name in OF_THE_IMAGE else ""
        return chosen or document.text(f"DATASTORE/TEMPLATE/{name}")

    return vcenter_place(_integer(document, "DATASTORE/ID"), attribute)


def vcenter_place(datastore_id: int, attribute: Callable[[str], str]) -> VCenterPlace:
    """The same from the attributes of a datastore. Raises MessageError."""
    if not attribute("VCENTER_DS_REF") or not attribute("VCENTER_INSTANCE_ID"):
        raise MessageError(
            f"datastore {datastore_id} has no VCENTER_DS_REF or no VCENTER_INSTANCE_ID, so it is no datastore of a "
            "vCenter; set them as OpenNebula's importer does"
        )
    return VCenterPlace(
        datastore_id,
        host=attribute("VCENTER_HOST"),
        instance_id=attribute("VCENTER_INSTANCE_ID"),
        datastore_ref=attribute("VCENTER_DS_REF"),
        image_dir=attribute("VCENTER_DS_IMAGE_DIR").strip("/") or IMAGE_DIRECTORY,
        disk_type=attribute("VCENTER_DISK_TYPE") or DISK_TYPE,
        adapter_type=attribute("VCENTER_ADAPTER_TYPE") or ADAPTER_TYPE,
    )


def _image(document: Document) -> Image:
    return Image(
        id=_integer(document, "IMAGE/ID"),
        gid=_integer(document, "IMAGE/GID"),
        type=IMAGE_TYPES.get(_integer(document, "IMAGE/TYPE", 0), "UNKNOWN"),
        path=_short(document, "IMAGE/PATH"),
        url_args=_short(document, "IMAGE/TEMPLATE/URL_ARGS"),
        disk=_short(document, "IMAGE/TEMPLATE/ONECONVERT_DISK"),
        size_mib=_integer(document, "IMAGE/SIZE", 0),
        checksums=_checksums(document),
    )


def _checksums(document: Document) -> tuple[Checksum, ...]:
    names = list(IMAGE_CHECKSUMS)
    if document.text("MARKETPLACE/MARKET_MAD") not in MARKETS_WITHOUT_CHECKSUM:
        names.append(APP_CHECKSUM)
    texts = {name: document.text(f"IMAGE/TEMPLATE/{name}") for name in names}
    # Drivers that have no checksum to tell say '-' (datastore/vcenter/export).
    return tuple(Checksum.parse(name, text) for name, text in texts.items() if text not in ("", "-"))


def _datastore(document: Document) -> Datastore:
    def attribute(name: str) -> str:
        return document.text(f"DATASTORE/TEMPLATE/{name}")

    return Datastore(
        id=_integer(document, "DATASTORE/ID"),
        type=DATASTORE_TYPES.get(_integer(document, "DATASTORE/TYPE", 0), "UNKNOWN"),
        base_path=document.text("DATASTORE/BASE_PATH"),
        driver=attribute("DRIVER").lower(),
        convert=attribute("CONVERT").lower() != "no",
        decompress=attribute("NO_DECOMPRESS").lower() != "yes",
        safe_dirs=tuple(attribute("SAFE_DIRS").split()),
        restricted_dirs=tuple(attribute("RESTRICTED_DIRS").split()),
        bandwidth=_bandwidth(attribute("LIMIT_TRANSFER_BW")),
        has_bridge=bool(attribute("BRIDGE_LIST")),
        automounts_nfs=attribute("NFS_AUTO_ENABLE").lower() == "yes",
    )


def _s3(document: Document) -> S3Credentials | None:
    def attribute(name: str) -> str:
        return document.text(f"MARKETPLACE/TEMPLATE/{name}")

    if not attribute("ACCESS_KEY_ID") or not attribute("SECRET_ACCESS_KEY"):
        return None
    return S3Credentials(
        access_key_id=attribute("ACCESS_KEY_ID"),
        secret_access_key=attribute("SECRET_ACCESS_KEY"),
        region=attribute("REGION"),
        endpoint=attribute("ENDPOINT"),
        aws=attribute("AWS"),
        force_path_style=attribute("FORCE_PATH_STYLE"),
        signature_version=attribute("SIGNATURE_VERSION"),
    )


def _integer(document: Document, path: str, default: int | None = None) -> int:
    text = document.text(path)
    if not text and default is not None:
        return default
    # isdecimal() alone would let through digits of other scripts, and int() blanks and underscores.
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise MessageError(f"{path} in the document from oned is not a number")
    return int(text)


def _short(document: Document, path: str) -> str:
    """A text that goes into messages, and to programs that have limits of their own."""
    text = document.text(path)
    if len(text) > LONGEST_TEXT:
        raise MessageError(
            f"{path} in the document from oned has {len(text)} characters, and {LONGEST_TEXT} are allowed"
        )
    return text


def _bandwidth(text: str) -> int | None:
    """Bytes per second from curl's ``--limit-rate`` syntax, which LIMIT_TRANSFER_BW has: ``500k``, ``10M``, ``1G``."""
    if not text:
        return None
    digits, factor = text, 1
    if text[-1].lower() in "kmgtp":
        digits, factor = text[:-1], 1024 ** (" kmgtp".index(text[-1].lower()))
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 16) or not int(digits):
        raise MessageError("LIMIT_TRANSFER_BW of the datastore is not a rate such as 500k or 10M")
    return int(digits) * factor
