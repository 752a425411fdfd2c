"""``oneconvert vcenter template``: an image in a vCenter becomes a VM template that can be instantiated.

oned is a mock here, which keeps the VM templates that it is given; that OpenNebula instantiates them is not shown.
"""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from oneconvert.vcenter.connection import Connection, connected
from rig.oned import MockedOned, mocked_oned
from rig.vcenter import SimulatedVCenter, simulated_vcenter
from vcenter.servers import server

COMMAND = Path(sys.executable).with_name("oneconvert")
WITHIN = 60.0
MARKED = "oneconvert: image 7 of datastore 100, registered 1718020800"


@dataclass(frozen=True)
class Answer:
    status: int
    stdout: str
    stderr: str

    @property
    def id(self) -> int:
        """What was printed, if that was an id and nothing else."""
        assert self.status == 0, self.stderr
        assert self.stdout == f"{int(self.stdout)}\n"
        return int(self.stdout)

    @property
    def error(self) -> str:
        """The one plain line at the end, if nothing was printed."""
        assert self.status == 1 and self.stdout == "", (self.stdout, self.stderr)
        assert "Traceback" not in self.stderr
        last = self.stderr.splitlines()[-1]
        assert last.startswith("oneconvert: ")
        return last


class Site:
    """A front-end beside a vCenter: image 7 is in the first datastore of the vCenter, as datastore 100."""

    def __init__(self, directory: Path, vcenter: SimulatedVCenter, oned: MockedOned, environment: dict[str, str]):
        self.vcenter, self.oned = vcenter, oned
        self.settings = directory / "var" / "remotes" / "etc" / "oneconvert" / "oneconvert.conf"
        self.settings.parent.mkdir(parents=True)
        self.settings.write_text(f"[oneconvert]\nvcenter_ca_file = {vcenter.ca_file}\nidle_timeout = 20\n")
        self.environment = {**os.environ, **environment, "ONE_LOCATION": str(directory), "HOME": str(directory)}
        self.name = f"alpine {directory.name[-40:]}"
        oned.hosts[1] = {
            "VCENTER_INSTANCE_ID": vcenter.instance_uuid,
            "VCENTER_HOST": vcenter.host,
            "VCENTER_PORT": str(vcenter.port),
            "VCENTER_USER": vcenter.user,
            "VCENTER_PASSWORD": vcenter.password,
            "VCENTER_CCR_REF": vcenter.cluster_ref,
        }
        oned.datastores[100] = self._datastore(vcenter.datastore.ref)
        oned.datastores[101] = self._datastore(vcenter.datastores[-1].ref)
        oned.images[7] = self.image()

    def image(self, **changes: object) -> dict[str, Any]:
        known = {"NAME": self.name, "STATE": 1, "TYPE": 0, "DATASTORE_ID": 100, "REGTIME": 1718020800, "TEMPLATE": {}}
        return {**known, **changes}

    def _datastore(self, ref: str) -> dict[str, Any]:
        attributes = {"VCENTER_INSTANCE_ID": self.vcenter.instance_uuid, "VCENTER_DS_REF": ref}
        return {"NAME": "ds", "TEMPLATE": {**attributes, "VCENTER_HOST": self.vcenter.host}}

    def start(self, *options: str, **streams: Any) -> subprocess.Popen[str]:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        command = [str(COMMAND), "vcenter", "template", "--image", "7", *options]
        return subprocess.Popen(command, env=self.environment, text=True, **streams)

    def run(self, *options: str) -> Answer:
        return finished(self.start(*options))


def finished(process: subprocess.Popen[str]) -> Answer:
    try:
        stdout, stderr = process.communicate(timeout=WITHIN)
    except BaseException:
        process.kill()
        raise
    return Answer(process.returncode, stdout, stderr)


@contextmanager
def site_of(vcenter: SimulatedVCenter, directory: Path) -> Iterator[Site]:
    with mocked_oned(directory) as (oned, environment):
        yield Site(directory, vcenter, oned, environment)


