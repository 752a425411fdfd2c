"""The disk images of the tests: one guest disk in each format and compression in which a marketplace may hold it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MIB = 1024 * 1024
SIZE_MB = 24

# Name -> qemu's name of the format, and the options that make this kind of it.
FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    "raw": ("raw", ()),
    "qcow2": ("qcow2", ()),
    "vmdk-sparse": ("vmdk", ("-o", "subformat=monolithicSparse")),
    "vmdk-stream": ("vmdk", ("-o", "subformat=streamOptimized")),
    "vhd": ("vpc", ()),
    "vhd-fixed": ("vpc", ("-o", "subformat=fixed")),
    "vhdx": ("vhdx", ()),
    "vdi": ("vdi", ()),
    "qcow2-compressed": ("qcow2", ("-c",)),
    "qcow2-zstd": ("qcow2", ("-c", "-o", "compression_type=zstd")),
}
# With a checksum, as the zstd command makes it.
ZSTD_OPTIONS = {zstd.CompressionParameter.compression_level: 1, zstd.CompressionParameter.checksum_flag: 1}
COMPRESSIONS = {
    "plain": bytes,
    "gz": lambda data: gzip.compress(data, 1),
    "bz2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "lz4": lambda data: lz4.frame.compress(data, content_checksum=True),
    "zst": lambda data: zstd.compress(data, options=ZSTD_OPTIONS),
}


@dataclass(frozen=True)
class Images:
    """The files in ``directory``, all of the same guest disk."""

    directory: Path

    def file(self, name: str, compression: str = "plain") -> Path:
        return self.directory / (name if compression == "plain" else f"{name}.{compression}")

    @classmethod
    def make(cls, directory: Path) -> Images:
        directory.mkdir()
        images = cls(directory)
        raw = images.file("raw")
        noise = random.Random(8)
        with raw.open("wb") as disk:
            disk.truncate(SIZE_MB * MIB)
            # Data at the beginning, in the middle, across grain borders and at the very end; holes in between.
            for offset, length in ((0, MIB), (5 * MIB + 4096, 2 * MIB), (15 * MIB, 512), (SIZE_MB * MIB - 512, 512)):
                disk.seek(offset)
                disk.write(noise.randbytes(length))
        for name, (qemu_format, options) in FORMATS.items():
            if name != "raw":
                command = ["qemu-img", "convert", "-f", "raw", "-O", qemu_format, *options, raw, images.file(name)]
                subprocess.run(command, check=True)
        for name in FORMATS:
            for compression, compress in COMPRESSIONS.items():
                if compression != "plain":
                    images.file(name, compression).write_bytes(compress(images.file(name).read_bytes()))
        return images
