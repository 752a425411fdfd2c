"""Fuzzes what looks at images: inspection, tables and archives, with bytes made from small images that are right."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import atheris

sys.path.append(str(Path(__file__).resolve().parents[1]))
with atheris.instrument_imports(include=["oneconvert"]):
    from oneconvert.actions.arrival import receive
    from oneconvert.actions.landing import Head, NotWhileArrivingError, Wanted
    from oneconvert.errors import OneconvertError
    from oneconvert.images import ovf
    from oneconvert.images.inspect import image_inside
    from rig.crafted import vmware_stream

SIZE = 64 * 1024
KINDS = (
    ("qcow2", "cluster_size=512"),
    ("qcow2", "compat=0.10"),
    ("vmdk", "subformat=monolithicSparse"),
    ("vmdk", "subformat=streamOptimized"),
    ("vpc", "subformat=dynamic"),
    ("vpc", "subformat=fixed"),
    ("vdi", ""),
    ("vhdx", "block_size=1M"),
)
TEXT = (
    b'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
    b'RW 128 FLAT "disk.raw" 0\n'
)
MOST_CHANGES = 12


@cache
def seeds() -> tuple[bytes, ...]:
    """Small images of every kind, and archives of some."""
    images = []
    disk = b"content!" * (SIZE // 8)
    with tempfile.TemporaryDirectory() as directory:
        raw, path = Path(directory, "raw"), Path(directory, "image")
        raw.write_bytes(disk)
        for kind, options in KINDS:
            option = ["-o", options] if options else []
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", kind, *option, raw, path], check=True)
            images.append(path.read_bytes())
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE)], check=True)
        for command in (("snapshot", "-c", "one", path), ("bitmap", "--add", path, "two")):
            subprocess.run(["qemu-img", *command], check=True)
        images.append(path.read_bytes())
    return (*images, vmware_stream(disk), tar(("disk.raw", disk)), tar(("a.vmdk", TEXT), ("disk.raw", disk)),
            zipped(disk), gzip.compress(images[0]))  # fmt: skip


def tar(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("disk.raw", data)
    return buffer.getvalue()


def fuzz(data: bytes) -> None:
    """Change some bytes of a seed, or take the bytes as they are, and receive them in two chunks."""
    provider = atheris.FuzzedDataProvider(data)
    which = provider.ConsumeIntInRange(0, len(seeds()))
    if which == len(seeds()):
        image = bytearray(provider.ConsumeBytes(len(data)))
    else:
        image = bytearray(seeds()[which])
        for _ in range(provider.ConsumeIntInRange(0, MOST_CHANGES)):
            # Headers are in front; what is elsewhere is reached now and then.
            reach = provider.PickValueInList([512, 4096, len(image)])
            start = provider.ConsumeIntInRange(0, min(reach, len(image)))
            piece = provider.ConsumeBytes(provider.ConsumeIntInRange(1, 16))
            image[start : start + len(piece)] = piece
        if provider.ConsumeBool():
            del image[provider.ConsumeIntInRange(0, len(image)) :]
    middle = provider.ConsumeIntInRange(0, len(image))
    with (
        tempfile.TemporaryDirectory(dir=memory()) as directory,
        suppress(OneconvertError, NotWhileArrivingError),
    ):
        chunks = (bytes(part) for part in (image[:middle], image[middle:]) if part)
        disk = provider.PickValueInList(["", "1", "disk.raw"])
        follows = provider.ConsumeBool()
        wanted = Wanted(disk, unpack=True, most=1 << 24, converts=lambda found: follows, algorithms=ovf.ALGORITHMS)
        arrival = receive(chunks, "the image", len(image), wanted, Path(directory), announced)
        image_inside(arrival.path)


def announced(head: Head) -> None:
    """Nobody converts it."""
    if head.passing:
        head.passing.abandon()


@cache
def memory() -> str | None:
    """A directory that is not on a disk, where there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


if __name__ == "__main__":
    seeds()
    atheris.Setup(sys.argv, fuzz)
    atheris.Fuzz()
