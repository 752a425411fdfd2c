"""VDI, the format of VirtualBox."""

from __future__ import annotations

import struct

from oneconvert.images.format import ImageFormat
from oneconvert.images.inspectors.base import Inspector, Refusal
from oneconvert.images.inspectors.library import CaptureRegion, SafetyCheck, VDIInspector

# Little endian (VirtualBox, src/VBox/Storage/VDICore.h, VDIPREHEADER and VDIHEADER1; qemu, block/vdi.c):
#
# Offset  Size  Field
#  0x40    4    signature 0xbeda107f
#  0x44    4    version, 1.1
#  0x4c    4    type: 1 dynamic, 2 fixed, 3 undo, 4 differencing
#  0x168   4    sector size
#  0x170   8    virtual size in bytes
#  0x178   4    block size
#  0x17c   4    extra bytes in front of every block
#  0x1a8  16    linkage UUID, that of the parent
#  0x1b8  16    UUID of the parent's modification
HEADER_SIZE = 512
SIGNATURE = struct.pack("<I", 0xBEDA107F)
VERSION_1_1 = 0x00010001
KINDS = {3: "an undo", 4: "a differencing"}
LARGEST_SIZE = 0x3FFFFFFF << 20
"""Bytes; qemu's limit."""


class VdiInspector(Inspector, VDIInspector):
    """VDI; differs from oslo's, which has no checks, by refusing what needs a second file."""

    LABEL = "a VDI image"
    FORMAT = ImageFormat.VDI

    def _initialize(self) -> None:
        self.new_region("header", CaptureRegion(0, HEADER_SIZE))
        self.add_safety_check(SafetyCheck("parent", self.check_parent))
        self.add_safety_check(SafetyCheck("geometry", self.check_geometry))

    @property
    def format_match(self) -> bool:
        """True for the signature."""
        return self.data("header")[0x40:0x44] == SIGNATURE

    @property
    def virtual_size(self) -> int:
        """Bytes, rounded up to whole sectors as qemu does."""
        size = int.from_bytes(self.data("header")[0x170:0x178], "little")
        return -(-size // 512) * 512

    def check_parent(self) -> None:
        """qemu converts a differencing image without its parent only when the UUIDs are missing."""
        header = self.data("header")
        kind = self._number(0x4C)
        if kind in KINDS or any(header[0x1A8:0x1C8]):
            raise Refusal(
                f"is {KINDS.get(kind, 'a differencing')} VDI, which holds only what changed since its parent; "
                "clone the disk in VirtualBox before publishing it"
            )
        if kind not in (1, 2):
            raise Refusal(f"is a VDI of image type {kind}, and only dynamic and fixed ones are known")

    def check_geometry(self) -> None:
        """What qemu can read, and nothing that it would read wrongly."""
        version = self._number(0x44)
        if version != VERSION_1_1:
            raise Refusal(f"is a VDI of version {version >> 16}.{version & 0xFFFF}, and only 1.1 is known")
        if self._number(0x168) != 512 or self._number(0x178) != 1 << 20 or self._number(0x17C):
            raise Refusal("is a VDI with blocks of an unusual size; clone the disk in VirtualBox first")
        if not 0 < self.virtual_size <= LARGEST_SIZE:
            raise Refusal(f"is damaged: its VDI header claims a size of {self.virtual_size} bytes")

    def _number(self, offset: int) -> int:
        return int.from_bytes(self.data("header")[offset : offset + 4], "little")
