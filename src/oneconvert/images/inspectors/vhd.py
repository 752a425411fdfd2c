"""VHD, which qemu calls vpc: dynamic images with a copy of the footer in front, fixed ones with the footer only."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from oneconvert.images.format import ImageFormat
from oneconvert.images.inspectors.base import EndCheck, Inspector, Refusal, TailRegion
from oneconvert.images.inspectors.library import (
    CaptureRegion,
    FileInspector,
    SafetyCheck,
    VHDInspector,
)

# The footer, big endian (Microsoft, "Virtual Hard Disk Image Format Specification", "Hard Disk Footer Format"):
#
# Offset  Size  Field
#  0x00    8    cookie "conectix"
#  0x10    8    offset of the dynamic disk header
#  0x1c    4    creator application
#  0x28    8    original size in bytes
#  0x30    8    current size in bytes
#  0x38    4    geometry: cylinders (2), heads (1), sectors per track (1)
#  0x3c    4    disk type: 2 fixed, 3 dynamic, 4 differencing
#  0x40    4    checksum: complement of the sum of all other bytes
FOOTER_SIZE = 512
COOKIE = b"conectix"
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4

SECTOR = 512
LARGEST_GEOMETRY = 65535 * 16 * 255
LARGEST_SECTORS = 0xFF000000
"""2040 GiB, the limit of the format and of qemu."""

GEOMETRY_COUNTS = (b"vpc ", b"qemu")
SIZE_COUNTS = (b"win ", b"qem2", b"d2v ", b"CTXS")


@dataclass(frozen=True)
class Footer:
    """What a footer says; sizes in bytes."""

    creator: bytes
    current_size: int
    geometry_size: int
    disk_type: int
    checksum_valid: bool

    @classmethod
    def parse(cls, data: bytes) -> Footer:
        """Read a footer of 512 bytes; raises struct.error for fewer."""
        creator, current, cylinders, heads, sectors, kind, checksum = struct.unpack_from(">4s16xQHBBII", data, 0x1C)
        total = sum(data[:0x40]) + sum(data[0x44:FOOTER_SIZE])
        return cls(
            creator=creator,
            current_size=current,
            geometry_size=cylinders * heads * sectors * SECTOR,
            disk_type=kind,
            checksum_valid=checksum == ~total & 0xFFFFFFFF,
        )

    @property
    def virtual_size(self) -> int:
        """Bytes qemu reads (vpc_open() in its block/vpc.c).

        Virtual PC and qemu itself mean the geometry, unless it is the largest one; everybody else means the current
        size. Before qemu 10.0 only a list of creators was believed to, hence ``disputed``.
        """
        if self.creator in GEOMETRY_COUNTS and self.geometry_size != LARGEST_GEOMETRY * SECTOR:
            return self.geometry_size
        return self.current_size // SECTOR * SECTOR

    @property
    def disputed(self) -> bool:
        """True when a qemu before 10.0 takes the geometry for the size, and the two differ."""
        known = (
            self.creator in GEOMETRY_COUNTS + SIZE_COUNTS
            or self.creator.startswith(b"tap")
            or self.geometry_size == LARGEST_GEOMETRY * SECTOR
        )
        return not known and self.geometry_size != self.virtual_size

    @property
    def options(self) -> tuple[str, ...]:
        """What makes every version of qemu believe the current size (vpc_runtime_opts in its block/vpc.c)."""
        return ("force_size_calc=current_size",) if self.disputed else ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Where the two sizes in a VHD differ."""
        if self.virtual_size != self.current_size:
            return (f"its geometry of {self.geometry_size} bytes counts, not its size of {self.current_size} bytes",)
        return ()

    def check(self) -> None:
        """Raise Refusal for a footer that cannot be believed, or asks for a second file."""
        if not self.checksum_valid:
            raise Refusal("is damaged: the checksum of its VHD footer is wrong")
        if self.disk_type == DIFFERENCING:
            raise Refusal(
                "is a differencing VHD, which holds only what changed since its parent; "
                "merge it with its parent before publishing it"
            )
        if self.disk_type not in (FIXED, DYNAMIC):
            raise Refusal(f"is a VHD of disk type {self.disk_type}, and only fixed and dynamic ones are known")
        if not 0 < self.virtual_size <= LARGEST_SECTORS * SECTOR:
            raise Refusal(f"is damaged: its VHD footer claims a size of {self.virtual_size} bytes")


class VhdDynamicInspector(Inspector, VHDInspector):
    """A VHD that begins with a copy of its footer."""

    LABEL = "a dynamic VHD"
    FORMAT = ImageFormat.VHD

    def _initialize(self) -> None:
        self.new_region("header", CaptureRegion(0, FOOTER_SIZE))
        self.new_region("footer", TailRegion(FOOTER_SIZE))
        self.add_safety_check(SafetyCheck("footer_copy", self.check_footer_copy))
        self.add_safety_check(EndCheck("footer", self.check_footer))

    @property
    def format_match(self) -> bool:
        """True for the cookie."""
        return self.data("header").startswith(COOKIE)

    @property
    def virtual_size(self) -> int:
        """Bytes, by qemu's rule."""
        return Footer.parse(self.data("header")).virtual_size

    @property
    def options(self) -> tuple[str, ...]:
        """How qemu is told the size."""
        return Footer.parse(self.data("header")).options

    @property
    def notes(self) -> tuple[str, ...]:
        """Where the two sizes in a VHD differ."""
        return Footer.parse(self.data("header")).notes

    def check_footer_copy(self) -> None:
        """Dynamic and nothing else; qemu reads a differencing image as if its parent were empty."""
        footer = Footer.parse(self.data("header"))
        footer.check()
        if footer.disk_type != DYNAMIC:
            raise Refusal("is damaged: it begins like a dynamic VHD and says that it is a fixed one")

    def check_footer(self) -> None:
        """The last sector is the footer, which is what a truncated image lacks first."""
        if not self.data("footer").startswith(COOKIE):
            raise Refusal("is truncated: a VHD ends with a footer, which is missing")


class VhdFixedInspector(Inspector, FileInspector):
    """The plain content of a disk with a footer behind it; qemu's probe takes it for raw."""

    NAME = "vhd"
    LABEL = "a fixed VHD"
    FORMAT = ImageFormat.VHD
    AT_END = True
    MAGIC = "footer"

    def _initialize(self) -> None:
        self.new_region("start", CaptureRegion(0, len(COOKIE)))
        self.new_region("footer", TailRegion(FOOTER_SIZE))
        self.add_safety_check(EndCheck("footer", self.check_footer))

    @property
    def format_match(self) -> bool:
        """True for the cookie at the end, and only there."""
        return self.decided and self.data("footer").startswith(COOKIE) and self.data("start") != COOKIE

    @property
    def virtual_size(self) -> int:
        """Bytes, by qemu's rule."""
        return Footer.parse(self.data("footer")).virtual_size

    @property
    def probed_as(self) -> ImageFormat:
        """Nothing at its start gives it away."""
        return ImageFormat.RAW

    @property
    def options(self) -> tuple[str, ...]:
        """How qemu is told the size."""
        return Footer.parse(self.data("footer")).options

    @property
    def notes(self) -> tuple[str, ...]:
        """Where the two sizes in a VHD differ."""
        return Footer.parse(self.data("footer")).notes

    def check_footer(self) -> None:
        """Fixed, and the content as long as the footer says."""
        footer = Footer.parse(self.data("footer"))
        footer.check()
        if footer.disk_type != FIXED:
            raise Refusal("is damaged: it ends like a dynamic VHD, and its beginning is missing")
