"""Every kind of image that products write arrives with the content and the size that their guests saw."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rig.crafted import patched, vhdx_with_log
from rig.front_end import Answer, FrontEnd, info, messages, same_disk
from rig.images import SIZE_MB, Images
from rig.products import Vmdk, with_shuffled_vdi_blocks, with_shuffled_vhd_blocks, with_vhd_creator
from rig.web import Web

Import = Callable[..., Answer]
SECTOR = 512


@pytest.fixture
def arrive(front_end: FrontEnd, images: Images, web: Web) -> Import:
    """Publish some bytes and download them into a new datastore."""

    def run(data: bytes, driver: str | None = "raw", **attributes: object) -> Answer:
        images.file("product").write_bytes(data)
        store = front_end.datastore(driver)
        answer = front_end.call("cp", messages().cp(42, web.url("product"), SIZE_MB, store, attributes=attributes))
        assert len(front_end.left_in(store)) == (answer.status == 0)
        return answer

    return run


def made(images: Images, directory: Path, image_format: str, *options: str) -> bytes:
    """The disk as qemu-img writes it with ``options``."""
    path = directory / "made"
    command = ["qemu-img", "convert", "-f", "raw", "-O", image_format, *options, images.file("raw"), path]
    subprocess.run(command, check=True)
    return path.read_bytes()


def assert_disk(answer: Answer, images: Images) -> None:
    assert answer.status == 0, answer.stderr
    assert same_disk(images.file("raw"), "raw", answer.source, answer.format)


def assert_refused(answer: Answer, *words: str) -> None:
    assert answer.status == 1
    assert len(answer.stderr.splitlines()) == 1
    for each in words:
        assert each in answer.stderr


OPTIONS = [
    *(f"qcow2 cluster_size={size}" for size in (512, 4096, 1 << 20, 2 << 20)),
    *(f"qcow2 -c cluster_size={size}" for size in (512, 4096, 2 << 20)),
    *(f"qcow2 -c compression_type=zstd,cluster_size={size}" for size in (4096, 2 << 20)),
    "qcow2 compat=0.10",
    "qcow2 -c compat=0.10,cluster_size=512",
    "qcow2 extended_l2=on",
    "qcow2 -c extended_l2=on,cluster_size=2M",
    "qcow2 lazy_refcounts=on",
    "qcow2 refcount_bits=1",
    "qcow2 -c refcount_bits=64",
    "qcow2 preallocation=metadata",
    "qcow2 preallocation=falloc",
    "qcow2 preallocation=full",
    "qcow2 extended_l2=on,preallocation=metadata",
    "vmdk subformat=monolithicSparse,compat6=on",
    "vmdk subformat=monolithicSparse,zeroed_grain=on",
    "vmdk subformat=streamOptimized,adapter_type=lsilogic",
    "vpc subformat=dynamic,force_size=on",
    "vpc subformat=fixed,force_size=on",
    "vhdx subformat=fixed",
    "vhdx block_size=1M",
    "vhdx block_size=256M",
    "vhdx block_size=2M,log_size=2M,block_state_zero=off",
    "vdi static=on",
]


@pytest.mark.parametrize("how", OPTIONS)
def test_whatever_qemu_img_can_be_told_to_write(arrive: Import, images: Images, tmp_path: Path, how: str) -> None:
    image_format, *compressed, options = how.split()
    assert_disk(arrive(made(images, tmp_path, image_format, *compressed, "-o", options)), images)


def test_a_qcow2_with_snapshots_and_bitmaps_that_was_in_use(arrive: Import, images: Images, tmp_path: Path) -> None:
    made(images, tmp_path, "qcow2")
    path = tmp_path / "made"
    subprocess.run(["qemu-img", "snapshot", "-c", "before", path], check=True)
    subprocess.run(["qemu-img", "bitmap", "--add", "--enable", path, "backup"], check=True)
    assert_disk(arrive(path.read_bytes()), images)
    dirty = patched(path.read_bytes(), (0x4F, b"\1"))
    assert_disk(arrive(dirty), images)
    assert_disk(arrive(dirty, "vmdk"), images)


ESX = "\n".join(
    f'ddb.{name} = "{name} of a disk"' for name in ("uuid", "longContentID", "toolsVersion", "thinProvisioned")
)
LONG = "\n".join(f'ddb.comment{number} = "{"x" * 40}"' for number in range(400))
VMDKS = {
    "of ESX, version 3": Vmdk(version=3, more=ESX),
    "version 2": Vmdk(version=2, zero_entries=True),
    "with redundant tables": Vmdk(redundant=True),
    "with marked zeros and redundant tables": Vmdk(version=3, redundant=True, zero_entries=True),
    "grains of 4 KiB": Vmdk(grain=8),
    "grains of 1 MiB": Vmdk(grain=2048),
    "short tables": Vmdk(table_entries=128),
    "a long descriptor": Vmdk(descriptor_sectors=64, more=LONG),
    "a descriptor that is not ASCII": Vmdk(more='ddb.comment = "caf\u00e9 \u2603"'),
    "createType in capitals": Vmdk(kind="MONOLITHICSPARSE"),
    "createType without capitals": Vmdk(kind="streamoptimized", version=3, compressed=True),
    "a stream with its directory in front": Vmdk(kind="streamOptimized", version=3, compressed=True),
    "a stream with a footer": Vmdk(kind="streamOptimized", version=3, compressed=True, footer=True),
    "a stream of version 1 with a footer": Vmdk(kind="streamOptimized", compressed=True, footer=True),
    "a stream with grains of 4 KiB": Vmdk(kind="streamOptimized", version=3, compressed=True, footer=True, grain=8),
    "a stream with grains of 128 KiB": Vmdk(kind="streamOptimized", version=3, compressed=True, footer=True, grain=256),
    "a stream with redundant tables": Vmdk(kind="streamOptimized", version=3, compressed=True, redundant=True),
    "a stream without compression": Vmdk(kind="streamOptimized"),
    "compressed without being a stream": Vmdk(version=3, compressed=True),
}


@pytest.mark.parametrize("kind", VMDKS)
def test_a_sparse_vmdk(arrive: Import, images: Images, kind: str) -> None:
    image = VMDKS[kind].write(images.file("raw").read_bytes())
    assert_disk(arrive(image, "qcow2"), images)


@pytest.mark.parametrize("kind", ["of ESX, version 3", "a stream with a footer"])
def test_a_vmdk_that_ends_within_a_grain(arrive: Import, images: Images, tmp_path: Path, kind: str) -> None:
    content = images.file("raw").read_bytes()[: (20 << 20) + 3 * SECTOR]
    (tmp_path / "odd").write_bytes(content)
    answer = arrive(VMDKS[kind].write(content))
    assert answer.status == 0, answer.stderr
    assert answer.source.read_bytes() == content


CREATORS = {
    "Hyper-V, Azure": b"win ",
    "VirtualBox": b"vbox",
    "Disk2vhd": b"d2v ",
    "XenServer": b"tap\0",
    "XenConverter": b"CTXS",
    "qemu with force_size": b"qem2",
    "an unknown program": b"abcd",
    "a program without a name": b"\0\0\0\0",
}


@pytest.mark.parametrize(
    ("creator", "subformat"),
    [*((creator, "dynamic") for creator in CREATORS), ("Hyper-V, Azure", "fixed"), ("VirtualBox", "fixed")],
)
def test_a_vhd_has_the_size_that_its_creator_gave_it(
    arrive: Import, images: Images, tmp_path: Path, creator: str, subformat: str
) -> None:
    image = made(images, tmp_path, "vpc", "-o", f"subformat={subformat},force_size=on")
    assert_disk(arrive(with_vhd_creator(image, CREATORS[creator])), images)


@pytest.mark.parametrize(("creator", "subformat"), [(b"vpc ", "dynamic"), (b"qemu", "fixed")])
def test_a_vhd_of_virtual_pc_has_the_size_of_its_geometry(
    arrive: Import, images: Images, tmp_path: Path, creator: bytes, subformat: str
) -> None:
    image = made(images, tmp_path, "vpc", "-o", f"subformat={subformat},force_size=on")
    answer = arrive(with_vhd_creator(image, creator))
    assert answer.status == 0, answer.stderr
    content = images.file("raw").read_bytes()
    seen = len(content) // SECTOR // (4 * 17) * 4 * 17 * SECTOR
    assert seen < len(content)
    assert answer.source.read_bytes() == content[:seen]


def test_blocks_in_any_order(arrive: Import, images: Images, tmp_path: Path) -> None:
    vhd = made(images, tmp_path, "vpc", "-o", "force_size=on")
    vdi = made(images, tmp_path, "vdi")
    assert with_shuffled_vhd_blocks(vhd) != vhd
    assert with_shuffled_vdi_blocks(vdi) != vdi
    assert_disk(arrive(with_shuffled_vhd_blocks(vhd)), images)
    assert_disk(arrive(with_shuffled_vdi_blocks(vdi)), images)


def test_a_log_that_was_not_replayed(arrive: Import, images: Images) -> None:
    """qemu-img refuses it, too, and says less."""
    assert_refused(arrive(vhdx_with_log(images.file("vhdx").read_bytes())), "log has yet to be replayed", "Mount-VHD")


@pytest.mark.parametrize(("image_format", "word"), [("qed", "QED"), ("parallels", "Parallels"), ("qcow", "version 1")])
def test_a_format_that_is_not_supported_is_named(
    arrive: Import, images: Images, tmp_path: Path, image_format: str, word: str
) -> None:
    answer = arrive(made(images, tmp_path, image_format))
    assert_refused(answer, word, "convert it", "qemu-img convert")


def test_an_iso_is_a_cdrom_and_no_disk(front_end: FrontEnd, images: Images, web: Web, arrive: Import) -> None:
    image = bytes(32 * 1024) + b"\1CD001\1".ljust(2048, b"\0") + bytes(64 * 1024)
    assert_refused(arrive(image), "ISO", "type CDROM")
    answer = front_end.call("cp", messages().cp(42, web.url("product"), SIZE_MB, front_end.datastore(), kind=1))
    assert answer.status == 0, answer.stderr
    assert answer.source.read_bytes() == image


@pytest.mark.parametrize("kind", ["vmfsSparse", "seSparse", "vmfsThin2", "custom"])
def test_a_disk_of_esx_that_is_one_of_several_files_is_refused(arrive: Import, kind: str) -> None:
    descriptor = (
        f'# Disk DescriptorFile\nversion=3\nCID=1\nparentCID=ffffffff\ncreateType="{kind}"\n'
        f'RW 2048 {kind.upper()} "box-000001-delta.vmdk"\n'
    ).encode()
    assert_refused(arrive(descriptor.ljust(1024)), kind, "monolithicSparse or streamOptimized")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in (("box.vmdk", descriptor), ("box-000001-delta.vmdk", b"COWD".ljust(4096, b"\0"))):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    assert_refused(arrive(gzip.compress(buffer.getvalue())), kind, "monolithicSparse or streamOptimized")


def test_the_size_that_is_told_is_that_of_the_disk(arrive: Import, images: Images) -> None:
    """A VMDK of VMware, imported and converted back, has the size it had."""
    stream = VMDKS["a stream with a footer"].write(images.file("raw").read_bytes())
    answer = arrive(stream, "qcow2")
    assert info(answer.source)["virtual-size"] == SIZE_MB << 20
    assert_disk(arrive(answer.source.read_bytes(), "vmdk"), images)
