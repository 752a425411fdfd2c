"""Who may log in to a vCenter, with a mock of oned's API: from the host that was imported, or from a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oneconvert.errors import OneconvertError, OnedError, SettingsError
from oneconvert.opennebula.request import VCenterPlace
from oneconvert.opennebula.vcenter_access import VCenterAccess, access_to
from rig.oned import MockedOned, mocked_oned

PLACE = VCenterPlace(100, "vc.example.org", "uuid-1", "datastore-12", "one", "thin", "lsiLogic")


@pytest.fixture
def oned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MockedOned]:
    with mocked_oned(tmp_path) as (mock, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield mock


VCENTER = {"VCENTER_INSTANCE_ID": "uuid-1", "VCENTER_HOST": "old.example.org", "VCENTER_USER": "admin"}


def test_the_host_of_the_same_vcenter_knows(oned: MockedOned) -> None:
    oned.hosts = {
        1: {**VCENTER, "VCENTER_INSTANCE_ID": "uuid-2", "VCENTER_PASSWORD": "other"},
        2: {**VCENTER, "VCENTER_PASSWORD": "geheim", "VCENTER_PORT": "8443"},
    }
    assert access_to(PLACE, None) == VCenterAccess("vc.example.org", 8443, "admin", "geheim")
    without = VCenterPlace(100, "", "uuid-1", "datastore-12", "one", "thin", "lsiLogic")
    assert access_to(without, None).host == "old.example.org"


def test_no_host_of_that_vcenter(oned: MockedOned) -> None:
    with pytest.raises(OnedError, match="datastore 100; import a cluster of that vCenter, or set vcenter_credentials"):
        access_to(PLACE, None)


def test_a_host_without_a_password(oned: MockedOned) -> None:
    oned.hosts = {3: {**VCENTER, "VCENTER_PASSWORD": ""}}
    with pytest.raises(OnedError, match="host 3 lacks"):
        access_to(PLACE, None)


def test_oned_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one_auth").write_text("oneadmin:geheim")
    monkeypatch.setenv("ONE_AUTH", str(tmp_path / "one_auth"))
    monkeypatch.setenv("ONE_XMLRPC", "http://127.0.0.1:1/RPC2")
    with pytest.raises(OnedError, match="oned does not answer at http:") as caught:
        access_to(PLACE, None)
    assert "geheim" not in caught.value.sentence


def credentials(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_file_of_the_administrator_is_asked_first(tmp_path: Path) -> None:
    text = "[other]\nuser=a\npassword=b\n[VC.example.org]\nuser = one@vsphere.local\npassword = 50%;#x\nport = 444\n"
    access = access_to(PLACE, credentials(tmp_path / "file", text))
    assert access == VCenterAccess("vc.example.org", 444, "one@vsphere.local", "50%;#x")
    assert "50%" not in repr(access)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_file_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    file = credentials(tmp_path / "file", "[vc.example.org]\nuser=a\npassword=b\n", mode)
    with pytest.raises(SettingsError, match="mode 0600"):
        access_to(PLACE, file)


@pytest.mark.parametrize(
    "text",
    ["", "[vc.example.org]\nuser=a\n", "[vc.example.org]\npassword=geheim\n", "password=geheim",
     "[vc.example.org]\nuser=a\npassword=geheim\nport=x", "[vc.example.org]\ngeheim\n", "[old]\npassword=geheim"],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named_without_what_is_in_it(tmp_path: Path, text: str) -> None:
    file = credentials(tmp_path / "file", text)
    with pytest.raises(OneconvertError, match="vcenter_credentials") as caught:
        access_to(PLACE, file)
    assert "geheim" not in caught.value.sentence
