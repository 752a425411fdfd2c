"""What is promised of VMDK disks in several files: the content of the real ones, and that no name leads elsewhere."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from oneconvert.errors import ImageRefusedError
from oneconvert.images.vmdk_set import VmdkSet, check_extents, is_descriptor, read_set, rewrite
from rig.crafted import le64, patched, qemu_img

MIB = 1 << 20
SIZE = 5 * MIB + 3 * 512
SECTORS = SIZE // 512
KINDS = ("monolithicFlat", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse")

ESXI = """# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=fffffffe
parentCID=ffffffff
isNativeSnapshot="no"
createType="vmfs"

# Extent description
RW 10243 VMFS "web server-flat.vmdk"

# Change Tracking File
changeTrackPath="web server-ctk.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "10"
ddb.geometry.heads = "16"
ddb.geometry.sectors = "63"
ddb.thinProvisioned = "1"
ddb.uuid = "60 00 C2 9e 3c 5b 1f 0e-9d 1c 5a 4e 35 0a 5b 9c"
ddb.virtualHWVersion = "14"
"""


def text(
    *extents: str,
    kind: str = "monolithicFlat",
    head: str = "version=1\nCID=1234abcd\nparentCID=ffffffff",
    more: str = "",
) -> bytes:
    lines = "\n".join(extents or ('RW 8 FLAT "x-flat.vmdk" 0',))
    return f'# Disk DescriptorFile\n{head}\ncreateType="{kind}"\n{lines}\n{more}\n'.encode()


def refused(descriptor: bytes) -> str:
    with pytest.raises(ImageRefusedError) as caught:
        read_set(descriptor, "disk.vmdk")
    sentence = caught.value.sentence
    assert sentence.startswith("disk.vmdk is ")
    assert sentence.isascii() and len(sentence) < 400
    return sentence


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    dice = random.Random(3)
    content = bytearray(SIZE)
    content[:MIB] = dice.randbytes(MIB)
    content[-3000:] = dice.randbytes(3000)
    path.write_bytes(content)
    return path


def moved(disk: VmdkSet, source: Path, target: Path) -> tuple[Path, dict[str, Path]]:
    """The files of a disk under names of ours, in a directory of their own."""
    target.mkdir()
    names = {file_name: f"extent{number}" for number, file_name in enumerate(disk.file_names)}
    files = {file_name: target / name for file_name, name in names.items()}
    for file_name, path in files.items():
        if not path.exists():
            path.write_bytes((source / file_name).read_bytes())
    descriptor = target / "descriptor.vmdk"
    descriptor.write_bytes(rewrite(disk, names))
    return descriptor, files


def converted(descriptor: Path) -> bytes:
    target = descriptor.with_suffix(".raw")
    qemu_img("convert", "-f", "vmdk", "-O", "raw", descriptor, target)
    return target.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_rewritten_set_has_the_content_of_the_original(raw: Path, tmp_path: Path, kind: str) -> None:
    made = tmp_path / "Some disk.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={kind}", raw, made)
    assert is_descriptor(made.read_bytes())
    disk = read_set(made.read_bytes(), "disk.vmdk")
    assert (disk.create_type, disk.virtual_size) == (kind, SIZE)
    descriptor, files = moved(disk, tmp_path, tmp_path / "ours")
    check_extents(disk, files, "disk.vmdk")
    assert converted(descriptor) == raw.read_bytes()
    # It is ours, word by word, and reads back as the same.
    assert b"Some" not in descriptor.read_bytes()
    again = read_set(descriptor.read_bytes(), "disk.vmdk")
    assert [e.sectors for e in again.extents] == [e.sectors for e in disk.extents]
    assert (again.cid, again.harmless) == (disk.cid, disk.harmless)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_disk_of_esxi(raw: Path, tmp_path: Path, newline: str) -> None:
    disk = read_set(ESXI.replace("\n", newline).encode() + bytes(100), "disk.vmdk")
    assert disk.file_names == ("web server-flat.vmdk",)
    assert (disk.virtual_size, disk.version, disk.cid) == (10243 * 512, 1, "fffffffe")
    assert dict(disk.harmless)["ddb.adapterType"] == "lsilogic"
    (tmp_path / "web server-flat.vmdk").write_bytes(raw.read_bytes())
    descriptor, files = moved(disk, tmp_path, tmp_path / "ours")
    check_extents(disk, files, "disk.vmdk")
    assert converted(descriptor) == raw.read_bytes()
    for word in (b"thinProvisioned", b"ctk", b"web", b"uuid", b"encoding"):
        assert word not in descriptor.read_bytes()


def test_a_disk_split_every_2_gib(tmp_path: Path) -> None:
    """Several extents, one after the other, of a sparse disk."""
    raw = tmp_path / "big.raw"
    with raw.open("wb") as file:
        file.truncate((4 << 30) + MIB)
        for offset in (0, (2 << 30) - 4096, 4 << 30):
            file.seek(offset)
            file.write(random.Random(offset).randbytes(8192))
    made = tmp_path / "big.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", raw, made)
    disk = read_set(made.read_bytes(), "disk.vmdk")
    assert len(disk.extents) == 3 and disk.virtual_size == raw.stat().st_size
    descriptor, files = moved(disk, tmp_path, tmp_path / "ours")
    check_extents(disk, files, "disk.vmdk")
    qemu_img("compare", "-f", "raw", "-F", "vmdk", raw, descriptor)


def test_extents_with_an_offset_in_one_file(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "all").write_bytes(b"head" * 128 + raw.read_bytes())
    half = SECTORS // 2
    descriptor = text(
        f'RW {half} FLAT "all" 1', f'rw {SECTORS - half} Flat "all" {1 + half}', kind="TwoGbMaxExtentFlat"
    )
    disk = read_set(descriptor, "disk.vmdk")
    assert disk.file_names == ("all",)
    path, files = moved(disk, tmp_path, tmp_path / "ours")
    check_extents(disk, files, "disk.vmdk")
    assert converted(path) == raw.read_bytes()


def test_the_content_of_a_flat_extent_is_not_looked_into(tmp_path: Path) -> None:
    """An extent that is itself an image with a backing file stays what it is: bytes."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"CANARY" * 1000)
    inner = tmp_path / "inner"
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", secret, "-F", "raw", inner, "1M")
    content = inner.read_bytes() + bytes(-inner.stat().st_size % 512)
    inner.write_bytes(content)
    disk = read_set(text(f'RW {len(content) // 512} FLAT "inner" 0'), "disk.vmdk")
    descriptor, _ = moved(disk, tmp_path, tmp_path / "ours")
    assert converted(descriptor) == content


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../x",
        "a/b",
        "..",
        ".",
        "\\\\.\\PhysicalDrive0",
        "a\\b",
        "nbd:unix:/x",
        "C:x",
        "json:{",
        "x" * 256,
    ],
)
@pytest.mark.parametrize("kind", ["FLAT", "SPARSE", "VMFS"])
def test_extents_elsewhere_are_refused(name: str, kind: str) -> None:
    """CVE-2022-47951: an extent names a file of the host."""
    create_type = {"FLAT": "monolithicFlat", "SPARSE": "twoGbMaxExtentSparse", "VMFS": "vmfs"}[kind]
    assert "is not a file beside it" in refused(text(f'RW 8 {kind} "{name}"', kind=create_type))


