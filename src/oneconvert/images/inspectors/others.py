"""What is not a container for a machine's disk: optical media, encrypted volumes, partition tables, other files."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import ClassVar

from oneconvert.errors import ImageRefusedError, NotAnImageError
from oneconvert.images import partitions
from oneconvert.images.format import ImageFormat
from oneconvert.images.inspectors.base import EndCheck, Inspector, Refusal, TailRegion
from oneconvert.images.inspectors.library import (
    CaptureRegion,
    FileInspector,
    GPTInspector,
    ISOInspector,
    QEDInspector,
    SafetyCheck,
)

SECTOR = 512


class IsoInspector(Inspector, ISOInspector):
    """ISO 9660 and UDF, with a partition table (hybrid) or without.

    Volume descriptors begin at 32 KiB with a type (1 byte) and an identifier (5 bytes): ECMA-119 section 8.1, and
    ECMA-167 part 2 section 9.1, whose recognition sequence starts with BEA01.
    """

    LABEL = "an ISO image"
    IDENTIFIERS = (b"CD001", b"BEA01", b"NSR02", b"NSR03")

    def _initialize(self) -> None:
        self.new_region("header", CaptureRegion(32 * 1024, 6))
        self.add_safety_check(SafetyCheck("optical", self.check_optical))

    @property
    def format_match(self) -> bool:
        """True for the identifier of either standard."""
        return self.data("header")[1:6] in self.IDENTIFIERS

    def check_optical(self) -> None:
        """Refused always: a CD-ROM image does not come this way."""
        raise Refusal("is a CD or DVD image (ISO), not a disk; register it as an image of type CDROM")


class LuksInspector(Inspector, FileInspector):
    """LUKS versions 1 and 2: "LUKS", 0xba 0xbe, and the version (2 bytes, big endian) in front of anything else.

    Nothing can be said about what is inside, so all of the file is the disk. Version 1 has the offset of the data at
    byte 104, in sectors (4 bytes); version 2 the length of the header at byte 8, in bytes (8 bytes).
    """

    NAME = "luks"
    LABEL = "a LUKS volume"
    FORMAT = ImageFormat.LUKS

    def _initialize(self) -> None:
        self.new_region("header", CaptureRegion(0, SECTOR))
        # Wanted for nothing but to be fed to the end, where the length is known.
        self.new_region("end", TailRegion(1))
        self.add_safety_check(SafetyCheck("version", self.check_version))
        self.add_safety_check(EndCheck("length", self.check_length))

    @property
    def format_match(self) -> bool:
        """True for the magic."""
        return self.data("header").startswith(b"LUKS\xba\xbe")

    @property
    def virtual_size(self) -> int:
        """Bytes of the whole file, in whole sectors."""
        return -(-self.actual_size // SECTOR) * SECTOR

    @property
    def probed_as(self) -> ImageFormat:
        """qemu knows version 1 only."""
        return ImageFormat.LUKS if self._version == 1 else ImageFormat.RAW

    def check_version(self) -> None:
        """The two versions there are."""
        if self._version not in (1, 2):
            raise Refusal(f"is a LUKS volume of version {self._version}, and only 1 and 2 are known")

    def check_length(self) -> None:
        """The header, with the keys, is there in full."""
        header = self.data("header")
        data = SECTOR * int.from_bytes(header[104:108], "big")
        needed = data if self._version == 1 else int.from_bytes(header[8:16], "big")
        if needed > self.actual_size:
            raise Refusal(
                f"is truncated: the header of its LUKS volume has {needed} bytes, and {self.actual_size} are there; "
                "check that it was published whole"
            )

    @property
    def _version(self) -> int:
        return int.from_bytes(self.data("header")[6:8], "big")


class PartitionTableInspector(Inspector, GPTInspector):
    """A partition table, MBR or GPT: plain content, of which nothing is required but that all of it is there.

    At the start of a container it would be a second disk in the same file.
    """

    LABEL = "a partitioned disk"
    MAGIC = "mbr"

    def _initialize(self) -> None:
        self.new_region("mbr", CaptureRegion(0, SECTOR))
        self.new_region("tables", CaptureRegion(SECTOR, partitions.TABLES - SECTOR))
        # Wanted for nothing but to be fed to the end, where the length is known.
        self.new_region("end", TailRegion(1))
        self.add_safety_check(EndCheck("length", self.check_length))

    @property
    def head_complete(self) -> bool:
        """A disk may be smaller than the room for its table."""
        return self.decided

    def check_length(self) -> None:
        """A raw disk has no other end than that of its partitions."""
        end = partitions.partitions_end(self.data("mbr") + self.data("tables"))
        if end > self.actual_size:
            raise Refusal(f"is truncated: its partitions need {end} bytes, and {self.actual_size} are there")
        if self.actual_size % SECTOR:
            raise Refusal(f"is truncated: the {self.actual_size} bytes of a partitioned disk are no whole sectors")


class QedInspector(Inspector, QEDInspector):
    """QED, which qemu itself has given up."""

    LABEL = "a QED image"

    def _initialize(self) -> None:
        self.new_region("header", CaptureRegion(0, 4))
        self.add_safety_check(SafetyCheck("legacy", self.check_legacy))

    @property
    def format_match(self) -> bool:
        """True for the magic."""
        return self.data("header") == b"QED\0"

    def check_legacy(self) -> None:
        """Refused always."""
        raise Refusal("is a QED image, a format long abandoned; convert it to qcow2 with 'qemu-img convert' before")


@dataclass(frozen=True)
class NotADisk:
    """A kind of file that is never the content of a disk: how it begins and how to tell the user."""

    begins: re.Pattern[bytes]
    sentence: str


def _kind(begins: bytes, sentence: str) -> NotADisk:
    return NotADisk(re.compile(begins, re.IGNORECASE | re.DOTALL), sentence)


def _packed(magic: bytes, program: str) -> NotADisk:
    return NotADisk(re.compile(magic, re.DOTALL), f"is still compressed with {program}; unpack it before publishing it")


def _archive(magic: bytes, kind: str) -> NotADisk:
    return NotADisk(
        re.compile(magic, re.DOTALL), f"is {kind} archive, not a disk image; publish the image that is in it"
    )


_BLANK = rb"(?:\xef\xbb\xbf)?\s*"

NEVER_DISKS: tuple[NotADisk, ...] = (
    _packed(rb"\x1f\x8b\x08", "gzip"),
    _packed(rb"BZh[1-9]1AY&SY", "bzip2"),
    _packed(rb"\xfd7zXZ\x00", "xz"),
    _packed(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "zstd"),
    _packed(rb"\x5d\x00\x00.{2}\xff{8}", "lzma"),
    _packed(rb"\x1f\x9d", "compress"),
    _packed(rb"\x04\x22\x4d\x18", "lz4"),
    _packed(rb"\x02\x21\x4c\x18", "the legacy format of lz4"),
    _packed(rb"\x89LZO\x00\r\n\x1a\n", "lzop"),
    _archive(rb"PK\x03\x04", "a zip"),
    _archive(rb".{257}ustar", "a tar (or OVA)"),
    _archive(rb"7z\xbc\xaf\x27\x1c", "a 7z"),
    _archive(rb"Rar!\x1a\x07", "a RAR"),
    _kind(
        _BLANK + rb"(?:<!--(?:(?!-->).)*-->\s*)*<(?:!doctype\s+html|html[\s>])",
        "is a web page, not a disk image: the address answers with a page for people; use that of the file itself",
    ),
    _kind(
        _BLANK + rb"<\?xml[\s?]",
        "is an XML document, not a disk image: an error page of the server, or the description of an appliance; "
        "look at it with 'curl'",
    ),
    _kind(rb"%PDF-", "is a PDF document, not a disk image; check the address"),
    _kind(
        rb"(?!\s*# Disk DescriptorFile)[\t\n\r\f\x20-\x7e]{%d}" % SECTOR,
        "is a text, not a disk image: perhaps an error page of the server; look at it with 'curl'",
    ),
)


LEGACY: tuple[NotADisk, ...] = (
    _kind(rb"WithoutFreeSpace|WithouFreSpacExt", "is a Parallels image; convert it with 'qemu-img convert' before"),
    _kind(rb"Bochs Virtual HD Image\x00", "is a Bochs image; convert it with 'qemu-img convert' before"),
    _kind(
        rb"#!/bin/sh\n#V2\.0 Format\nmodprobe cloop",
        "is a compressed loop image (cloop); convert it with 'qemu-img convert' before",
    ),
    _kind(
        rb"encrcdsa", "is an encrypted image of macOS (DMG), which cannot be read; publish the disk as a qcow2 image"
    ),
)
"""What qemu's probe takes for images, and nobody else does any more; and what macOS encrypted."""


