"""The descriptors of the VMDKs that are written: the text that says of what a disk consists.

Source: VMware, "Virtual Disk Format 5.0", section "The Descriptor File"; for the geometry and for what vSphere needs
of the disk data base, the descriptors that open-vmdk and ESXi write.
"""

from __future__ import annotations

import re
import secrets
from types import MappingProxyType

from oneconvert.errors import SettingsError
from oneconvert.images.vmdk_header import SECTOR

ADAPTERS: MappingProxyType[str, str] = MappingProxyType(
    {
        "ide": "ide",
        "buslogic": "buslogic",
        "lsilogic": "lsilogic",
        # There is no word for the later ones; vSphere writes that of the first for them.
        "lsisas1068": "lsilogic",
        "paravirtual": "lsilogic",
        "pvscsi": "lsilogic",
    }
)
"""Controller, in lower case, and how a descriptor calls it."""
SECTORS_OF_TRACK = 63
IDE_HEADS, MOST_IDE_CYLINDERS = 16, 16383
SCSI_HEADS, MOST_SCSI_CYLINDERS = 255, 65535

# OpenNebula's vCenter driver takes the fourth word of an extent's line for the file, and the quotes off it.
_FILE_NAME = re.compile(r'[^\s"/\\\x00-\x1f]+')


def stream_descriptor(file_name: str, capacity: int, adapter_type: str = "lsilogic") -> str:
    """That of a streamOptimized disk in a file of this name, to be embedded in it; ``capacity`` in bytes.

    Raises SettingsError for an adapter that no VMDK has.
    """
    return _descriptor("streamOptimized", "RDONLY", "SPARSE", file_name, capacity, adapter_type)


def flat_descriptor(extent_name: str, capacity: int, adapter_type: str = "lsilogic") -> str:
    """That of a disk whose content is the raw file ``extent_name``, in the same directory; ``capacity`` in bytes.

    It is that of a disk on VMFS, which ESXi runs as it is; one of the kind monolithicFlat would have to be imported.
    A last sector that is not whole has to be filled up in the file. Raises SettingsError for an adapter that no VMDK
    has.
    """
    return _descriptor("vmfs", "RW", "VMFS", extent_name, capacity, adapter_type)


def _descriptor(create_type: str, access: str, kind: str, file_name: str, capacity: int, adapter_type: str) -> str:
    adapter = ADAPTERS.get(adapter_type.lower())
    if adapter is None:
        raise SettingsError(
            f"there is no adapter {adapter_type!r} of a VMDK; it is one of {', '.join(sorted(ADAPTERS))}"
        )
    if not _FILE_NAME.fullmatch(file_name):
        raise ValueError(f"not a name for an extent: {file_name!r}")
    sectors = -(-capacity // SECTOR)
    heads, most = (IDE_HEADS, MOST_IDE_CYLINDERS) if adapter == "ide" else (SCSI_HEADS, MOST_SCSI_CYLINDERS)
    cylinders = min(max(1, sectors // (heads * SECTORS_OF_TRACK)), most)
    # Two disks with the same ID are the same content to VMware; all ones are no disk, the same less one is none yet.
    content_id = secrets.randbelow(0xFFFFFFFE)
    long_content_id = f"{secrets.token_hex(12)}{content_id:08x}"
    return f"""\
# Disk DescriptorFile
version=1
encoding="UTF-8"
CID={content_id:08x}
parentCID=ffffffff
createType="{create_type}"

# Extent description
{access} {sectors} {kind} "{file_name}"

# The Disk Data Base
#DDB

ddb.adapterType = "{adapter}"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "{heads}"
ddb.geometry.sectors = "{SECTORS_OF_TRACK}"
ddb.longContentID = "{long_content_id}"
ddb.virtualHWVersion = "4"
"""