@pytest.mark.parametrize(
    "line",
    [
        'RW 8 FLAT "" 0',
        "RW 8 FLAT",
        "RW 8 ZERO",
        'RW 8 ZERO "x" 0',
        'RDONLY 8 FLAT "x" 0',
        'NOACCESS 8 FLAT "x" 0',
        'RW 8 SPARSE "x"',
        'RW 8 VMFS "x"',
        'RW 8 VMFSSPARSE "x"',
        'RW 8 SESPARSE "x"',
        'RW 8 VMFSRDM "x"',
    ],
)
def test_extents_of_other_kinds_are_refused(line: str) -> None:
    assert "is not that of a writable FLAT extent with a file" in refused(text('RW 8 FLAT "x" 0', line))


@pytest.mark.parametrize(
    "line",
    [
        'RW -8 FLAT "x" 0',
        'RW 8 FLAT "x" -1',
        'RW 0 FLAT "x" 0',
        'RW 8 FLAT "x" 0 y',
        'RW 8 FLAT "x" "y" 0',
        "RW 8 FLAT x 0",
        'RW 8 DEVICE "x" 0',
        'RW 0x8 FLAT "x" 0',
        f'RW {"9" * 20} FLAT "x" 0',
        'RW 8 FLAT "x" 9999999999999999999',
        "RW",
    ],
)
def test_extent_lines_that_make_no_sense(line: str) -> None:
    assert "has the extent line" in refused(text(line))


