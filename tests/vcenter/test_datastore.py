"""The datastores of a vCenter: directories, files and disks, with names that need care, and what goes wrong."""

from __future__ import annotations

import hashlib
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oneconvert.errors import TransferError, VCenterError
from oneconvert.vcenter.connection import Connection, connected
from oneconvert.vcenter.datastore import Datastore, FileEntry
from rig.images import Images
from rig.vcenter import SimulatedVCenter, simulated_vcenter
from vcenter.servers import server

MIB = 1024 * 1024
NAMES = ["plain", "with blank", "évènement", "50% off", "a+b", "#7", "what?", "[odd]", "x&y=z", "日本"]


@pytest.fixture
def connection(vcenter: SimulatedVCenter) -> Iterator[Connection]:
    with connected(server(vcenter)) as made:
        yield made


@pytest.fixture(params=[0, 1], ids=["a plain name", "a name that needs care"])
def datastore(connection: Connection, vcenter: SimulatedVCenter, request: pytest.FixtureRequest) -> Datastore:
    return Datastore(connection, vcenter.datastores[request.param].ref)


@pytest.fixture
def directory(datastore: Datastore, vcenter: SimulatedVCenter, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where the files of this test are, ``one`` on the datastore."""
    where = next(each.directory for each in vcenter.datastores if each.ref == datastore.reference) / "one"
    datastore.make_directory("one")
    yield where
    vcenter.heal()
    datastore.delete_file("one", missing_ok=True)


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


def fetched(datastore: Datastore, path: str) -> bytes:
    with datastore.get(path) as answer:
        return b"".join(answer.chunks())


def capacity(datastore: Datastore, path: str) -> int | None:
    entry = datastore.look_up(path)
    return entry.capacity if entry else None


def test_is_found_by_its_reference(datastore: Datastore, vcenter: SimulatedVCenter) -> None:
    known = next(each for each in vcenter.datastores if each.ref == datastore.reference)
    assert datastore.name == known.name
    assert datastore.datacenter_path == vcenter.datacenter_path == "Europe & Asie/DC0"


def test_a_reference_of_nothing_is_told(connection: Connection) -> None:
    with pytest.raises(VCenterError, match="no object datastore-404"):
        Datastore(connection, "datastore-404")


def test_tells_its_space(datastore: Datastore, vcenter: SimulatedVCenter) -> None:
    space = datastore.space()
    assert space.accessible and 0 < space.free < space.capacity
    vcenter.fail_method("RefreshDatastore", "NoPermission")
    assert datastore.space().capacity == space.capacity


def test_directories_are_made_with_their_parents_and_again(datastore: Datastore, directory: Path) -> None:
    datastore.make_directory("one/7/a b")
    datastore.make_directory("one/7/a b")
    assert (directory / "7" / "a b").is_dir()


def test_only_empty_directories_are_deleted(datastore: Datastore, directory: Path) -> None:
    datastore.make_directory("one/7")
    (directory / "7" / "file").touch()
    assert not datastore.delete_directory_if_empty("one/7")
    datastore.delete_file("one/7/file")
    assert datastore.delete_directory_if_empty("one/7")
    assert not datastore.delete_directory_if_empty("one/7")
    assert not (directory / "7").exists()


@pytest.mark.parametrize("name", NAMES)
def test_files_come_back_as_they_went(datastore: Datastore, directory: Path, name: str) -> None:
    data = noise(300_001)
    datastore.make_directory(f"one/{name}")
    path = f"one/{name}/{name}.bin"
    datastore.put(path, pieces(data), len(data))
    assert (directory / name / f"{name}.bin").read_bytes() == data
    assert datastore.size(path) == len(data)
    assert datastore.look_up(path) == FileEntry(f"{name}.bin", len(data), is_directory=False)
    assert datastore.entries(f"one/{name}") == (datastore.look_up(path),)
    assert fetched(datastore, path) == data
    datastore.delete_file(path)
    assert datastore.look_up(path) is None
    assert datastore.delete_directory_if_empty(f"one/{name}")


def test_parts_of_a_file_are_given(datastore: Datastore, directory: Path) -> None:
    data = noise(100_000)
    datastore.put("one/file", [data], len(data))


def test_an_empty_file_can_be_stored(datastore: Datastore, directory: Path) -> None:
    datastore.put("one/empty", [], 0)
    assert datastore.size("one/empty") == 0
    assert fetched(datastore, "one/empty") == b""


def test_what_is_not_there_is_told(datastore: Datastore, directory: Path) -> None:
    assert datastore.look_up("one/none") is None
    assert datastore.look_up("nowhere/none.vmdk") is None
    assert datastore.size("one/none") is None
    assert datastore.entries("nowhere") is None
    with pytest.raises(VCenterError) as caught:
        fetched(datastore, "one/none")
    assert caught.value.fault == "FileNotFound"
    with pytest.raises(VCenterError, match="does not exist"):
        datastore.delete_file("one/none")
    with pytest.raises(VCenterError, match="does not exist"):
        datastore.delete_disk("one/none.vmdk")


def test_what_is_not_there_need_not_be_deleted(datastore: Datastore, directory: Path) -> None:
    datastore.delete_file("one/none", missing_ok=True)
    datastore.delete_disk("one/none.vmdk", missing_ok=True)
    datastore.delete_disk("nowhere/none.vmdk", missing_ok=True)


def test_a_file_is_not_overwritten(datastore: Datastore, directory: Path) -> None:
    datastore.put("one/file", [b"first"], 5)
    with pytest.raises(VCenterError, match="exists already"):
        datastore.put("one/file", [b"other"], 5)
    assert (directory / "file").read_bytes() == b"first"


@pytest.mark.parametrize("silent", ["yes", "no"])
def test_a_full_datastore_is_told_and_keeps_no_part(
    datastore: Datastore, directory: Path, vcenter: SimulatedVCenter, silent: str
) -> None:
    data = noise(3 * MIB)
    vcenter.fail("datastore-full", after=MIB, silent=silent)
    assert datastore.space().free == 0
    with pytest.raises(VCenterError, match=r"is the datastore full|500"):
        datastore.put("one/file", pieces(data), len(data))
    assert list(directory.iterdir()) == []


def test_a_source_that_fails_leaves_no_part(datastore: Datastore, directory: Path) -> None:
    def source() -> Iterator[bytes]:
        yield noise(MIB)
        raise TransferError("the source broke")

    with pytest.raises(TransferError, match="the source broke"):
        datastore.put("one/file", source(), 2 * MIB)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("length", [MIB - 1, MIB + 1])
def test_a_source_of_another_length_leaves_no_part(datastore: Datastore, directory: Path, length: int) -> None:
    with pytest.raises(VCenterError, match="not as long"):
        datastore.put("one/file", pieces(noise(MIB)), length)
    assert list(directory.iterdir()) == []


def test_an_upload_that_is_cut_off_leaves_no_part(
    datastore: Datastore, directory: Path, vcenter: SimulatedVCenter
) -> None:
    data = noise(8 * MIB)
    vcenter.fail("cut", after=MIB)
    with pytest.raises(VCenterError, match="ended the connection"):
        datastore.put("one/file", pieces(data), len(data))
    assert list(directory.iterdir()) == []


def test_a_download_that_is_cut_off_is_told(datastore: Datastore, directory: Path, vcenter: SimulatedVCenter) -> None:
    data = noise(8 * MIB)
    datastore.put("one/file", pieces(data), len(data))
    vcenter.fail("cut", after=MIB)
    with pytest.raises(VCenterError, match="ended the connection"):
        fetched(datastore, "one/file")


def test_transfers_with_an_expired_login_log_in_again(
    datastore: Datastore, directory: Path, vcenter: SimulatedVCenter
) -> None:
    data = noise(MIB)
    vcenter.fail("session-end")
    datastore.put("one/file", pieces(data), len(data))
    vcenter.fail("session-end")
    assert fetched(datastore, "one/file") == data
    vcenter.fail("session-end")
    assert datastore.size("one/file") == len(data)


@pytest.mark.parametrize("what", ["stall", "die"])
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_server_that_is_lost_in_a_transfer_is_given_up(simulator: Path, tmp_path: Path, what: str, way: str) -> None:
    data = noise(16 * MIB)
    with simulated_vcenter(tmp_path) as vcenter:
        with pytest.raises(VCenterError, match="vCenter"), connected(server(vcenter, timeout=2.0)) as connection:
            datastore = Datastore(connection, vcenter.datastore.ref)
            datastore.make_directory("one")
            if way == "down":
                (vcenter.datastore.directory / "one" / "file").write_bytes(data)
            vcenter.fail(what, after=MIB)
            began = time.monotonic()
            if way == "up":
                datastore.put("one/file", pieces(data), len(data))
            else:
                fetched(datastore, "one/file")
        assert time.monotonic() - began < 30


def test_a_disk_of_a_handler_of_ours_is_made_copied_moved_and_deleted(datastore: Datastore, directory: Path) -> None:
    datastore.create_disk("one/a b.vmdk", 5 * MIB)
    assert capacity(datastore, "one/a b.vmdk") == 5 * MIB
    assert 'ddb.thinProvisioned = "1"' in (directory / "a b.vmdk").read_text()
    (directory / "a b-flat.vmdk").write_bytes(noise(5 * MIB))

    datastore.copy_disk("one/a b.vmdk", "one/copie é.vmdk", datastore)
    assert (directory / "copie é-flat.vmdk").read_bytes() == noise(5 * MIB)

    datastore.make_directory("one/8")
    datastore.move_disk("one/copie é.vmdk", "one/8/one-8.vmdk")
    assert (directory / "8" / "one-8-flat.vmdk").read_bytes() == noise(5 * MIB)
    assert capacity(datastore, "one/8/one-8.vmdk") == 5 * MIB
    assert not (directory / "copie é.vmdk").exists()

    datastore.delete_disk("one/8/one-8.vmdk")
    datastore.delete_disk("one/a b.vmdk")
    assert datastore.delete_directory_if_empty("one/8")
    assert list(directory.iterdir()) == []


def test_a_disk_goes_to_another_datastore_by_a_handler_of_ours(
    connection: Connection, vcenter: SimulatedVCenter
) -> None:
    here, there = (Datastore(connection, each.ref) for each in vcenter.datastores)
    here.create_disk("moving.vmdk", MIB)
    here.copy_disk("moving.vmdk", "copied.vmdk", there)
    assert (vcenter.datastores[1].directory / "copied-flat.vmdk").stat().st_size == MIB
    there.delete_disk("copied.vmdk")
    here.delete_disk("moving.vmdk")


def test_a_file_is_copied(connection: Connection, vcenter: SimulatedVCenter) -> None:
    here, there = (Datastore(connection, each.ref) for each in vcenter.datastores)
    here.put("é 1.iso", pieces(noise(MIB)), MIB)
    here.copy_file("é 1.iso", "copied.iso", there)
    assert (vcenter.datastores[1].directory / "copied.iso").read_bytes() == noise(MIB)
    here.delete_file("é 1.iso")
    there.delete_file("copied.iso")


def test_an_uploaded_streamoptimized_disk_is_copied_by_a_handler_of_ours(
    datastore: Datastore, directory: Path, images: Images
) -> None:
    data = images.file("vmdk-stream").read_bytes()
    datastore.put("one/upload.vmdk", pieces(data), len(data))
    raw = images.file("raw").read_bytes()
    assert capacity(datastore, "one/upload.vmdk") == len(raw)
    datastore.copy_disk("one/upload.vmdk", "one/disk.vmdk", datastore)
    assert hashlib.sha256((directory / "disk-flat.vmdk").read_bytes()).digest() == hashlib.sha256(raw).digest()
    datastore.delete_disk("one/upload.vmdk")
    assert not (directory / "upload.vmdk").exists()


def test_an_uploaded_flat_disk_is_one(datastore: Datastore, directory: Path, images: Images, tmp_path: Path) -> None:
    command = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat"]
    subprocess.run([*command, images.file("raw"), tmp_path / "one-7.vmdk"], check=True)
    for name in ("one-7-flat.vmdk", "one-7.vmdk"):
        data = (tmp_path / name).read_bytes()
        datastore.put(f"one/{name}", pieces(data), len(data))
    assert capacity(datastore, "one/one-7.vmdk") == images.file("raw").stat().st_size
    datastore.delete_disk("one/one-7.vmdk")
    assert list(directory.iterdir()) == []


def test_disks_are_not_overwritten(datastore: Datastore, directory: Path) -> None:
    datastore.create_disk("one/a.vmdk", MIB)
    datastore.create_disk("one/b.vmdk", 2 * MIB)
    for attempt in (
        lambda: datastore.create_disk("one/a.vmdk", 3 * MIB),
        lambda: datastore.copy_disk("one/b.vmdk", "one/a.vmdk", datastore),
        lambda: datastore.move_disk("one/b.vmdk", "one/a.vmdk"),
    ):
        with pytest.raises(VCenterError, match="exists already"):
            attempt()
    assert capacity(datastore, "one/a.vmdk") == MIB
    assert capacity(datastore, "one/b.vmdk") == 2 * MIB


def test_a_disk_needs_its_directory(datastore: Datastore) -> None:
    with pytest.raises(VCenterError, match="does not exist"):
        datastore.create_disk("nowhere/a.vmdk", MIB)


def test_a_disk_on_a_full_datastore_is_told_by_a_handler_of_ours(
    datastore: Datastore, directory: Path, vcenter: SimulatedVCenter
) -> None:
    datastore.create_disk("one/a.vmdk", MIB)
    vcenter.fail("datastore-full")
    for attempt in (
        lambda: datastore.create_disk("one/b.vmdk", MIB),
        lambda: datastore.copy_disk("one/a.vmdk", "one/b.vmdk", datastore),
    ):
        with pytest.raises(VCenterError, match="is full") as caught:
            attempt()
        assert caught.value.fault == "NoDiskSpace"
    assert sorted(each.name for each in directory.iterdir()) == ["a-flat.vmdk", "a.vmdk"]


def test_a_disk_in_use_is_told_by_a_handler_of_ours(
    datastore: Datastore, directory: Path, vcenter: SimulatedVCenter
) -> None:
    vcenter.fail_method("DeleteVirtualDisk_Task", "FileLocked", file="[datastore1] one/a.vmdk")
    with pytest.raises(VCenterError, match=r"one/a\.vmdk is in use"):
        datastore.delete_disk("one/a.vmdk", missing_ok=True)


def test_a_descriptor_whose_disk_is_gone_is_deleted(
    datastore: Datastore, directory: Path, vcenter: SimulatedVCenter
) -> None:
    datastore.create_disk("one/a.vmdk", MIB)
    (directory / "a-flat.vmdk").unlink()
    vcenter.fail_method("DeleteVirtualDisk_Task", "FileNotFound")
    datastore.delete_disk("one/a.vmdk")
    assert list(directory.iterdir()) == []


def test_uploads_run_beside_calls(datastore: Datastore, directory: Path) -> None:
    data = noise(8 * MIB)
    seen: list[int | None] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.append(datastore.size("one/other"))

    thread = threading.Thread(target=look)
    thread.start()
    datastore.put("one/file", pieces(data), len(data))
    done.set()
    thread.join()
    assert set(seen) == {None}