class DmgInspector(Inspector, FileInspector):
    """The disk images of macOS (UDIF), which only a trailer of 512 bytes tells from a raw disk.

    The trailer begins with "koly", its version 4 and its own length, 4 bytes each, big endian (qemu, block/dmg.c, reads
    no more of them; its probe goes by the name of the file, so to qemu-img they are raw here).
    """

    NAME = "dmg"
    LABEL = "a DMG image"
    AT_END = True
    MAGIC = "trailer"
    TRAILER = struct.pack(">4sII", b"koly", 4, SECTOR)

    def _initialize(self) -> None:
        self.new_region("trailer", TailRegion(SECTOR))
        self.add_safety_check(EndCheck("legacy", self.check_legacy))

    @property
    def format_match(self) -> bool:
        """True for the trailer at the end."""
        return self.decided and self.data("trailer").startswith(self.TRAILER)

    def check_legacy(self) -> None:
        """Refused always."""
        raise Refusal(
            "is a disk image of macOS (DMG), not a plain disk; convert it with 'qemu-img convert -f dmg' before"
        )


class NeverADiskInspector(Inspector, FileInspector):
    """Whatever the table above lists; unlike a raw disk it is certain to be a mistake."""

    NAME = "file"
    LABEL = "another kind of file"
    ERROR: ClassVar[type[ImageRefusedError]] = NotAnImageError
    KINDS: ClassVar[tuple[NotADisk, ...]] = NEVER_DISKS

    def _initialize(self) -> None:
        self.new_region("header", CaptureRegion(0, SECTOR))
        self.add_safety_check(SafetyCheck("kind", self.check_kind))

    @property
    def format_match(self) -> bool:
        """True when one kind of the table matches."""
        return self._found is not None

    @property
    def head_complete(self) -> bool:
        """Such a file may be shorter than a sector."""
        return self.decided or self._finished

    def check_kind(self) -> None:
        """Refused always, by name."""
        if self._found is not None:
            raise Refusal(self._found.sentence)

    @property
    def _found(self) -> NotADisk | None:
        head = self.data("header")
        return next((kind for kind in self.KINDS if kind.begins.match(head)), None)


class LegacyInspector(NeverADiskInspector):
    """Formats long abandoned, which would come in as raw and be read as something else by a qemu that probes."""

    LABEL = "an image of an abandoned format"
    ERROR = ImageRefusedError
    KINDS = LEGACY