@pytest.fixture
def site(vcenter: SimulatedVCenter, tmp_path: Path) -> Iterator[Site]:
    with site_of(vcenter, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def two_clusters(simulator: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedVCenter]:
    with simulated_vcenter(tmp_path_factory.mktemp("two"), clusters=2) as vcenter:
        yield vcenter


@pytest.fixture
def wide_site(two_clusters: SimulatedVCenter, tmp_path: Path) -> Iterator[Site]:
    """With two clusters, none of which OpenNebula prefers."""
    with site_of(two_clusters, tmp_path) as made:
        made.oned.hosts[1]["VCENTER_CCR_REF"] = "domain-c999"
        two_clusters.forget()
        yield made


NAMES = {"name", "parent", "config.template", "config.guestId", "config.firmware", "config.annotation",
         "config.hardware.device", "config.hardware.numCPU", "config.hardware.memoryMB",
         "config.files.vmPathName"}  # fmt: skip


@contextmanager
def inside(vcenter: SimulatedVCenter) -> Iterator[Connection]:
    with connected(server(vcenter)) as connection:
        yield connection


def all_of(connection: Connection, kind: Any) -> list[Any]:
    manager = connection.content.viewManager
    view = connection.call(lambda: manager.CreateContainerView(connection.content.rootFolder, [kind], True))
    return list(connection.properties(view, "view").get("view", ()))


def machine(vcenter: SimulatedVCenter, reference: str) -> dict[str, Any]:
    """What the vCenter says of a machine."""
    with inside(vcenter) as connection:
        found = connection.properties(connection.object(vim.VirtualMachine, reference), *NAMES)
        found["folder"] = connection.properties(found["parent"], "name")["name"]
    return found


def state(site: Site) -> tuple[set[str], list[str], set[str], set[int]]:
    """All that there is: machines, folders by name, what is on the datastores, and VM templates."""
    # Pools of the simulator list templates that are destroyed; folders do not.
    with inside(site.vcenter) as connection:
        found = [connection.properties(each, "name", "childEntity") for each in all_of(connection, vim.Folder)]
    folders = sorted(each["name"] for each in found)
    within = [child for each in found for child in each.get("childEntity", ())]
    machines = {each._moId for each in within if isinstance(each, vim.VirtualMachine)}
    files = {str(each) for store in site.vcenter.datastores for each in store.directory.rglob("*")}
    return machines, folders, files, set(site.oned.templates)


def reference_of(site: Site, ident: int) -> str:
    return str(site.oned.template(ident).findtext("VCENTER_TEMPLATE_REF"))


def controllers(found: dict[str, Any]) -> list[type]:
    kind = vim.vm.device.VirtualSCSIController
    return [type(each) for each in found["config.hardware.device"] if isinstance(each, kind)]


def test_makes_a_template_and_a_vm_template_that_refers_to_it(site: Site) -> None:
    answer = site.run("--guest", "otherLinux64Guest", "--firmware", "efi", "--controller", "pvscsi", "--cpu", "2",
                      "--memory", "2048")  # fmt: skip
    given = site.oned.template(answer.id)
    made = machine(site.vcenter, reference_of(site, answer.id))
    assert made["config.template"] is True
    assert made["name"] == site.name
    assert made["config.guestId"] == "otherLinux64Guest"
    assert made["config.firmware"] == "efi"
    assert controllers(made) == [vim.vm.device.ParaVirtualSCSIController]
    assert not [each for each in made["config.hardware.device"] if isinstance(each, vim.vm.device.VirtualDisk)]
    assert (made["config.hardware.numCPU"], made["config.hardware.memoryMB"]) == (2, 2048)
    assert made["config.files.vmPathName"].startswith(f"[{site.vcenter.datastore.name}] ")
    assert made["config.annotation"].splitlines()[0] == MARKED
    assert {each.tag: each.text for each in given if not len(each)} == {
        "NAME": site.name,
        "HYPERVISOR": "vcenter",
        "CPU": "2",
        "VCPU": "2",
        "MEMORY": "2048",
        "VCENTER_TEMPLATE_REF": reference_of(site, answer.id),
        "VCENTER_CCR_REF": site.vcenter.cluster_ref,
        "VCENTER_INSTANCE_ID": site.vcenter.instance_uuid,
    }
    assert given.findtext("DISK/IMAGE_ID") == "7"
    assert given.findtext("GRAPHICS/TYPE") == "vnc"
    assert given.findtext("CONTEXT/NETWORK") == "YES"
    assert given.find("NIC") is None
    assert f'making the vCenter template "{site.name}"' in answer.stderr
    assert site.vcenter.password not in answer.stderr


def test_a_host_is_named_because_clusters_without_drs_choose_none(site: Site) -> None:
    """The simulator always chooses one."""
    assert site.run().id in site.oned.templates
    (call,) = site.vcenter.calls("CreateVM_Task")
    assert call["arguments"]["Host"]["Value"] == site.vcenter.host_ref


def test_has_defaults(site: Site) -> None:
    made = machine(site.vcenter, reference_of(site, site.run().id))
    assert made["config.guestId"] == "otherGuest64" and made["config.firmware"] == "bios"
    assert controllers(made) == [vim.vm.device.VirtualLsiLogicController]
    assert (made["config.hardware.numCPU"], made["config.hardware.memoryMB"]) == (1, 1024)
    assert made["folder"] == "vm"


@pytest.mark.parametrize(
    "option, kind",
    [("lsilogic", "VirtualLsiLogicController"), ("lsilogicsas", "VirtualLsiLogicSASController"),
     ("buslogic", "VirtualBusLogicController"), ("pvscsi", "ParaVirtualSCSIController")],
)  # fmt: skip
def test_every_controller(site: Site, option: str, kind: str) -> None:
    made = machine(site.vcenter, reference_of(site, site.run("--controller", option).id))
    assert [each.__name__.rpartition(".")[2] for each in controllers(made)] == [kind]


def test_is_made_where_the_image_is_and_in_folders_that_are_made(site: Site) -> None:
    site.oned.images[7] = site.image(DATASTORE_ID=101)
    name, folder = "modèle d'été", f"Modèles 100%/{site.name}"
    site.oned.networks[3] = {"NAME": "net", "TEMPLATE": {"VCENTER_INSTANCE_ID": site.vcenter.instance_uuid}}
    answer = site.run("--name", name, "--folder", folder, "--network", "net")
    assert "Invalid NAME" in answer.error  # by the mock, as oned does
    name = f"modèle été 50% {site.name}"
    answer = site.run("--name", name, "--folder", folder, "--network", "net")
    made = machine(site.vcenter, reference_of(site, answer.id))
    assert made["name"] == name.replace("%", "%25")
    assert made["folder"] == site.name
    assert made["config.files.vmPathName"].startswith("[disques d'été 100%] ")
    assert site.oned.template(answer.id).findtext("NAME") == name
    assert site.oned.template(answer.id).findtext("VCENTER_VM_FOLDER") == folder.replace("%", "%25")
    assert site.oned.template(answer.id).findtext("NIC/NETWORK_ID") == "3"
    before = state(site)
    assert site.run("--name", name, "--folder", folder).id == answer.id
    # In a folder that is there already.
    site.run("--name", f"other {site.name}", "--folder", f"/{folder}/")
    assert state(site)[1] == before[1]


def test_makes_nothing_again(site: Site) -> None:
    first = site.run("--guest", "otherLinux64Guest").id
    before = state(site)
    again = site.run("--guest", "otherGuest", "--cluster", "whatever")
    assert again.id == first
    assert "there already" in again.stderr
    assert "its guest stays otherLinux64Guest; for otherGuest, choose another --name" in again.stderr
    assert state(site) == before


def test_another_name_makes_another(site: Site) -> None:
    first, second = site.run().id, site.run("--name", f"second {site.name}").id
    assert first != second and reference_of(site, first) != reference_of(site, second)


def test_the_template_in_the_vcenter_is_used_again_when_only_the_vm_template_is_gone(site: Site) -> None:
    first = site.run().id
    reference = reference_of(site, first)
    site.oned.templates.clear()
    machines = state(site)[0]
    assert reference_of(site, site.run().id) == reference
    assert state(site)[0] == machines


def test_what_a_killed_call_left_is_finished(site: Site) -> None:
    reference = reference_of(site, site.run().id)
    with inside(site.vcenter) as connection:
        managed = connection.object(vim.VirtualMachine, reference)
        pool = connection.object(vim.ResourcePool, site.vcenter.resource_pool_ref)
        connection.call(lambda: managed.MarkAsVirtualMachine(pool, None))
    site.oned.templates.clear()
    assert reference_of(site, site.run().id) == reference
    assert machine(site.vcenter, reference)["config.template"] is True


def test_a_machine_with_a_disk_does_not_become_a_template(site: Site) -> None:
    reference = reference_of(site, site.run().id)
    with inside(site.vcenter) as connection:
        managed = connection.object(vim.VirtualMachine, reference)
        pool = connection.object(vim.ResourcePool, site.vcenter.resource_pool_ref)
        connection.call(lambda: managed.MarkAsVirtualMachine(pool, None))
        backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName=f"[{site.vcenter.datastore.name}] {site.name}/disk.vmdk", diskMode="persistent"
        )
        disk = vim.vm.device.VirtualDisk(key=-1, controllerKey=1000, unitNumber=0, capacityInKB=1024, backing=backing)
        change = vim.vm.device.VirtualDeviceSpec(operation="add", fileOperation="create", device=disk)
        spec = vim.vm.ConfigSpec(deviceChange=[change])
        connection.wait(connection.call(lambda: managed.ReconfigVM_Task(spec)))
    site.oned.templates.clear()
    before = state(site)
    assert "which oneconvert did not make for image 7" in site.run().error
    assert state(site) == before
    assert machine(site.vcenter, reference)["config.template"] is False


