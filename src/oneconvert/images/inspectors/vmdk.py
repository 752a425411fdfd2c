"""VMDK: one file that holds a whole disk (monolithicSparse, streamOptimized), and the many kinds that do not."""

from __future__ import annotations

from types import MappingProxyType

from oneconvert.images.format import ImageFormat
from oneconvert.images.inspectors import vmdk_descriptor
from oneconvert.images.inspectors.base import EndCheck, Inspector, Refusal, TailRegion
from oneconvert.images.inspectors.library import (
    CaptureRegion,
    FileInspector,
    SafetyCheck,
    VMDKInspector,
)
from oneconvert.images.vmdk_header import END_OF_STREAM, FOOTER, GD_AT_END, MAGIC, METADATA_MARKER, SECTOR, SparseHeader

HEADER_SIZE = 512
PARENT_WINDOW = 20 * SECTOR
"""qemu looks for a parent in this many bytes from 0x200 on, wherever the header says the descriptor is."""

ONE_FILE = "export the disk as one monolithicSparse or streamOptimized file, or as an OVA, before publishing it"
ONE_PART = f"is one part of a split VMDK disk, without its descriptor; {ONE_FILE}"

ESX_EXTENTS: MappingProxyType[bytes, str] = MappingProxyType(
    {b"COWD": "COWD, vmfsSparse", b"\xbe\xba\xfe\xca\0\0\0\0": "seSparse"}
)
WITHOUT_FOOTER = "is truncated: a streamOptimized VMDK ends with a footer, which is missing"


class VmdkSparseInspector(Inspector, VMDKInspector):
    """A sparse extent with its descriptor inside.

    Differs from oslo's: parents are refused, a stream's footer has to agree with the header in all but the place of
    the directory, and text descriptors have their own inspector below.
    """

    LABEL = "a VMDK image"
    FORMAT = ImageFormat.VMDK

    def _initialize(self) -> None:
        self.new_region("header", CaptureRegion(0, HEADER_SIZE))
        self.new_region("descriptor", CaptureRegion(HEADER_SIZE, PARENT_WINDOW))
        for name, check in (
            ("header", self.check_header),
            ("parent", self.check_parent),
            ("descriptor", self.check_descriptor),
        ):
            self.add_safety_check(SafetyCheck(name, check))
        self.add_safety_check(EndCheck("footer", self.check_footer))

    def post_process(self) -> None:
        """Ask for what the header points at: a descriptor longer than qemu's window, the footer."""
        if not self.decided or not self.format_match:
            return
        header = self._header
        if header.directory == GD_AT_END and not self.has_region("footer"):
            self.new_region("footer", TailRegion(3 * SECTOR))
        wanted = min(header.descriptor_size * SECTOR, self.DESC_MAX_SIZE)
        if wanted > self.region("descriptor").length and header.descriptor_offset == 1:
            # A new region rather than a longer one: it is given the chunk that the old one has already passed.
            self.delete_region("descriptor")
            self.new_region("descriptor", CaptureRegion(HEADER_SIZE, wanted))

    def region_complete(self, region_name: str) -> None:
        """Nothing is parsed on the way; the checks do it."""

    @property
    def format_match(self) -> bool:
        """True for the magic, whatever follows: what is damaged must not pass as raw."""
        return self.data("header").startswith(MAGIC)

    @property
    def head_complete(self) -> bool:
        """A small image may end before qemu's window for parents does, but not before its descriptor does."""
        if not (self._finished and self.decided):
            return super().head_complete
        return len(self.data("descriptor")) >= min(
            self._header.descriptor_size * SECTOR, self.region("descriptor").length
        )

    @property
    def virtual_size(self) -> int:
        """Bytes, from the header; check_footer holds the footer to the same."""
        return self._header.capacity * SECTOR

    def check_header(self) -> None:
        """A capacity of 0 makes qemu open the extents that the embedded descriptor names (CVE-2022-47951)."""
        header = self._header
        if header.version not in (1, 2, 3):
            raise Refusal(f"is a VMDK image of version {header.version}, and only 1 to 3 are known")
        if not header.descriptor_offset or not header.descriptor_size:
            raise Refusal(ONE_PART)
        if header.descriptor_offset != 1:
            raise Refusal("is damaged: its VMDK descriptor is not where it belongs, right after the header")
        if not 0 < header.capacity < 1 << 54:
            raise Refusal(f"is damaged: its VMDK header claims a size of {header.capacity} sectors")

    def check_parent(self) -> None:
        """A parent is a file of the host that the image names, as a backing file is."""
        vmdk_descriptor.check_parent(self.data("descriptor"))

    def check_descriptor(self) -> None:
        """One sparse extent, in this file."""
        length = min(self._header.descriptor_size * SECTOR, self.DESC_MAX_SIZE)
        descriptor = self.data("descriptor")[:length]
        if not any(descriptor):
            raise Refusal(ONE_PART)
        vmdk_descriptor.check(descriptor)

    def check_footer(self) -> None:
        """The footer of a stream says the same as its header, and an end-of-stream marker follows it."""
        if not self.has_region("footer"):
            return
        tail = self.data("footer")
        if len(tail) < 3 * SECTOR:
            raise Refusal(WITHOUT_FOOTER)
        _, size, kind = METADATA_MARKER.unpack_from(tail)
        end = METADATA_MARKER.unpack_from(tail, 2 * SECTOR)
        footer = SparseHeader.parse(tail[SECTOR:])
        if (size, kind, footer.magic) != (0, FOOTER, MAGIC) or end != (0, 0, END_OF_STREAM):
            raise Refusal(WITHOUT_FOOTER)
        header = self._header
        if footer.directory == GD_AT_END or self._without_directory(footer) != self._without_directory(header):
            raise Refusal("is damaged: the footer of the VMDK says something else than its header")

    @staticmethod
    def _without_directory(header: SparseHeader) -> tuple[int, ...]:
        return (
            header.version,
            header.capacity,
            header.grain,
            header.descriptor_offset,
            header.descriptor_size,
            header.table_entries,
        )

    @property
    def _header(self) -> SparseHeader:
        return SparseHeader.parse(self.data("header"))


