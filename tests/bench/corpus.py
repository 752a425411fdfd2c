"""The images that are imported: file systems with real files, in the formats in which marketplaces publish them."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import BenchError, run

MIB = 1 << 20
_ORIGIN = Path("/usr")
_BLOCK = 4096


@dataclass(frozen=True)
class Format:
    """How an image is made: from the image ``base``, with ``make(base, target)``."""

    base: str
    make: Callable[[Path, Path], None]
    unpacker: str = "cat"
    """What serial.sh unpacks it with."""
    native: bool = True
    """Whether OpenNebula's fs driver can import it."""


def _qemu(name: str, *options: str) -> Callable[[Path, Path], None]:
    def make(base: Path, target: Path) -> None:
        run(["qemu-img", "convert", "-f", "raw", "-O", name, *options, base, target])

    return make


def _compressor(*command: str) -> Callable[[Path, Path], None]:
    def make(base: Path, target: Path) -> None:
        run(["sh", "-c", f'exec {" ".join(command)} "$1" >"$2"', "sh", base, target])

    return make


def _ova(base: Path, target: Path) -> None:
    """An appliance: its description, then its disk, as the specification of OVF wants the order."""
    ovf = target.with_name("appliance.ovf")
    ovf.write_text(
        '<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" '
        'xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><References><File ovf:id="file1" ovf:href="disk1.vmdk"/>'
        "</References><DiskSection><Info>Disks</Info>"
        f'<Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity="{base.with_name("raw").stat().st_size}"/>'
        "</DiskSection></Envelope>"
    )
    try:
        with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
            archive.add(ovf, ovf.name)
            archive.add(base, "disk1.vmdk")
    finally:
        ovf.unlink()


FORMATS = {
    "vmdk-sparse": Format("raw", _qemu("vmdk", "-o", "subformat=monolithicSparse")),
    "vmdk-stream": Format("raw", _qemu("vmdk", "-o", "subformat=streamOptimized")),
    "ova": Format("vmdk-stream", _ova, "tar", native=False),
    "raw.gz": Format("raw", _compressor("pigz", "-c"), "gunzip -c"),
    "raw.zst": Format("raw", _compressor("zstd", "-q", "-T0", "-c"), "zstd -q -dc", native=False),
    "raw.xz": Format("raw", _compressor("xz", "-T0", "-c"), "unxz -c"),
    "raw.bz2": Format("raw", _compressor("pbzip2", "-c"), "bunzip2 -c"),
    "qcow2-zlib": Format("raw", _qemu("qcow2", "-c")),
    "qcow2-zstd": Format("raw", _qemu("qcow2", "-c", "-o", "compression_type=zstd")),
    "vhdx": Format("raw", _qemu("vhdx")),
    "vdi": Format("raw", _qemu("vdi")),
    "qcow2": Format("raw", _qemu("qcow2")),
}


@dataclass(frozen=True)
class Corpus:
    """The images of one guest disk in ``directory``, with ``content`` bytes of files. Made when they are asked for."""

    directory: Path
    content: int
    say: Callable[[str], None]
    digests: dict[str, str] = field(default_factory=dict)

    def image(self, name: str) -> Path:
        path = self.directory / name
        if path.exists():
            return path
        self.directory.mkdir(parents=True, exist_ok=True)
        partial = self.directory / f"{name}.part"
        try:
            if name == "raw":
                self.say(f"making {path}")
                self._make_disk(partial)
            else:
                base = self.image(FORMATS[name].base)
                self.say(f"making {path}")
                FORMATS[name].make(base, partial)
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def md5(self, name: str) -> str:
        if name not in self.digests:
            digest = hashlib.md5(usedforsecurity=False)
            with self.image(name).open("rb") as file:
                while piece := file.read(MIB):
                    digest.update(piece)
            self.digests[name] = digest.hexdigest()
        return self.digests[name]

    @property
    def size_mb(self) -> int:
        """The size of the guest disk: twice its content."""
        return 2 * self.content // MIB

    def _make_disk(self, path: Path) -> None:
        tree = self.directory / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        try:
            tree.mkdir()
            _fill(tree, self.content)
            with path.open("wb") as disk:
                disk.truncate(self.size_mb * MIB)
            # One partition, a MiB behind the beginning and a MiB before the end, as sfdisk aligns it.
            run(["sh", "-c", 'echo "label: gpt\nstart=2048" | sfdisk -q "$1"', "sh", path])
            options = ["-t", "ext4", "-m", "0", "-i", str(2 * _BLOCK), "-E", f"offset={MIB}", "-d", tree]
            run(["mke2fs", "-q", *options, path, f"{self.size_mb - 2}M"])
        finally:
            shutil.rmtree(tree, ignore_errors=True)


def _fill(tree: Path, content: int) -> None:
    """Copy files of this system until they take ``content`` bytes. The choice is random, but always the same."""
    files = sorted(Path(parent, name) for parent, _, names in os.walk(_ORIGIN) for name in names)
    random.Random(8).shuffle(files)
    left, turn = content, 0
    while left > 0:
        before = left
        # Every further turn copies the same files with other bytes that compress as well.
        other = bytes(byte ^ turn for byte in range(256))
        for number, file in enumerate(files):
            status = file.lstat()
            size = -(-status.st_size // _BLOCK) * _BLOCK
            if not stat.S_ISREG(status.st_mode) or size > min(left, content // 8) or not os.access(file, os.R_OK):
                continue
            target = tree / f"{turn}-{number % 512}" / f"{number}-{file.name}"[-200:]
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes().translate(other))
            left -= size
        turn += 1
        if left == before or turn == 256:
            break
    if left > content // 10:
        raise BenchError(f"{_ORIGIN} holds too few files for {content} bytes")
