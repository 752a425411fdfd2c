"""Archives and compression: names that lead elsewhere, links and devices, twins, lies about sizes, bombs, cuts.

Tar, OVA, zip, gzip, bzip2, xz and zstd, and what may be in an archive: OVF descriptors, manifests, split VMDKs.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable

import lz4.frame

from hostile.case import HARMLESS, Case, Scene
from hostile.images import backed, image
from rig.crafted import vmdk_descriptor
from rig.images import COMPRESSIONS, MIB

BOMB = 256 * MIB
ENVELOPE = (
    '<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">'
    '<References><File ovf:id="f" ovf:href="{href}"/></References>'
    '<DiskSection><Info/><Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="{capacity}"{more}/></DiskSection>'
    "</Envelope>"
)


def tar(
    *members: tuple[str, bytes], dialect: int = tarfile.GNU_FORMAT, pax: dict[str, str] | None = None, **fields: object
) -> bytes:
    """A tar archive; ``fields`` are those of its last member, ``pax`` records of it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=dialect) as archive:
        for number, (name, data) in enumerate(members, 1):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            if number == len(members):
                entry.pax_headers = pax or {}
                for field, value in fields.items():
                    setattr(entry, field, value)
            archive.addfile(entry, io.BytesIO(data) if entry.isreg() else None)
    return buffer.getvalue()


def with_field(archive: bytes, offset: int, data: bytes) -> bytes:
    """A tar archive with other bytes in its first header, the checksum made right."""
    header = bytearray(archive[:512])
    header[offset : offset + len(data)] = data
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + archive[512:]


def named(name: str) -> Callable[[Scene], bytes]:
    """A tar archive whose disk has this name; {canary} is the path of the canary."""
    return lambda scene: tar((name.replace("{canary}", str(scene.canary)), disk()))


def linked(kind: bytes, target: str = "{canary}") -> Callable[[Scene], bytes]:
    return lambda scene: tar(
        ("disk.raw", b""), type=kind, linkname=target.replace("{canary}", str(scene.canary)), devmajor=1, devminor=1
    )


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data, method)
    return buffer.getvalue()


def zip_with(change: Callable[[bytearray, int, int], object], **options: int) -> Callable[[Scene], bytes]:
    """A zip of one disk, changed by a function of its bytes and the places of its directory entry and its end."""

    def build(scene: Scene) -> bytes:
        good = bytearray(zipped(("disk.raw", disk()), **options))
        change(good, good.rindex(b"PK\x01\x02"), good.rindex(b"PK\x05\x06"))
        return bytes(good)

    return build


def overwrite(offset: int, data: bytes) -> Callable[[bytearray, int, int], object]:
    """Change the local header."""
    return lambda archive, entry, end: archive.__setitem__(slice(offset, offset + len(data)), data)


def overwrite_entry(offset: int, data: bytes) -> Callable[[bytearray, int, int], object]:
    """Change the entry in the directory."""
    return lambda archive, entry, end: archive.__setitem__(slice(entry + offset, entry + offset + len(data)), data)


def zip_named(name: bytes) -> Callable[[Scene], bytes]:
    """A zip whose disk has another name of eight bytes."""
    return lambda scene: zipped(("disk.raw", disk())).replace(b"disk.raw", name)


def zip_link(scene: Scene, mode: int = 0o120777) -> bytes:
    entry = zipfile.ZipInfo("disk.raw")
    entry.create_system = 3
    entry.external_attr = mode << 16
    return zipped((entry, str(scene.canary).encode()))


def zip_overlapping(scene: Scene) -> bytes:
    """Many entries of the directory share one member."""
    good = zipped(("disk.raw", bytes(MIB)))
    entry, end = good.rindex(b"PK\x01\x02"), good.rindex(b"PK\x05\x06")
    directory = good[entry:end] * 100
    record = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 100, 100, len(directory), entry, 0)
    return good[:entry] + directory + record


