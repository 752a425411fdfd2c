"""What StreamInspector promises: the right format, early and plain refusals, whatever size the chunks have."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from oneconvert.errors import CommandError, ImageRefusedError
from oneconvert.images import qemu_img
from oneconvert.images.format import ImageFormat
from oneconvert.images.inspect import Inspection, StreamInspector, image_inside
from rig import crafted as images
from rig.crafted import MIB, be32, be64, inspect, le32, le64, patched

FORMATS = {
    "qcow2": ImageFormat.QCOW2,
    "vmdk": ImageFormat.VMDK,
    "vpc": ImageFormat.VHD,
    "vhdx": ImageFormat.VHDX,
    "vdi": ImageFormat.VDI,
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    path.write_bytes(images.disk())
    return path


@pytest.fixture(scope="module")
def made(raw: Path) -> dict[str, bytes]:
    """One image of every kind."""
    return {kind: images.make(raw.parent, kind, raw).read_bytes() for kind in images.KINDS}


@pytest.fixture(scope="module")
def luks(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A LUKS volume of version 1; made once, because deriving its key takes seconds."""
    path = tmp_path_factory.mktemp("luks") / "luks.img"
    images.create_encrypted(path, "luks")
    return path.read_bytes()


def refusal(image: bytes, step: int = MIB) -> str:
    with pytest.raises(ImageRefusedError) as caught:
        inspect(image, step)
    sentence = caught.value.sentence
    assert sentence.startswith("disk.img ")
    assert len(sentence) < 300
    return sentence


def partitioned(directory: Path, label: str, *partitions: str) -> bytes:
    """A disk of 64 MiB with a partition table of sfdisk's."""
    path = directory / "partitioned"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    script = "\n".join((f"label: {label}", *partitions))
    subprocess.run(["sfdisk", "-q", path], input=script.encode(), check=True)
    return path.read_bytes()


