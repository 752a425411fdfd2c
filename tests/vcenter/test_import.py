"""Images into a vCenter, as oned asks for them. What the simulator lacks, its NFC store, is ours: see its front.go."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rig.front_end import FrontEnd, messages, processes_of, same_disk
from rig.images import MIB, SIZE_MB, Images
from rig.vcenter import SimulatedVCenter, simulated_vcenter
from rig.web import Web, wait_until
from vcenter.driver import DRIVER, Driver
from vcenter.driver import driver as made_driver

LOST_PASSWORD = "Geheimnis"


@pytest.fixture
def driver(front_end: FrontEnd, vcenter: SimulatedVCenter, tmp_path: Path) -> Iterator[Driver]:
    with made_driver(front_end, vcenter, tmp_path) as made:
        yield made
    shutil.rmtree(vcenter.datastore.directory / "one", ignore_errors=True)


def machines(driver: Driver) -> list[object]:
    """Those that imports made and did not remove."""
    made, gone = driver.vcenter.calls("ImportVApp"), driver.vcenter.calls("Destroy_Task")
    return made[len(gone) :]


def nothing_left(driver: Driver) -> None:
    assert driver.files() in ([], ["one"]), "the directory for all images stays"
    assert list((driver.front_end.location / "var" / "datastores").glob("**/.oneconvert")) == []


IMAGES = ("raw", "qcow2", "qcow2-compressed", "vmdk-sparse", "vmdk-stream", "vhdx", "vdi", "raw.gz")


@pytest.mark.parametrize("name", IMAGES)
def test_every_format_becomes_a_disk_of_the_vcenter_by_an_nfc_store_of_ours(
    driver: Driver, images: Images, web: Web, name: str
) -> None:
    answer = driver.cp(web.url(name), 42)
    assert (answer.status, answer.stdout) == (0, "one/42/one-42.vmdk vmdk\n"), answer.stderr
    assert driver.files() == ["one", "one/42", "one/42/one-42-flat.vmdk", "one/42/one-42.vmdk"]
    flat = driver.vcenter.datastore.directory / "one/42/one-42-flat.vmdk"
    assert same_disk(flat, "raw", images.file("raw"), "raw")
    assert flat.stat().st_blocks * 512 < flat.stat().st_size // 2, "it is thin"
    assert machines(driver) == []
    assert len(driver.vcenter.calls("HttpNfcLeaseComplete")) == 1


@pytest.mark.parametrize("release", ["5.12", "6.4", "6.4 -i", "6.8", "7.4"])
def test_every_convention_of_calling(driver: Driver, web: Web, release: str) -> None:
    document = messages(release).cp(7, web.url("vmdk-stream"), SIZE_MB, driver.datastore())
    driver.knows_image(7, 100)
    answer = driver.call("cp", document, release=release)
    assert (answer.status, answer.stdout) == (0, "one/7/one-7.vmdk vmdk\n"), answer.stderr


def test_the_summary_is_that_of_any_image(driver: Driver, web: Web) -> None:
    answer = driver.cp(web.url("vdi"), 42)
    assert f"image 42: vdi {web.url('vdi')} stored as vmdk in datastore" in answer.stderr


def test_a_datastore_and_directory_with_blanks_and_accents(driver: Driver, images: Images, web: Web) -> None:
    other = driver.vcenter.datastores[1]
    answer = driver.cp(web.url("vhdx"), 43, driver.datastore(other, VCENTER_DS_IMAGE_DIR="/mes images été/"))
    assert (answer.status, answer.stdout) == (0, "mes%20images%20été/43/one-43.vmdk vmdk\n"), answer.stderr
    flat = other.directory / "mes images été/43/one-43-flat.vmdk"
    assert same_disk(flat, "raw", images.file("raw"), "raw")
    document = messages().rm(43, answer.stdout.split()[0], "vmdk", SIZE_MB, driver.datastore(other))
    shutil.rmtree(other.directory / "mes images été")
    assert document


@pytest.mark.parametrize(
    ("attribute", "word", "full"), [("thick", "thick", True), ("eagerZeroedThick", "eagerZeroedThick", True),
                                    ("thin", "thin", False), ("", "thin", False)],
)  # fmt: skip
def test_the_disk_type_is_the_one_that_is_asked_for(
    driver: Driver, web: Web, attribute: str, word: str, full: bool
) -> None:
    answer = driver.cp(web.url("qcow2"), 42, driver.datastore(VCENTER_DISK_TYPE=attribute))
    assert answer.status == 0, answer.stderr
    (call,) = driver.vcenter.calls("CreateImportSpec")
    assert call["arguments"]["Cisp"]["DiskProvisioning"] == word


def test_a_disk_of_odd_size_is_filled_up_to_whole_kib(driver: Driver, images: Images, web: Web) -> None:
    images.file("odd").write_bytes(images.file("raw").read_bytes() + b"\1" * 512)
    answer = driver.cp(web.url("odd"), 42, size=SIZE_MB + 1)
    assert answer.status == 0, answer.stderr
    flat = (driver.vcenter.datastore.directory / "one/42/one-42-flat.vmdk").read_bytes()
    assert flat == images.file("odd").read_bytes() + bytes(512)


def test_a_wrong_checksum_imports_nothing(driver: Driver, web: Web) -> None:
    answer = driver.cp(web.url("vdi"), 42, MD5="0" * 32)
    assert (answer.status, answer.stdout) == (1, "")
    assert "checksum" in answer.stderr
    assert driver.vcenter.calls("ImportVApp") == []
    nothing_left(driver)


# --- The vCenter, and the way to it -----------------------------------------------------------------------------------


def refused(driver: Driver, web: Web, *words: str) -> None:
    """In one line, before anything is fetched."""
    web.requests.clear()
    started = time.monotonic()
    answer = driver.cp(web.url("qcow2"), 42)
    assert (answer.status, answer.stdout) == (1, "")
    assert len(answer.stderr.splitlines()) == 1
    for word in words:
        assert word in answer.stderr
    assert time.monotonic() - started < 60
    assert web.requests == [], "nothing was fetched"
    assert LOST_PASSWORD not in answer.stderr + driver.front_end.log.read_text()
    nothing_left(driver)


def test_a_wrong_password(driver: Driver, web: Web) -> None:
    driver.oned.hosts[3]["VCENTER_PASSWORD"] = LOST_PASSWORD
    refused(driver, web, "does not accept the password of administrator@vsphere.local")


def test_a_certificate_of_nobody_that_is_trusted(driver: Driver, web: Web, tmp_path: Path) -> None:
    path = driver.front_end.remotes / "etc" / "oneconvert" / "oneconvert.conf"
    text = path.read_text()
    path.write_text("".join(line for line in text.splitlines(True) if not line.startswith("vcenter_ca_file")))
    try:
        refused(driver, web, "is not trusted", "vcenter_ca_file or vcenter_thumbprint", driver.vcenter.sha256.upper())
        with driver.front_end.settings(vcenter_thumbprint="0" * 40):
            refused(driver, web, "not the one of vcenter_thumbprint")
        with driver.front_end.settings(vcenter_thumbprint=f"{'0' * 64} {driver.vcenter.sha1}"):
            assert driver.cp(web.url("qcow2"), 42).status == 0
    finally:
        path.write_text(text)


def test_oned_knows_no_host_of_that_vcenter(driver: Driver, web: Web) -> None:
    del driver.oned.hosts[3]
    refused(driver, web, "vcenter_credentials")


def test_a_file_with_the_password(driver: Driver, web: Web, tmp_path: Path) -> None:
    vcenter = driver.vcenter
    driver.oned.hosts[3]["VCENTER_PASSWORD"] = LOST_PASSWORD
    file = tmp_path / "credentials"
    file.write_text(f"[{vcenter.host}]\nuser = {vcenter.user}\npassword = {vcenter.password}\nport = {vcenter.port}\n")
    with driver.front_end.settings(vcenter_credentials=file):
        file.chmod(0o644)
        refused(driver, web, "mode 0600")
        file.chmod(0o600)
        assert driver.cp(web.url("qcow2"), 42).status == 0


def test_there_is_no_such_datastore(driver: Driver, web: Web) -> None:
    answer = driver.cp(web.url("qcow2"), 42, driver.datastore(VCENTER_DS_REF="datastore-999"))
    assert (answer.status, answer.stdout) == (1, "")
    assert "datastore-999" in answer.stderr


def test_no_privilege(driver: Driver, web: Web) -> None:
    driver.vcenter.fail_method("ImportVApp", "NoPermission", PrivilegeId="VApp.Import")
    answer = driver.cp(web.url("qcow2"), 42)
    assert (answer.status, answer.stdout) == (1, "")
    assert "lacks the privilege VApp.Import" in answer.stderr
    nothing_left(driver)


def test_a_disk_that_is_there_already_is_not_touched(driver: Driver, web: Web) -> None:
    assert driver.cp(web.url("qcow2"), 42).status == 0
    before = driver.files()
    answer = driver.cp(web.url("vdi"), 42)
    assert (answer.status, answer.stdout) == (1, "")
    assert "exists already" in answer.stderr
    assert driver.files() == before


def test_a_login_that_expires_while_the_image_is_fetched(
    front_end: FrontEnd, simulator: Path, web: Web, tmp_path: Path
) -> None:
    with simulated_vcenter(tmp_path, idle_seconds=1) as vcenter, made_driver(front_end, vcenter, tmp_path) as driver:
        answer = driver.cp(web.url("qcow2"), 42, driver.datastore(LIMIT_TRANSFER_BW="1M"))
        assert answer.status == 0, answer.stderr


def test_the_attributes_of_an_image_do_not_say_which_vcenter_it_is(driver: Driver, web: Web) -> None:
    """They are those of its user, who would get the password of the vCenter sent to a server of his."""
    elsewhere = {"VCENTER_HOST": "127.0.0.1:1", "VCENTER_INSTANCE_ID": "x", "VCENTER_DS_REF": "datastore-999",
                 "VCENTER_DS_IMAGE_DIR": "elsewhere"}  # fmt: skip
    answer = driver.cp(web.url("qcow2"), 42, **elsewhere)
    assert (answer.status, answer.stdout) == (0, "one/42/one-42.vmdk vmdk\n"), answer.stderr


def test_an_adapter_that_no_disk_has_is_told_before_anything_is_fetched(driver: Driver, web: Web) -> None:
    web.requests.clear()
    answer = driver.cp(web.url("qcow2"), 42, VCENTER_ADAPTER_TYPE="usb")
    assert (answer.status, answer.stdout) == (1, "")
    assert "no adapter 'usb'" in answer.stderr
    assert web.requests == []


def test_a_machine_that_cannot_be_removed_ends_the_import(driver: Driver, web: Web) -> None:
    """Or the next import would take it, and the disk, for what was left of one that was killed."""
    driver.vcenter.fail_method("Destroy_Task", "NoPermission", PrivilegeId="VirtualMachine.Inventory.Delete")
    answer = driver.cp(web.url("qcow2"), 42)
    assert (answer.status, answer.stdout) == (1, "")
    assert "VirtualMachine.Inventory.Delete" in answer.stderr
    assert not [path for path in driver.files() if path.endswith(".vmdk")]
    assert driver.cp(web.url("vdi"), 43).status == 0
    assert driver.files() == ["one", "one/43", "one/43/one-43-flat.vmdk", "one/43/one-43.vmdk"]


def test_a_disk_of_somebody_else_that_appears_meanwhile_stays(driver: Driver, web: Web) -> None:
    driver.vcenter.fail_method("MoveVirtualDisk_Task", "FileAlreadyExists")
    answer = driver.cp(web.url("qcow2"), 42)
    assert (answer.status, answer.stdout) == (1, "")
    assert "exists already" in answer.stderr
    deleted = [each["arguments"]["Name"] for each in driver.vcenter.calls("DeleteVirtualDisk_Task")]
    assert not any(name.endswith("one-42.vmdk") for name in deleted)
    nothing_left(driver)


# --- Failures in the middle of an upload: nothing may be left --------------------------------------------------------


FAULTS = {
    "the connection ends": ({"what": "cut", "after": 100_000}, "ended the connection"),
    "the host ends the lease": ({"what": "lease-error", "after": 100_000}, "the host was lost"),
    "the datastore is full": ({"what": "datastore-full", "after": 100_000}, "full"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_upload_that_fails_leaves_nothing_with_an_nfc_store_of_ours(driver: Driver, web: Web, fault: str) -> None:
    details, words = FAULTS[fault]
    driver.vcenter.fail(**details)  # type: ignore[arg-type]
    answer = driver.cp(web.url("qcow2"), 42)
    assert (answer.status, answer.stdout) == (1, "")
    assert words in answer.stderr
    nothing_left(driver)


@pytest.mark.parametrize("method", ["ReconfigVM_Task", "MoveVirtualDisk_Task"])
def test_a_disk_that_cannot_be_moved_to_its_place_is_removed(driver: Driver, web: Web, method: str) -> None:
    driver.vcenter.fail_method(method, "FileLocked")
    answer = driver.cp(web.url("qcow2"), 42)
    assert (answer.status, answer.stdout) == (1, "")
    assert "in use" in answer.stderr
    nothing_left(driver)
    assert machines(driver) == []


def test_a_vcenter_that_dies_in_the_middle_is_told_in_one_line(
    front_end: FrontEnd, simulator: Path, web: Web, tmp_path: Path
) -> None:
    with simulated_vcenter(tmp_path) as vcenter, made_driver(front_end, vcenter, tmp_path) as driver:
        vcenter.fail("die", after=100_000)
        answer = driver.cp(web.url("qcow2"), 42)
        assert (answer.status, answer.stdout) == (1, "")
        assert len(answer.stderr.splitlines()) == 1
        assert "vCenter 127.0.0.1" in answer.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_in_the_middle_of_an_upload(driver: Driver, web: Web, number: signal.Signals) -> None:
    driver.vcenter.fail("stall", after=100_000)
    document = messages().cp(42, web.url("qcow2"), SIZE_MB, driver.datastore())
    process, stdin = driver.front_end.start("cp", document, DRIVER, **driver.environment)
    assert process.stdin
    process.stdin.write(stdin)
    process.stdin.close()
    process.stdin = None
    assert wait_until(lambda: driver.vcenter.calls(kind="nfc"))
    time.sleep(0.3)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert b"nothing was stored" in stderr
    nothing_left(driver)
    assert processes_of(process.pid) == []


def test_what_a_killed_import_left_the_next_one_removes(driver: Driver, web: Web) -> None:
    driver.vcenter.fail("stall", after=100_000)
    store = driver.datastore()
    process, stdin = driver.front_end.start(
        "cp", messages().cp(41, web.url("qcow2"), SIZE_MB, store), DRIVER, **driver.environment
    )
    assert process.stdin
    process.stdin.write(stdin)
    process.stdin.close()
    process.stdin = None
    assert wait_until(lambda: driver.vcenter.calls(kind="nfc"))
    process.kill()
    process.communicate()
    driver.vcenter.heal()
    assert [path for path in driver.files() if path.startswith("oneconvert.")]
    assert driver.cp(web.url("vdi"), 40, store).status == 0
    assert [path for path in driver.files() if path.startswith("oneconvert.")], "its workspace is there"
    driver.call("rm", messages().rm(40, "one/40/one-40.vmdk", "vmdk", SIZE_MB, store), DRIVER)
    shutil.rmtree(driver.vcenter.datastore.directory / "one" / "40")
    for workspace in Path(store.base_path).glob(".oneconvert/*"):
        shutil.rmtree(workspace)  # as the next import does after a minute
    answer = driver.cp(web.url("vdi"), 42, store)
    assert answer.status == 0, answer.stderr
    assert driver.files() == ["one", "one/42", "one/42/one-42-flat.vmdk", "one/42/one-42.vmdk"]


def test_an_image_that_was_deleted_meanwhile_is_removed_with_a_mock_of_oned(driver: Driver, web: Web) -> None:
    document = messages().cp(42, web.url("qcow2"), SIZE_MB, driver.datastore())
    answer = driver.call("cp", document)
    assert (answer.status, answer.stdout) == (1, "")
    assert "image 42 was deleted" in answer.stderr
    nothing_left(driver)


def test_a_lease_that_takes_its_time_is_waited_for(driver: Driver, web: Web) -> None:
    driver.vcenter.fail("lease-initializing", seconds=2)
    assert driver.cp(web.url("qcow2"), 42).status == 0


# --- The native driver's own upload ----------------------------------------------------------------------------------

# In the place of OpenNebula's driver, which needs Ruby's library for vSphere.
NATIVE = """#!/usr/bin/env python3
import base64, pathlib, re, shutil, subprocess, sys
document = base64.b64decode(sys.stdin.read()).decode()
path = pathlib.Path(re.search(r"<PATH>(?:<!.CDATA.)?(.*?)(?:]]>)?</PATH>", document).group(1))
target = pathlib.Path({target!r})
target.mkdir(parents=True)
(extent,) = re.findall(r'^RW \\d+ \\w+ "(.*)"', path.read_text(), re.M)
subprocess.run(["cp", "--sparse=always", path.parent / extent, target / extent], check=True)
{then}
shutil.copy(path, target / path.name)
print("one/42/" + path.name, "vmdk")
"""
REMOVE = """#!/usr/bin/env python3
import shutil
shutil.rmtree({target!r})
"""


@pytest.fixture
def native(driver: Driver) -> Iterator[Callable[[str], None]]:
    directory = driver.front_end.remotes / "datastore" / "vcenter"
    before = {name: (directory / name).read_text() for name in ("cp", "rm")}
    target = str(driver.vcenter.datastore.directory / "one")

    def write(then: str) -> None:
        (directory / "cp").write_text(NATIVE.format(target=f"{target}/42", then=then))
        (directory / "rm").write_text(REMOVE.format(target=target))

    with driver.front_end.settings(vcenter_upload="native"):
        yield write
    for name, text in before.items():
        (directory / name).write_text(text)


def test_a_stand_in_of_the_native_driver_gets_a_flat_disk_under_the_names_that_it_keeps(
    driver: Driver, images: Images, web: Web, native: Callable[[str], None]
) -> None:
    native("")
    answer = driver.cp(web.url("qcow2"), 42)
    assert (answer.status, answer.stdout) == (0, "one/42/one-42.vmdk vmdk\n"), answer.stderr
    assert driver.files() == ["one", "one/42", "one/42/one-42-flat.vmdk", "one/42/one-42.vmdk"]
    flat = driver.vcenter.datastore.directory / "one/42/one-42-flat.vmdk"
    assert same_disk(flat, "raw", images.file("raw"), "raw")
    assert same_disk(flat.with_name("one-42.vmdk"), "vmdk", images.file("raw"), "raw")


def test_what_the_native_driver_stored_in_part_is_found_out_and_removed(
    driver: Driver, web: Web, native: Callable[[str], None]
) -> None:
    """Its uploader of flat extents does not tell whether it failed."""
    native("import os; os.truncate(target / extent, 4096)")
    answer = driver.cp(web.url("qcow2"), 42)
    assert (answer.status, answer.stdout) == (1, "")
    assert f"stored 4096 of {SIZE_MB * MIB} bytes" in answer.stderr
    nothing_left(driver)
