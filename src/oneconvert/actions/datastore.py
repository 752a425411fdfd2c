"""The datastore actions: the life of an image from oned's message to its place in the datastore.

Every action but ``cp`` is the native driver's own; the executable that is installed for it does not come here.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from oneconvert.actions.arrival import Arrival, receive
from oneconvert.actions.plan import Import, PassThrough, plan
from oneconvert.actions.sizes import check_free_space, check_virtual_size
from oneconvert.errors import HandOverError
from oneconvert.images import qemu_img
from oneconvert.images.format import ImageFormat
from oneconvert.images.safety import confirm_result, confirm_source
from oneconvert.jobs.signals import ignore_signals, interruptible
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
from oneconvert.transfer.directories import DirectoryRules
from oneconvert.transfer.http import HttpOptions
from oneconvert.transfer.sources import SourceOptions, open_source
from oneconvert.transfer.ssh import SshOptions

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
        with interruptible():
            arrival = _fetch(request, decision, settings, directory)
            confirm_source(arrival.path, arrival.found, arrival.name, arrival.extents)
            finished = _convert(arrival, decision.target, directory)
        with HandOver(invocation, document, request, directory) as hand_over:
            source = hand_over.store(finished)
            with interruptible():
                deleted = image_was_deleted(request.image.id)
            if deleted:
                raise HandOverError(f"image {request.image.id} was deleted while it was imported")
            summary = (
                f"image {request.image.id}: {arrival.found.format} {arrival.name} stored as {finished.format} in "
                f"datastore {request.datastore.id}, {finished.virtual_size} bytes, {time.monotonic() - started:.1f} s"
            )
            # The point of no return: our exit status, too, must tell oned what this line tells it.
            ignore_signals()
            write_result(source, finished.format)
            hand_over.settle()
    LOG.info(summary)
    write_info(summary)


def _fetch(request: Request, decision: Import, settings: Settings, directory: Path) -> Arrival:
    """Bring the image into the workspace, looking at every byte on its way: its checksum, then what it is."""
    var, etc, _ = opennebula_directories()
    options = SourceOptions(
        http=HttpOptions(
            connect_timeout=settings.connect_timeout,
            idle_timeout=settings.idle_timeout,
            verify=settings.tls_verify,
            ca_file=settings.tls_ca_file,
            bandwidth=request.datastore.bandwidth,
            min_rate=settings.min_rate,
        ),
        ssh=SshOptions(settings.connect_timeout, settings.idle_timeout, request.datastore.bandwidth),
        s3=request.s3,
        directories=DirectoryRules.of(
            request.datastore.safe_dirs, (var, etc, Path.home(), *request.datastore.restricted_dirs)
        ),
    )
    with open_source(decision.location, options) as source:
        LOG.info("fetching %s, %s bytes", source.name, source.length or "an unknown number of")
        check_free_space(source.length, source.name, directory)
        chunks = verified(source, request.image.checksums, source.name)
        arrival = receive(
            chunks,
            source.name,
            request.image.disk,
            directory,
            unpack=request.datastore.decompress,
            most=settings.max_virtual_size,
        )
        check_virtual_size(arrival.found.virtual_size, arrival.name, request.image, settings)
        for note in arrival.found.notes:
            LOG.warning("%s: %s", arrival.name, note)
        LOG.info("%s is %s, %d bytes as a disk", arrival.name, arrival.found.format, arrival.found.virtual_size)
        return arrival


def _convert(arrival: Arrival, target: ImageFormat | None, directory: Path) -> FinishedImage:
    """Make the file for the datastore: what arrived itself, where its format is right already."""
    found = arrival.found
    # Nobody but the owner of the passphrase can convert an encrypted disk; OpenNebula runs it as it is.
    unchanged = target in (None, found.format) or found.format is ImageFormat.LUKS
    if unchanged and not arrival.extents:
        return FinishedImage(arrival.path, found.format, found.virtual_size)
    result, result_format = directory / "result", target or found.format
    qemu_img.convert(arrival.path, found, result, result_format, arrival.name)
    confirm_result(result, result_format, found.virtual_size, arrival.name)
    for path in (arrival.path, *arrival.extents):
        path.unlink()
    return FinishedImage(result, result_format, found.virtual_size)


def _holds_datastore(request: Request) -> bool:
    """Whether the datastore's directory is a place of this host: not with a bridge, not before an NFS automount."""
    datastore = request.datastore
    return not datastore.has_bridge and (not datastore.automounts_nfs or Path(datastore.base_path).is_mount())


def _with_path(invocation: Invocation, document: Document, request: Request, decision: PassThrough) -> Invocation:
    if decision.path == request.image.path:
        return invocation
    document.set("IMAGE/PATH", decision.path)
    return invocation.with_payload(document.encode())