class TestAccepted:
    @pytest.mark.parametrize("kind", images.KINDS)
    def test_every_kind_is_found_with_the_size_that_qemu_reports(
        self, kind: str, made: dict[str, bytes], raw: Path
    ) -> None:
        inspection = inspect(made[kind])
        path = raw.parent / f"{kind}.img"
        name = images.KINDS[kind][0]
        told = json.loads(images.qemu_img("info", "--output=json", "-f", name, path))
        assert inspection.format is FORMATS[name]
        assert inspection.virtual_size == told["virtual-size"]

    @pytest.mark.parametrize("kind", images.KINDS)
    def test_what_a_probe_finds_is_told(self, kind: str, made: dict[str, bytes], raw: Path) -> None:
        probed = json.loads(images.qemu_img("info", "--output=json", raw.parent / f"{kind}.img"))["format"]
        assert inspect(made[kind]).probed_as.value == probed

    @pytest.mark.parametrize("step", [1000, 4096, 65_537, 3 * MIB])
    @pytest.mark.parametrize("kind", images.KINDS)
    def test_the_size_of_the_chunks_changes_nothing(self, kind: str, step: int, made: dict[str, bytes]) -> None:
        assert inspect(made[kind], step) == inspect(made[kind])

    @pytest.mark.parametrize("kind", ["qcow2-small-clusters", "vmdk-sparse"])
    def test_single_bytes_are_fine(self, kind: str, made: dict[str, bytes]) -> None:
        image = made[kind][: 200 * 1024]
        assert inspect(image, 1) == inspect(image)

    def test_a_partitioned_disk_is_raw(self, raw: Path) -> None:
        inspection = inspect(raw.read_bytes())
        assert inspection.format is ImageFormat.RAW
        assert inspection.virtual_size == images.DISK_SIZE
        assert inspection.notes == ()

    def test_a_partition_table_that_makes_no_sense_is_still_raw(self) -> None:
        assert inspect(bytes(446) + b"\x07" * 64 + b"\x55\xaa" + bytes(MIB)).format is ImageFormat.RAW

    @pytest.mark.parametrize("label", ["dos", "gpt"])
    def test_a_partitioned_disk_that_is_cut_is_truncated(self, label: str, tmp_path: Path) -> None:
        disk = partitioned(tmp_path, label, f"size={40 * MIB // 512}", "size=+")
        assert inspect(disk).format is ImageFormat.RAW
        assert inspect(disk + bytes(MIB)).format is ImageFormat.RAW, "a disk that was made larger"
        for length in (len(disk) - 20 * MIB, len(disk) - 12 * MIB, 2 * MIB, 4096):
            assert "is truncated: its partitions need" in refusal(disk[:length])
        for length in (len(disk) - 1, len(disk) - 700, len(disk) - 21 * MIB - 100, 600):
            assert "is truncated" in refusal(disk[:length])

    @pytest.mark.parametrize("label", ["dos", "gpt"])
    def test_what_is_cut_behind_the_last_partition_is_not_missed(self, label: str, tmp_path: Path) -> None:
        disk = partitioned(tmp_path, label, f"size={40 * MIB // 512}")
        assert inspect(disk[: 42 * MIB]).virtual_size == 42 * MIB

    def test_geometry_may_round_up_a_partition(self, tmp_path: Path) -> None:
        """Old programs had partitions end with a cylinder, of up to 255 heads and 63 sectors."""
        disk = partitioned(tmp_path, "dos", "size=+")
        assert inspect(disk[: -255 * 63 * 512]).format is ImageFormat.RAW

    def test_the_boot_sector_of_a_file_system_is_no_partition_table(self) -> None:
        sector = (b"\xeb\x3c\x90MSDOS5.0".ljust(446) + b"disk error, press any key".ljust(64) + b"\x55\xaa")[:512]
        assert inspect(sector + bytes(MIB)).format is ImageFormat.RAW

    def test_an_odd_length_is_rounded_up_as_qemu_does(self) -> None:
        inspection = inspect(bytes(1000))
        assert inspection.virtual_size == 1024
        assert "not in whole sectors" in inspection.notes[0]

    def test_snapshots_are_noted(self, made: dict[str, bytes], tmp_path: Path) -> None:
        path = tmp_path / "snapshots.qcow2"
        path.write_bytes(made["qcow2"])
        for name in ("one", "two", "three"):
            images.qemu_img("snapshot", "-c", name, path)
        assert inspect(path.read_bytes()).notes == ("3 internal snapshots are dropped by a conversion",)

    def test_a_backing_format_without_a_backing_file_is_fine(self, made: dict[str, bytes]) -> None:
        image = images.qcow2_with_extension(made["qcow2"], 0xE2792ACA, b"raw")
        assert inspect(image).format is ImageFormat.QCOW2

    def test_a_dirty_qcow2_is_noted(self, made: dict[str, bytes]) -> None:
        assert "not closed cleanly" in inspect(patched(made["qcow2"], (0x48, be64(1)))).notes[0]

    def test_a_stream_of_vmware_is_accepted(self) -> None:
        inspection = inspect(images.vmware_stream(images.disk()[:MIB]))
        assert (inspection.format, inspection.virtual_size) == (ImageFormat.VMDK, MIB)

    def test_a_descriptor_in_another_encoding_is_accepted(self) -> None:
        text = images.vmdk_descriptor(more="# Größe\n".encode().decode("latin-1"))
        assert inspect(images.vmware_stream(bytes(MIB), text)).format is ImageFormat.VMDK

    @pytest.mark.parametrize("version", [1, 2])
    def test_luks_is_as_long_as_its_file(self, version: int, luks: bytes, tmp_path: Path) -> None:
        path = tmp_path / "luks.img"
        # Version 2 has the length of its header where version 1 has the name of a cipher.
        image = patched(luks, (6, struct.pack(">H", version)), *([(8, be64(16384))] if version == 2 else []))
        path.write_bytes(image)
        inspection = inspect(image)
        assert (inspection.format, inspection.virtual_size) == (ImageFormat.LUKS, len(image))
        probed = json.loads(images.qemu_img("info", "--output=json", path))["format"]
        assert inspection.probed_as.value == probed


class TestVhdSize:
    @pytest.mark.parametrize("creator", [b"vpc ", b"qemu", b"qem2", b"win ", b"d2v ", b"CTXS", b"tap\0"])
    def test_the_size_follows_the_creator_as_in_qemu(self, creator: bytes, tmp_path: Path) -> None:
        path = tmp_path / "fixed.vhd"
        path.write_bytes(bytes(MIB) + images.vhd_footer(creator=creator))
        told = json.loads(images.qemu_img("info", "--output=json", "-f", "vpc", path))
        assert inspect(path.read_bytes()).virtual_size == told["virtual-size"]

    def test_the_largest_geometry_means_nothing(self) -> None:
        footer = images.vhd_footer(creator=b"vpc ", geometry=65535 << 16 | 16 << 8 | 255)
        assert inspect(bytes(MIB) + footer).virtual_size == MIB

    @pytest.mark.parametrize("creator", [b"vbox", b"wa\0\0"])
    def test_creators_that_only_a_recent_qemu_believes_are_believed(self, creator: bytes, tmp_path: Path) -> None:
        path = tmp_path / "fixed,with comma.vhd"
        path.write_bytes(bytes(MIB) + images.vhd_footer(creator=creator))
        inspection = inspect(path.read_bytes())
        assert inspection.virtual_size == MIB
        assert inspection.options == ("force_size_calc=current_size",)
        assert qemu_img.info(path, inspection, "it").virtual_size == MIB

    def test_a_geometry_that_cuts_the_disk_is_noted(self) -> None:
        inspection = inspect(bytes(MIB) + images.vhd_footer(creator=b"vpc "))
        assert inspection.virtual_size == 30 * 4 * 17 * 512
        assert "geometry" in inspection.notes[0]