@pytest.mark.parametrize("change", ["REGTIME", "DATASTORE_ID"])
def test_a_machine_of_that_name_that_is_of_another_image_is_not_touched(site: Site, change: str) -> None:
    reference = reference_of(site, site.run().id)
    site.oned.templates.clear()
    site.oned.images[7] = site.image(**{change: {"REGTIME": 1718020801, "DATASTORE_ID": 101}[change]})
    before = state(site)
    error = site.run("--name", site.name.upper()).error
    assert f"({reference}), which oneconvert did not make for image 7; choose another --name or --folder" in error
    assert state(site) == before


def test_a_vm_template_of_that_name_that_is_not_ours_is_told(site: Site) -> None:
    reference = reference_of(site, site.run().id)
    for text in (
        f"<TEMPLATE><NAME>{site.name}</NAME><DISK><IMAGE_ID>8</IMAGE_ID></DISK></TEMPLATE>",
        f"<TEMPLATE><NAME>{site.name}</NAME><VCENTER_TEMPLATE_REF>{reference}</VCENTER_TEMPLATE_REF></TEMPLATE>",
    ):
        site.oned.templates = {5: text}
        before = state(site)
        assert f'has a VM template 5 "{site.name}", which oneconvert did not make for image 7' in site.run().error
        assert state(site) == before


