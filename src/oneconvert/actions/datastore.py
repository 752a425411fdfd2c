"""The life of an image, from oned's message to its place in the datastore: the datastore action ``cp``.

The others are the native driver's own, and their executables do not come here; for vCenter see ``actions.vcenter``.
"""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from oneconvert.actions.cached import cache_entry, take_cached
from oneconvert.actions.landing import Arrival, Head, NotWhileArrivingError, Wanted
from oneconvert.actions.opening import Opened, unpacked
from oneconvert.actions.overlap import Conversion, Reception, convert_arrived, convert_behind
from oneconvert.actions.plan import Import, PassThrough, Register, plan
from oneconvert.actions.sizes import check_free_space, check_virtual_size
from oneconvert.errors import HandOverError, ImageRefusedError, SourceChangedError
from oneconvert.images import ovf
from oneconvert.images.format import ImageFormat, converts
from oneconvert.images.safety import confirm_result, confirm_source
from oneconvert.jobs.cache import Original
from oneconvert.jobs.relay import Relay
from oneconvert.jobs.signals import ignore_signals, interruptible
from oneconvert.jobs.workspace import workspace, workspace_base
from oneconvert.opennebula.api import image_was_deleted
from oneconvert.opennebula.document import Document
from oneconvert.opennebula.handover import FinishedImage, HandOver
from oneconvert.opennebula.invocation import Invocation
from oneconvert.opennebula.native import become, is_alone
from oneconvert.opennebula.request import Request, read_request, read_vcenter
from oneconvert.opennebula.results import write_info, write_result
from oneconvert.settings import Settings, opennebula_directories
from oneconvert.transfer.addresses import AddressRules
from oneconvert.transfer.checksums import verified
from oneconvert.transfer.directories import DirectoryRules
from oneconvert.transfer.options import HttpOptions
from oneconvert.transfer.sources import Source, SourceOptions, open_source
from oneconvert.transfer.spool import Spool

if TYPE_CHECKING:
    from oneconvert.actions.vcenter_store import FlatUpload, VCenterImport

LOG = logging.getLogger(__name__)


def cp(invocation: Invocation, document: Document, settings: Settings) -> None:
    """Store an image: fetch, verify, inspect, convert, check, hand over; or leave it to the native driver.

    Writes the one line that oned reads. Raises OneconvertError, and then nothing of the image is left anywhere.
    """
    request = read_request(document)
    decision = plan(request, invocation.native, settings, alone=is_alone(invocation))
    if isinstance(decision, PassThrough):
        LOG.info("left to the native driver: %s", decision.reason)
        become(_with_path(invocation, document, request, decision))
    if isinstance(decision, Register):
        from oneconvert.actions.vcenter_source import check_registered

        check_registered(decision.source, request, read_vcenter(document), settings)
        write_result(decision.source, ImageFormat.VMDK)
        return
    started = time.monotonic()
    base = workspace_base(settings.scratch_dir, request.datastore.base_path, _holds_datastore(request))
    with workspace(base, str(request.image.id)) as directory:
        way_in = _way_in(invocation, document, request, decision, settings, directory)
        original, finished = _taken_or_brought(request, decision, settings, directory)
        with way_in:
            stored = way_in.store(finished)
            with interruptible():
                deleted = image_was_deleted(request.image.id)
            if deleted:
                raise HandOverError(f"image {request.image.id} was deleted while it was imported")
            summary = (
                f"image {request.image.id}: {original.format} {original.name} stored as {stored.format} in "
                f"datastore {request.datastore.id}, {finished.virtual_size} bytes, {time.monotonic() - started:.1f} s"
            )
            # The point of no return: our exit status, too, must tell oned what this line tells it.
            ignore_signals()
            write_result(stored.source, stored.format)
            way_in.settle()
    LOG.info(summary)
    write_info(summary)


