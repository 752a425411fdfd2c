"""How large an image will be, which oned asks before it takes one that comes from no marketplace."""

from __future__ import annotations

from urllib.parse import unquote

from oneconvert.opennebula.document import Document
from oneconvert.opennebula.invocation import Invocation
from oneconvert.opennebula.native import become, is_alone
from oneconvert.opennebula.results import write_lines
from oneconvert.settings import Settings

MIB = 1024 * 1024
VCENTER = "vcenter://"
ANYWHERE = "fs"
"""The native driver whose ``stat`` does not depend on where an image goes."""


def stat(invocation: Invocation, document: Document, settings: Settings) -> None:
    """Print the size of the disk at IMAGE/PATH in MiB: of one that a vCenter has; all others are the native driver's.

    Raises NotAllowedError, OnedError, SettingsError or VCenterError.
    """
    location = document.text("IMAGE/PATH")
    is_own = "?" not in location  # a disk of the datastore that it is for
    if not location.lower().startswith(VCENTER) or (is_own and not is_alone(invocation)):
        become(invocation, native=ANYWHERE if is_alone(invocation) else "")
    # Only here: oned waits for the others, and these take a while to load.
    from oneconvert.actions.vcenter_source import disk_size, size_in
    from oneconvert.actions.vcenter_store import opened_datastore
    from oneconvert.opennebula.request import read_vcenter

    if is_own:
        with opened_datastore(read_vcenter(document), settings) as datastore:
            size = size_in(datastore, unquote(location[len(VCENTER) :]))
    else:
        size = disk_size(location, settings)
    write_lines(str(-(-size // MIB)))
