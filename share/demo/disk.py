"""A disk for the demo: a partition table and a real ext4 file system with files in it, packed as a VMDK."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

SECTOR = 512
MIB = 1024 * 1024
DISK = 256 * MIB
PARTITION = 1 * MIB  # where it begins

FILES = {
    "etc/hostname": "webserver\n",
    "etc/os-release": 'NAME="Demo Linux"\nVERSION="1.0"\n',
    "boot/grub/grub.cfg": "set timeout=3\nmenuentry 'Demo Linux' { linux /boot/vmlinuz root=/dev/vda1 }\n",
    "var/www/index.html": "<h1>It works, and it was a VMDK an instant ago.</h1>\n",
}


def make_vmdk(directory: Path) -> Path:
    """Make ``demo.vmdk`` (streamOptimized, what an OVA holds) in ``directory`` with e2fsprogs and qemu-img."""
    tree = directory / "tree"
    for name, text in FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    # Something of the size that an operating system has, and that does not compress away.
    (tree / "boot/vmlinuz").write_bytes(os.urandom(24 * MIB))
    raw = directory / "disk.raw"
    with raw.open("wb") as disk:
        disk.write(master_boot_record())
        disk.truncate(DISK)
    blocks = str((DISK - PARTITION) // 1024) + "k"
    offset = f"offset={PARTITION}"
    _run("mkfs.ext4", "-q", "-F", "-L", "root", "-E", offset, "-d", str(tree), str(raw), blocks)
    vmdk = directory / "demo.vmdk"
    _run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", str(raw), str(vmdk))
    return vmdk


def master_boot_record() -> bytes:
    """One bootable Linux partition from 1 MiB to the end (the layout of a PC's master boot record)."""
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", PARTITION // SECTOR,
                        (DISK - PARTITION) // SECTOR)  # fmt: skip
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


def list_files(raw: Path) -> list[str]:
    """The files in the partition of a raw disk, read with debugfs."""
    found = []
    for name in FILES:
        cat = ["debugfs", "-R", f"cat /{name}", f"{raw}?offset={PARTITION}"]
        text = subprocess.run(cat, capture_output=True, text=True, check=False).stdout
        found.append(f"/{name}: {text.splitlines()[0] if text else 'missing'}")
    return found


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
