"""Images into a vCenter, as oned asks for them: real cp, govmomi's simulator with an NFC store of our own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.front_end import FrontEnd, messages, same_disk
from rig.images import SIZE_MB, Images
from rig.messages import Datastore
from rig.vcenter import SimulatedVCenter
from rig.web import Web

DRIVER = "oneconvert_vcenter"


@pytest.fixture
def settings(front_end: FrontEnd, vcenter: SimulatedVCenter, tmp_path: Path) -> Iterator[None]:
    """The front-end knows the vCenter."""
    credentials = tmp_path / "credentials"
    credentials.write_text(
        f"[{vcenter.host}]\nuser = {vcenter.user}\npassword = {vcenter.password}\nport = {vcenter.port}\n"
    )
    credentials.chmod(0o600)
    with front_end.settings(vcenter_credentials=credentials, vcenter_ca_file=vcenter.ca_file):
        yield


def store(front_end: FrontEnd, vcenter: SimulatedVCenter, **attributes: str) -> Datastore:
    refs = {
        "VCENTER_HOST": vcenter.host,
        "VCENTER_INSTANCE_ID": vcenter.instance_uuid,
        "VCENTER_DS_REF": vcenter.datastore.ref,
        "VCENTER_DC_REF": vcenter.datacenter_ref,
        "TM_MAD": "vcenter",
        **attributes,
    }
    return front_end.datastore("vcenter", DRIVER, attributes=refs)


def test_a_qcow2_app_becomes_a_disk_of_the_vcenter(
    front_end: FrontEnd, images: Images, web: Web, vcenter: SimulatedVCenter, settings: None
) -> None:
    target = store(front_end, vcenter)
    answer = front_end.call(
        "cp", messages("6.8").cp(42, web.url("qcow2-compressed"), SIZE_MB, target), DRIVER, release="6.8"
    )
    assert (answer.status, answer.stdout) == (0, "one/42/one-42.vmdk vmdk\n"), answer.stderr
    directory = vcenter.datastore.directory / "one" / "42"
    assert sorted(path.name for path in directory.iterdir()) == ["one-42-flat.vmdk", "one-42.vmdk"]
    assert same_disk(directory / "one-42-flat.vmdk", "raw", images.file("raw"), "raw")
