"""Images for the tests of inspection: made by the real qemu-img, bent by hand, and those that no qemu-img makes."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import uuid
import zlib
from pathlib import Path

from oneconvert.images.extents import check_complete
from oneconvert.images.inspect import Inspection, StreamInspector

MIB = 1 << 20
DISK_SIZE = 6 * MIB + 5 * 512
"""Not a multiple of anybody's cluster, so that the last one is only partly visible to the guest."""

KINDS: dict[str, tuple[str, str]] = {
    "qcow2": ("qcow2", ""),
    "qcow2-v2": ("qcow2", "compat=0.10"),
    "qcow2-extended-l2": ("qcow2", "extended_l2=on,cluster_size=128k"),
    "qcow2-small-clusters": ("qcow2", "cluster_size=512"),
    "qcow2-large-clusters": ("qcow2", "cluster_size=2M"),
    "qcow2-preallocated": ("qcow2", "preallocation=metadata"),
    "qcow2-zlib": ("qcow2", "-c"),
    "qcow2-zstd": ("qcow2", "-c,compression_type=zstd"),
    "vmdk-sparse": ("vmdk", "subformat=monolithicSparse"),
    "vmdk-sparse-zeroed": ("vmdk", "subformat=monolithicSparse,zeroed_grain=on"),
    "vmdk-stream": ("vmdk", "subformat=streamOptimized"),
    "vhd-dynamic": ("vpc", "subformat=dynamic,force_size=on"),
    "vhd-dynamic-geometry": ("vpc", "subformat=dynamic"),
    "vhd-fixed": ("vpc", "subformat=fixed,force_size=on"),
    "vhd-fixed-geometry": ("vpc", "subformat=fixed"),
    "vhdx": ("vhdx", ""),
    "vhdx-fixed": ("vhdx", "subformat=fixed"),
    "vdi": ("vdi", ""),
    "vdi-static": ("vdi", "static=on"),
}
"""Every kind of image that may come in: qemu's format and the options it is made with."""


def qemu_img(*arguments: str | Path) -> str:
    done = subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True, text=True)
    return done.stdout


def create_encrypted(path: Path, image_format: str, prefix: str = "") -> None:
    """An encrypted image of 1 MiB. Told to spend little time on its key, qemu-img at times cannot measure any."""
    options = f"{prefix}key-secret=key,{prefix}iter-time=10"
    for attempts_left in range(20, 0, -1):
        try:
            qemu_img(
                "create", "-q", "-f", image_format, "--object", "secret,id=key,data=abc", "-o", options, path, "1M"
            )
            return
        except subprocess.CalledProcessError as error:
            if "accurate CPU usage" not in error.stderr or attempts_left == 1:
                raise