def test_a_vmfs_extent_has_no_offset() -> None:
    assert "has the extent line" in refused(text('RW 8 VMFS "x" 4', kind="vmfs"))


def test_a_disk_must_have_a_size() -> None:
    assert "make no disk" in refused(text("#"))
    assert "make no disk" in refused(text('RW 9223372036854775807 FLAT "x" 0'))


@pytest.mark.parametrize(
    "kind",
    ["", "custom", "fullDevice", "partitionedDevice", "vmfsSparse", "vmfsRaw", "vmfsRawDeviceMap",
     "vmfsPassthroughRawDeviceMap", "seSparse", "monolithicSparse", "streamOptimized", "2GbMaxExtentSparse", "x" * 500],
)  # fmt: skip
def test_other_kinds_of_disk_are_refused(kind: str) -> None:
    assert f"a VMDK disk of the kind '{kind[:80]}" in refused(text(kind=kind))


@pytest.mark.parametrize(
    "head",
    [
        "version=1\nCID=1\nparentCID=0",
        "version=1\nCID=1\nparentCID=deadbeef",
        'version=1\nCID=1\nPARENTCID=1\nparentFileNameHint="/etc/passwd"',
        'version=1\nCID=1\nparentCID=ffffffff\nparentFileNameHint="base.vmdk"',
    ],
)
def test_parents_are_refused(head: str) -> None:
    assert "only the changes to another one" in refused(text(head=head))


@pytest.mark.parametrize(
    "head", ["", "version=4\nCID=1", "version=1", "CID=1", "version=1\nCID=xyz", "version=1\nCID="]
)
def test_what_every_descriptor_must_say(head: str) -> None:
    assert "lacks a known version or its CID" in refused(text(head=head))


def test_encrypted_disks_are_refused() -> None:
    more = 'encryption.keySafe = "vmware:key/list/(pair/...)"'
    assert "is encrypted" in refused(text(more=more))


@pytest.mark.parametrize(
    "descriptor",
    [
        text(more="what is this"),
        text(more='createType="vmfs"'),
        text(more="CID=2"),
        text(more="cid=2"),
        text(more="ddb.comment=\x01"),
        text(more="ddb.comment=\x7f"),
        text(more="ddb.comment=\u2028"),
        text(more="a\0b"),
        b"\xef\xbb\xbf" + text(),
    ],
)
def test_lines_that_make_no_sense(descriptor: bytes) -> None:
    assert "line" in refused(descriptor)


def test_what_is_no_text() -> None:
    assert "not UTF-8" in refused(text(more="# ") + b"\xff")
    assert "too large" in refused(text(more="#" * 65536))
    assert refused(b"")
    assert refused(bytes(512))


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("windows-1252", "Büro-f001.vmdk"),
        ("GBK", "虚拟机-f001.vmdk"),
        ("Shift_JIS", "表-f001.vmdk"),
        ("UTF-8", "虚-f001.vmdk"),
    ],
)
def test_names_in_the_character_set_of_a_windows(encoding: str, name: str) -> None:
    descriptor = text(f'RW 8 FLAT "{name}" 0', more=f'encoding="{encoding}"').decode().encode(encoding)
    assert read_set(descriptor, "x").file_names == (name,)


@pytest.mark.parametrize("encoding", ["utf-7", "utf-16", "rot13", "zlib_codec", "unknown"])
def test_no_other_character_set_is_used(encoding: str) -> None:
    assert read_set(text('RW 8 FLAT "a+AC8-b.vmdk" 0', more=f'encoding="{encoding}"'), "x").file_names == (
        "a+AC8-b.vmdk",
    )