def test_a_vm_template_whose_template_is_gone_is_told(site: Site) -> None:
    first = site.run().id
    with inside(site.vcenter) as connection:
        managed = connection.object(vim.VirtualMachine, reference_of(site, first))
        connection.wait(connection.call(lambda: managed.Destroy_Task()))
    assert f"onetemplate delete {first}" in site.run().error


def test_a_dry_run_says_what_would_be_made_and_makes_nothing(site: Site) -> None:
    before = state(site)
    answer = site.run("--dry-run", "--folder", "A/B", "--guest", "otherLinux64Guest")
    assert answer.status == 0 and answer.stdout == ""
    assert answer.stderr.splitlines()[:4] == [
        "would make the folder A",
        "would make the folder A/B",
        f'would make the vCenter template "{site.name}" in A/B, files on [{site.vcenter.datastore.name}], '
        "cluster DC0_C0: otherLinux64Guest, bios, lsilogic, 1 CPU, 1024 MiB, no disks",
        "would make the VM template of OpenNebula:",
    ]
    for line in (f"NAME = {site.name}", "VCENTER_TEMPLATE_REF = (that of the vCenter template)", "DISK = [IMAGE_ID=7]"):
        assert f"  {line}" in answer.stderr.splitlines()
    assert state(site) == before
    assert not [each for each in site.vcenter.calls() if each["method"].endswith("VM_Task")]


