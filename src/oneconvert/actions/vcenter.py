"""The actions of a datastore driver for vCenter, where OpenNebula has none of its own (from 7.0 on).

What they print, and where disks are, is as the native drivers of the releases before had it: ``SOURCE`` is a path in
the datastore of the vCenter.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from urllib.parse import unquote

from lxml import etree

from oneconvert.actions.vcenter_store import opened_datastore
from oneconvert.errors import MessageError, NotAllowedError, VCenterError
from oneconvert.opennebula.document import Document
from oneconvert.opennebula.invocation import Invocation
from oneconvert.opennebula.request import VCenterPlace, read_vcenter
from oneconvert.opennebula.results import write_lines
from oneconvert.opennebula.vcenter_access import place_of_image
from oneconvert.settings import Settings
from oneconvert.vcenter.datastore import Datastore
from oneconvert.vcenter.upload import remove_disk

LOG = logging.getLogger(__name__)

MIB = 1024 * 1024
CDROM = ".iso"
# Of an image that is to be saved into later: its disk comes from a virtual machine.
SAVE_AS = "save_as"


def rm(invocation: Invocation, document: Document, settings: Settings) -> None:
    """Delete a disk, and its directory if that is empty then; what is gone already is no error.

    A disk that was there before OpenNebula was, which only became an image, stays.
    """
    path = PurePosixPath(unquote(_required(document, "IMAGE/SOURCE")))
    image_id = _number(document, "IMAGE/ID")
    made_here = (path.parent.name, path.stem) == (str(image_id), f"one-{image_id}")
    if document.text("IMAGE/TEMPLATE/VCENTER_IMPORTED") or not made_here:
        LOG.info("%s stays: it was there before it became image %d", path, image_id)
        return
    with opened_datastore(read_vcenter(document), settings) as datastore:
        if path.suffix == CDROM:
            datastore.delete_file(str(path), missing_ok=True)
        else:
            datastore.delete_disk(str(path), missing_ok=True)
        datastore.delete_directory_if_empty(str(path.parent))


def mkfs(invocation: Invocation, document: Document, settings: Settings) -> None:
    """Make an empty disk, and print its SOURCE."""
    place, path = _new_disk(document)
    if document.text("IMAGE/FORMAT") == SAVE_AS:
        write_lines(_source(path))
        return
    size = _number(document, "IMAGE/SIZE") * MIB
    with opened_datastore(place, settings) as datastore, _removed_after_failure(datastore, path):
        datastore.create_disk(path, size, place.disk_type, place.adapter_type)
    write_lines(_source(path))


def clone(invocation: Invocation, document: Document, settings: Settings) -> None:
    """Copy a disk within a vCenter, and print the SOURCE and the format of the copy."""
    place, path = _new_disk(document)
    original = unquote(_required(document, "IMAGE/PATH"))
    other = place_of_image(_number(document, "IMAGE/CLONING_ID"))
    if other.instance_id != place.instance_id:
        raise NotAllowedError(f"image {document.text('IMAGE/ID')} cannot be copied to another vCenter")
    with opened_datastore(place, settings) as datastore:
        source = Datastore(datastore.connection, other.datastore_ref)
        if original.endswith(CDROM):
            path = str(PurePosixPath(path).with_suffix(CDROM))
            with _removed_after_failure(datastore, path):
                source.copy_file(original, path, datastore)
        else:
            with _removed_after_failure(datastore, path):
                source.copy_disk(original, path, datastore)
    write_lines(f"{_source(path)} vmdk")


def monitor(invocation: Invocation, document: Document, settings: Settings) -> None:
    """Print how much is used, free, and there, in MiB."""
    with opened_datastore(read_vcenter(document), settings) as datastore:
        space = datastore.space()
    total, free = space.capacity // MIB, space.free // MIB
    write_lines(f"USED_MB={total - free}", f"FREE_MB={free}", f"TOTAL_MB={total}")


def export(invocation: Invocation, document: Document, settings: Settings) -> None:
    """Print where a marketplace can fetch the disk."""
    source = _required(document, "IMAGE/SOURCE")
    info = etree.Element("IMPORT_INFO")
    for name, text in (
        ("IMPORT_SOURCE", f"vcenter://{source}?param_dsid={_required(document, 'DATASTORE/ID')}"),
        ("MD5", document.text("IMAGE/TEMPLATE/MD5", "-")),
        ("SIZE", document.text("IMAGE/SIZE")),
        ("FORMAT", "VMDK"),
        ("DISPOSE", "NO"),
    ):
        etree.SubElement(info, name).text = etree.CDATA(text)
    write_lines(etree.tostring(info, encoding="unicode"))


def no_snapshots(invocation: Invocation, document: Document, settings: Settings) -> None:
    """Raises NotAllowedError: disks of vCenter datastores have none."""
    raise NotAllowedError(f"image {document.text('IMAGE/ID')} is in a vCenter, where images have no snapshots")


def _new_disk(document: Document) -> tuple[VCenterPlace, str]:
    """Where the disk of a new image goes."""
    place = read_vcenter(document)
    return place, place.path_of(_number(document, "IMAGE/ID"))


@contextmanager
def _removed_after_failure(datastore: Datastore, path: str) -> Iterator[None]:
    """A new file, in a directory that is made. Raises VCenterError when there is one of that name; after other errors
    there is none.
    """
    datastore.check_absent(path)
    datastore.make_directory(path.rpartition("/")[0])
    try:
        yield
    except BaseException as error:
        # Somebody else's, made meanwhile, stays.
        if not isinstance(error, VCenterError) or error.fault != "FileAlreadyExists":
            remove_disk(datastore, path)
        raise


def _source(path: str) -> str:
    """The path as a SOURCE: oned takes a blank for its end."""
    return path.replace(" ", "%20")


def _required(document: Document, path: str) -> str:
    text = document.text(path)
    if not text:
        raise MessageError(f"the document from oned has no {path}")
    return text


def _number(document: Document, path: str) -> int:
    text = _required(document, path)
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise MessageError(f"{path} in the document from oned is not a number")
    return int(text)
