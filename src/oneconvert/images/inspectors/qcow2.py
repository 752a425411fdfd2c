"""qcow2: what may be in its header, and what makes it more than one file."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from oneconvert.images.format import ImageFormat
from oneconvert.images.inspectors.base import Inspector, Refusal
from oneconvert.images.inspectors.library import CaptureRegion, QcowInspector, SafetyCheck

# Offset  Size  Field (big endian; qemu, docs/interop/qcow2.txt)
#  0x00    4    magic "QFI\xfb"
#  0x04    4    version
#  0x08    8    offset of the backing file's name, 0 without one
#  0x14    4    cluster_bits
#  0x18    8    virtual size in bytes
#  0x20    4    crypt_method: 0 none, 1 AES, 2 LUKS
#  0x3c    4    number of internal snapshots
#  0x48    8    incompatible features (version 3)
#  0x60    4    refcount_order
#  0x64    4    header_length (version 3; a version 2 header has 72 bytes)
#  0x68    1    compression type: 0 deflate, 1 zstd
#  then header extensions up to the end of the first cluster: type, length, data padded to 8 bytes; type 0 ends them
HEADER_SIZE = 512
V2_HEADER_LENGTH = 72
V3_HEADER_LENGTH = 104
LARGEST_REFCOUNT_ORDER = 6
MOST_SNAPSHOTS = 65536
"""The limit of qemu (block/qcow2.h)."""
EXTENSION_END = 0
EXTENSION_DATA_FILE = 0x44415441

DIRTY, CORRUPT, DATA_FILE, COMPRESSION_TYPE, EXTENDED_L2 = (1 << bit for bit in range(5))
KNOWN_FEATURES = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2

ENCRYPTION = {1: "AES", 2: "LUKS"}


class Qcow2Inspector(Inspector, QcowInspector):
    """qcow2, versions 2 and 3.

    Differs from oslo's: extended L2 entries are fine, corrupt and encrypted images are not, the numbers of the header
    are held against the limits of the format, and the header extensions are read.
    """

    LABEL = "a qcow2 image"
    FORMAT = ImageFormat.QCOW2

    def _initialize(self) -> None:
        super()._initialize()
        for name, check in (
            ("corrupt", self.check_corrupt),
            ("encryption", self.check_encryption),
            ("geometry", self.check_geometry),
            ("compression", self.check_compression),
        ):
            self.add_safety_check(SafetyCheck(name, check))

    def post_process(self) -> None:
        """Ask for the rest of the first cluster, which holds the header extensions."""
        if self.decided and not self.has_region("extensions") and self.format_match:
            bits = self._number(0x14, 4)
            # A cluster size outside the format's limits is refused by check_geometry; nothing more is read for it.
            length = (1 << bits) - HEADER_SIZE if 9 <= bits <= 21 else 0
            self.new_region("extensions", CaptureRegion(HEADER_SIZE, length))

    def region_complete(self, region_name: str) -> None:
        """Nothing is parsed on the way; oslo's own parser would run again for the second region."""

    @property
    def format_match(self) -> bool:
        """True for the magic, whatever the version: what is damaged must not pass as raw."""
        return self.data("header").startswith(b"QFI\xfb")

    @property
    def virtual_size(self) -> int:
        """Bytes; qemu counts whole sectors."""
        return -(-self._number(0x18, 8) // 512) * 512

    @property
    def notes(self) -> tuple[str, ...]:
        """Snapshots, and that the image was in use when it was copied."""
        notes = []
        count = self._number(0x3C, 4)
        if count:
            plural = "internal snapshot is" if count == 1 else "internal snapshots are"
            notes.append(f"{count} {plural} dropped by a conversion")
        if self._features & DIRTY:
            notes.append("it was not closed cleanly; its content may be that of a crashed machine")
        return tuple(notes)

    def check_unknown_features(self) -> None:
        """The versions and features of qemu that we know; the first one unknown may redirect any read."""
        version = self._number(4, 4)
        if version == 1:
            raise Refusal("is a qcow (version 1) image; convert it to qcow2 with 'qemu-img convert' before")
        if version not in (2, 3):
            raise Refusal(f"is a qcow2 image of version {version}, and only versions 2 and 3 are known")
        unknown = self._features & ~KNOWN_FEATURES
        if unknown:
            bit = unknown.bit_length() - 1
            raise Refusal(
                f"needs a feature of qcow2 that is not known here (incompatible feature bit {bit}); "
                "convert it with 'qemu-img convert' before publishing it"
            )

    def check_backing_file(self) -> None:
        """CVE-2015-5163: a backing file is any file of the host that the image names."""
        if self._number(8, 8):
            raise Refusal(
                "refers to a backing file, so it is not a whole image; "
                "flatten it with 'qemu-img convert' before publishing it"
            )

    def check_data_file(self) -> None:
        """CVE-2024-32498: neither the feature bit nor a name without it."""
        named = any(kind == EXTENSION_DATA_FILE for kind in self._extensions())
        if self._features & DATA_FILE or named:
            raise Refusal(
                "keeps its data in another file, so it is not a whole image; "
                "convert it with 'qemu-img convert' to one file before publishing it"
            )

    def check_corrupt(self) -> None:
        """The bit qemu sets when it finds that tables overlap."""
        if self._features & CORRUPT:
            raise Refusal("is marked as corrupt; repair it with 'qemu-img check -r all' before publishing it")

    def check_encryption(self) -> None:
        """Both ways of encryption need a key to convert."""
        method = self._number(0x20, 4)
        if method:
            kind = ENCRYPTION.get(method, f"method {method}")
            raise Refusal(f"is encrypted ({kind}), and nobody is there to enter the key; publish it decrypted")

    def check_geometry(self) -> None:
        """The limits of the format, before anything is allocated after these numbers."""
        bits, size = self._number(0x14, 4), self._number(0x18, 8)
        if not 9 <= bits <= 21:
            raise Refusal(f"is damaged: a qcow2 cluster has 512 bytes to 2 MiB, not 2^{bits} bytes")
        if not 0 < size < 1 << 63:
            raise Refusal(f"is damaged: its qcow2 header claims a size of {size} bytes")
        length = self._header_length
        if not V2_HEADER_LENGTH <= length <= 1 << bits or (self._version3 and length < V3_HEADER_LENGTH):
            raise Refusal(f"is damaged: its qcow2 header claims to be {length} bytes long")
        order, snapshots = self._number(0x60, 4) if self._version3 else 0, self._number(0x3C, 4)
        if order > LARGEST_REFCOUNT_ORDER:
            raise Refusal(f"is damaged: its qcow2 header claims reference counts of 2^{order} bits")
        if snapshots > MOST_SNAPSHOTS:
            raise Refusal(f"is damaged: its qcow2 header claims {snapshots} internal snapshots")

    def check_compression(self) -> None:
        """Deflate and zstd; the field is there when the header is long enough for it."""
        kind = self.data("header")[0x68] if self._version3 and self._header_length > 0x68 else 0
        if kind > 1 or (kind == 1) != bool(self._features & COMPRESSION_TYPE):
            raise Refusal(f"is damaged: its qcow2 header claims compression type {kind}")

    def _number(self, offset: int, size: int) -> int:
        """One number of the header, 0 as long as it has not arrived."""
        return int.from_bytes(self.data("header")[offset : offset + size], "big")

    @property
    def _version3(self) -> bool:
        return self._number(4, 4) >= 3

    @property
    def _features(self) -> int:
        return self._number(0x48, 8) if self._version3 else 0

    @property
    def _header_length(self) -> int:
        return self._number(0x64, 4) if self._version3 else V2_HEADER_LENGTH

    def _extensions(self) -> Iterator[int]:
        """The types of the header extensions, which also follow a version 2 header."""
        area = self.data("header") + self.data("extensions")
        position = self._header_length
        while position + 8 <= len(area):
            kind, length = struct.unpack_from(">II", area, position)
            if kind == EXTENSION_END:
                return
            if length > len(area) - position - 8:
                raise Refusal(f"is damaged: its qcow2 header claims an extension of {length} bytes")
            yield kind
            position += 8 + -(-length // 8) * 8
