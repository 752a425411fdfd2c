"""Results that are kept: which ones, and under which conditions one of them is taken instead of a download."""

from __future__ import annotations

import logging
from dataclasses import astuple
from pathlib import Path

from oneconvert.actions.plan import Import
from oneconvert.actions.sizes import check_free_space, check_virtual_size
from oneconvert.images.format import ImageFormat
from oneconvert.images.safety import confirm_result
from oneconvert.jobs.cache import Entry, Original, key_of, open_entry
from oneconvert.opennebula.native import VCENTER
from oneconvert.opennebula.request import Request
from oneconvert.settings import Settings, opennebula_directories
from oneconvert.transfer.sources import scheme_of

LOG = logging.getLogger(__name__)


def cache_entry(request: Request, decision: Import, settings: Settings) -> Entry | None:
    """Where the result may be kept: that of a download whose content is known by its checksum.

    Its key has all that the result depends on, and the rules that allowed it, for stricter ones must hold for it, too.
    """
    checksums = sorted({(each.algorithm, each.digest) for each in request.image.checksums})
    # Whether somebody may have a disk of a vCenter depends on who it is.
    if not (
        settings.cache_size and decision.target and checksums and scheme_of(decision.location) not in ("", VCENTER)
    ):
        return None
    # Only here: it takes a while to load, and as a rule there is no cache.
    from importlib.metadata import version

    key = key_of(
        version("oneconvert"),
        checksums,
        decision.location,
        request.s3 and astuple(request.s3),
        (request.image.disk, request.datastore.decompress, decision.target),
        (settings.private_addresses, settings.allowed_hosts, settings.tls_verify, str(settings.tls_ca_file)),
    )
    directory = settings.cache_dir or opennebula_directories()[0] / "oneconvert_cache"
    return open_entry(directory, settings.cache_size, key)


def take_cached(
    entry: Entry, request: Request, target: ImageFormat, settings: Settings, result: Path
) -> Original | None:
    """Copy the image to ``result``, under the same conditions as one that comes from elsewhere.

    Returns what it was, None when it is not kept. Raises ImageRefusedError or TransferError.
    """

    def approve(original: Original, length: int) -> None:
        check_virtual_size(original.virtual_size, original.name, request.image, settings)
        check_free_space(length, original.name, result.parent)

    def confirm(original: Original) -> None:
        confirm_result(result, target, original.virtual_size, original.name)

    original = entry.take(result, approve, confirm)
    if original:
        LOG.info("image %d: taken from the cache", request.image.id)
    return original
