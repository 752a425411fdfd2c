"""Appliances and archives: the disk in them arrives like any other."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from rig.front_end import Answer, FrontEnd, messages, same_disk
from rig.images import COMPRESSIONS, MIB, SIZE_MB, Images
from rig.web import Web

SEVEN_ZIP = shutil.which("7zz") or shutil.which("7z")


def ovf(*files: str, compression: str = "", capacity: int = SIZE_MB * MIB) -> bytes:
    """The description of an appliance with a disk in each of ``files``."""
    packed = f' ovf:compression="{compression}"' if compression else ""
    references = "".join(f'<File ovf:id="f{i}" ovf:href="{name}"{packed}/>' for i, name in enumerate(files))
    disks = "".join(
        f'<Disk ovf:diskId="d{i}" ovf:fileRef="f{i}" ovf:capacity="{capacity}"/>' for i in range(len(files))
    )
    return (
        '<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" '
        f'xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><References>{references}</References>'
        f"<DiskSection><Info>disks</Info>{disks}</DiskSection></Envelope>"
    ).encode()


def manifest(members: dict[str, bytes], algorithm: str = "sha256") -> bytes:
    digests = {name: hashlib.new(algorithm, data).hexdigest() for name, data in members.items()}
    return "".join(f"{algorithm.upper()}({name})= {digest}\n" for name, digest in digests.items()).encode()


def tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=tarfile.USTAR_FORMAT) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def download(front_end: FrontEnd, images: Images, web: Web):  # type: ignore[no-untyped-def]
    """Publish some bytes and download them into a new datastore."""

    def run(data: bytes, driver: str | None = "qcow2", **attributes: object) -> Answer:
        images.file("container").write_bytes(data)
        store = front_end.datastore(driver)
        document = messages().cp(42, web.url("container"), SIZE_MB, store, attributes=attributes)
        answer = front_end.call("cp", document)
        assert len(front_end.left_in(store)) == (answer.status == 0)
        return answer

    return run


def assert_disk(answer: Answer, images: Images) -> None:
    assert answer.status == 0, answer.stderr
    assert same_disk(images.file("raw"), "raw", answer.source, answer.format)


@pytest.fixture
def vmdk(images: Images) -> bytes:
    return images.file("vmdk-stream").read_bytes()


@pytest.mark.parametrize("target", ["qcow2", "raw", "vmdk", None])
def test_an_ova_arrives(download, images: Images, vmdk: bytes, target: str | None) -> None:  # type: ignore[no-untyped-def]
    members = {"box.ovf": ovf("box-disk1.vmdk"), "box-disk1.vmdk": vmdk}
    answer = download(tar({**members, "box.mf": manifest(members)}), target)
    assert_disk(answer, images)
    if target in (None, "vmdk"):
        assert answer.source.read_bytes() == vmdk


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
def test_the_members_of_an_ova_may_come_in_any_order(download, images: Images, vmdk: bytes, algorithm: str) -> None:  # type: ignore[no-untyped-def]
    description = {"box.ovf": ovf("disk.vmdk")}
    members = {"disk.vmdk": vmdk, "box.iso": bytes(4096), **description}
    assert_disk(download(tar({"box.mf": manifest(members, algorithm), **members})), images)
    assert_disk(download(tar({**members, "box.mf": manifest(members, algorithm)})), images)


@pytest.mark.parametrize(
    ("algorithm", "last", "downloads"),
    [("sha512", False, 1), ("sha1", True, 1), ("sha256", True, 1), ("sha512", True, 2)],
)
def test_an_appliance_is_fetched_again_only_for_digests_that_hardly_any_has(
    download, images: Images, web: Web, vmdk: bytes, algorithm: str, last: bool, downloads: int
) -> None:  # type: ignore[no-untyped-def]
    description, disk = {"box.ovf": ovf("disk.vmdk")}, {"disk.vmdk": vmdk}
    digests = {"box.mf": manifest({**description, **disk}, algorithm)}
    before = len(web.requests)
    members = {**description, **disk, **digests} if last else {**description, **digests, **disk}
    assert_disk(download(tar(members)), images)
    assert len(web.requests) - before == downloads


@pytest.mark.parametrize("last", ["box.mf", "box.ovf"])
def test_a_zipped_appliance(download, images: Images, vmdk: bytes, last: str) -> None:  # type: ignore[no-untyped-def]
    members = {"box.ovf": ovf("disk.vmdk"), "disk.vmdk": vmdk}
    every = {**members, "box.mf": manifest(members)}
    assert_disk(download(zipped({name: every[name] for name in sorted(every, key=last.__eq__)})), images)
    answer = download(zipped({**every, "disk.vmdk": vmdk + bytes(512)}))
    assert answer.status == 1
    assert "does not have the digest" in answer.stderr


@pytest.mark.parametrize("name", ["disk.vmdk", "box.ovf"])
def test_a_member_that_differs_from_the_manifest_is_refused(download, vmdk: bytes, name: str) -> None:  # type: ignore[no-untyped-def]
    members = {"box.ovf": ovf("disk.vmdk"), "disk.vmdk": vmdk}
    wrong = {**members, name: members[name] + b" "}
    answer = download(tar({**members, "box.mf": manifest(wrong)}))
    assert answer.status == 1
    assert "does not have the digest" in answer.stderr
    assert name in answer.stderr


def test_a_disk_that_the_ovf_says_is_compressed(download, images: Images) -> None:  # type: ignore[no-untyped-def]
    packed = gzip.compress(images.file("vmdk-sparse").read_bytes(), 1)
    assert_disk(download(tar({"box.ovf": ovf("disk.vmdk.gz", compression="gzip"), "disk.vmdk.gz": packed})), images)


@pytest.mark.parametrize("compression", ["plain", "gz", "xz", "zst", "bz2"])
@pytest.mark.parametrize("name", ["qcow2", "vhdx"])
def test_a_tar_with_one_disk(download, images: Images, compression: str, name: str) -> None:  # type: ignore[no-untyped-def]
    archive = tar({"README.txt": b"hello", "images/disk.img": images.file(name).read_bytes()})
    answer = download(COMPRESSIONS[compression](archive))
    assert same_disk(images.file(name), name, answer.source, "qcow2")


def test_a_compressed_disk_in_a_compressed_tar(download, images: Images) -> None:  # type: ignore[no-untyped-def]
    archive = tar({"disk.vmdk.gz": gzip.compress(images.file("vmdk-sparse").read_bytes(), 1)})
    assert_disk(download(lzma.compress(archive, preset=0)), images)


def test_an_image_that_is_compressed_twice(download, images: Images) -> None:  # type: ignore[no-untyped-def]
    assert_disk(download(gzip.compress(images.file("qcow2", "xz").read_bytes())), images)


def test_an_image_that_is_compressed_again_and_again_is_refused(download) -> None:  # type: ignore[no-untyped-def]
    data = bytes(MIB)
    for _ in range(5):
        data = gzip.compress(data)
    assert "compressed more than" in download(data).stderr


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_with_one_disk(download, images: Images, method: int) -> None:  # type: ignore[no-untyped-def]
    members = {"read me.md": b"# hello", "disk.vdi": images.file("vdi").read_bytes(), "__MACOSX/._disk.vdi": b"mac"}
    assert_disk(download(zipped(members, method)), images)


@pytest.mark.skipif(SEVEN_ZIP is None, reason="needs 7-Zip")
def test_a_zip_with_deflate64(download, images: Images, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """What Windows makes of files of more than 2 GiB."""
    assert SEVEN_ZIP is not None
    command = [SEVEN_ZIP, "a", "-tzip", "-mm=Deflate64", "-mx=1", tmp_path / "disk.zip", images.file("vhdx")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    archive = (tmp_path / "disk.zip").read_bytes()
    assert archive[8:10] == b"\x09\0"
    assert_disk(download(archive), images)


def test_an_appliance_with_all_that_products_add(download, images: Images, vmdk: bytes) -> None:  # type: ignore[no-untyped-def]
    """A CD-ROM among the disks, a chunk size, the memory of the firmware, translations, a signature, a blank disk."""
    description = (
        "<?xml version='1.0' encoding='UTF-16'?>\r\n<!-- made by hand -->\r\n"
        '<ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><ovf:References>\r\n'
        '<ovf:File ovf:id="strings" ovf:href="box-de.msg"/><ovf:File ovf:id="cd" ovf:href="box.iso"/>\r\n'
        f'<ovf:File ovf:id="f" ovf:href="my%20disk.vmdk" ovf:chunkSize="7516192768" ovf:size="{len(vmdk)}"/>\r\n'
        '<ovf:File ovf:id="nvram" ovf:href="box.nvram"/></ovf:References><ovf:DiskSection><ovf:Info/>\r\n'
        '<ovf:Disk ovf:diskId="iso1" ovf:fileRef="cd" ovf:format="http://www.ecma-international.org/Ecma-119.htm"/>\r\n'
        '<ovf:Disk ovf:diskId="scratch" ovf:capacity="1" ovf:capacityAllocationUnits="byte * 2^30"/>\r\n'
        f'<ovf:Disk ovf:diskId="vmdisk1" ovf:fileRef="f" ovf:capacity="{SIZE_MB}"\r\n'
        'ovf:capacityAllocationUnits="byte * 2^20"/></ovf:DiskSection></ovf:Envelope>\r\n'
    ).encode("utf-16")
    members = {"box.ovf": description, "my disk.vmdk": vmdk, "box.iso": bytes(4096), "box.nvram": bytes(270)}
    members["box-de.msg"] = b"<Strings/>"
    lines = manifest(members, "sha512").replace(b"\n", b"\r\n").rstrip()
    assert_disk(download(tar({**members, "box.mf": lines, "box.cert": b"SHA512(box.mf)= 00"})), images)


def test_a_box_of_vagrant(download, images: Images) -> None:  # type: ignore[no-untyped-def]
    """What is certainly no disk beside one needs no choice."""
    vagrantfile = b'Vagrant.configure("2") do |config|\nend\n'
    box = {
        "metadata.json": b'{"provider": "libvirt", "format": "qcow2", "virtual_size": 1}',
        "Vagrantfile": vagrantfile,
        "LICENSE": b"Permission is hereby granted\n" * 40,
        "empty": b"",
        "box.img": images.file("qcow2").read_bytes(),
    }
    assert_disk(download(gzip.compress(tar(box), 1), "raw"), images)
    assert_disk(download(gzip.compress(tar(dict(reversed(box.items()))), 1), "raw", ONECONVERT_DISK="1"), images)
    assert "no disk 'Vagrantfile'" in download(tar(box), ONECONVERT_DISK="Vagrantfile").stderr
    assert "is a text" in download(tar({"LICENSE": box["LICENSE"]})).stderr
    assert "without a disk image" in download(tar({"LICENSE": box["LICENSE"], "empty": b""})).stderr


@pytest.mark.parametrize("wanted", ["2", "second.vmdk"])
def test_one_of_several_disks_is_chosen_by_number_or_name(download, images: Images, vmdk: bytes, wanted: str) -> None:  # type: ignore[no-untyped-def]
    first = images.file("qcow2").read_bytes()
    archive = tar({"box.ovf": ovf("first.qcow2", "second.vmdk"), "first.qcow2": first, "second.vmdk": vmdk})
    answer = download(archive, None, ONECONVERT_DISK=wanted)
    assert answer.status == 0, answer.stderr
    assert answer.source.read_bytes() == vmdk


def test_several_disks_are_listed_when_none_is_chosen(download, vmdk: bytes) -> None:  # type: ignore[no-untyped-def]
    archive = tar({"box.ovf": ovf("a.vmdk", "b.vmdk"), "a.vmdk": vmdk, "b.vmdk": vmdk})
    answer = download(archive)
    assert answer.status == 1
    assert "has 2 disks: 1 'a.vmdk', 2 'b.vmdk'" in answer.stderr
    assert "ONECONVERT_DISK" in answer.stderr
    assert "no disk 'c.vmdk'" in download(archive, ONECONVERT_DISK="c.vmdk").stderr


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"README.txt": b"no disk"}, "without a disk image"),
        ({"box.ovf": ovf("disk.vmdk")}, "is not in it"),
        ({"a.ovf": ovf("d"), "b.ovf": ovf("d")}, "more than one .ovf"),
        ({"box.ovf": b"<!DOCTYPE a><Envelope/>", "d": b"x"}, "DOCTYPE"),
        ({"../disk.vmdk": b"x"}, "leads out of the archive"),
        ({"/etc/disk.vmdk": b"x"}, "absolute path"),
        ({"inner.tar": tar({"disk.raw": bytes(MIB)})}, "archive"),
    ],
)
def test_an_archive_that_is_no_appliance(download, members: dict[str, bytes], words: str) -> None:  # type: ignore[no-untyped-def]
    answer = download(tar(members))
    assert answer.status == 1
    assert words in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse"])
@pytest.mark.parametrize("target", ["qcow2", "vmdk", None])
def test_a_vmdk_in_several_files_in_one_archive(  # type: ignore[no-untyped-def]
    download, images: Images, tmp_path: Path, subformat: str, target: str | None
) -> None:
    command = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={subformat}"]
    subprocess.run([*command, images.file("raw"), tmp_path / "disk.vmdk"], check=True)
    members = {path.name: path.read_bytes() for path in sorted(tmp_path.iterdir())}
    assert len(members) == 2
    answer = download(tar(members), target)
    assert_disk(answer, images)
    assert answer.format == (target or "vmdk")
    answer = download(zipped(dict(reversed(members.items()))), target)
    assert_disk(answer, images)


def test_an_esxi_disk_in_an_archive(download, images: Images) -> None:  # type: ignore[no-untyped-def]
    raw = images.file("raw").read_bytes()
    descriptor = (
        '# Disk DescriptorFile\nversion=1\nencoding="UTF-8"\nCID=fffffffe\nparentCID=ffffffff\n'
        f'createType="vmfs"\n\n# Extent description\nRW {len(raw) // 512} VMFS "box-flat.vmdk"\n\n'
        '# The Disk Data Base\nddb.adapterType = "lsilogic"\nddb.virtualHWVersion = "13"\n'
    ).encode()
    assert_disk(download(tar({"box.vmdk": descriptor, "box-flat.vmdk": raw})), images)


def test_a_descriptor_whose_extent_is_not_in_the_archive_reads_nothing(download, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    secret = tmp_path / "secret"
    secret.write_bytes(b"canary!!" * 128)
    for name in (str(secret), "../secret", "/dev/sda", "member-2"):
        descriptor = (
            "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n"
            f'createType="monolithicFlat"\nRW 2 FLAT "{name}" 0\n'
        )
        answer = download(tar({"disk.vmdk": descriptor.encode(), "other": os.urandom(4096)}))
        assert answer.status == 1
        assert "canary" not in answer.stderr


def test_an_ova_that_is_cut_short(download, vmdk: bytes) -> None:  # type: ignore[no-untyped-def]
    archive = tar({"box.ovf": ovf("disk.vmdk"), "disk.vmdk": vmdk})
    for length in (600, 2000, len(archive) // 2, len(archive) - 11_000):
        assert download(archive[:length]).status == 1