class TestQcow2Refused:
    @pytest.mark.parametrize(
        ("patches", "words"),
        [
            ([(4, be32(1))], "qcow (version 1)"),
            ([(4, be32(4))], "version 4"),
            ([(8, be64(1024)), (16, be32(7)), (1024, b"/secret")], "backing file"),
            ([(0x48, be64(2))], "marked as corrupt"),
            ([(0x48, be64(4))], "data in another file"),
            ([(0x48, be64(32))], "bit 5"),
            ([(0x48, be64(1 << 63))], "bit 63"),
            ([(0x20, be32(1))], "encrypted (AES)"),
            ([(0x20, be32(2))], "encrypted (LUKS)"),
            ([(0x14, be32(8))], "2^8 bytes"),
            ([(0x14, be32(63))], "2^63 bytes"),
            ([(0x14, be32(0xFFFFFFFF))], "2^4294967295 bytes"),
            ([(0x18, be64(1 << 63))], "claims a size"),
            ([(0x18, be64(0))], "claims a size"),
            ([(0x64, be32(64))], "64 bytes long"),
            ([(0x64, be32(0xFFFFFFF8))], "bytes long"),
            ([(0x68, b"\x02")], "compression type 2"),
        ],
    )
    def test_a_bad_header_is_refused(
        self, patches: list[tuple[int, bytes]], words: str, made: dict[str, bytes]
    ) -> None:
        assert words in refusal(patched(made["qcow2"], *patches))

    def test_the_name_of_a_data_file_is_refused_without_its_feature_bit(self, made: dict[str, bytes]) -> None:
        image = images.qcow2_with_extension(made["qcow2"], 0x44415441, b"/etc/passwd")
        assert "data in another file" in refusal(image)

    def test_the_name_of_a_data_file_is_found_behind_other_extensions(self, made: dict[str, bytes]) -> None:
        image = images.qcow2_with_extension(made["qcow2"], 0x44415441, b"/etc/passwd")
        image = images.qcow2_with_extension(image, 0x12345678, bytes(1500))
        assert "data in another file" in refusal(image)

    def test_a_real_data_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "data.qcow2"
        images.qemu_img(
            "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/data.raw,data_file_raw=on", path, "1M"
        )
        assert "data in another file" in refusal(path.read_bytes())

    @pytest.mark.parametrize("name", ["/secret", 'json:{"driver":"raw"}', "nbd://127.0.0.1:10809/x"])
    def test_a_real_backing_file_is_refused(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / "backed.qcow2"
        images.qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "raw", path, "1M")
        assert "backing file" in refusal(path.read_bytes())
        assert name not in refusal(path.read_bytes())

    def test_a_real_encrypted_image_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "encrypted.qcow2"
        images.create_encrypted(path, "qcow2", "encrypt.format=luks,encrypt.")
        assert "encrypted (LUKS)" in refusal(path.read_bytes())

    def test_the_backing_file_is_refused_in_the_first_chunk(self, made: dict[str, bytes]) -> None:
        inspector = StreamInspector("disk.img")
        with pytest.raises(ImageRefusedError, match="backing file"):
            inspector.feed(patched(made["qcow2"], (8, be64(1024)))[:MIB])


