"""Handlers of our own in the vCenter of the tests: leases, whose bytes govmomi's simulator throws away, or has not."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from oneconvert.errors import VCenterError
from oneconvert.vcenter.connection import Connection, connected
from oneconvert.vcenter.datastore import Datastore
from oneconvert.vcenter.lease import held
from rig.images import Images
from rig.vcenter import SimulatedVCenter, simulated_vcenter
from vcenter.servers import server

OVF = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
  xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
 <References><File ovf:id="file1" ovf:href="disk.vmdk" ovf:size="{size}"/></References>
 <DiskSection><Info/><Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity="{capacity}"
  ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
 <VirtualSystem ovf:id="vm"><Info/><VirtualHardwareSection><Info/>
  <System><vssd:ElementName>h</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID>
   <vssd:VirtualSystemType>vmx-11</vssd:VirtualSystemType></System>
  <Item><rasd:ElementName>scsi</rasd:ElementName><rasd:InstanceID>3</rasd:InstanceID>
   <rasd:ResourceSubType>lsilogic</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>
  <Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:ElementName>disk</rasd:ElementName>
   <rasd:HostResource>ovf:/disk/disk1</rasd:HostResource><rasd:InstanceID>4</rasd:InstanceID>
   <rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
 </VirtualHardwareSection></VirtualSystem></Envelope>"""


@pytest.fixture
def connection(vcenter: SimulatedVCenter) -> Iterator[Connection]:
    with connected(server(vcenter)) as made:
        yield made


def start_import(connection: Connection, vcenter: SimulatedVCenter, images: Images, name: str) -> Any:
    stream = images.file("vmdk-stream")
    pool = connection.object(vim.ResourcePool, vcenter.resource_pool_ref)
    datastore = connection.object(vim.Datastore, vcenter.datastore.ref)
    parameters = vim.OvfManager.CreateImportSpecParams(
        entityName=name, diskProvisioning="thin", locale="", deploymentOption=""
    )
    text = OVF.format(size=stream.stat().st_size, capacity=images.file("raw").stat().st_size)
    result = connection.call(lambda: connection.content.ovfManager.CreateImportSpec(text, pool, datastore, parameters))
    assert not result.error
    folder = connection.object(vim.Folder, vcenter.vm_folder_ref)
    return connection.call(lambda: pool.ImportVApp(result.importSpec, folder, None))


def state(connection: Connection, lease: Any) -> str:
    return str(connection.properties(lease, "state")["state"])


def ready(connection: Connection, lease: Any) -> Any:
    end = time.monotonic() + 10
    while state(connection, lease) == "initializing" and time.monotonic() < end:
        time.sleep(0.1)
    return connection.properties(lease, "info")["info"]


def upload(connection: Connection, url: str, data: bytes) -> None:
    pieces = (data[start : start + 65536] for start in range(0, len(data), 65536))
    headers = {"Content-Type": "application/x-vnd.vmware-streamVmdk"}
    with connection.files.open("PUT", url, body=pieces, length=len(data), headers=headers) as answer:
        assert answer.status in (200, 201)


def destroy(connection: Connection, vm: Any) -> None:
    connection.wait(connection.call(lambda: vm.Destroy_Task()))


def exists(connection: Connection, managed: Any) -> bool:
    try:
        connection.properties(managed, "name")
    except VCenterError as error:
        assert error.fault == "ManagedObjectNotFound"
        return False
    return True


def test_a_disk_imported_through_a_lease_of_ours_has_the_content_and_can_be_moved_and_exported(
    connection: Connection, vcenter: SimulatedVCenter, images: Images, tmp_path: Path
) -> None:
    raw = images.file("raw").read_bytes()
    lease = start_import(connection, vcenter, images, "imported é")
    info = ready(connection, lease)
    (device,) = info.deviceUrl
    assert device.url.startswith("https://*/") and device.sslThumbprint == vcenter.sha1
    upload(connection, device.url, images.file("vmdk-stream").read_bytes())
    connection.call(lambda: lease.Progress(50))
    connection.call(lambda: lease.Complete())
    assert state(connection, lease) == "done"
    assert (vcenter.datastore.directory / "imported é" / "disk-0-flat.vmdk").read_bytes() == raw

    export = connection.call(lambda: info.entity.ExportVm())
    (device,) = ready(connection, export).deviceUrl
    with connection.files.open("GET", device.url) as answer:
        assert answer.length is None
        (tmp_path / "exported.vmdk").write_bytes(b"".join(answer.chunks()))
    connection.call(lambda: export.Progress(100))
    (entry,) = connection.call(lambda: export.GetManifest())
    assert entry.size == (tmp_path / "exported.vmdk").stat().st_size
    connection.call(lambda: export.Complete())
    subprocess.run(
        ["qemu-img", "compare", "-f", "raw", "-F", "vmdk", images.file("raw"), tmp_path / "exported.vmdk"], check=True
    )

    datastore = Datastore(connection, vcenter.datastore.ref)
    datastore.make_directory("one/9")
    datastore.move_disk("imported é/disk-0.vmdk", "one/9/one-9.vmdk")
    destroy(connection, info.entity)
    assert not exists(connection, info.entity)
    assert not (vcenter.datastore.directory / "imported é").exists()
    assert (vcenter.datastore.directory / "one/9/one-9-flat.vmdk").read_bytes() == raw
    assert [each["arguments"]["Percent"] for each in vcenter.calls("HttpNfcLeaseProgress")] == [50, 100]
    assert len(vcenter.calls("HttpNfcLeaseComplete")) == 2
    datastore.delete_disk("one/9/one-9.vmdk")