@pytest.mark.parametrize(
    "guest, controller, firmware",
    [("win31Guest", "VirtualBusLogicController", "bios"), ("windows9_64Guest", "VirtualLsiLogicSASController", "bios"),
     ("darwin16_64Guest", "VirtualLsiLogicController", "efi")],
)  # fmt: skip
def test_defaults_are_what_the_guest_can_have_by_a_handler_of_ours(
    site: Site, guest: str, controller: str, firmware: str
) -> None:
    made = machine(site.vcenter, reference_of(site, site.run("--guest", guest).id))
    assert [each.__name__.rpartition(".")[2] for each in controllers(made)] == [controller]
    assert made["config.firmware"] == firmware


def test_what_the_guest_cannot_have_is_told_by_a_handler_of_ours(site: Site) -> None:
    before = state(site)
    error = site.run("--guest", "win31Guest", "--controller", "pvscsi").error
    assert "guest system win31Guest cannot have controller pvscsi; --controller can be buslogic" in error
    assert "--firmware can be bios" in site.run("--guest", "win31Guest", "--firmware", "efi").error
    assert state(site) == before


def test_an_unknown_guest_lists_those_that_are_near(site: Site) -> None:
    before = state(site)
    assert "--guest can be" in (error := site.run("--guest", "debian10Guest64").error)
    assert "debian10_64Guest" in error
    assert "--guest can be otherGuest64 and others" in site.run("--guest", "@@@@").error
    assert state(site) == before


def test_unknown_places_list_those_that_are_there(site: Site) -> None:
    before = state(site)
    assert "--cluster can be DC0_C0" in site.run("--cluster", "nowhere").error
    assert "cluster DC0_C0 has no resource pool nowhere; --pool can be" in site.run("--pool", "nowhere").error
    site.oned.networks = {
        3: {"NAME": "inside", "TEMPLATE": {"VCENTER_INSTANCE_ID": site.vcenter.instance_uuid}},
        4: {"NAME": "bridge", "TEMPLATE": {}},
    }
    assert "--network can be inside" in site.run("--network", "bridge").error
    site.oned.networks[6] = site.oned.networks[3]
    assert "say which: --network 3 or 6" in site.run("--network", "inside").error
    assert state(site) == before


def test_images_that_cannot_be_used_are_told(site: Site) -> None:
    before = state(site)
    for changes, sentence in (
        ({"STATE": 5}, "image 7 is in state ERROR; --image needs"),
        ({"TYPE": 3}, "image 7 is of type KERNEL; --image needs a disk"),
        ({"NAME": "n" * 81}, "--name takes one of 80"),
    ):
        site.oned.images[7] = site.image(**changes)
        assert sentence in site.run().error
    site.oned.images[7] = site.image(DATASTORE_ID=1)
    site.oned.datastores[1] = {"NAME": "default", "TEMPLATE": {"DRIVER": "qcow2"}}
    assert "datastore 1 has no VCENTER_DS_REF" in site.run().error
    site.oned.images.clear()
    assert "OpenNebula has no image 7; --image takes the ID" in site.run().error
    assert state(site) == before


def test_an_image_that_still_arrives_can_have_one(site: Site) -> None:
    site.oned.images[7] = site.image(STATE=4)
    answer = site.run()
    assert answer.id in site.oned.templates
    assert "image 7 is in state LOCKED" in answer.stderr