class VmdkTextInspector(Inspector, FileInspector):
    """A descriptor without data: a small text that names other files.

    Found by what qemu's probe accepts and by the words such a text contains, because one odd byte in it hides it from
    an inspector that insists on ASCII and does not hide it from qemu.
    """

    NAME = "vmdk"
    LABEL = "a VMDK descriptor"

    def _initialize(self) -> None:
        self.new_region("header", CaptureRegion(0, HEADER_SIZE))
        self.add_safety_check(SafetyCheck("whole_image", self.check_whole_image))

    @property
    def format_match(self) -> bool:
        """True where qemu would take the text for a descriptor, or a person would."""
        return vmdk_descriptor.looks_like_one(self.data("header"))

    @property
    def head_complete(self) -> bool:
        """Such a file may be shorter than a sector."""
        return self.decided or self._finished

    def check_whole_image(self) -> None:
        """Refused always; the kind of disk is named where the text says it."""
        kind = vmdk_descriptor.create_type(self.data("header"))
        named = f" ({kind})" if kind else ""
        raise Refusal(f"is only the descriptor of a VMDK disk{named}, and its data is in other files; {ONE_FILE}")


class VmdkEsxInspector(Inspector, FileInspector):
    """The sparse extents of ESX, which always come with a separate descriptor: of snapshots (vmfsSparse, "COWD"), of
    space-efficient disks (seSparse, 0xcafebabe in 8 bytes, little endian; qemu, block/vmdk.c).
    """

    NAME = "vmdk"
    LABEL = "a VMDK image"

    def _initialize(self) -> None:
        self.new_region("header", CaptureRegion(0, 8))
        self.add_safety_check(SafetyCheck("whole_image", self.check_whole_image))

    @property
    def format_match(self) -> bool:
        """True for either magic."""
        return self._kind is not None

    def check_whole_image(self) -> None:
        """Refused always."""
        raise Refusal(f"is a sparse extent of ESX ({self._kind}), which is not a whole disk; {ONE_FILE}")

    @property
    def _kind(self) -> str | None:
        header = self.data("header")
        return next((kind for magic, kind in ESX_EXTENTS.items() if header.startswith(magic)), None)