class TestVmdkRefused:
    @pytest.mark.parametrize("kind", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
    def test_a_disk_of_many_files_is_refused_by_its_kind(self, kind: str, raw: Path, tmp_path: Path) -> None:
        path = tmp_path / "disk.vmdk"
        images.qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={kind}", raw, path)
        assert f"descriptor of a VMDK disk ({kind})" in refusal(path.read_bytes())

    def test_one_part_of_a_split_disk_is_refused(self, raw: Path, tmp_path: Path) -> None:
        images.qemu_img(
            "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", raw, tmp_path / "d.vmdk"
        )
        assert "one part of a split VMDK" in refusal((tmp_path / "d-s001.vmdk").read_bytes())

    @pytest.mark.parametrize("odd", [b"\0", b"\x7f", "ü".encode(), b"\xff", b"\x1b[2J"])
    def test_an_odd_byte_does_not_hide_a_text_descriptor(self, odd: bytes, tmp_path: Path) -> None:
        (tmp_path / "flat").write_bytes(bytes(512))
        text = b'# comment\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 1 FLAT "flat" 0\n'
        text += b"# another " + odd + b"\n"
        path = tmp_path / "descriptor"
        path.write_bytes(text.ljust(1024, b"\0"))
        assert json.loads(images.qemu_img("info", "--output=json", path))["format"] == "vmdk"
        for length in (len(text), 512, 1024):
            assert "only the descriptor" in refusal(text.ljust(length, b"\0"))

    @pytest.mark.parametrize(
        "text",
        [
            b"# Disk DescriptorFile\n",
            b"\r\n #  disk descriptorfile\r\n",
            b"\xef\xbb\xbf# Disk DescriptorFile\n",
            b'CID=1\ncreateType="vmfs"\n',
            b"version=1\n",
            b"   \r\n#\x00\x00\n  \nversion=3\r\n",
        ],
    )
    def test_a_text_descriptor_is_found_however_it_begins(self, text: bytes) -> None:
        assert "only the descriptor" in refusal(text.ljust(2048, b"\0"))

    @pytest.mark.parametrize(
        ("magic", "words"), [(b"COWD", "COWD, vmfsSparse"), (b"\xbe\xba\xfe\xca\0\0\0\0", "seSparse")]
    )
    def test_an_esx_extent_is_refused(self, magic: bytes, words: str) -> None:
        assert words in refusal(magic.ljust(4096, b"\0"))

    @pytest.mark.parametrize(
        ("descriptor", "words"),
        [
            (images.vmdk_descriptor(kind="monolithicFlat"), "(monolithicFlat)"),
            (images.vmdk_descriptor(kind="x" * 500), f"({'x' * 40})"),
            (images.vmdk_descriptor(kind="\x1b[2Jvmfs"), "(2Jvmfs)"),
            (images.vmdk_descriptor(more='createType="vmfs"'), "not a whole image"),
            (b"# nothing\n", "no createType"),
            (images.vmdk_descriptor(more='parentFileNameHint="/secret.vmdk"'), "parent disk"),
            (images.vmdk_descriptor(more='PARENTFILENAMEHINT="x"'), "parent disk"),
            (images.vmdk_descriptor(more="parentCID=12345678"), "parent disk"),
            (images.vmdk_descriptor(extent='RW 2048 FLAT "x.vmdk" 0'), "not sparse"),
            (images.vmdk_descriptor(extent="RW 2048 ZERO"), "not sparse"),
            (images.vmdk_descriptor(extent='RW 2048 SPARSE "/etc/passwd"'), "names a file elsewhere"),
            (images.vmdk_descriptor(extent='RW 2048 SPARSE "..\\x.vmdk"'), "names a file elsewhere"),
            (images.vmdk_descriptor(extent='RW 2048 SPARSE "nbd:localhost"'), "names a file elsewhere"),
            (images.vmdk_descriptor(extent='RW 1 SPARSE "a"\nRW 1 SPARSE "b"'), "2 extents"),
            (images.vmdk_descriptor(extent=""), "0 extents"),
            (images.vmdk_descriptor(extent="what is this"), "makes no sense"),
        ],
    )
    def test_a_bad_descriptor_is_refused(self, descriptor: bytes, words: str) -> None:
        assert words in refusal(images.vmware_stream(bytes(MIB), descriptor))

    def test_a_parent_behind_the_descriptor_is_found_where_qemu_looks(self) -> None:
        image = images.vmware_stream(bytes(MIB))
        image = patched(image, (0x24, le64(1)), (512 + 5000, b'parentFileNameHint="/secret"'))
        assert "parent disk" in refusal(image)

    def test_a_real_child_is_refused(self, tmp_path: Path) -> None:
        images.qemu_img("create", "-q", "-f", "vmdk", tmp_path / "parent.vmdk", "1M")
        child = tmp_path / "child.vmdk"
        images.qemu_img("create", "-q", "-f", "vmdk", "-b", tmp_path / "parent.vmdk", "-F", "vmdk", child)
        assert "parent disk" in refusal(child.read_bytes())

    @pytest.mark.parametrize(
        ("patches", "words"),
        [
            ([(4, le32(4))], "version 4"),
            ([(0x0C, le64(0))], "0 sectors"),
            ([(0x0C, le64(1 << 60))], "claims a size"),
            ([(0x1C, le64(0))], "one part of a split"),
            ([(0x1C, le64(2))], "not where it belongs"),
            ([(-1024 + 0x0C, le64(4096))], "something else than its header"),
            ([(-1024 + 0x38, le64(2**64 - 1))], "something else than its header"),
            ([(-1536, bytes(1536))], "ends with a footer"),
            ([(-512, b"\1")], "ends with a footer"),
        ],
    )
    def test_a_bad_header_is_refused(self, patches: list[tuple[int, bytes]], words: str) -> None:
        assert words in refusal(patched(images.vmware_stream(images.disk()[:MIB]), *patches))

    def test_a_long_descriptor_is_read_whole(self) -> None:
        image = images.vmware_stream(bytes(MIB))
        padding = b"#" * 15_000 + b"\nwhat is this\n"
        text = images.vmdk_descriptor() + padding
        image = patched(image, (0x24, le64(60)), (512, text.ljust(60 * 512, b"\0")), (-1024 + 0x24, le64(60)))
        assert "makes no sense" in refusal(image, 1000)


class TestVhdRefused:
    def test_a_differencing_image_is_refused(self, made: dict[str, bytes]) -> None:
        header = images.with_vhd_checksum(patched(made["vhd-dynamic"][:512], (0x3C, be32(4))))
        assert "differencing VHD" in refusal(patched(made["vhd-dynamic"], (0, header)))

    @pytest.mark.parametrize("kind", [0, 1, 5, 6])
    def test_other_types_are_refused(self, kind: int) -> None:
        assert f"disk type {kind}" in refusal(bytes(MIB) + images.vhd_footer(kind=kind))

    def test_a_fixed_image_without_its_beginning_is_refused(self) -> None:
        assert "its beginning is missing" in refusal(bytes(MIB) + images.vhd_footer(kind=3))

    def test_a_dynamic_image_that_says_it_is_fixed_is_refused(self) -> None:
        assert "says that it is a fixed one" in refusal(images.vhd_footer(kind=2) + bytes(MIB) + images.vhd_footer())

    @pytest.mark.parametrize("kind", ["vhd-dynamic", "vhd-fixed"])
    def test_a_wrong_checksum_is_refused(self, kind: str, made: dict[str, bytes]) -> None:
        offset = 0x30 if kind == "vhd-dynamic" else -512 + 0x30
        assert "checksum" in refusal(patched(made[kind], (offset, be64(MIB))))

    def test_a_missing_footer_is_refused(self, made: dict[str, bytes]) -> None:
        assert "ends with a footer" in refusal(made["vhd-dynamic"][:-512])

    @pytest.mark.parametrize("size", [0, 1 << 62])
    def test_an_impossible_size_is_refused(self, size: int) -> None:
        assert "claims a size" in refusal(bytes(MIB) + images.vhd_footer(size=size))


class TestVhdxRefused:
    FILE_PARAMETERS = "caa16737-fa36-4d43-b3b6-33f0aa44e76b"
    DISK_SIZE = "2fa54224-cd1b-4876-b211-5dbed83bf4b8"
    LOGICAL_SECTOR = "8141bf1d-a96f-4709-ba47-f233a8faab5f"

    def test_a_parent_is_refused(self, made: dict[str, bytes]) -> None:
        _, item = images.vhdx_item(made["vhdx"], self.FILE_PARAMETERS)
        assert "differencing VHDX" in refusal(patched(made["vhdx"], (item + 4, le32(2))))

    def test_the_order_of_the_metadata_does_not_matter(self, made: dict[str, bytes]) -> None:
        image = made["vhdx"]
        one, parameters = images.vhdx_item(image, self.FILE_PARAMETERS)
        two, _ = images.vhdx_item(image, self.DISK_SIZE)
        swapped = patched(image, (one, image[two : two + 32]), (two, image[one : one + 32]))
        assert inspect(swapped) == inspect(image)
        assert "differencing VHDX" in refusal(patched(swapped, (parameters + 4, le32(2))))

    def test_a_log_that_was_not_replayed_is_refused(self, made: dict[str, bytes]) -> None:
        assert "Mount-VHD" in refusal(images.vhdx_with_log(made["vhdx"]))

    def test_the_log_of_an_older_header_does_not_count(self, made: dict[str, bytes]) -> None:
        image = made["vhdx"]
        starts = (64 * 1024, 128 * 1024)
        older = min(starts, key=lambda start: int.from_bytes(image[start + 8 : start + 16], "little"))
        logged = images.vhdx_with_log(image)[older : older + 4096]
        assert inspect(patched(image, (older, logged))) == inspect(image)

    @pytest.mark.parametrize(
        ("offset", "data", "words"),
        [
            (192 * 1024, b"nope", "region table is missing"),
            (192 * 1024 + 8, le32(0xFFFFFFFF), "entries"),
            (192 * 1024 + 8, le32(0), "names no metadata"),
        ],
    )
    def test_a_damaged_region_table_is_refused(
        self, offset: int, data: bytes, words: str, made: dict[str, bytes]
    ) -> None:
        assert words in refusal(patched(made["vhdx"], (offset, data)))

    def test_damaged_headers_are_refused(self, made: dict[str, bytes]) -> None:
        image = patched(made["vhdx"], (64 * 1024 + 100, b"x"), (128 * 1024 + 100, b"x"))
        assert "neither of its VHDX headers" in refusal(image)

    @pytest.mark.parametrize("size", [0, 1 << 62, 513])
    def test_an_impossible_size_is_refused(self, size: int, made: dict[str, bytes]) -> None:
        _, item = images.vhdx_item(made["vhdx"], self.DISK_SIZE)
        assert "claims a size" in refusal(patched(made["vhdx"], (item, le64(size))))

    def test_sectors_that_qemu_does_not_have_are_refused(self, made: dict[str, bytes]) -> None:
        _, item = images.vhdx_item(made["vhdx"], self.LOGICAL_SECTOR)
        assert "LogicalSectorSizeBytes 512" in refusal(patched(made["vhdx"], (item, le32(4096))))

    def test_an_item_named_twice_is_refused(self, made: dict[str, bytes]) -> None:
        image = made["vhdx"]
        one, _ = images.vhdx_item(image, self.FILE_PARAMETERS)
        two, _ = images.vhdx_item(image, self.DISK_SIZE)
        assert "twice" in refusal(patched(image, (one, image[two : two + 16])))


class TestVdiRefused:
    @pytest.mark.parametrize(
        ("offset", "data", "words"),
        [
            (0x4C, le32(3), "an undo VDI"),
            (0x4C, le32(4), "a differencing VDI"),
            (0x4C, le32(9), "image type 9"),
            (0x1A8, b"\1", "a differencing VDI"),
            (0x1C7, b"\1", "a differencing VDI"),
            (0x44, le32(0x20000), "version 2.0"),
            (0x178, le32(4096), "unusual size"),
            (0x17C, le32(512), "unusual size"),
            (0x170, le64(1 << 62), "claims a size"),
        ],
    )
    def test_a_bad_header_is_refused(self, offset: int, data: bytes, words: str, made: dict[str, bytes]) -> None:
        assert words in refusal(patched(made["vdi"], (offset, data)))


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("disk.vmdk"))
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("disk.img", b"content")
    return buffer.getvalue()


