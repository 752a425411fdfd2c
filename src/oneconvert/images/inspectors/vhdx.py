"""VHDX, the format of Hyper-V."""

from __future__ import annotations

import struct

from oneconvert.images.format import ImageFormat
from oneconvert.images.inspectors import vhdx_tables
from oneconvert.images.inspectors.base import Inspector, Refusal
from oneconvert.images.inspectors.library import CaptureRegion, SafetyCheck, VHDXInspector

# Little endian (Microsoft, [MS-VHDX], sections 2.2 and 2.6):
#
#   0 KiB  identifier "vhdxfile"
#  64 KiB  header 1: "head", CRC-32C (4), sequence number (8), three GUIDs, the third (offset 48) that of the log
# 128 KiB  header 2, the same; the valid one with the higher sequence number is active
# 192 KiB  region table: "regi", CRC-32C (4), count (4), reserved (4), then entries of 32 bytes
# 256 KiB  a copy of the region table
#
# The metadata region, wherever the region table puts it: 32 bytes ("metadata", reserved (2), count (2)), then entries
# of 32 bytes: item GUID (16), offset in the region (4), length (4), flags (4); the items follow 64 KiB in.
KIB = 1024
HEADER_SIZE = 4 * KIB
LOG_GUID = slice(48, 64)
REGION_TABLE = 192 * KIB
REGION_TABLE_SIZE = 64 * KIB
METADATA_READ = 1024 * KIB
"""All of the metadata region that is looked at; its table and the items that count fit in a tenth of it."""
LARGEST_SIZE = 64 << 40
"""Bytes; the limit of the format."""


class VhdxInspector(Inspector, VHDXInspector):
    """VHDX; differs from oslo's, which has no checks, by reading both metadata items and the log's state."""

    LABEL = "a VHDX image"
    FORMAT = ImageFormat.VHDX
    MAGIC = "ident"

    def _initialize(self) -> None:
        self.new_region("ident", CaptureRegion(0, 32))
        self.new_region("header1", CaptureRegion(64 * KIB, HEADER_SIZE))
        self.new_region("header2", CaptureRegion(128 * KIB, HEADER_SIZE))
        self.new_region("regions", CaptureRegion(REGION_TABLE, REGION_TABLE_SIZE))
        self.add_safety_check(SafetyCheck("headers", self.check_headers))
        self.add_safety_check(SafetyCheck("parent", self.check_parent))
        self.add_safety_check(SafetyCheck("geometry", self.check_geometry))

    def post_process(self) -> None:
        """Ask for the metadata once the region table has said where it is."""
        if self.format_match and self.region("regions").complete and not self.has_region("metadata"):
            where = vhdx_tables.find_regions(self.data("regions")).get(vhdx_tables.METADATA)
            if where is None:
                raise Refusal("is damaged: its VHDX region table names no metadata")
            if where.offset < REGION_TABLE + 2 * REGION_TABLE_SIZE:
                raise Refusal("is damaged: its VHDX metadata overlaps its header")
            self.new_region("metadata", CaptureRegion(where.offset, min(where.length, METADATA_READ)))

    @property
    def format_match(self) -> bool:
        """True for the identifier."""
        return self.data("ident").startswith(b"vhdxfile")

    @property
    def virtual_size(self) -> int:
        """Bytes, from the Virtual Disk Size item."""
        return vhdx_tables.Metadata.parse(self.data("metadata")).virtual_size

    def check_headers(self) -> None:
        """A log that was not replayed holds writes the rest of the file does not have yet."""
        headers = [h for h in (self.data("header1"), self.data("header2")) if vhdx_tables.header_valid(h)]
        if not headers:
            raise Refusal("is damaged: neither of its VHDX headers is valid")
        active = max(headers, key=lambda header: struct.unpack_from("<Q", header, 8)[0])
        if any(active[LOG_GUID]):
            raise Refusal(
                "was not closed cleanly, its VHDX log has yet to be replayed; "
                "open it once in Hyper-V (Mount-VHD, then Dismount-VHD) before publishing it"
            )

    def check_parent(self) -> None:
        """qemu refuses a parent too; this says so before the download."""
        if vhdx_tables.Metadata.parse(self.data("metadata")).has_parent:
            raise Refusal(
                "is a differencing VHDX, which holds only what changed since its parent; "
                "merge it with its parent (Merge-VHD) before publishing it"
            )

    def check_geometry(self) -> None:
        """The limits of the format, and of qemu: it has no sectors but those of 512 bytes."""
        metadata = vhdx_tables.Metadata.parse(self.data("metadata"))
        if not 0 < metadata.virtual_size <= LARGEST_SIZE or metadata.virtual_size % 512:
            raise Refusal(f"is damaged: its VHDX metadata claims a size of {metadata.virtual_size} bytes")
        if metadata.block_size not in (1 << shift for shift in range(20, 29)):
            raise Refusal(f"is damaged: its VHDX metadata claims blocks of {metadata.block_size} bytes")
        if metadata.logical_sector == 4 * KIB:
            raise Refusal(
                "is a VHDX with logical sectors of 4096 bytes, and only those of 512 bytes can be converted; copy the "
                "disk to one made with 'New-VHD -LogicalSectorSizeBytes 512' before publishing it"
            )