def _way_in(
    invocation: Invocation, document: Document, request: Request, decision: Import, settings: Settings, directory: Path
) -> HandOver | VCenterImport | FlatUpload:
    """How the image will be stored; that there is a place for it is found out before anything is fetched."""
    hand_over = HandOver(invocation, document, request, directory, sits=not decision.vcenter)
    if not decision.vcenter:
        return hand_over
    # Only here: the library for vCenter takes a while to load.
    from oneconvert.actions import vcenter_store

    place = read_vcenter(document)
    vcenter_store.check_datastore(place, settings)
    if decision.vcenter == "native":
        return vcenter_store.FlatUpload(hand_over, request, place, settings, directory)
    if decision.vcenter == "file":
        return vcenter_store.FileUpload(request, place, settings, directory)
    return vcenter_store.VCenterImport(request, place, settings, directory)


def _taken_or_brought(
    request: Request, decision: Import, settings: Settings, directory: Path
) -> tuple[Original, FinishedImage]:
    """The image for the datastore, and what it was: from the cache, or else from its source."""
    if decision.vcenter == "file":
        with interruptible():
            return _fetch_file(request, decision, settings, directory)
    kept = cache_entry(request, decision, settings)
    if kept and decision.target:
        result = _made(directory / "kept") / "result"
        taken = take_cached(kept, request, decision.target, settings, result)
        if taken:
            return taken, FinishedImage(result, decision.target, taken.virtual_size)
    with interruptible():
        arrival, finished = _bring_in(request, decision, settings, directory)
    original = Original(arrival.name, arrival.found.format.value, finished.virtual_size)
    if kept and finished.format is not arrival.found.format:
        kept.store(finished.path, original)
    return original, finished


def _bring_in(request: Request, decision: Import, settings: Settings, directory: Path) -> tuple[Arrival, FinishedImage]:
    """Fetch the image, and convert it while it arrives where that can be done: else again, one after the other."""
    try:
        arrival, conversion = _fetch(request, decision, settings, _made(directory / "arriving"), overlap=True)
        return arrival, _finish(arrival, conversion, decision.target)
    except (NotWhileArrivingError, SourceChangedError) as error:
        LOG.warning("%s: it is fetched again, and converted when it is there", error)
        shutil.rmtree(directory / "arriving")
    arrival, conversion = _fetch(request, decision, settings, _made(directory / "again"), overlap=False)
    return arrival, _finish(arrival, conversion, decision.target)


def _fetch(
    request: Request, decision: Import, settings: Settings, directory: Path, overlap: bool
) -> tuple[Arrival, Conversion | None]:
    """Bring the image into the workspace, looking at every byte on its way: its checksum, then what it is.

    With ``overlap`` qemu-img follows, where it can: then its result is given, too.
    """
    conversion = None
    with (
        open_source(decision.location, _source_options(request, settings)) as source,
        Relay(source.stop) as relay,
    ):
        LOG.info("fetching %s, %s bytes", source.name, source.length or "an unknown number of")
        check_free_space(source.length, source.name, directory)
        chunks = relay.ahead("download", source)
        chunks = relay.ahead("verify", verified(chunks, request.image.checksums, source.name))
        wanted = Wanted(
            request.image.disk,
            request.datastore.decompress,
            settings.max_virtual_size,
            converts=lambda found: overlap and converts(found.format, decision.target),
            algorithms=ovf.USUAL_ALGORITHMS if overlap else ovf.ALGORITHMS,
        )
        reception = Reception(relay, chunks, source.name, source.length, wanted, directory)
        head = reception.head()
        if head and decision.target and _may_follow(head, request, settings):
            conversion = convert_behind(head, directory / "result", decision.target, source.parts())
        arrival = reception.finish()
    if head is None or arrival.found.virtual_size != head.found.virtual_size:
        check_virtual_size(arrival.found.virtual_size, arrival.name, request.image, settings)
    for note in arrival.found.notes:
        LOG.warning("%s: %s", arrival.name, note)
    LOG.info("%s is %s, %d bytes as a disk", arrival.name, arrival.found.format, arrival.found.virtual_size)
    return arrival, conversion


