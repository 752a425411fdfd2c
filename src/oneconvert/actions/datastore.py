"""The datastore actions: the life of an image from oned's message to its place in the datastore.

Every action but ``cp`` is the native driver's own; the executable that is installed for it does not come here.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from oneconvert.actions.plan import Import, PassThrough, plan
from oneconvert.errors import HandOverError
from oneconvert.images import qemu_img
from oneconvert.images.extents import check_complete
from oneconvert.images.format import ImageFormat
from oneconvert.images.inspect import Inspection, StreamInspector
from oneconvert.images.safety import confirm_result, confirm_source
from oneconvert.jobs.signals import ignore_signals
from oneconvert.jobs.workspace import workspace, workspace_base
from oneconvert.opennebula.api import image_was_deleted
from oneconvert.opennebula.document import Document
from oneconvert.opennebula.handover import FinishedImage, HandOver
from oneconvert.opennebula.invocation import Invocation
from oneconvert.opennebula.native import become
from oneconvert.opennebula.request import Request, read_request
from oneconvert.opennebula.results import write_info, write_result
from oneconvert.settings import Settings, opennebula_directories
from oneconvert.transfer.checksums import verified
from oneconvert.transfer.compression import decompressed
from oneconvert.transfer.directories import DirectoryRules
from oneconvert.transfer.http import HttpOptions
from oneconvert.transfer.sources import SourceOptions, open_source
from oneconvert.transfer.spool import Spool

LOG = logging.getLogger(__name__)


def cp(invocation: Invocation, document: Document, settings: Settings) -> None:
    """Store an image: fetch, verify, inspect, convert, check, hand over; or leave it to the native driver.

    Writes the one line that oned reads. Raises OneconvertError, and then nothing of the image is left anywhere.
    """
    request = read_request(document)
    decision = plan(request, invocation.native, settings)
    if isinstance(decision, PassThrough):
        LOG.info("left to the native driver: %s", decision.reason)
        become(_with_path(invocation, document, request, decision))
    started = time.monotonic()
    base = workspace_base(settings.scratch_dir, request.datastore.base_path, _holds_datastore(request))
    with workspace(base, str(request.image.id)) as directory:
        name, spool, found = _fetch(request, decision, settings, directory)
        check_complete(spool, found, name)
        confirm_source(spool, found, name)
        finished = _convert(spool, found, decision.target, directory, name)
        with HandOver(invocation, document, directory) as hand_over:
            source = hand_over.store(finished)
            if image_was_deleted(request.image.id):
                raise HandOverError(f"image {request.image.id} was deleted while it was imported")
            summary = (
                f"image {request.image.id}: {found.format} {name} stored as {finished.format} in datastore "
                f"{request.datastore.id}, {found.virtual_size} bytes, {time.monotonic() - started:.1f} s"
            )
            # The point of no return: our exit status, too, must tell oned what this line tells it.
            ignore_signals()
            write_result(source, finished.format)
    LOG.info(summary)
    write_info(summary)


def _fetch(request: Request, decision: Import, settings: Settings, directory: Path) -> tuple[str, Path, Inspection]:
    """Bring the image into the workspace, looking at every byte on its way: its checksum, then its format."""
    var, etc, _ = opennebula_directories()
    options = SourceOptions(
        http=HttpOptions(
            connect_timeout=settings.connect_timeout,
            idle_timeout=settings.idle_timeout,
            verify=settings.tls_verify,
            ca_file=settings.tls_ca_file,
            bandwidth=request.datastore.bandwidth,
        ),
        directories=DirectoryRules.of(
            request.datastore.safe_dirs, (var, etc, Path.home(), *request.datastore.restricted_dirs)
        ),
    )
    with open_source(decision.location, options) as source, Spool(directory / "source", source.name) as spool:
        LOG.info("fetching %s, %s bytes", source.name, source.length or "an unknown number of")
        inspector = StreamInspector(source.name)
        chunks = verified(source, request.image.checksums, source.name)
        if request.datastore.decompress:
            chunks = decompressed(chunks, source.name)
        for chunk in chunks:
            inspector.feed(chunk)
            spool.write(chunk)
        spool.finish()
        found = inspector.finish()
        for note in found.notes:
            LOG.warning("%s: %s", source.name, note)
        LOG.info("%s is %s, %d bytes as a disk", source.name, found.format, found.virtual_size)
        return source.name, spool.path, found


def _convert(spool: Path, found: Inspection, target: ImageFormat | None, directory: Path, name: str) -> FinishedImage:
    """Make the file for the datastore: the spooled one itself where its format is right already."""
    # Nobody but the owner of the passphrase can convert an encrypted disk; OpenNebula runs it as it is.
    if target in (None, found.format) or found.format is ImageFormat.LUKS:
        return FinishedImage(spool, found.format, found.virtual_size)
    result = directory / "result"
    qemu_img.convert(spool, found, result, target)
    confirm_result(result, target, found.virtual_size, name)
    spool.unlink()
    return FinishedImage(result, target, found.virtual_size)


def _holds_datastore(request: Request) -> bool:
    """Whether the datastore's directory is a place of this host: not with a bridge, not before an NFS automount."""
    datastore = request.datastore
    return not datastore.has_bridge and (not datastore.automounts_nfs or Path(datastore.base_path).is_mount())


def _with_path(invocation: Invocation, document: Document, request: Request, decision: PassThrough) -> Invocation:
    if decision.path == request.image.path:
        return invocation
    document.set("IMAGE/PATH", decision.path)
    return invocation.with_payload(document.encode())
