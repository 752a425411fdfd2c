"""Disks of a vCenter that are downloaded into other datastores. Its export leases are handlers of ours."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyVmomi import vim

from oneconvert.vcenter.connection import Connection, connected
from oneconvert.vcenter.datastore import Datastore as VSphereDatastore
from rig.front_end import Answer, FrontEnd, messages, same_disk
from rig.images import SIZE_MB, Images
from rig.vcenter import SimulatedVCenter
from rig.web import Web
from vcenter.driver import NUMBER, Driver
from vcenter.driver import driver as made_driver
from vcenter.servers import server

PATH = "one/42/one-42.vmdk"


@pytest.fixture
def driver(front_end: FrontEnd, vcenter: SimulatedVCenter, web: Web, tmp_path: Path) -> Iterator[Driver]:
    """With a disk in the vCenter."""
    with made_driver(front_end, vcenter, tmp_path) as made:
        answer = made.cp(web.url("qcow2"), 42)
        assert answer.status == 0, answer.stderr
        vcenter.forget()
        yield made
    shutil.rmtree(vcenter.datastore.directory / "one")


def download(driver: Driver, location: str, target: str | None = "qcow2", **more: object) -> Answer:
    store = driver.front_end.datastore(target)
    document = messages().cp(7, location, SIZE_MB, store, attributes=more)
    driver.knows_image(7, store.ident)
    answer = driver.call("cp", document, "oneconvert_fs")
    if answer.status:
        assert answer.stdout == ""
        assert len(answer.stderr.splitlines()) == 1
        assert driver.front_end.left_in(store) == []
    return answer


def location(path: str = PATH, **query: object) -> str:
    return f"vcenter://{path}?" + "&".join(f"{name}={value}" for name, value in {"param_dsid": NUMBER, **query}.items())


@pytest.mark.parametrize("target", ["qcow2", "raw", "vmdk", None])
def test_a_disk_of_a_datastore_comes_into_any_datastore(driver: Driver, images: Images, target: str | None) -> None:
    answer = download(driver, location(), target)
    assert answer.status == 0, answer.stderr
    assert answer.format == (target or "raw")
    assert same_disk(answer.source, answer.format, images.file("raw"), "raw")
    assert "vcenter://[datastore1] one/42/one-42.vmdk" in answer.stderr


def test_a_name_with_blanks_and_accents(driver: Driver, images: Images) -> None:
    directory = driver.vcenter.datastore.directory / "one"
    (directory / "mes disques").mkdir()
    for name in ("one-42.vmdk", "one-42-flat.vmdk"):
        text = (directory / "42" / name).read_bytes()
        if len(text) < 4096:
            text = text.replace(b"one-42", "été #1".encode())
        (directory / "mes disques" / name.replace("one-42", "été #1")).write_bytes(text)
    answer = download(driver, location("one/mes%20disques/été%20%231.vmdk"))
    assert answer.status == 0, answer.stderr
    assert same_disk(answer.source, "qcow2", images.file("raw"), "raw")


def test_a_file_that_is_a_whole_vmdk(driver: Driver, images: Images) -> None:
    """As the native driver uploads one: hosted sparse."""
    shutil.copy(images.file("vmdk-sparse"), driver.vcenter.datastore.directory / "one" / "sparse.vmdk")
    answer = download(driver, location("one/sparse.vmdk"))
    assert answer.status == 0, answer.stderr
    assert same_disk(answer.source, "qcow2", images.file("raw"), "raw")


def test_it_is_converted_while_it_arrives_and_a_connection_that_breaks_goes_on(driver: Driver, images: Images) -> None:
    driver.vcenter.fail("cut", after=5_000_000)
    driver.front_end.log.write_text("")
    answer = download(driver, location())
    assert answer.status == 0, answer.stderr
    assert same_disk(answer.source, "qcow2", images.file("raw"), "raw")
    log = driver.front_end.log.read_text()
    assert "the download goes on from there" in log
    assert "converted while it arrives" in log


def test_the_size_that_oned_asks_for(driver: Driver) -> None:
    for ds_mad in ("oneconvert_fs", "oneconvert_ceph"):
        store = driver.front_end.datastore("qcow2", ds_mad)
        answer = driver.call("stat", messages().stat(location(), store), ds_mad)
        assert (answer.status, answer.stdout, answer.stderr) == (0, f"{SIZE_MB}\n", "")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (location("one/42/none.vmdk"), "there is no [datastore1] one/42/none.vmdk"),
        ("vcenter://one/42/one-42.vmdk?param_dsid=999", "999"),
        ("vcenter://one/42/one-42.vmdk", "is not understood"),
        ("vcenter://one/42/one-42.vmdk?param_dsid=x", "is not understood"),
        ("vcenter://?param_dsid=100", "is not understood"),
        (location(param_vm="x"), "is not understood"),
        ("vcenter://one/42/one-42.vmdk?param_dsid=99999999999", "is not understood"),
    ],
)
def test_what_is_not_there(driver: Driver, where: str, words: str) -> None:
    answer = download(driver, where)
    assert answer.status == 1
    assert words in answer.stderr


def test_a_disk_with_a_parent_is_not_whole(driver: Driver) -> None:
    descriptor = driver.vcenter.datastore.directory / PATH
    text = descriptor.read_text()
    assert "parentCID=ffffffff" in text
    descriptor.write_text(text.replace("parentCID=ffffffff", "parentCID=12345678"))
    answer = download(driver, location())
    assert answer.status == 1
    assert "consolidate its snapshots" in answer.stderr


def test_an_extent_that_is_too_short(driver: Driver) -> None:
    flat = driver.vcenter.datastore.directory / "one/42/one-42-flat.vmdk"
    with flat.open("r+b") as file:
        file.truncate(1_000_000)
    answer = download(driver, location())
    assert answer.status == 1
    assert "has 1000000 bytes instead of" in answer.stderr


def test_others_than_admins_must_be_allowed_to(driver: Driver) -> None:
    store = driver.front_end.datastore("qcow2")
    document = messages().cp(7, location(), SIZE_MB, store).replace("<GID>0</GID>", "<GID>100</GID>", 1)
    driver.knows_image(7, store.ident)
    answer = driver.call("cp", document, "oneconvert_fs")
    assert (answer.status, answer.stdout) == (1, "")
    assert "only the group oneadmin" in answer.stderr
    assert driver.vcenter.calls() == []
    with driver.front_end.settings(vcenter_sources="all"):
        assert driver.call("cp", document, "oneconvert_fs").status == 0


def test_disks_of_a_vcenter_are_not_cached(driver: Driver, images: Images, tmp_path: Path) -> None:
    """Whether somebody may have them depends on who it is."""
    with driver.front_end.settings(cache_size="1G", cache_dir=tmp_path / "cache"):
        md5 = hashlib.md5(images.file("raw").read_bytes()).hexdigest()
        assert download(driver, location(), MD5=md5).status == 0
    assert not (tmp_path / "cache").exists()


# --- Disks of virtual machines ---------------------------------------------------------------------------------------


@pytest.fixture
def connection(vcenter: SimulatedVCenter) -> Iterator[Connection]:
    with connected(server(vcenter)) as made:
        yield made


def machine(connection: Connection, vcenter: SimulatedVCenter, name: str, disks: list[str], on: bool = False) -> str:
    """Make a virtual machine of these disks, and return its reference."""
    datastore = VSphereDatastore(connection, vcenter.datastore.ref)
    controller = vim.vm.device.VirtualLsiLogicController(key=1000, busNumber=0, sharedBus="noSharing")
    devices = [vim.vm.device.VirtualDeviceSpec(operation="add", device=controller)]
    for number, path in enumerate(disks):
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName=datastore.path(path), diskMode="persistent")
        disk = vim.vm.device.VirtualDisk(
            key=2000 + number, controllerKey=1000, unitNumber=number, backing=backing, capacityInKB=SIZE_MB * 1024
        )
        devices.append(vim.vm.device.VirtualDeviceSpec(operation="add", device=disk))
    files = vim.vm.FileInfo(vmPathName=datastore.path(""))
    spec = vim.vm.ConfigSpec(name=name, guestId="otherGuest", numCPUs=1, memoryMB=16, files=files, deviceChange=devices)
    folder = connection.object(vim.Folder, vcenter.vm_folder_ref)
    pool = connection.object(vim.ResourcePool, vcenter.resource_pool_ref)
    made = connection.wait(connection.call(lambda: folder.CreateVM_Task(spec, pool, None)))
    if on:
        connection.wait(connection.call(lambda: made.PowerOnVM_Task(None)))
    return str(made._moId)


@pytest.fixture
def web_server(driver: Driver, connection: Connection) -> Iterator[str]:
    """A virtual machine with the disk."""
    reference = machine(connection, driver.vcenter, "web é 1", [PATH])
    driver.vcenter.forget()
    yield reference
    gone = connection.object(vim.VirtualMachine, reference)
    connection.wait(connection.call(lambda: gone.Destroy_Task()))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("target", ["qcow2", "raw"])
def test_a_disk_of_a_machine_by_an_export_lease_of_ours(
    driver: Driver, images: Images, web_server: str, named: bool, target: str
) -> None:
    answer = download(driver, location("", param_vm="web%20%C3%A9%201" if named else web_server), target)
    assert answer.status == 0, answer.stderr
    assert same_disk(answer.source, target, images.file("raw"), "raw")
    assert len(driver.vcenter.calls("HttpNfcLeaseComplete")) == 1
    assert driver.vcenter.calls("HttpNfcLeaseAbort") == []


def test_a_ticket_of_a_lease_is_told_to_nobody(driver: Driver, web_server: str) -> None:
    driver.front_end.log.write_text("")
    driver.vcenter.fail("cut", after=100_000)
    answer = download(driver, location("", param_vm=web_server))
    assert "nfc" not in answer.stderr + driver.front_end.log.read_text()
    assert f"vcenter://{web_server}" in answer.stderr


def test_the_size_of_a_disk_of_a_machine(driver: Driver, web_server: str) -> None:
    store = driver.front_end.datastore("qcow2")
    answer = driver.call("stat", messages().stat(location("", param_vm=web_server), store), "oneconvert_fs")
    assert (answer.status, answer.stdout) == (0, f"{SIZE_MB}\n")


@pytest.mark.parametrize("fault", ["cut", "lease-error"])
def test_an_export_that_breaks_is_no_image_by_a_lease_of_ours(driver: Driver, web_server: str, fault: str) -> None:
    driver.vcenter.fail(fault, after=100_000)
    answer = download(driver, location("", param_vm=web_server))
    assert answer.status == 1
    assert driver.vcenter.calls("HttpNfcLeaseComplete") == []


@pytest.mark.parametrize("name", ["nobody", "vm-99999"])
def test_a_machine_that_is_not_there(driver: Driver, name: str) -> None:
    answer = download(driver, location("", param_vm=name))
    assert answer.status == 1
    assert name in answer.stderr


def test_a_disk_that_the_machine_has_not(driver: Driver, web_server: str) -> None:
    answer = download(driver, location("", param_vm=web_server, param_disk=2))
    assert answer.status == 1
    assert "has 1 disks" in answer.stderr
    assert len(driver.vcenter.calls("HttpNfcLeaseAbort")) == 1


def test_a_machine_that_runs(driver: Driver, connection: Connection, web_server: str) -> None:
    running = connection.object(vim.VirtualMachine, web_server)
    connection.wait(connection.call(lambda: running.PowerOnVM_Task(None)))
    try:
        answer = download(driver, location("", param_vm=web_server))
        assert answer.status == 1
        assert "is not powered off" in answer.stderr
    finally:
        connection.wait(connection.call(lambda: running.PowerOffVM_Task()))