def test_what_is_not_in_its_character_set() -> None:
    assert "not GBK text" in refused(text(more='encoding="GBK"') + b"# \xff")


def test_names_are_kept_as_they_are() -> None:
    assert read_set(text('RW 8 FLAT "dïsk (1) $(x)`.vmdk" 0'), "x").file_names == ("dïsk (1) $(x)`.vmdk",)


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b", 'a"', "A", "a\nb", "parentFileNameHint", "-f", ".a", "é"])
def test_only_names_of_ours_are_written(name: str) -> None:
    disk = read_set(text(), "disk.vmdk")
    with pytest.raises(ValueError, match="must not be written"):
        rewrite(disk, {"x-flat.vmdk": name})


def test_harmful_values_are_not_carried_over() -> None:
    disk = read_set(text(more='ddb.adapterType = "ide"x"\nddb.geometry.heads = "${x}"\nevil = "1"'), "disk.vmdk")
    written = rewrite(disk, {"x-flat.vmdk": "extent0"})
    assert b"ddb." not in written and b"evil" not in written


def one_extent(tmp_path: Path, kind: str, name: str, sectors: int, content: bytes) -> str:
    """The sentence with which the file of a disk is refused."""
    extent = "SPARSE" if kind == "twoGbMaxExtentSparse" else "FLAT"
    disk = read_set(text(f'RW {sectors} {extent} "{name}"', kind=kind), "disk.vmdk")
    path = tmp_path / "extent0"
    path.write_bytes(content)
    with pytest.raises(ImageRefusedError) as caught:
        check_extents(disk, {name: path}, "disk.vmdk")
    assert caught.value.sentence.startswith(f"the extent '{name}' of disk.vmdk is ")
    return caught.value.sentence


def test_a_short_flat_extent_is_truncated(tmp_path: Path) -> None:
    assert "it needs 4096 bytes, and 4095 are there" in one_extent(tmp_path, "monolithicFlat", "a", 8, bytes(4095))


def test_a_missing_extent_is_named() -> None:
    with pytest.raises(ImageRefusedError, match=r"'x-flat\.vmdk' of disk\.vmdk is missing"):
        check_extents(read_set(text(), "disk.vmdk"), {}, "disk.vmdk")


def test_sparse_extents_must_be_what_the_descriptor_says(raw: Path, tmp_path: Path) -> None:
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", raw, tmp_path / "d.vmdk")
    content = (tmp_path / "d-s001.vmdk").read_bytes()

    def why(sectors: int, changed: bytes) -> str:
        return one_extent(tmp_path, "twoGbMaxExtentSparse", "a", sectors, changed)

    assert "not a sparse VMDK extent" in why(SECTORS, bytes(len(content)))
    assert "not a sparse VMDK extent" in why(SECTORS, b"COWD" + content[4:])
    assert "header claims" in why(SECTORS + 1, content)
    # Without a size of its own qemu opens the files that a descriptor inside the extent names.
    assert "header claims 0 sectors" in why(SECTORS, patched(content, (12, le64(0))))
    assert "is a stream" in why(SECTORS, patched(content, (0x38, b"\xff" * 8)))
    assert "truncated" in why(SECTORS, content[:100])
    assert "truncated" in why(SECTORS, content[: len(content) // 2])
    assert "truncated" in why(SECTORS, content[:-70_000])


def test_one_sparse_extent_cannot_be_two_parts() -> None:
    assert "more than once" in refused(text('RW 8 SPARSE "x"', 'RW 8 SPARSE "x"', kind="twoGbMaxExtentSparse"))


def test_what_qemu_makes_of_extents_that_are_refused_here(tmp_path: Path) -> None:
    """The reason for refusing ZERO and RDONLY: qemu passes over them, and the rest of the disk moves up."""
    (tmp_path / "flat").write_bytes(b"x" * 4096)
    path = tmp_path / "d.vmdk"
    path.write_bytes(text("RW 8 ZERO", 'RDONLY 8 FLAT "flat" 0', 'RW 8 FLAT "flat" 0'))
    assert converted(path) == b"x" * 4096