@pytest.mark.parametrize(
    "option, value",
    [("--memory", "1023"), ("--cpu", "two"), ("--cpu", "0"), ("--firmware", "uefi"), ("--controller", "nvme")],
)
def test_options_that_make_no_sense_are_told(site: Site, option: str, value: str) -> None:
    answer = site.run(option, value)
    assert answer.status == 2 and f"argument {option}" in answer.stderr
    assert not site.vcenter.calls("Login")


def test_a_wrong_password_is_told(site: Site) -> None:
    site.oned.hosts[1]["VCENTER_PASSWORD"] = "wrong-secret"
    error = site.run().error
    assert "does not accept the password" in error and "wrong-secret" not in error


def test_a_file_with_credentials_is_used(site: Site, tmp_path: Path) -> None:
    site.oned.hosts.clear()
    file = tmp_path / "credentials"
    vcenter = site.vcenter
    file.write_text(f"[{vcenter.host}]\nuser = {vcenter.user}\npassword = {vcenter.password}\nport = {vcenter.port}\n")
    file.chmod(0o600)
    site.settings.write_text(f"{site.settings.read_text()}vcenter_credentials = {file}\n")
    answer = site.run()
    assert answer.id in site.oned.templates
    assert "cluster DC0_C0 is no host of OpenNebula yet" in answer.stderr


def test_a_certificate_that_is_not_trusted_is_told(site: Site) -> None:
    site.settings.write_text("[oneconvert]\n")
    assert "set vcenter_ca_file or vcenter_thumbprint in oneconvert.conf" in site.run().error


def test_another_vcenter_than_that_of_the_datastore_is_told(site: Site) -> None:
    for attributes in (site.oned.hosts[1], site.oned.datastores[100]["TEMPLATE"]):
        attributes["VCENTER_INSTANCE_ID"] = "another"
    assert f"it is the vCenter {site.vcenter.instance_uuid}, but datastore 100" in site.run().error


def test_oned_away_is_told(site: Site) -> None:
    site.environment["ONE_XMLRPC"] = "http://127.0.0.1:1/RPC2"
    assert "oned does not answer at http://127.0.0.1:1/RPC2" in site.run().error
    assert not site.vcenter.calls("Login")


def test_a_template_that_opennebula_refuses_is_removed_with_its_folders(site: Site) -> None:
    site.oned.refuses = "[one.template.allocate] quota"
    before = state(site)
    answer = site.run("--folder", "New/Newer")
    assert "oned refused: [one.template.allocate] quota" in answer.error
    assert "removed from the vCenter what was made" in answer.stderr
    assert state(site) == before


def test_a_folder_that_was_there_stays(site: Site) -> None:
    site.run("--folder", f"kept {site.name}", "--name", f"first {site.name}")
    before = state(site)
    site.oned.refuses = "no"
    assert "refused" in site.run("--folder", f"kept {site.name}").error
    assert state(site) == before


@pytest.mark.parametrize("method", ["CreateFolder", "CreateVM_Task", "MarkAsTemplate"])
def test_a_missing_privilege_is_told_by_a_handler_of_ours_and_nothing_is_left(site: Site, method: str) -> None:
    before = state(site)
    site.vcenter.fail_method(method, "NoPermission", privilegeId="VirtualMachine.Some")
    assert "lacks the privilege VirtualMachine.Some" in site.run("--folder", "New/Newer").error
    assert state(site) == before


def test_what_cannot_be_removed_is_told(site: Site) -> None:
    site.oned.refuses = "no"
    site.vcenter.fail_method("Destroy_Task", "NoPermission", privilegeId="VirtualMachine.Inventory.Delete")
    answer = site.run()
    assert "refused" in answer.error
    assert f'"{site.name}" may be left on [{site.vcenter.datastore.name}]: ' in answer.stderr