def _fetch_file(
    request: Request, decision: Import, settings: Settings, directory: Path
) -> tuple[Original, FinishedImage]:
    """Bring a CD-ROM image into the workspace: verified and decompressed, and else as it is."""
    with open_source(decision.location, _source_options(request, settings)) as source, Relay(source.stop) as relay:
        LOG.info("fetching %s, %s bytes", source.name, source.length or "an unknown number of")
        check_free_space(source.length, source.name, directory)
        chunks = relay.ahead("verify", verified(source, request.image.checksums, source.name))
        if request.datastore.decompress:
            chunks = unpacked(Opened(b"", chunks, source.length, 0), source.name, settings.max_virtual_size).chunks
        with Spool(directory / "file", source.name) as spool:
            for chunk in chunks:
                spool.write(chunk)
            spool.finish()
    check_virtual_size(spool.length, source.name, request.image, settings)
    original = Original(source.name, ImageFormat.RAW.value, spool.length)
    return original, FinishedImage(spool.path, ImageFormat.RAW, spool.length)


def _may_follow(head: Head, request: Request, settings: Settings) -> bool:
    """Whether the image is not too large; raises ImageRefusedError when it surely is, and the one that is wanted."""
    try:
        check_virtual_size(head.found.virtual_size, head.name, request.image, settings)
    except ImageRefusedError:
        if head.certain and not head.estimated:
            raise
        return False
    return True


def _finish(arrival: Arrival, conversion: Conversion | None, target: ImageFormat | None) -> FinishedImage:
    """The file for the datastore: what arrived itself, where its format is right already."""
    found = arrival.found
    if not arrival.passed:
        confirm_source(arrival.path, found, arrival.name, arrival.extents)
    if not converts(found.format, target) and not arrival.extents:
        return FinishedImage(arrival.path, found.format, found.virtual_size)
    result, result_format = arrival.path.parent / "result", target or found.format
    if conversion is None or not conversion.made(arrival):
        result.unlink(missing_ok=True)
        convert_arrived(arrival, result, result_format)
    confirm_result(result, result_format, found.virtual_size, arrival.name)
    for path in (arrival.path, *arrival.extents):
        path.unlink()
    return FinishedImage(result, result_format, found.virtual_size)


def _source_options(request: Request, settings: Settings) -> SourceOptions:
    var, etc, _ = opennebula_directories()
    network = HttpOptions(
        connect_timeout=settings.connect_timeout,
        idle_timeout=settings.idle_timeout,
        transfer_timeout=settings.transfer_timeout,
        bandwidth=request.datastore.bandwidth,
        min_rate=settings.min_rate,
        rules=AddressRules.of(settings.private_addresses, settings.allowed_hosts),
        verify=settings.tls_verify,
        ca_file=settings.tls_ca_file,
        downgrade=bool(request.image.checksums),
    )

    def open_vcenter_disk(location: str) -> AbstractContextManager[Source]:
        from oneconvert.actions.vcenter_source import open_disk

        return open_disk(location, request, settings, network)

    return SourceOptions(
        network=network,
        s3=request.s3,
        directories=DirectoryRules.of(
            request.datastore.safe_dirs, (var, etc, Path.home(), *request.datastore.restricted_dirs)
        ),
        vcenter=open_vcenter_disk,
    )


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _holds_datastore(request: Request) -> bool:
    """Whether the datastore's directory is a place of this host: not with a bridge, not before an NFS automount."""
    datastore = request.datastore
    return not datastore.has_bridge and (not datastore.automounts_nfs or Path(datastore.base_path).is_mount())


def _with_path(invocation: Invocation, document: Document, request: Request, decision: PassThrough) -> Invocation:
    if decision.path == request.image.path:
        return invocation
    document.set("IMAGE/PATH", decision.path)
    return invocation.with_payload(document.encode())
