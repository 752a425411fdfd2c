"""A datastore driver for vCenter where OpenNebula has none: all that oned asks for, by oneconvert alone."""

from __future__ import annotations

import base64
import gzip
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

from rig.front_end import REPOSITORY, FrontEnd, messages, same_disk
from rig.images import MIB, SIZE_MB, Images
from rig.vcenter import SimulatedVCenter
from rig.web import Web
from vcenter.driver import DRIVER, Driver
from vcenter.driver import driver as made_driver

ACTIONS = {"cp", "stat", "rm", "mkfs", "clone", "monitor", "export", "snap_delete", "snap_revert", "snap_flatten"}


def install(front_end: FrontEnd) -> None:
    command = [str(REPOSITORY / "install.sh"), "--no-packages"]
    subprocess.run(command, env=front_end.environment(), check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def alone(front_end: FrontEnd) -> Iterator[FrontEnd]:
    """As after an upgrade to 7.0 or later: there is no native driver for vCenter any more."""
    native, away = front_end.remotes / "datastore" / "vcenter", front_end.location / "vcenter"
    native.rename(away)
    install(front_end)
    yield front_end
    away.rename(native)
    install(front_end)


@pytest.fixture
def driver(alone: FrontEnd, vcenter: SimulatedVCenter, tmp_path: Path) -> Iterator[Driver]:
    with made_driver(alone, vcenter, tmp_path) as made:
        yield made
    for datastore in vcenter.datastores:
        for path in datastore.directory.iterdir():
            shutil.rmtree(path)


def test_install_gives_it_every_action(driver: Driver) -> None:
    directory = driver.front_end.remotes / "datastore" / DRIVER
    assert {path.name for path in directory.iterdir()} == ACTIONS
    assert all("oneconvert.actions" in path.read_text() for path in directory.iterdir())


def test_an_image_comes_in(driver: Driver, images: Images, web: Web) -> None:
    answer = driver.cp(web.url("qcow2"), 42)
    assert (answer.status, answer.stdout) == (0, "one/42/one-42.vmdk vmdk\n"), answer.stderr
    flat = driver.vcenter.datastore.directory / "one/42/one-42-flat.vmdk"
    assert same_disk(flat, "raw", images.file("raw"), "raw")


@pytest.mark.parametrize("name", ["cdrom", "cdrom.gz"])
def test_a_cd_rom_image_stays_what_it_is(driver: Driver, images: Images, web: Web, name: str) -> None:
    iso = bytes(32768) + b"\1CD001" + bytes(500_000)
    images.file("cdrom").write_bytes(iso)
    images.file("cdrom.gz").write_bytes(gzip.compress(iso))
    store = driver.datastore()
    driver.knows_image(43, store.ident)
    answer = driver.call("cp", messages().cp(43, web.url(name), 1, store, kind=1))
    assert (answer.status, answer.stdout) == (0, "one/43/one-43.iso vmdk\n"), answer.stderr
    assert (driver.vcenter.datastore.directory / "one/43/one-43.iso").read_bytes() == iso
    document = messages().rm(43, "one/43/one-43.iso", "vmdk", 1, store).replace("<TYPE>0</TYPE>", "<TYPE>1</TYPE>", 1)
    assert driver.call("rm", document).status == 0
    assert driver.files() == ["one"]


def test_a_cd_rom_image_that_does_not_arrive_whole_leaves_nothing(driver: Driver, images: Images, web: Web) -> None:
    images.file("cdrom").write_bytes(bytes(600_000))
    driver.vcenter.fail("cut", after=100_000)
    answer = driver.call("cp", messages().cp(43, web.url("cdrom"), 1, driver.datastore(), kind=1))
    assert (answer.status, answer.stdout) == (1, "")
    assert "ended the connection" in answer.stderr
    assert driver.files() == ["one"]


@pytest.mark.parametrize("directory", ["one", "mes images été"])
def test_an_image_is_removed_and_nothing_beside_it(driver: Driver, directory: str) -> None:
    store = driver.datastore(VCENTER_DS_IMAGE_DIR=directory)
    source = driver.call("mkfs", messages().mkfs(9, "raw", 1, store)).stdout.strip()
    place = driver.vcenter.datastore.directory / directory / "9"
    (place / "other.vmdk").write_text("x")
    assert sorted(path.name for path in place.iterdir()) == ["one-9-flat.vmdk", "one-9.vmdk", "other.vmdk"]
    for _ in range(2):  # what is gone already is no error
        answer = driver.call("rm", messages().rm(9, source, "vmdk", 1, store))
        assert (answer.status, answer.stdout, answer.stderr) == (0, "", "")
    assert [path.name for path in place.iterdir()] == ["other.vmdk"]


def test_the_directory_of_an_image_goes_with_it(driver: Driver, web: Web) -> None:
    store = driver.datastore()
    assert driver.cp(web.url("qcow2"), 42, store).status == 0
    assert driver.call("rm", messages().rm(42, "one/42/one-42.vmdk", "vmdk", SIZE_MB, store)).status == 0
    assert driver.files() == ["one"]


def test_a_disk_that_was_imported_by_onevcenter_is_not_removed(driver: Driver) -> None:
    store = driver.datastore()
    driver.call("mkfs", messages().mkfs(9, "raw", 1, store))
    document = messages().rm(9, "one/9/one-9.vmdk", "vmdk", 1, store)
    document = document.replace("</TEMPLATE>", "<VCENTER_IMPORTED>YES</VCENTER_IMPORTED></TEMPLATE>", 1)
    assert driver.call("rm", document).status == 0
    assert "one/9/one-9.vmdk" in driver.files()


def test_an_empty_disk(driver: Driver) -> None:
    answer = driver.call("mkfs", messages().mkfs(43, "raw", 5, driver.datastore()))
    assert (answer.status, answer.stdout, answer.stderr) == (0, "one/43/one-43.vmdk\n", "")
    flat = driver.vcenter.datastore.directory / "one/43/one-43-flat.vmdk"
    assert flat.stat().st_size == 5 * MIB
    (call,) = driver.vcenter.calls("CreateVirtualDisk_Task")
    assert call["arguments"]["Spec"]["DiskType"] == "thin"


def test_a_disk_that_a_machine_will_be_saved_to_is_only_named(driver: Driver) -> None:
    answer = driver.call("mkfs", messages().mkfs(44, "save_as", 5, driver.datastore()))
    assert (answer.status, answer.stdout) == (0, "one/44/one-44.vmdk\n")
    assert driver.files() == []


def test_an_empty_disk_that_fails_leaves_nothing(driver: Driver) -> None:
    driver.vcenter.fail_method("CreateVirtualDisk_Task", "NoDiskSpace", Datastore="datastore1")
    answer = driver.call("mkfs", messages().mkfs(45, "raw", 5, driver.datastore()))
    assert (answer.status, answer.stdout) == (1, "")
    assert "datastore1 is full" in answer.stderr
    assert driver.files() == ["one"]


@pytest.mark.parametrize("across", [False, True])
def test_a_clone(driver: Driver, images: Images, web: Web, across: bool) -> None:
    first, second = driver.vcenter.datastores
    source = driver.datastore(first)
    assert driver.cp(web.url("qcow2"), 46, source).status == 0
    driver.knows_image(46, source.ident)
    driver.knows_datastore(source.ident, driver.attributes(first))
    target = driver.datastore(second if across else first)
    answer = driver.call("clone", messages().clone(47, "one/46/one-46.vmdk", "vmdk", SIZE_MB, target))
    assert (answer.status, answer.stdout, answer.stderr) == (0, "one/47/one-47.vmdk vmdk\n", "")
    flat = (second if across else first).directory / "one/47/one-47-flat.vmdk"
    assert same_disk(flat, "raw", images.file("raw"), "raw")


def test_a_clone_of_a_cd_rom_image(driver: Driver) -> None:
    source = driver.datastore()
    iso = driver.vcenter.datastore.directory / "one" / "46" / "one-46.iso"
    iso.parent.mkdir(parents=True)
    iso.write_bytes(b"content")
    driver.knows_image(46, source.ident)
    driver.knows_datastore(source.ident, driver.attributes())
    answer = driver.call("clone", messages().clone(47, "one/46/one-46.iso", "vmdk", 1, source))
    assert (answer.status, answer.stdout, answer.stderr) == (0, "one/47/one-47.iso vmdk\n", "")
    assert (driver.vcenter.datastore.directory / "one/47/one-47.iso").read_bytes() == b"content"


def test_a_clone_of_another_vcenter(driver: Driver) -> None:
    driver.knows_image(46, 7)
    driver.knows_datastore(7, driver.attributes(VCENTER_INSTANCE_ID="other"))
    answer = driver.call("clone", messages().clone(47, "one/46/one-46.vmdk", "vmdk", SIZE_MB, driver.datastore()))
    assert (answer.status, answer.stdout) == (1, "")
    assert "another vCenter" in answer.stderr


def test_how_much_space_there_is(driver: Driver) -> None:
    answer = driver.call("monitor", messages().monitor(driver.datastore()))
    values = dict(line.split("=") for line in answer.stdout.splitlines())
    assert list(values) == ["USED_MB", "FREE_MB", "TOTAL_MB"]
    assert int(values["USED_MB"]) + int(values["FREE_MB"]) == int(values["TOTAL_MB"]) > 0


def test_a_monitor_that_fails_says_why(driver: Driver) -> None:
    driver.oned.hosts.clear()
    answer = driver.call("monitor", messages().monitor(driver.datastore()))
    assert (answer.status, answer.stdout) == (1, "")
    assert len(answer.stderr.splitlines()) == 1


def test_the_size_of_a_disk_that_the_vcenter_has(driver: Driver) -> None:
    driver.call("mkfs", messages().mkfs(48, "raw", 7, driver.datastore()))
    answer = driver.call("stat", messages().stat("vcenter://one/48/one-48.vmdk", driver.datastore()))
    assert (answer.status, answer.stdout, answer.stderr) == (0, "7\n", "")
    missing = driver.call("stat", messages().stat("vcenter://one/48/none.vmdk", driver.datastore()))
    assert missing.status == 1
    assert "[datastore1] one/48/none.vmdk" in missing.stderr


def test_the_size_of_any_other_image_is_told_by_the_native_driver_for_files(driver: Driver, images: Images) -> None:
    store = driver.datastore()
    native = driver.front_end.call("stat", messages().stat(str(images.file("qcow2")), store), "fs")
    answer = driver.call("stat", messages().stat(str(images.file("qcow2")), store))
    assert (answer.status, answer.stdout) == (native.status, native.stdout)
    assert answer.status == 0


def test_a_disk_that_the_vcenter_has_becomes_an_image_without_a_copy_and_stays_when_that_goes(driver: Driver) -> None:
    store = driver.datastore()
    driver.call("mkfs", messages().mkfs(48, "raw", 7, store))
    directory = driver.vcenter.datastore.directory
    (directory / "one" / "48").rename(directory / "templates é")
    before = driver.files()
    answer = driver.cp("vcenter://templates é/one-48.vmdk", 49, store)
    assert (answer.status, answer.stdout) == (0, "templates%20é/one-48.vmdk vmdk\n"), answer.stderr
    assert driver.call("rm", messages().rm(49, answer.stdout.split()[0], "vmdk", 7, store)).status == 0
    assert driver.files() == before


def test_a_disk_that_is_not_there_becomes_no_image(driver: Driver) -> None:
    answer = driver.cp("vcenter://templates/none.vmdk", 49)
    assert (answer.status, answer.stdout) == (1, "")
    assert "there is no [datastore1] templates/none.vmdk" in answer.stderr


def test_only_admins_make_images_of_disks_that_are_there(driver: Driver) -> None:
    store = driver.datastore()
    document = messages().cp(49, "vcenter://one/1/one-1.vmdk", 1, store).replace("<GID>0</GID>", "<GID>100</GID>", 1)
    answer = driver.call("cp", document)
    assert (answer.status, answer.stdout) == (1, "")
    assert "only the group oneadmin" in answer.stderr


def test_where_a_marketplace_fetches_a_disk(driver: Driver) -> None:
    store = driver.datastore()
    document = messages().rm(50, "one/50/one-50.vmdk", "vmdk", SIZE_MB, store)
    answer = driver.call("export", document)
    info = etree.fromstring(answer.stdout)
    assert info.tag == "IMPORT_INFO"
    assert {each.tag: each.text for each in info} == {
        "IMPORT_SOURCE": f"vcenter://one/50/one-50.vmdk?param_dsid={store.ident}",
        "MD5": "-",
        "SIZE": str(SIZE_MB),
        "FORMAT": "VMDK",
        "DISPOSE": "NO",
    }


@pytest.mark.parametrize("action", ["snap_delete", "snap_revert", "snap_flatten"])
def test_images_have_no_snapshots(driver: Driver, action: str) -> None:
    answer = driver.call(action, messages().rm(51, "one/51/one-51.vmdk", "vmdk", 1, driver.datastore()))
    assert (answer.status, answer.stdout) == (1, "")
    assert "no snapshots" in answer.stderr


def test_a_datastore_of_no_vcenter(driver: Driver) -> None:
    store = driver.front_end.datastore("vcenter", DRIVER)
    for action, document in (
        ("monitor", messages().monitor(store)),
        ("cp", messages().cp(42, "http://127.0.0.1:9/x", 1, store)),
    ):
        answer = driver.call(action, document)
        assert (answer.status, answer.stdout) == (1, "")
        assert "no datastore of a vCenter" in answer.stderr


@pytest.mark.parametrize("release", ["5.12", "6.4", "6.8", "7.4"])
def test_every_convention_of_calling(driver: Driver, release: str) -> None:
    answer = driver.call("monitor", messages(release).monitor(driver.datastore()), release=release)
    assert answer.status == 0
    broken = driver.front_end.call("rm", base64.b64encode(b"<no>"), DRIVER, release="7.4")
    assert broken.status == 1