def ova(href: str = "disk.vmdk", more: str = "", capacity: str = str(MIB), head: str = "") -> Callable[[Scene], bytes]:
    """An appliance of a description and a disk."""

    def build(scene: Scene) -> bytes:
        text = head + ENVELOPE.format(href=href, more=more, capacity=capacity)
        return tar(
            ("box.ovf", text.replace("{canary}", str(scene.canary)).encode()), ("disk.vmdk", image("vmdk-stream"))
        )

    return build


def manifest(text: str) -> Callable[[Scene], bytes]:
    def build(scene: Scene) -> bytes:
        return tar(
            ("box.mf", text.replace("{canary}", str(scene.canary)).encode()), ("disk.vmdk", image("vmdk-stream"))
        )

    return build


def split(extent: str, *more: tuple[str, bytes], kind: str = "monolithicFlat") -> Callable[[Scene], bytes]:
    """A descriptor in an archive, and members beside it."""

    def build(scene: Scene) -> bytes:
        text = vmdk_descriptor(kind, extent.replace("{canary}", str(scene.canary)))
        return tar(("disk.vmdk", text), *more)

    return build


def disk() -> bytes:
    return (b"\0\xff" + b"content!" * (MIB // 8))[:MIB]


def with_byte(data: bytes, place: int) -> bytes:
    """Data with another byte at a place."""
    bent = bytearray(data)
    bent[place] ^= 0xFF
    return bytes(bent)


def gzip_zeros(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(MIB)) for _ in range(size // MIB)) + packer.flush()


def layers(data: bytes, count: int) -> bytes:
    for _ in range(count):
        data = gzip.compress(data, 1)
    return data


def xz_zeros(scene: Scene) -> bytes:
    packer = lzma.LZMACompressor(preset=0)
    return b"".join(packer.compress(bytes(MIB)) for _ in range(BOMB // MIB)) + packer.flush()


def xz_with_dictionary(scene: Scene) -> bytes:
    """An .xz whose block header claims a dictionary of 4 GiB, its checksum made right."""
    good = bytearray(lzma.compress(disk(), preset=0))
    good[16] = 40
    good[20:24] = struct.pack("<I", zlib.crc32(good[12:20]))
    return bytes(good)


def xz_with_block_size(scene: Scene) -> bytes:
    """An .xz of several blocks, of which the first is of 256 KiB and says 16 KiB, the checksum of its header right."""
    xz = ["xz", "-c", "-0", "-T2", "--block-size=256KiB"]
    good = subprocess.run(xz, input=disk(), capture_output=True, check=True).stdout
    length = 4 * good[12] + 4
    header = good[12 : 8 + length].replace(b"\x80\x80\x10", b"\x80\x80\x01")
    assert header not in good
    return good[:12] + header + struct.pack("<I", zlib.crc32(header)) + good[12 + length :]


def billion_laughs() -> str:
    lines = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    return f'<!DOCTYPE Envelope [<!ENTITY e0 "ha">{lines}]>'


def sparse_map(scene: Scene) -> bytes:
    return tar(("disk.raw", bytes(1024)), type=tarfile.GNUTYPE_SPARSE)


TRAVERSAL = "CVE-2007-4559"
NAMES = (
    Case("tar-traversal", "is extracted to a place above the scratch space", named("../../../etc/cron.d/disk.raw"),
         "leads out of the archive", TRAVERSAL),
    Case("tar-absolute", "is extracted over a file of the host", named("/{canary}"), "absolute path", TRAVERSAL),
    Case("tar-backslash", "leads elsewhere for readers that take a backslash for a slash",
         named("..\\..\\disk.raw"), "backslash"),
    Case("tar-nul", "hides the end of a name behind a NUL", lambda scene: tar(
        ("disk.raw", disk()), dialect=tarfile.PAX_FORMAT, pax={"path": "disk.raw\0/../../x"}), "control character"),
    Case("tar-shell", "has a name that a shell would run", named("'; touch x; '$(touch x)`touch x`.raw"), HARMLESS),
    Case("tar-newline", "brings a second line into messages and logs", named("disk\nERROR: all is well.raw"),
         "control character"),
    Case("tar-option", "has a name that programs take for an option", named("--checkpoint-action=exec=sh"), HARMLESS),
    Case("tar-protocol", "has a name that qemu-img takes for a protocol", named("json:{\"driver\":\"file\"}"),
         HARMLESS),
    Case("tar-long-name", "has a name of 100,000 characters", named("n" * 100_000), "name of more than"),
    Case("tar-pax-path", "hides its real name in an extended header",
         lambda scene: tar(("disk.raw", disk()), dialect=tarfile.PAX_FORMAT, pax={"path": "../../disk.raw"}),
         "leads out of the archive", TRAVERSAL),
    Case("tar-duplicate", "has two disks of one name, and each reader takes another",
         lambda scene: tar(("disk.raw", disk()), ("disk.raw", bytes(MIB))), "occurs more than once"),
    Case("zip-traversal", "is unpacked to a place above the scratch space",
         lambda scene: zipped(("../../disk.raw", disk())), "leads out of the archive", "CVE-2018-1002200"),
    Case("zip-absolute", "is a zip that is unpacked over a file of the host",
         lambda scene: zipped((f"/{scene.canary}", disk())), "absolute path"),
    Case("zip-nul", "is a zip that hides the end of a name behind a NUL", zip_named(b"disk\0raw"), "control character"),
    Case("zip-option", "is a zip with a name that programs take for an option", zip_named(b"-oX=.raw"), HARMLESS),
    Case("zip-duplicate", "has two disks of one name, of which its directory makes the last one count",
         lambda scene: zipped(("disk.raw", disk()), ("./disk.raw", bytes(MIB))), "occurs more than once"),
)  # fmt: skip

KINDS = (
    Case("tar-symlink", "is a link to a file of the host where the disk should be", linked(tarfile.SYMTYPE),
         "symbolic link"),
    Case("tar-hardlink", "is a second name for a file of the host", linked(tarfile.LNKTYPE), "hard link"),
    Case("tar-character-device", "makes a device that never ends", linked(tarfile.CHRTYPE), "character device"),
    Case("tar-fifo", "makes a pipe that waits for ever", linked(tarfile.FIFOTYPE), "FIFO"),
    Case("tar-block-device", "is a disk of the host where its own disk should be", linked(tarfile.BLKTYPE),
         "block device"),
    Case("tar-hardlink-twice", "is a link to another member, which is written through", lambda scene:
         tar(("disk.raw", disk()))[: 512 + MIB] + tar(("b.raw", b""), type=tarfile.LNKTYPE, linkname="disk.raw"),
         "hard link"),
    Case("tar-directory-with-content", "is a directory that holds bytes", lambda scene: with_field(
        tar(("disk.raw", disk())), 156, b"5"), "directory with content"),
    Case("tar-symlink-then-file", "writes through a directory that is a link",
         lambda scene: tar(("dir", b""), type=tarfile.SYMTYPE, linkname=str(scene.canary.parent))[:512]
         + tar(("dir/disk.raw", disk())), "symbolic link"),
    Case("tar-unknown-type", "is of a type that readers treat in two ways", lambda scene: tar(
        ("disk.raw", b""), type=b"Z"), "unknown type"),
    Case("tar-sparse", "claims with a map of holes to be larger than it is", sparse_map, "sparse"),
    Case("tar-sparse-pax", "is a sparse file by an extended header",
         lambda scene: tar(("disk.raw", disk()), dialect=tarfile.PAX_FORMAT,
                           pax={"GNU.sparse.major": "1", "GNU.sparse.realsize": str(1 << 60)}), "sparse"),
    Case("zip-device", "is a device by the mode in its directory entry",
         lambda scene: zip_link(scene, 0o060644), "link or a device"),
    Case("zip-symlink", "is a link by the mode in its directory entry", zip_link, "link or a device"),
)  # fmt: skip

LIES = (
    Case("tar-size-negative", "goes backwards for ever", lambda scene: with_field(
        tar(("disk.raw", disk())), 124, b"\xff" * 12), "claims a size", "CVE-2025-8194"),
    Case("tar-size-huge", "claims 2^80 bytes", lambda scene: with_field(
        tar(("disk.raw", disk())), 124, b"\x80\0" + b"\xff" * 10), "claims a size"),
    Case("tar-size-beyond", "claims more than is there", lambda scene: with_field(
        tar(("disk.raw", disk())), 124, b"77777777777\0"), "truncated"),
    Case("tar-pax-size", "has another size in its extended header",
         lambda scene: tar(("disk.raw", disk()), dialect=tarfile.PAX_FORMAT, pax={"size": "-1"}), "has the size '-1'"),
    Case("tar-pax-length", "has an extended header of 8 GiB", lambda scene: with_field(
        tar(("x", bytes(512)), type=tarfile.XHDTYPE), 124, b"77777777777\0"), "extended header"),
    Case("tar-long-name-length", "has a GNU long name of 8 GiB", lambda scene: with_field(
        tar(("x", bytes(512)), type=tarfile.GNUTYPE_LONGNAME), 124, b"77777777777\0"), "extended header"),
    Case("tar-long-link-length", "has a GNU long link of 8 GiB", lambda scene: with_field(
        tar(("x", bytes(512)), type=tarfile.GNUTYPE_LONGLINK), 124, b"77777777777\0"), "extended header"),
    Case("tar-pax-record", "has a record that is longer than its header", lambda scene: with_field(
        tar(("x", b"99999999 path=a\n")), 156, b"x")[:1024] + tar(("disk.raw", disk())),
         "extended header of the tar archive cannot be read"),
    Case("tar-pax-global", "renames all members with a global header", lambda scene: with_field(
        tar(("x", b"16 path=../../x\n")), 156, b"g")[:1024] + tar(("disk.raw", disk())), "global header"),
    Case("tar-pax-many", "has a thousand extended headers in front of one member",
         lambda scene: with_field(tar(("x", b"")), 156, b"x")[:512] * 1000 + tar(("disk.raw", disk())),
         "extended headers", "CVE-2024-6232"),
    Case("tar-members", "has two thousand members", lambda scene: tar(*((f"{n}.txt", b"") for n in range(2000))),
         "more than 1000 members"),
    Case("tar-header-damaged", "has a second header whose checksum is wrong",
         lambda scene: tar(("a.txt", b"x"), ("disk.raw", disk()))[:1024] + b"\1" * 512, "no valid header"),
    Case("tar-cut-in-disk", "ends within its disk", lambda scene: tar(("disk.raw", disk()))[:300_000], "truncated"),
    Case("tar-trailer", "goes on behind its end, for readers that go on, too", lambda scene: tar(
        ("disk.raw", disk())) + tar(("disk2.raw", disk())), "follows the end"),
    Case("zip-sizes-differ", "has another size in front than in its directory",
         zip_with(overwrite_entry(24, b"\xff\xff\xff\x7f")), "says something else"),
    Case("zip-size-lies", "unpacks to more than both of its sizes say", zip_with(
        lambda archive, entry, end: (overwrite(22, b"\1\0\0\0")(archive, entry, end),
                                     overwrite_entry(24, b"\1\0\0\0")(archive, entry, end))), "size and checksum"),
    Case("zip-name-differs", "has another name in its directory", zip_with(overwrite_entry(46, b"D")), "directory"),
    Case("zip-encrypted", "waits for a password", zip_with(overwrite(6, b"\1\0")), "encrypted"),
    Case("zip-method", "needs a method that nobody has", zip_with(overwrite(8, b"\x63\0")), "method 99"),
    Case("zip-members", "is a zip of two thousand members",
         lambda scene: zipped(*((f"{n}.txt", b"") for n in range(2000))), "more than 1000 members"),
    Case("zip-extra-huge", "says that its extra field goes on behind its end",
         zip_with(overwrite(28, b"\xff\xff")), "truncated"),
    Case("zip-cut", "is a zip that ends too early", lambda scene: zipped(("disk.raw", disk()))[:600], "truncated"),
    Case("zip-without-directory", "lacks the directory that says what its members are",
         zip_with(lambda archive, entry, end: archive.__delitem__(slice(entry, None))), "truncated"),
    Case("zip-overlapping", "shares one member between a hundred entries, a bomb for those who unpack by directory",
         zip_overlapping, "directory", "CVE-2019-13232"),
)  # fmt: skip

BOMBS = (
    Case("gzip-bomb", "is a quarter of a MiB that becomes 256 MiB", lambda scene: gzip_zeros(BOMB), HARMLESS),
    Case("gzip-bomb-over-the-ceiling", "unpacks to more than the administrator allows",
         lambda scene: gzip_zeros(BOMB), "max_virtual_size", settings={"max_virtual_size": "64M"}),
    Case("zstd-bomb", "is 8 KiB that become 64 MiB, and has a window as large",
         lambda scene: COMPRESSIONS["zst"](bytes(64 * MIB)), HARMLESS),
    Case("zip-bomb", "is a zip whose one member becomes 256 MiB",
         lambda scene: zipped(("disk.raw", bytes(BOMB))), HARMLESS),
    Case("bzip2-bomb", "is a KiB that becomes 256 MiB", lambda scene: bz2.compress(bytes(BOMB)), HARMLESS),
    Case("lz4-bomb", "is a MiB that becomes 256 MiB", lambda scene: lz4.frame.compress(bytes(BOMB)), HARMLESS),
    Case("xz-bomb-over-the-ceiling", "is some KiB that become more than the administrator allows", xz_zeros,
         "max_virtual_size", settings={"max_virtual_size": "64M"}),
    Case("zip-bomb-over-the-ceiling", "has a member larger than the administrator allows",
         lambda scene: zipped(("disk.raw", bytes(BOMB))), "max_virtual_size", settings={"max_virtual_size": "64M"}),
    Case("tar-bomb-over-the-ceiling", "has a compressed member larger than the administrator allows",
         lambda scene: tar(("disk.raw.gz", gzip_zeros(BOMB))), "max_virtual_size",
         settings={"max_virtual_size": "64M"}),
    Case("gzip-members", "is fifty thousand empty members, for readers that start anew with each",
         lambda scene: gzip.compress(b"", 1) * 50_000 + gzip.compress(disk(), 1), HARMLESS),
    Case("xz-dictionary", "has the decompressor allocate 4 GiB", xz_with_dictionary,
         "within the memory that is allowed for xz"),
    Case("xz-block-size", "has a block that becomes more than its header says", xz_with_block_size, "damaged"),
    Case("zstd-window", "has the decompressor allocate a window of 2 TiB",
         lambda scene: b"\x28\xb5\x2f\xfd\x00\xf8" + b"\x01\0\0" * 10,
         "within the memory that is allowed for zstd"),
    Case("gzip-layers", "is compressed again and again",
         lambda scene: layers(disk(), 6), "compressed more than"),
    Case("gzip-cut", "ends before its checksum", lambda scene: gzip.compress(disk())[:-9], "truncated"),
    Case("bzip2-cut", "ends within a block of bzip2", lambda scene: bz2.compress(disk())[:-9], "truncated"),
    Case("xz-cut", "ends before the index of xz", lambda scene: lzma.compress(disk(), preset=0)[:-9], "truncated"),
    Case("zstd-cut", "ends within a frame of zstd", lambda scene: COMPRESSIONS["zst"](disk())[:-9], "truncated"),
    Case("lz4-cut", "ends within a frame of lz4", lambda scene: COMPRESSIONS["lz4"](disk())[:-9], "truncated"),
    Case("gzip-checksum", "unpacks to something else than its checksum says",
         lambda scene: with_byte(gzip.compress(disk()), -6), "gzip data cannot be decompressed"),
    Case("xz-checksum", "unpacks to something else than the checksum of xz says",
         lambda scene: with_byte(lzma.compress(disk(), preset=0, check=lzma.CHECK_CRC32), -40), "damaged"),
    Case("gzip-trailer", "goes on with something else behind its data",
         lambda scene: gzip.compress(disk()) + b"#!/bin/sh\n" * 100, "follows"),
    Case("gzip-name", "carries the name of a file of the host", (
        lambda scene: b"\x1f\x8b\x08\x08" + bytes(6) + str(scene.canary).encode() + b"\0"
        + gzip.compress(disk(), mtime=0)[10:]), HARMLESS),
    Case("tar-in-tar", "is an archive in an archive", lambda scene: tar(("in.tar", tar(("disk.raw", disk())))),
         "archive"),
    Case("zip-in-zip", "is a zip in a zip", lambda scene: zipped(("in.zip", zipped(("disk.raw", disk())))), "archive"),
    Case("ova-in-gzip-in-zip", "is an appliance, compressed, in an archive",
         lambda scene: zipped(("box.ova.gz", gzip.compress(ova()(scene)))), "archive"),
    Case("tar-of-bombs", "is a tar of four compressed disks, each a bomb",
         lambda scene: tar(*((f"disk{n}.raw.gz", gzip_zeros(64 * MIB)) for n in range(4))), "4 disks"),
)  # fmt: skip

APPLIANCES = (
    Case("ova-href-climbing", "has its disk above the archive", ova("../../../../{canary}"),
         "not a file beside the descriptor", "CVE-2026-34881"),
    Case("ova-href-file", "has its disk behind a file: URL", ova("file://{canary}"), "not a file beside",
         "CVE-2026-34881, OSSA-2026-004"),
    Case("ova-href-percent", "hides dots and slashes in percent-encoding", ova("%2e%2e%2f%2e%2e%2fetc%2fpasswd"),
         "not a file beside"),
    Case("ova-entity-file", "reads a file of the host into its text",
         ova("&x;", head='<!DOCTYPE a [<!ENTITY x SYSTEM "file://{canary}">]>'), "the OVF descriptor", "OSSA-2013-004"),
    Case("ova-entity-parameter", "sends a file of the host to a server",
         ova(head='<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1:9/x.dtd"> %x;]>'), "DOCTYPE", "OSSA-2013-004"),
    Case("ova-billion-laughs", "unfolds to gigabytes", ova("&e9;", head=billion_laughs()), "the OVF descriptor",
         "OSSA-2013-004"),
    Case("ova-depth", "nests a hundred thousand elements", lambda scene: tar(
        ("box.ovf", b"<Envelope>" + b"<a>" * 100_000 + b"</a>" * 100_000 + b"</Envelope>"), ("disk.raw", disk())),
        "not well-formed"),
    Case("ova-xinclude", "includes a file of the host in its description",
         ova(more='><xi:include xmlns:xi="http://www.w3.org/2001/'
         'XInclude" href="file://{canary}" parse="text"/></Disk><Disk ovf:diskId="e"'), HARMLESS),
    Case("ova-large-description", "has a description of 16 MiB", lambda scene: tar(
        ("box.ovf", b" " * 16 * MIB), ("disk.raw", disk())), "too many for a text"),
    Case("ova-parent", "has a disk on top of another one", ova(more=' ovf:parentRef="e"'),
         "only the changes to another disk"),
    Case("ova-capacity", "claims a capacity beyond all numbers", ova(capacity="9" * 18, more=" ovf:capacityAllocation"
         'Units="byte * 2^90"'), "the capacity of disk", "CVE-2013-2096"),
    Case("ova-two-descriptions", "has two descriptions, one for each reader", lambda scene: tar(
        ("a.ovf", ENVELOPE.format(href="a", capacity=1, more="").encode()),
        ("b.ovf", ENVELOPE.format(href="b", capacity=1, more="").encode()), ("a", disk()), ("b", disk())),
        "more than one .ovf"),
    Case("ova-disks", "has ten thousand disks of one file in its description", lambda scene: tar(
        ("box.ovf", ENVELOPE.format(href="f", capacity=1, more="").replace(
            "</DiskSection>", "".join(f'<Disk ovf:diskId="d{n}" ovf:fileRef="f" ovf:capacity="1"/>'
                                      for n in range(10_000)) + "</DiskSection>").encode()), ("f", disk())),
         HARMLESS),
    Case("ova-attributes", "has an element of fifty thousand attributes", lambda scene: tar(
        ("box.ovf", ENVELOPE.format(href="f", capacity=MIB, more="".join(
            f' a{n}="1"' for n in range(50_000))).encode()), ("f", disk())), HARMLESS),
    Case("ova-href-line-break", "has a line break and a command in the name of its disk",
         ova("disk.vmdk&#10;ERROR: $(touch x)"), "not a file beside"),
    Case("ova-manifest-twice", "has two manifests, one for each reader", lambda scene: tar(
        ("a.mf", b""), ("b.mf", b""), ("disk.raw", disk())), "more than one manifest"),
    Case("ova-manifest-large", "has a manifest of 16 MiB", lambda scene: tar(
        ("box.mf", b"\n" * 16 * MIB), ("disk.raw", disk())), "too many for a text"),
    Case("ova-manifest-garbage", "has a manifest that is no text", manifest("\0\x7f=\n" * 100),
         "line 1 of the manifest"),
    Case("ova-manifest-wrong", "was changed after its manifest was written",
         manifest("SHA256(disk.vmdk)= " + "0" * 64 + "\n"), "digest"),
    Case("ova-manifest-path", "has a digest of a file of the host compared",
         lambda scene: manifest("SHA256({canary})= " + hashlib.sha256(scene.canary.read_bytes()).hexdigest())(scene),
         "is not in it"),
    Case("split-absolute", "has its flat extent in a file of the host", split('RW 64 FLAT "{canary}" 0'),
         "not a file beside", "CVE-2022-47951, OSSA-2023-002"),
    Case("split-device", "has a device for an extent", split('RW 64 FLAT "/dev/sda" 0'), "not a file beside",
         "CVE-2022-47951"),
    Case("split-scratch-name", "guesses the name of a file of the scratch space", split(
        'RW 64 FLAT "member-2" 0', ("other.raw", disk())), "is missing",
        attributes={"ONECONVERT_DISK": "1"}),
    Case("split-climbing", "has its flat extent above the archive", split('RW 64 FLAT "../member-2" 0'),
         "not a file beside", "CVE-2022-47951"),
    Case("split-json", "has a protocol name for an extent of a set", split('RW 64 FLAT "json:{}" 0'),
         "not a file beside", "CVE-2022-47951"),
    Case("split-extents", "has a hundred thousand extents, for readers that open each", lambda scene: split(
        "RW 1 FLAT \"f\" 0\n" * 50_000, ("f", disk()))(scene), "too large for a VMDK descriptor"),
    Case("split-parent", "is completed from a parent", lambda scene: tar(("disk.vmdk", vmdk_descriptor(
        "monolithicFlat", 'RW 2048 FLAT "f" 0', f'parentFileNameHint="{scene.canary}"')), ("f", disk())), "its parent"),
    Case("split-itself", "is an extent of itself", split('RW 1 FLAT "disk.vmdk" 0'), "without a disk image"),
    Case("split-extent-short", "has an extent that is larger on paper", split(
        'RW 64000 FLAT "f" 0', ("f", disk())), "truncated"),
    Case("split-offset-huge", "reads far behind the end of its extent", split(
        'RW 64 FLAT "f" 9999999999999999999', ("f", disk())), "has the extent line"),
    Case("split-sparse-is-descriptor", "has a descriptor for a sparse extent, which names a file of the host",
         lambda scene: split('RW 64 SPARSE "f"', ("f", b"\0" * 512 + vmdk_descriptor(
             "monolithicFlat", f'RW 64 FLAT "{scene.canary}" 0').ljust(2048, b"\0")), kind="twoGbMaxExtentSparse")(
             scene), "not a sparse VMDK extent", "CVE-2022-47951"),
    Case("split-flat-is-qcow2", "has a flat extent that is a qcow2 with a backing file",
         lambda scene: split('RW 2048 FLAT "f" 0', ("f", backed("{canary}")(scene).ljust(MIB, b"\0")))(scene),
         "itself a qcow2", "CVE-2024-40767"),
    Case("tar-sibling-backing", "has a qcow2 whose backing file is the other member of the archive, by a chain",
         lambda scene: tar(("a.qcow2", backed("member-2", "qcow2")(scene)), ("b.qcow2", backed("{canary}")(scene))),
         "backing file", "CVE-2015-5163", attributes={"ONECONVERT_DISK": "a.qcow2"}),
)  # fmt: skip


ARCHIVES = (*NAMES, *KINDS, *LIES, *BOMBS, *APPLIANCES)
