"""The disk images of these tests: one guest disk in each of the forms in which a marketplace may hold it."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
SIZE_MB = 24

_FILES = {
    "raw": "disk.img",
    "qcow2": "disk.qcow2",
    "vmdk sparse": "disk-sparse.vmdk",
    "vmdk stream": "disk-stream.vmdk",
    "raw.gz": "disk.img.gz",
    "qcow2.gz": "disk.qcow2.gz",
}
NAMES = tuple(_FILES)


def qemu_img(*arguments: object) -> str:
    done = subprocess.run(
        ["qemu-img", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    assert done.returncode == 0, f"qemu-img {' '.join(map(str, arguments))}: {done.stdout}"
    return done.stdout


def format_of(path: Path) -> str:
    return str(json.loads(qemu_img("info", "--output=json", path))["format"])


def assert_same_disk(one: Path, one_format: str, other: Path, other_format: str) -> None:
    """The guest would see the same bytes on both, and the same size."""
    # qemu-img compare takes zeros behind the end of the shorter image for granted.
    assert _virtual_size(one, one_format) == _virtual_size(other, other_format)
    assert "identical" in qemu_img("compare", "-f", one_format, "-F", other_format, one, other)


def _virtual_size(path: Path, disk_format: str) -> int:
    return int(json.loads(qemu_img("info", "--output=json", "-f", disk_format, path))["virtual-size"])


@dataclass(frozen=True)
class Images:
    """The files, all of the same guest disk."""

    directory: Path

    def file(self, name: str) -> Path:
        return self.directory / _FILES[name]

    @classmethod
    def make(cls, directory: Path) -> Images:
        images = cls(directory)
        raw = images.file("raw")
        noise = random.Random(8)
        with raw.open("wb") as disk:
            disk.truncate(SIZE_MB * MIB)
            # Data at the beginning, in the middle, across grain borders and at the very end; holes in between.
            for offset, length in ((0, MIB), (5 * MIB + 4096, 3 * MIB), (15 * MIB, 512), (SIZE_MB * MIB - 512, 512)):
                disk.seek(offset)
                disk.write(noise.randbytes(length))
        qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, images.file("qcow2"))
        for name, subformat in (("vmdk sparse", "monolithicSparse"), ("vmdk stream", "streamOptimized")):
            qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}", raw, images.file(name))
        for name in ("raw", "qcow2"):
            with gzip.open(images.file(f"{name}.gz"), "wb", compresslevel=1) as compressed:
                compressed.write(images.file(name).read_bytes())
        return images