def disk() -> bytes:
    """The content of a disk: an MBR, random and repetitive parts, holes, and data in its last sector."""
    dice = random.Random(2024)
    content = bytearray(DISK_SIZE)
    content[:512] = mbr()
    content[MIB : 2 * MIB + 777] = dice.randbytes(MIB + 777)
    content[3 * MIB : 4 * MIB] = b"all work and no play" * (MIB // 20) + bytes(MIB % 20)
    content[-70_000:] = dice.randbytes(70_000)
    return bytes(content)


def mbr() -> bytes:
    """A protective MBR, as GPT has it."""
    entry = bytes([0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF]) + struct.pack("<II", 1, 0xFFFFFFFF)
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


def make(directory: Path, kind: str, raw: Path) -> Path:
    """The image of ``kind``, a key of KINDS, with the content of ``raw``."""
    name, options = KINDS[kind]
    path = directory / f"{kind}.img"
    flags = ["-c"] if options.startswith("-c") else []
    options = options.replace("-c", "", 1).lstrip(",") if flags else options
    qemu_img("convert", *flags, "-f", "raw", "-O", name, *(["-o", options] if options else []), raw, path)
    return path


def inspect(image: bytes, step: int = MIB, name: str = "disk.img") -> Inspection:
    """The verdict on ``image``, fed in chunks of ``step`` bytes."""
    inspector = StreamInspector(name)
    for start in range(0, len(image), step):
        inspector.feed(image[start : start + step])
    return inspector.finish()


def accept(path: Path) -> Inspection:
    """The verdict of both checks on a file."""
    inspection = inspect(path.read_bytes(), name=path.name)
    check_complete(path, inspection, path.name)
    return inspection


def content_of(path: Path, image_format: str) -> bytes:
    """What qemu-img reads from ``path``; raises CalledProcessError where it cannot."""
    raw = path.with_suffix(".content")
    qemu_img("convert", "-f", image_format, "-O", "raw", path, raw)
    return raw.read_bytes()


def patched(image: bytes, *patches: tuple[int, bytes]) -> bytes:
    """The image with other bytes at some offsets; a negative offset counts from the end."""
    bent = bytearray(image)
    for offset, data in patches:
        start = offset % len(bent)
        bent[start : start + len(data)] = data
    return bytes(bent)


def be32(value: int) -> bytes:
    return struct.pack(">I", value)


def be64(value: int) -> bytes:
    return struct.pack(">Q", value)


def le32(value: int) -> bytes:
    return struct.pack("<I", value)


def le64(value: int) -> bytes:
    return struct.pack("<Q", value)


def qcow2_with_extension(image: bytes, kind: int, data: bytes) -> bytes:
    """A version 3 image with one more header extension in front of those it has."""
    length = int.from_bytes(image[100:104], "big")
    room = 4096 - length
    extension = be32(kind) + be32(len(data)) + data + bytes(-len(data) % 8)
    return patched(image, (length, (extension + image[length:])[:room]))


def vhd_footer(**fields: int | bytes) -> bytes:
    """A footer with a valid checksum: size, geometry as (cylinders << 16 | heads << 8 | sectors), kind, creator."""
    size, geometry = fields.get("size", MIB), fields.get("geometry", 30 << 16 | 4 << 8 | 17)
    creator, kind = fields.get("creator", b"win "), fields.get("kind", 2)
    footer = struct.pack(
        ">8sIIQI4sI4sQQIII", b"conectix", 2, 0x10000, 2**64 - 1, 0, creator, 0, b"Wi2k", size, size, geometry, kind, 0
    ).ljust(512, b"\0")
    return with_vhd_checksum(footer)


def with_vhd_checksum(footer: bytes) -> bytes:
    blank = patched(footer, (0x40, bytes(4)))
    return patched(blank, (0x40, be32(~sum(blank) & 0xFFFFFFFF)))


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def vhdx_with_log(image: bytes) -> bytes:
    """A VHDX whose headers both name a log."""
    for start in (64 * 1024, 128 * 1024):
        header = patched(image[start : start + 4096], (4, bytes(4)), (48, uuid.UUID(int=7).bytes))
        image = patched(image, (start, patched(header, (4, le32(crc32c(header))))))
    return image


def vhdx_item(image: bytes, guid: str) -> tuple[int, int]:
    """Where the metadata table has the entry of an item, and where the item is."""
    table = image.index(b"metadata", 1 << 20)
    entry = image.index(uuid.UUID(guid).bytes_le, table)
    return entry, table + int.from_bytes(image[entry + 16 : entry + 20], "little")


def vmdk_descriptor(kind: str = "streamOptimized", extent: str = 'RW 2048 SPARSE "disk.vmdk"', more: str = "") -> bytes:
    return (
        f'# Disk DescriptorFile\nversion=1\nCID=123a681b\nparentCID=ffffffff\ncreateType="{kind}"\n{more}\n'
        f'# Extent description\n{extent}\n\n#DDB\nddb.virtualHWVersion = "4"\n'
    ).encode()


def vmware_stream(content: bytes, descriptor: bytes | None = None) -> bytes:
    """A streamOptimized VMDK as VMware's tools write it, and qemu-img does not: the directory is known at its end."""
    grain, table_entries, sector = 128, 512, 512
    capacity = len(content) // sector
    text = descriptor or vmdk_descriptor(extent=f'RW {capacity} SPARSE "call-me-stream.vmdk"')

    def header(directory: int) -> bytes:
        fields = (b"KDMV", 3, 0x30001, capacity, grain, 1, 20, table_entries, 0, directory, 128, 0, b"\n \r\n", 1)
        return struct.pack("<4sIIQQQQIQQQB4sH", *fields).ljust(sector, b"\0")

    def marker(sectors: int, kind: int) -> bytes:
        return struct.pack("<QII", sectors, 0, kind).ljust(sector, b"\0")

    image = bytearray((header(2**64 - 1) + text).ljust(128 * sector, b"\0"))
    entries = [0] * table_entries
    for number in range(0, -(-capacity // grain)):
        data = content[number * grain * sector : (number + 1) * grain * sector].ljust(grain * sector, b"\0")
        if any(data):
            entries[number] = len(image) // sector
            packed = zlib.compress(data)
            image += struct.pack("<QI", number * grain, len(packed)) + packed
            image += bytes(-len(image) % sector)
    image += marker(4, 1)
    table = len(image) // sector
    image += struct.pack(f"<{table_entries}I", *entries)
    image += marker(1, 2)
    directory = len(image) // sector
    image += le32(table).ljust(sector, b"\0")
    return bytes(image + marker(1, 3) + header(directory) + marker(0, 0))


def iso() -> bytes:
    """The beginning of an ISO 9660 image: an empty system area and the primary volume descriptor."""
    return bytes(32 * 1024) + (b"\x01CD001\x01".ljust(2048, b"\0")) + bytes(64 * 1024)


def dmg_trailer() -> bytes:
    """The end of a disk image of macOS."""
    return struct.pack(">4sIII", b"koly", 4, 512, 1).ljust(512, b"\0")


def run_python(program: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``program`` in a Python of its own, where nobody has configured logging."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
