"""The inspectors, in the shape of oslo.utils' format_inspector, and which of them may agree on one image.

oslo's inspectors are the base. They are replaced or joined by ours where they are blind (fixed VHD, parents of VMDK,
VHD, VHDX and VDI, encryption, archives) or wrong (extended L2 entries, text descriptors with an odd byte).
"""

from __future__ import annotations

from oneconvert.images.inspectors.base import Inspector, Refusal
from oneconvert.images.inspectors.others import (
    DmgInspector,
    IsoInspector,
    LegacyInspector,
    LuksInspector,
    NeverADiskInspector,
    PartitionTableInspector,
    QedInspector,
)
from oneconvert.images.inspectors.qcow2 import Qcow2Inspector
from oneconvert.images.inspectors.vdi import VdiInspector
from oneconvert.images.inspectors.vhd import VhdDynamicInspector, VhdFixedInspector
from oneconvert.images.inspectors.vhdx import VhdxInspector
from oneconvert.images.inspectors.vmdk import VmdkEsxInspector, VmdkSparseInspector, VmdkTextInspector

INSPECTORS: tuple[type[Inspector], ...] = (
    NeverADiskInspector,
    LegacyInspector,
    Qcow2Inspector,
    VmdkSparseInspector,
    VmdkTextInspector,
    VmdkEsxInspector,
    VhdDynamicInspector,
    VhdFixedInspector,
    VhdxInspector,
    VdiInspector,
    LuksInspector,
    QedInspector,
    DmgInspector,
    IsoInspector,
    PartitionTableInspector,
)

CONTENT: tuple[type[Inspector], ...] = (PartitionTableInspector,)
"""Found in a plain disk as well; alone they make it raw."""

AROUND_CONTENT: tuple[type[Inspector], ...] = (IsoInspector, VhdFixedInspector, DmgInspector)
"""May have a partition table in front: a hybrid ISO has one, and the others may be a plain disk and a footer."""

PLAIN_CONTENT: tuple[type[Inspector], ...] = (
    NeverADiskInspector,
    LuksInspector,
    IsoInspector,
    PartitionTableInspector,
)
"""What a raw disk may hold without being an image of a disk."""

__all__ = [
    "AROUND_CONTENT",
    "CONTENT",
    "INSPECTORS",
    "PLAIN_CONTENT",
    "Inspector",
    "NeverADiskInspector",
    "Refusal",
]