class TestNeverADisk:
    @pytest.mark.parametrize(
        ("file", "words"),
        [
            (gzip.compress(b"disk", mtime=0), "compressed with gzip"),
            (bz2.compress(b"disk"), "compressed with bzip2"),
            (lzma.compress(b"disk"), "compressed with xz"),
            (b"\x28\xb5\x2f\xfd" + bytes(100), "compressed with zstd"),
            (b"\x04\x22\x4d\x18" + bytes(100), "compressed with lz4"),
            (b"\x02\x21\x4c\x18" + bytes(100), "compressed with the legacy format of lz4"),
            (_zip(), "a zip archive"),
            (_tar(), "a tar (or OVA) archive"),
            (b"7z\xbc\xaf\x27\x1c" + bytes(600), "a 7z archive"),
            (b"Rar!\x1a\x07\x01\x00" + bytes(600), "a RAR archive"),
            (b"<!DOCTYPE html><title>Sign in</title>", "a web page"),
            (b"\xef\xbb\xbf\r\n  <HTML lang=en>", "a web page"),
            (b"<!-- generated -->\n<!doctype html>" + bytes(5000), "a web page"),
            (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
            (b"QED\0" + bytes(65536), "a QED image"),
            (b"encrcdsa" + bytes(600), "an encrypted image of macOS"),
        ],
    )
    def test_other_files_are_refused_by_their_name(self, file: bytes, words: str) -> None:
        assert words in refusal(file)
        assert words in refusal(file + bytes(2 * MIB))

    @pytest.mark.parametrize("content", [bytes(MIB), images.disk(), b"\x78\xda" + bytes(700)])
    def test_a_disk_image_of_macos_is_found_by_its_end(self, content: bytes) -> None:
        assert "a disk image of macOS (DMG)" in refusal(content + images.dmg_trailer())
        assert inspect(content + images.dmg_trailer()[4:].ljust(512)).format is ImageFormat.RAW

    def test_compressed_data_is_refused_in_the_first_chunk(self) -> None:
        with pytest.raises(ImageRefusedError, match="gzip"):
            StreamInspector("disk.img").feed(b"\x1f\x8b\x08" + bytes(MIB))

    def test_an_iso_is_to_be_registered_as_a_cdrom(self) -> None:
        assert "type CDROM" in refusal(images.iso())

    def test_a_hybrid_iso_is_an_iso(self) -> None:
        assert "type CDROM" in refusal(patched(images.iso(), (0, images.mbr())))

    def test_udf_is_an_iso(self) -> None:
        assert "type CDROM" in refusal(patched(images.iso(), (32 * 1024, b"\0BEA01\1")))

    def test_nothing_is_refused(self) -> None:
        assert refusal(b"") == "disk.img is empty; check that it was published whole"

    def test_less_than_a_sector_is_refused(self) -> None:
        assert "less than one sector" in refusal(b"Not Found")


class TestAmbiguous:
    def test_an_iso_that_is_also_a_qcow2_is_refused(self, made: dict[str, bytes]) -> None:
        assert "ambiguous" in refusal(patched(made["qcow2"], (32 * 1024, b"\x01CD001\x01")))

    def test_a_qcow2_that_is_also_a_fixed_vhd_is_refused(self, made: dict[str, bytes]) -> None:
        assert "ambiguous" in refusal(made["qcow2"] + images.vhd_footer(size=len(made["qcow2"])))

    @pytest.mark.parametrize("kind", ["qcow2", "vmdk-sparse", "vdi", "vhd-dynamic"])
    def test_a_container_that_is_also_a_partitioned_disk_is_refused(self, kind: str, made: dict[str, bytes]) -> None:
        assert "ambiguous" in refusal(patched(made[kind], (510, b"\x55\xaa")))

    def test_a_container_with_the_signature_of_another_is_refused(self, made: dict[str, bytes]) -> None:
        assert "ambiguous" in refusal(patched(made["vdi"], (0, b"KDMV")))


class TestTruncatedHeader:
    @pytest.mark.parametrize("kind", [k for k in images.KINDS if not k.startswith("vhd-fixed")])
    @pytest.mark.parametrize("length", [100, 300, 511])
    def test_what_ends_within_its_header_is_refused(self, kind: str, length: int, made: dict[str, bytes]) -> None:
        assert refusal(made[kind][:length])

    def test_a_header_cut_short_is_called_truncated(self, made: dict[str, bytes]) -> None:
        assert "is truncated: it is a qcow2 image" in refusal(made["qcow2"][:100])


class TestRobust:
    @pytest.mark.parametrize("kind", images.KINDS)
    def test_flipped_bytes_never_end_in_anything_but_a_verdict(self, kind: str, made: dict[str, bytes]) -> None:
        dice = random.Random(kind)
        image = made[kind][: 3 * MIB] if not kind.startswith("vhd-fixed") else made[kind][-MIB:]
        verdicts = 0
        for _ in range(60):
            base = dice.choice((0, 0, len(image) - 512, 192 * 1024, 2 * MIB))
            patches = [
                ((base + dice.randrange(512)) % len(image), dice.randbytes(1)) for _ in range(dice.choice((1, 4)))
            ]
            try:
                assert inspect(patched(image, *patches)).virtual_size > 0
            except ImageRefusedError as error:
                assert error.sentence.startswith("disk.img ")
            verdicts += 1
        assert verdicts == 60

    def test_a_damaged_container_never_passes_as_raw(self, made: dict[str, bytes]) -> None:
        dice = random.Random(1)
        for kind in ("qcow2", "vmdk-sparse", "vmdk-stream", "vhd-dynamic", "vhdx"):
            for _ in range(40):
                image = patched(made[kind], (8 + dice.randrange(500), dice.randbytes(2)))
                try:
                    assert inspect(image).format is not ImageFormat.RAW
                except ImageRefusedError as error:
                    assert error.sentence

    def test_memory_is_bounded(self) -> None:
        inspector = StreamInspector("disk.img")
        chunk = bytes(MIB)
        for _ in range(64):
            inspector.feed(chunk)
        held = sum(sum(i.context_info.values()) for i in inspector._reading + inspector._found)
        assert held < MIB
        assert inspector.finish().virtual_size == 64 * MIB

    def test_nothing_is_printed(self, made: dict[str, bytes], capfd: pytest.CaptureFixture[str]) -> None:
        program = (
            "import sys; sys.path[:0] = {path!r}\n"
            "from oneconvert.images.inspect import StreamInspector\n"
            "from oneconvert.errors import ImageRefusedError\n"
            "s = StreamInspector('x')\n"
            "try: s.feed({head!r}.ljust(1 << 20, b'\\0'))\n"
            "except ImageRefusedError: sys.exit(0)\n"
            "sys.exit('accepted')\n"
        )
        head = patched(made["qcow2"][:512], (8, be64(1024)))
        done = images.run_python(program.format(path=sys.path, head=head))
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.timeout(20)
def test_a_page_of_many_comments_takes_no_time() -> None:
    assert inspect(b"<!---->" * 73 + bytes(8192)).format is ImageFormat.RAW


class TestContent:
    """What a raw disk is to a reader that looks for images in it."""

    @pytest.mark.parametrize("kind", images.KINDS)
    def test_an_image_is_found_by_its_two_ends(self, kind: str, made: dict[str, bytes], tmp_path: Path) -> None:
        path = tmp_path / "raw"
        path.write_bytes(made[kind])
        found = image_inside(path)
        assert found.startswith(("a ", "a fixed", "a dynamic"))
        # Whatever is in between is not read.
        path.write_bytes(made[kind][: 64 * 1024])
        with path.open("r+b") as file:
            file.truncate(1 << 40)
            file.seek(-512, os.SEEK_END)
            file.write(made[kind][-512:])
        assert image_inside(path) == found

    def test_a_descriptor_is_found(self, tmp_path: Path) -> None:
        path = tmp_path / "raw"
        path.write_bytes(images.vmdk_descriptor("monolithicFlat").ljust(MIB, b"\0"))
        assert image_inside(path) == "a VMDK descriptor"

    @pytest.mark.parametrize(
        "content",
        [b"", b"\0", images.disk(), images.iso(), b"LUKS\xba\xbe\0\1".ljust(MIB, b"\0"), gzip.compress(bytes(MIB))],
        ids=["nothing", "a byte", "partitions", "iso", "luks", "gzip"],
    )
    def test_a_plain_disk_has_none(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "raw"
        path.write_bytes(content)
        assert image_inside(path) == ""


class TestQemuImg:
    """As if the inspection were not there: what qemu-img meets, it must not reach, and must not tell about."""

    @pytest.fixture
    def secret(self, tmp_path: Path) -> Path:
        path = tmp_path / "secret"
        path.write_bytes(b"canary!!" * 8192)
        return path

    @pytest.fixture
    def job(self, tmp_path: Path) -> Path:
        path = tmp_path / "job"
        path.mkdir()
        return path

    @pytest.mark.parametrize("there", [True, False])
    def test_a_backing_file_is_neither_read_nor_told_about(self, there: bool, job: Path, secret: Path) -> None:
        if not there:
            secret.unlink()
        source, result = job / "source", job / "result"
        images.qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", secret, "-F", "raw", source, "64k")
        found = Inspection(ImageFormat.QCOW2, 64 * 1024, probed_as=ImageFormat.QCOW2)
        with pytest.raises(CommandError) as caught:
            qemu_img.convert(source, found, result, ImageFormat.RAW, "disk.img")
        assert caught.value.sentence == "disk.img cannot be converted to raw: qemu-img: it refers to another file"
        assert not result.exists() or b"canary" not in result.read_bytes()

    def test_an_extent_is_neither_read_nor_told_about(self, job: Path, secret: Path) -> None:
        source = job / "source"
        source.write_bytes(images.vmdk_descriptor("monolithicFlat", f'RW 128 FLAT "{secret}" 0'))
        with pytest.raises(ImageRefusedError) as caught:
            qemu_img.probe(source, "disk.img")
        assert caught.value.sentence == "disk.img cannot be read: qemu-img: it refers to another file"