@pytest.mark.parametrize("method", ["CreateVM_Task", "MarkAsTemplate"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(site: Site, method: str, number: signal.Signals) -> None:
    before = state(site)
    site.vcenter.fail("slow-method", method=method, seconds=2)
    process = site.start("--folder", "New/Newer")
    until = time.monotonic() + WITHIN
    while not site.vcenter.calls(method):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    process.send_signal(number)
    answer = finished(process)
    assert answer.status == 128 + number, answer.stderr
    assert answer.stdout == ""
    assert answer.stderr.splitlines()[-2:] == [
        "removed from the vCenter what was made",
        f"oneconvert: interrupted by {number.name}",
    ]
    assert state(site) == before


def test_a_signal_while_opennebula_takes_the_vm_template_comes_too_late(site: Site) -> None:
    site.oned.slow = 1.0
    process = site.start()
    assert site.oned.arrived.wait(WITHIN)
    process.send_signal(signal.SIGINT)
    answer = finished(process)
    assert machine(site.vcenter, reference_of(site, answer.id))["config.template"] is True


def test_an_answer_that_oned_loses_makes_no_difference(site: Site) -> None:
    site.oned.slow = 20.0  # longer than it is waited for
    before = set(site.oned.templates)
    answer = site.run()
    assert set(site.oned.templates) - before == {answer.id}
    assert machine(site.vcenter, reference_of(site, answer.id))["config.template"] is True


def test_a_vcenter_that_dies_is_told_with_what_may_be_left(simulator: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with simulated_vcenter(tmp_path) as vcenter, site_of(vcenter, tmp_path / "one") as site:
        vcenter.fail("slow-method", method="CreateVM_Task", seconds=30)
        process = site.start()
        while not vcenter.calls("CreateVM_Task"):
            assert process.poll() is None
            time.sleep(0.05)
        vcenter.kill()
        answer = finished(process)
        assert "it ended the connection" in answer.error
        assert f'"{site.name}" may be left on [datastore1]' in answer.stderr
        assert not site.oned.templates


def test_without_a_terminal_several_clusters_must_be_chosen_from(wide_site: Site) -> None:
    before = state(wide_site)
    error = wide_site.run().error
    assert error == "oneconvert: there is more than one cluster; choose with --cluster: DC0_C0, DC0_C1"
    assert state(wide_site) == before


def test_the_cluster_that_is_named(wide_site: Site) -> None:
    answer = wide_site.run("--cluster", "DC0_C1")
    assert "cluster DC0_C1 is no host of OpenNebula yet" in answer.stderr
    assert cluster_name(wide_site, answer.id) == "DC0_C1"


def test_the_cluster_that_opennebula_has(wide_site: Site) -> None:
    with inside(wide_site.vcenter) as connection:
        (reference,) = [
            each._moId
            for each in all_of(connection, vim.ClusterComputeResource)
            if connection.properties(each, "name")["name"] == "DC0_C1"
        ]
    wide_site.oned.hosts[1]["VCENTER_CCR_REF"] = reference
    answer = wide_site.run()
    assert cluster_name(wide_site, answer.id) == "DC0_C1"
    assert "no host of OpenNebula" not in answer.stderr


def cluster_name(site: Site, ident: int) -> str:
    reference = site.oned.template(ident).findtext("VCENTER_CCR_REF")
    with inside(site.vcenter) as connection:
        managed = connection.object(vim.ClusterComputeResource, reference)
        return str(connection.properties(managed, "name")["name"])


@contextmanager
def at_a_terminal(site: Site, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command with a terminal, except that its standard output is read."""
    ours, its = pty.openpty()
    process = site.start(*options, stdin=its, stderr=its)
    os.close(its)
    try:
        yield process, ours
    finally:
        process.kill()
        process.communicate()
        os.close(ours)


def answered(process: subprocess.Popen[str], terminal: int, answers: Sequence[tuple[str, str]]) -> str:
    """Type each answer when its question is there; all that was on the terminal."""
    seen, begin = "", 0
    for question, answer in answers:
        until = time.monotonic() + WITHIN
        while question not in seen[begin:]:
            assert time.monotonic() < until, seen
            if select.select([terminal], [], [], 0.2)[0]:
                seen += os.read(terminal, 4096).decode()
        begin = len(seen)
        os.write(terminal, answer.encode())
    return seen


def test_at_a_terminal_it_asks(wide_site: Site) -> None:
    with at_a_terminal(wide_site) as (process, terminal):
        seen = answered(process, terminal, [("Which cluster? ", "9\n"), ("Which cluster? ", "2\n")])
        assert "  1  DC0_C0\r\n  2  DC0_C1\r\n" in seen
        assert process.stdout
        ident = int(process.stdout.readline())
    assert cluster_name(wide_site, ident) == "DC0_C1"


@pytest.mark.parametrize(
    "answer, pool", [("\n", None), ("DC0_C0_été/inner\n", "DC0_C0_été/inner"), ("2\n", "DC0_C0_été")]
)
def test_at_a_terminal_it_asks_for_the_pool(wide_site: Site, answer: str, pool: str | None) -> None:
    make_pools(wide_site.vcenter)
    with at_a_terminal(wide_site, "--cluster", "DC0_C0") as (process, terminal):
        answered(process, terminal, [("Which resource pool? [1] ", answer)])
        assert process.stdout
        ident = int(process.stdout.readline())
    assert wide_site.oned.template(ident).findtext("VCENTER_RESOURCE_POOL") == pool


def test_the_pool_that_is_named(wide_site: Site) -> None:
    make_pools(wide_site.vcenter)
    ident = wide_site.run("--cluster", "DC0_C0", "--pool", "DC0_C0_été/inner").id
    assert wide_site.oned.template(ident).findtext("VCENTER_RESOURCE_POOL") == "DC0_C0_été/inner"
    # Without a terminal nobody is asked: the cluster's own is what OpenNebula takes, too.
    ident = wide_site.run("--cluster", "DC0_C0", "--name", "another").id
    assert wide_site.oned.template(ident).findtext("VCENTER_RESOURCE_POOL") is None


def make_pools(vcenter: SimulatedVCenter) -> None:
    """A pool in the first cluster, and one in it."""
    with inside(vcenter) as connection:
        pools = {connection.properties(each, "name")["name"]: each for each in all_of(connection, vim.ResourcePool)}
        if "inner" in pools:
            return
        parent = next(
            connection.properties(each, "resourcePool")["resourcePool"]
            for each in all_of(connection, vim.ClusterComputeResource)
            if connection.properties(each, "name")["name"] == "DC0_C0"
        )
        share = vim.ResourceAllocationInfo(
            reservation=0, expandableReservation=True, limit=-1, shares=vim.SharesInfo(level="normal", shares=0)
        )
        spec = vim.ResourceConfigSpec(cpuAllocation=share, memoryAllocation=share)
        for name in ("DC0_C0_été", "inner"):
            parent = connection.call(lambda parent=parent, name=name: parent.CreateResourcePool(name, spec))  # type: ignore[misc]


@pytest.mark.parametrize("typed, status, line", [
    ("\x03", 130, "oneconvert: interrupted by SIGINT"),
    ("\x04", 1, "oneconvert: no cluster was chosen; choose with --cluster: DC0_C0, DC0_C1"),
])  # fmt: skip
def test_at_a_terminal_ctrl_c_and_ctrl_d_end_it(wide_site: Site, typed: str, status: int, line: str) -> None:
    before = state(wide_site)
    ours, its = pty.openpty()

    def take_terminal() -> None:
        import fcntl
        import termios

        os.setsid()
        fcntl.ioctl(its, termios.TIOCSCTTY, 0)

    process = wide_site.start(stdin=its, stderr=its, preexec_fn=take_terminal)
    os.close(its)
    try:
        seen = answered(process, ours, [("Which cluster? ", typed)])
        assert process.wait(WITHIN) == status
        while select.select([ours], [], [], 0.5)[0]:
            try:
                seen += os.read(ours, 4096).decode()
            except OSError:
                break
    finally:
        process.kill()
        process.communicate()
        os.close(ours)
    assert line in seen and "Traceback" not in seen
    assert state(wide_site) == before


def test_pyvmomi_is_not_loaded_for_other_subcommands(site: Site) -> None:
    code = (
        "import sys; from oneconvert.cli.main import main\n"
        "try: main(['vcenter', 'template', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('pyVmomi' in sys.modules or 'pyone' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