def test_a_lease_of_ours_lives_as_long_as_it_is_held(simulator: Path, images: Images, tmp_path: Path) -> None:
    """One that ends after two seconds without a sign of life."""
    with simulated_vcenter(tmp_path, lease_seconds=2) as vcenter, connected(server(vcenter)) as connection:
        lease = start_import(connection, vcenter, images, "held")
        with held(connection, lease, lambda: 0.25) as mine:
            (disk,) = mine.disks()
            time.sleep(5)
            upload(connection, disk.url, images.file("vmdk-stream").read_bytes())
        assert state(connection, lease) == "done"
        told = [each["arguments"]["Percent"] for each in vcenter.calls("HttpNfcLeaseProgress")]
        assert len(told) >= 4
        assert set(told) == {25}


def test_an_aborted_lease_of_ours_takes_its_vm_with_it(
    connection: Connection, vcenter: SimulatedVCenter, images: Images
) -> None:
    lease = start_import(connection, vcenter, images, "aborted")
    entity = ready(connection, lease).entity
    connection.call(lambda: lease.Abort(None))
    assert state(connection, lease) == "error"
    assert not exists(connection, entity)
    assert not (vcenter.datastore.directory / "aborted").exists()


@pytest.mark.parametrize("what", ["lease-error", "datastore-full"])
def test_a_lease_of_ours_fails_in_the_middle_of_an_upload(
    connection: Connection, vcenter: SimulatedVCenter, images: Images, what: str
) -> None:
    lease = start_import(connection, vcenter, images, "failing")
    info = ready(connection, lease)
    vcenter.fail(what, after=100_000)
    with pytest.raises(VCenterError):
        upload(connection, info.deviceUrl[0].url, images.file("vmdk-stream").read_bytes())
    end = time.monotonic() + 10
    while state(connection, lease) == "ready" and time.monotonic() < end:
        time.sleep(0.1)
    fault = connection.properties(lease, "error")["error"]
    expected = vim.fault.NoDiskSpace if what == "datastore-full" else vmodl.fault.HostCommunication
    assert state(connection, lease) == "error" and isinstance(fault, expected)
    assert not exists(connection, info.entity)


def test_a_lease_of_ours_refuses_what_is_no_disk(
    connection: Connection, vcenter: SimulatedVCenter, images: Images
) -> None:
    lease = start_import(connection, vcenter, images, "broken")
    info = ready(connection, lease)
    stream = images.file("vmdk-stream").read_bytes()
    with pytest.raises(VCenterError, match="500"):
        upload(connection, info.deviceUrl[0].url, b"\0" * len(stream))
    assert state(connection, lease) == "error"


def test_a_full_datastore_refuses_a_lease_of_ours(
    connection: Connection, vcenter: SimulatedVCenter, images: Images
) -> None:
    vcenter.fail("datastore-full")
    with pytest.raises(VCenterError, match="is full"):
        start_import(connection, vcenter, images, "no room")


def test_a_lease_of_ours_takes_its_time(connection: Connection, vcenter: SimulatedVCenter, images: Images) -> None:
    vcenter.fail("lease-initializing", seconds=1)
    lease = start_import(connection, vcenter, images, "late")
    assert state(connection, lease) == "initializing"
    assert "info" not in connection.properties(lease, "info")
    assert ready(connection, lease).deviceUrl
    connection.call(lambda: lease.Abort(None))


def test_a_lease_of_ours_ends_without_progress(simulator: Path, tmp_path: Path, images: Images) -> None:
    with simulated_vcenter(tmp_path, lease_seconds=1) as vcenter, connected(server(vcenter)) as connection:
        lease = start_import(connection, vcenter, images, "forgotten")
        entity = ready(connection, lease).entity
        time.sleep(2)
        assert state(connection, lease) == "error"
        assert not exists(connection, entity)


def test_a_template_without_a_disk_can_be_made(connection: Connection, vcenter: SimulatedVCenter) -> None:
    folder = connection.object(vim.Folder, vcenter.vm_folder_ref)
    pool = connection.object(vim.ResourcePool, vcenter.resource_pool_ref)
    spec = vim.vm.ConfigSpec(
        name="template",
        guestId="otherGuest",
        numCPUs=1,
        memoryMB=128,
        files=vim.vm.FileInfo(vmPathName=f"[{vcenter.datastore.name}]"),
    )
    vm = connection.wait(connection.call(lambda: folder.CreateVM_Task(spec, pool, None)))
    connection.call(lambda: vm.MarkAsTemplate())
    assert connection.properties(vm, "config.template", "snapshot", "resourcePool") == {"config.template": True}
    destroy(connection, vm)
