"""A VMDK for vSphere holds the raw disk it was made of, to every reader, and is laid out as VMware's own."""

from __future__ import annotations

import errno
import os
import random
import re
import struct
import subprocess
import threading
import tracemalloc
from pathlib import Path

import pytest

from oneconvert.errors import ImageRefusedError, SettingsError, TransferError
from oneconvert.images import vmdk_writer
from oneconvert.images.vmdk_descriptor import flat_descriptor, stream_descriptor
from oneconvert.images.vmdk_header import SparseHeader
from oneconvert.images.vmdk_stream import StreamedDisk, streamed_header
from oneconvert.images.vmdk_writer import stream_optimized, write_stream_optimized
from oneconvert.jobs.signals import ENDING
from rig.crafted import accept

MIB = 1024 * 1024
TIB = 1 << 40
GRAIN = 64 * 1024
SECTOR = 512
OF_A_TABLE = 512 * GRAIN
SEEDED = random.Random(11)
NOISE = SEEDED.randbytes(3 * MIB)
TEXT = b"".join(b"%d bottles of beer on the wall\n" % number for number in range(100_000))

# Name -> size, and data by offset; all else is a hole.
DISKS: dict[str, tuple[int, dict[int, bytes]]] = {
    "empty": (MIB, {}),
    "one sector": (SECTOR, {0: b"x" * SECTOR}),
    "all data": (len(TEXT) // MIB * MIB, {0: TEXT[: len(TEXT) // MIB * MIB]}),
    "incompressible": (3 * MIB, {0: NOISE}),
    "a hole in the middle": (40 * MIB, {0: TEXT, 30 * MIB + 4096: NOISE}),
    "a hole at both ends": (20 * MIB, {7 * MIB + SECTOR: b"middle"}),
    "zeros that are no hole": (4 * MIB, {0: TEXT[:GRAIN], GRAIN: bytes(2 * MIB), 3 * MIB: NOISE[:GRAIN]}),
    "a last grain that is not whole": (MIB + 3 * SECTOR, {0: TEXT[:MIB], MIB: NOISE[: 3 * SECTOR]}),
    "a last sector that is not whole": (MIB + 700, {MIB - 10: NOISE[:710]}),
    "several tables": (
        4 * OF_A_TABLE + GRAIN,
        {OF_A_TABLE - GRAIN: NOISE[: 2 * GRAIN], 3 * OF_A_TABLE + 5: b"one", 4 * OF_A_TABLE: TEXT[:GRAIN]},
    ),
}


def raw_disk(path: Path, size: int, data: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        for offset, piece in data.items():
            file.seek(offset)
            file.write(piece)
        file.truncate(size)
    return path


@pytest.fixture(params=DISKS)
def raw(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return raw_disk(tmp_path / "disk.raw", *DISKS[request.param])


@pytest.fixture
def vmdk(raw: Path, tmp_path: Path) -> Path:
    target = tmp_path / "disk.vmdk"
    assert write_stream_optimized(raw, target, raw.stat().st_size) == target.stat().st_size
    return target


def content(raw: Path) -> bytes:
    """The disk in whole sectors."""
    data = raw.read_bytes()
    return data.ljust(-(-len(data) // SECTOR) * SECTOR, b"\0")


def test_qemu_img_reads_the_same_disk(raw: Path, vmdk: Path) -> None:
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "vmdk", raw, vmdk], check=True)
    subprocess.run(["qemu-img", "check", "-f", "vmdk", vmdk], check=True)


def test_7_zip_reads_the_same_disk(raw: Path, vmdk: Path) -> None:
    unpacked = subprocess.run(["7zz", "e", "-so", "-tvmdk", vmdk], capture_output=True, check=True)
    assert unpacked.stdout == content(raw)


def test_libvmdk_reads_the_same_disk(raw: Path, vmdk: Path) -> None:
    pyvmdk = pytest.importorskip("pyvmdk")
    handle = pyvmdk.handle()
    handle.open(str(vmdk))
    handle.open_extent_data_files()
    try:
        assert handle.get_media_size() == len(content(raw))
        assert handle.read_buffer_at_offset(handle.get_media_size(), 0) == content(raw)
    finally:
        handle.close()


def test_the_disk_is_the_same_while_it_streams_by(raw: Path, vmdk: Path) -> None:
    image = vmdk.read_bytes()
    header = streamed_header(image[:SECTOR])
    assert header is not None
    disk = bytearray(len(content(raw)))
    for offset, data in StreamedDisk([image], header):
        disk[offset : offset + len(data)] = data
    assert disk == content(raw)


def test_it_is_an_image_that_would_be_imported(raw: Path, vmdk: Path) -> None:
    assert accept(vmdk).virtual_size == len(content(raw))


def markers(image: bytes) -> list[tuple[str, int, int]]:
    """Kind, value and position of every marker."""
    found, position = [], 128 * SECTOR
    while position < len(image):
        value, size, kind = struct.unpack_from("<QII", image, position)
        found.append(("grain" if size else ("end", "table", "directory", "footer")[kind], value, position))
        position += -(-(12 + size) // SECTOR) * SECTOR if size else (1 + value) * SECTOR
    assert position == len(image)
    return found


def test_the_layout_is_that_of_vmware(tmp_path: Path) -> None:
    """A table right behind its grains, the directory and the footer behind all; none for a table without grains."""
    raw = raw_disk(tmp_path / "raw", *DISKS["several tables"])
    write_stream_optimized(raw, tmp_path / "disk.vmdk", raw.stat().st_size)
    image = (tmp_path / "disk.vmdk").read_bytes()
    found = markers(image)
    assert [kind for kind, _, _ in found] == [
        *("grain", "table", "grain", "table", "grain", "table", "grain", "table"),
        *("directory", "footer", "end"),
    ]
    assert [value * SECTOR for kind, value, _ in found if kind == "grain"] == [
        *(OF_A_TABLE - GRAIN, OF_A_TABLE, 3 * OF_A_TABLE, 4 * OF_A_TABLE),
    ]
    assert [value for kind, value, _ in found if kind != "grain"] == [4, 4, 4, 4, 1, 1, 0]
    capacity = raw.stat().st_size // SECTOR
    fields = (b"KDMV", 3, 0x30001, capacity, 128, 1, 20, 512, 0, 2**64 - 1, 128, 0, b"\n \r\n", 1)
    assert image[:SECTOR] == struct.pack("<4sIIQQQQIQQQB4sH", *fields).ljust(SECTOR, b"\0")
    (directory,) = (position // SECTOR + 1 for kind, _, position in found if kind == "directory")
    (footer,) = (position + SECTOR for kind, _, position in found if kind == "footer")
    assert image[footer : footer + SECTOR] == image[:56] + struct.pack("<Q", directory) + image[64:SECTOR]
    tables = [position // SECTOR + 1 for kind, _, position in found if kind == "table"]
    entries = struct.unpack_from("<128I", image, directory * SECTOR)
    assert list(entries[:5]) == [*tables[:2], 0, *tables[2:]]
    assert not any(entries[5:])


def test_a_disk_of_2_tib_costs_what_its_data_costs(tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "raw", 2 * TIB, {0: b"first", TIB + 5: b"middle", 2 * TIB - 4: b"last"})
    vmdk = tmp_path / "disk.vmdk"
    called: list[int] = []
    tracemalloc.start()
    try:
        write_stream_optimized(raw, vmdk, 2 * TIB, progress=called.append)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
    assert len(called) < 10
    assert vmdk.stat().st_size < MIB
    assert accept(vmdk).virtual_size == 2 * TIB
    image = vmdk.read_bytes()
    header = streamed_header(image[:SECTOR])
    assert header is not None
    pieces = {offset: data.strip(b"\0") for offset, data in StreamedDisk([image], header)}
    assert pieces == {0: b"first", TIB: b"middle", 2 * TIB - GRAIN: b"last"}
    read = ["qemu-io", "-f", "vmdk", "-r", "-c", f"read -v {TIB + 5} 6", vmdk]
    assert "middle" in subprocess.run(read, capture_output=True, text=True, check=True).stdout


def test_memory_does_not_grow_with_the_disk(tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "raw", 96 * MIB, {at * 3 * MIB: NOISE for at in range(32)})
    tracemalloc.start()
    try:
        assert write_stream_optimized(raw, tmp_path / "disk.vmdk", 96 * MIB) > 96 * MIB
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()


def test_what_does_not_shrink_hardly_grows(tmp_path: Path) -> None:
    """A grain that cannot be deflated takes a sector more: its marker, and what deflate adds."""
    raw = raw_disk(tmp_path / "raw", *DISKS["incompressible"])
    length = write_stream_optimized(raw, tmp_path / "disk.vmdk", 3 * MIB)
    assert 3 * MIB < length <= 3 * MIB + 48 * SECTOR + 150 * SECTOR


@pytest.mark.parametrize("cores", [1, 8])
def test_the_content_does_not_depend_on_the_threads(
    cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = raw_disk(tmp_path / "raw", *DISKS["a hole in the middle"])
    expected = b"".join(stream_optimized(raw, raw.stat().st_size))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    found = b"".join(stream_optimized(raw, raw.stat().st_size))
    # The descriptor has IDs that no two disks share.
    assert found[:SECTOR] == expected[:SECTOR]
    assert found[21 * SECTOR :] == expected[21 * SECTOR :]


def test_progress_is_in_bytes_of_the_disk(raw: Path, tmp_path: Path) -> None:
    called: list[int] = []
    write_stream_optimized(raw, tmp_path / "disk.vmdk", raw.stat().st_size, progress=called.append)
    assert called == sorted(called)
    assert called[-1] == raw.stat().st_size


def deflating() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("deflate")]


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


class StoppedError(Exception):
    """Somebody wants no more of it."""


def test_whoever_watches_can_stop_it(tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "raw", 96 * MIB, {at * 3 * MIB: NOISE for at in range(32)})
    before = descriptors()

    def progress(done: int) -> None:
        if done > MIB:
            assert deflating()
            raise StoppedError

    with pytest.raises(StoppedError):
        write_stream_optimized(raw, tmp_path / "disk.vmdk", 96 * MIB, progress=progress)
    assert not deflating()
    assert descriptors() == before
    assert (tmp_path / "disk.vmdk").stat().st_size < 8 * MIB


def test_whoever_takes_it_can_leave_it(tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "raw", 96 * MIB, {at * 3 * MIB: NOISE for at in range(32)})
    before = descriptors()
    pieces = stream_optimized(raw, 96 * MIB)
    next(pieces)
    next(pieces)
    assert deflating()
    assert len(descriptors()) == len(before) + 1
    pieces.close()
    assert not deflating()
    assert descriptors() == before


def test_signals_stay_with_the_main_thread(tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "raw", *DISKS["incompressible"])
    blocked: list[int] = []

    def progress(_done: int) -> None:
        for each in deflating():
            status = Path(f"/proc/self/task/{each.native_id}/status").read_text()
            found = re.search(r"^SigBlk:\s*([0-9a-f]+)", status, re.MULTILINE)
            assert found
            blocked.append(int(found[1], 16))

    write_stream_optimized(raw, tmp_path / "disk.vmdk", 3 * MIB, progress=progress)
    assert blocked
    assert all(mask >> (number - 1) & 1 for mask in blocked for number in ENDING)


def test_an_error_of_who_watches_stays_his_own(tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "raw", *DISKS["incompressible"])

    def progress(_done: int) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "the server is gone")

    with pytest.raises(ConnectionResetError):
        write_stream_optimized(raw, tmp_path / "disk.vmdk", 3 * MIB, progress=progress)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_full_file_system(tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "raw", *DISKS["incompressible"])
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "oneconvert-test", small], check=True)
    try:
        with pytest.raises(TransferError) as caught:
            write_stream_optimized(raw, small / "disk.vmdk", 3 * MIB, name="web.qcow2")
    finally:
        subprocess.run(["umount", small], check=True)
    assert caught.value.sentence.startswith(f"no space left in {small} after ")
    assert " bytes of web.qcow2: " in caught.value.sentence
    assert not deflating()


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "raw", MIB, {})
    target = tmp_path / "disk.vmdk"
    target.write_text("precious")
    with pytest.raises(TransferError, match="File exists"):
        write_stream_optimized(raw, target, MIB)
    assert target.read_text() == "precious"


@pytest.mark.parametrize("size", [0, MIB - SECTOR, MIB + SECTOR])
def test_a_raw_disk_of_another_size_is_refused(size: int, tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "raw", size, {})
    with pytest.raises(ImageRefusedError, match=f"web.qcow2 should be a disk of {MIB} bytes, and has {size}"):
        write_stream_optimized(raw, tmp_path / "disk.vmdk", MIB, name="web.qcow2")


def test_a_raw_disk_may_be_filled_up_to_a_whole_sector(tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "raw", MIB + SECTOR, {MIB: b"end"})
    called: list[int] = []
    write_stream_optimized(raw, tmp_path / "disk.vmdk", MIB + 3, progress=called.append)
    assert accept(tmp_path / "disk.vmdk").virtual_size == MIB + SECTOR
    assert called[-1] == MIB + 3


@pytest.mark.parametrize("capacity", [-1, 0, 62 * TIB + 1])
def test_a_disk_that_vsphere_cannot_have_is_refused(capacity: int, tmp_path: Path) -> None:
    with pytest.raises(ImageRefusedError, match="is a disk of"):
        write_stream_optimized(raw_disk(tmp_path / "raw", 0, {}), tmp_path / "disk.vmdk", capacity, name="web.qcow2")


def test_a_raw_disk_that_changes_is_refused(tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "raw", 96 * MIB, {at * 3 * MIB: NOISE for at in range(32)})
    with pytest.raises(ImageRefusedError, match="changed while it was read"):
        write_stream_optimized(raw, tmp_path / "disk.vmdk", 96 * MIB, progress=lambda _done: os.truncate(raw, MIB))


def test_a_raw_disk_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="cannot be read: No such file"):
        write_stream_optimized(tmp_path / "raw", tmp_path / "disk.vmdk", MIB, name="web.qcow2")


def test_a_file_has_no_more_sectors_than_its_tables_can_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = raw_disk(tmp_path / "raw", *DISKS["incompressible"])
    monkeypatch.setattr(vmdk_writer, "MOST_SECTORS", 4000)
    with pytest.raises(ImageRefusedError, match="more data than a compressed VMDK can hold"):
        write_stream_optimized(raw, tmp_path / "disk.vmdk", 3 * MIB)


def test_a_header_is_read_as_it_was_written(vmdk: Path) -> None:
    sector = vmdk.read_bytes()[:SECTOR]
    assert SparseHeader.parse(sector).pack() == sector


def settings(descriptor: str) -> dict[str, str]:
    found = re.findall(r'^([\w.]+)\s*=\s*"?([^"\n]*)"?$', descriptor, re.MULTILINE)
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.parametrize(
    ("asked", "written", "geometry"),
    [
        ("lsilogic", "lsilogic", (2610, 255, 63)),
        ("lsiLogic", "lsilogic", (2610, 255, 63)),
        ("lsiSas1068", "lsilogic", (2610, 255, 63)),
        ("paraVirtual", "lsilogic", (2610, 255, 63)),
        ("pvscsi", "lsilogic", (2610, 255, 63)),
        ("busLogic", "buslogic", (2610, 255, 63)),
        ("ide", "ide", (16383, 16, 63)),
    ],
)
def test_the_adapters_that_a_descriptor_may_name(asked: str, written: str, geometry: tuple[int, int, int]) -> None:
    for make in (stream_descriptor, flat_descriptor):
        found = settings(make("disk.vmdk", 20 << 30, asked))
        assert found["ddb.adapterType"] == written
        names = ("ddb.geometry.cylinders", "ddb.geometry.heads", "ddb.geometry.sectors")
        assert tuple(int(found[name]) for name in names) == geometry


@pytest.mark.parametrize(("capacity", "cylinders"), [(SECTOR, 1), (1 << 30, 130), (62 * TIB, 65535)])
def test_the_geometry_of_small_and_large_disks(capacity: int, cylinders: int) -> None:
    assert settings(stream_descriptor("disk.vmdk", capacity))["ddb.geometry.cylinders"] == str(cylinders)


def test_an_adapter_that_no_vmdk_has(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no adapter 'virtio' of a VMDK; it is one of buslogic, ide,"):
        write_stream_optimized(raw_disk(tmp_path / "raw", MIB, {}), tmp_path / "disk.vmdk", MIB, "virtio")


@pytest.mark.parametrize("name", ["", "a disk.vmdk", 'a"b.vmdk', "../disk.vmdk", "disk\n.vmdk"])
def test_names_that_would_break_a_descriptor(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        flat_descriptor(name, MIB)


def test_the_descriptor_of_a_stream(tmp_path: Path) -> None:
    descriptor = stream_descriptor("one-7.vmdk", 5 * MIB + 1)
    found = settings(descriptor)
    assert found["createType"] == "streamOptimized"
    assert found["parentCID"] == "ffffffff"
    assert re.fullmatch(r"[0-9a-f]{8}", found["CID"])
    assert re.fullmatch(r"[0-9a-f]{24}" + found["CID"], found["ddb.longContentID"])
    assert '\nRDONLY 10241 SPARSE "one-7.vmdk"\n' in descriptor
    assert descriptor.startswith("# Disk DescriptorFile\nversion=1\n")
    assert settings(stream_descriptor("one-7.vmdk", 5 * MIB))["CID"] != found["CID"]


def test_a_flat_disk_is_its_raw_file(tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "one-7-flat.vmdk", *DISKS["a hole in the middle"])
    descriptor = tmp_path / "one-7.vmdk"
    descriptor.write_text(flat_descriptor(raw.name, raw.stat().st_size, "ide"))
    compare = ["qemu-img", "compare", "-f", "raw", "-F", "vmdk", raw, descriptor]
    subprocess.run(compare, check=True)
    info = subprocess.run(["qemu-img", "info", descriptor], capture_output=True, text=True, check=True).stdout
    assert "create type: vmfs" in info
    with raw.open("r+b") as file:
        file.write(b"changed")
    subprocess.run(compare, check=True)


def test_opennebula_finds_the_extent_of_a_flat_disk() -> None:
    """By the rule of its vCenter driver, which takes such a file for a descriptor when it is plain text."""
    descriptor = flat_descriptor("one-7-flat.vmdk", MIB)
    (extent,) = (line for line in descriptor.split("\n") if line.startswith("RW"))
    assert extent.split(" ") == ["RW", "2048", "VMFS", '"one-7-flat.vmdk"']
    assert descriptor.isascii()
