"""Logging in at a vCenter: whom it trusts, what it says when that fails, and that nothing takes for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyVmomi import vim

from oneconvert.errors import VCenterError
from oneconvert.vcenter.connection import Connection, connected
from rig.tls import Authority
from rig.vcenter import SimulatedVCenter, simulated_vcenter
from rig.web import serve
from vcenter.servers import server, silent_server


@pytest.fixture
def connection(vcenter: SimulatedVCenter) -> Iterator[Connection]:
    with connected(server(vcenter)) as made:
        yield made


def datastore_name(connection: Connection, vcenter: SimulatedVCenter) -> str:
    managed = connection.object(vim.Datastore, vcenter.datastore.ref)
    return str(connection.properties(managed, "name")["name"])


def refused(vcenter: SimulatedVCenter, **changes: object) -> VCenterError:
    """What is said when nobody gets in; and nobody does."""
    with pytest.raises(VCenterError) as caught, connected(server(vcenter, **changes)):
        pass
    assert vcenter.password not in caught.value.sentence
    return caught.value


def test_logs_in_and_out(vcenter: SimulatedVCenter) -> None:
    with connected(server(vcenter)) as connection:
        assert datastore_name(connection, vcenter) == vcenter.datastore.name
        assert not vcenter.calls("Logout")
    assert len(vcenter.calls("Login")) == len(vcenter.calls("Logout")) == 1


def test_logs_out_after_an_error(vcenter: SimulatedVCenter) -> None:
    with pytest.raises(ValueError), connected(server(vcenter)):
        raise ValueError
    assert len(vcenter.calls("Logout")) == 1


def test_a_wrong_password_is_told(vcenter: SimulatedVCenter) -> None:
    error = refused(vcenter, password="wrong-secret")
    assert error.fault == "InvalidLogin"
    assert f"does not accept the password of {vcenter.user}" in error.sentence
    assert "wrong-secret" not in error.sentence


def test_the_password_is_not_in_what_is_logged(vcenter: SimulatedVCenter) -> None:
    assert vcenter.password not in repr(server(vcenter))


def test_a_certificate_of_another_authority_is_refused_and_its_thumbprint_shown(
    vcenter: SimulatedVCenter, tmp_path: Path
) -> None:
    other = Authority.make(tmp_path / "other.pem", "somebody else")
    sentence = refused(vcenter, ca_file=other.file).sentence
    assert "set vcenter_ca_file or vcenter_thumbprint in oneconvert.conf" in sentence
    assert vcenter.sha256 in sentence
    assert not vcenter.calls("Login")


def test_the_authorities_of_the_system_do_not_know_a_vcenters_own(vcenter: SimulatedVCenter) -> None:
    assert vcenter.sha256 in refused(vcenter, ca_file=None).sentence
    assert not vcenter.calls("Login")


def test_a_certificate_for_another_name_is_refused(vcenter: SimulatedVCenter) -> None:
    sentence = refused(vcenter, host="localhost").sentence
    assert "not trusted" in sentence and "localhost" in sentence
    assert not vcenter.calls("Login")


@pytest.mark.parametrize("digest", ["sha1", "sha256"])
@pytest.mark.parametrize("colons", [True, False])
def test_a_thumbprint_is_enough(vcenter: SimulatedVCenter, digest: str, colons: bool) -> None:
    thumbprint = getattr(vcenter, digest)
    given = thumbprint if colons else thumbprint.replace(":", "").lower()
    # Whatever name is in the certificate.
    with connected(server(vcenter, ca_file=None, thumbprints=(given,), host="localhost")) as connection:
        assert datastore_name(connection, vcenter) == vcenter.datastore.name


def test_one_thumbprint_of_several_is_enough(vcenter: SimulatedVCenter) -> None:
    with connected(server(vcenter, ca_file=None, thumbprints=("00" * 20, vcenter.sha256))) as connection:
        assert datastore_name(connection, vcenter) == vcenter.datastore.name


@pytest.mark.parametrize("digits", [40, 64])
def test_a_wrong_thumbprint_is_refused(vcenter: SimulatedVCenter, digits: int) -> None:
    sentence = refused(vcenter, ca_file=None, thumbprints=("0" * digits,)).sentence
    assert "vcenter_thumbprint" in sentence and vcenter.sha256 in sentence
    assert not vcenter.calls("Login")


def test_what_is_no_thumbprint_is_told(vcenter: SimulatedVCenter) -> None:
    assert "40 or 64 digits" in refused(vcenter, thumbprints=("AA:BB",)).sentence


def test_a_thumbprint_trusts_nobody_else(vcenter: SimulatedVCenter, tmp_path: Path) -> None:
    """What shows the right certificate to the first question and another one later gets no password."""
    with simulated_vcenter(tmp_path) as other:
        with pytest.raises(VCenterError), connected(server(other, ca_file=None, thumbprints=(vcenter.sha256,))):
            pass
        assert not other.calls("Login")


def test_an_unusable_ca_file_is_told(vcenter: SimulatedVCenter, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    assert "ca.pem cannot be used" in refused(vcenter, ca_file=tmp_path / "ca.pem").sentence
    assert "missing.pem cannot be used" in refused(vcenter, ca_file=tmp_path / "missing.pem").sentence


def test_an_unknown_host_is_told(vcenter: SimulatedVCenter) -> None:
    assert "there is no host vcenter.invalid" in refused(vcenter, host="vcenter.invalid").sentence


def test_a_closed_port_is_told(vcenter: SimulatedVCenter) -> None:
    with silent_server() as port:
        pass
    assert "refused" in refused(vcenter, port=port).sentence


@pytest.mark.parametrize("thumbprints", [(), ("00" * 32,)])
def test_a_server_that_says_nothing_is_given_up(vcenter: SimulatedVCenter, thumbprints: tuple[str, ...]) -> None:
    with silent_server() as port:
        began = time.monotonic()
        sentence = refused(vcenter, port=port, timeout=1.0, thumbprints=thumbprints).sentence
    assert "does not answer for 1 seconds" in sentence
    assert time.monotonic() - began < 10


def test_a_server_that_is_no_vcenter_is_told(vcenter: SimulatedVCenter, tmp_path: Path) -> None:
    with serve(tmp_path, certificate=vcenter.certificate) as web:
        assert "answers as no vCenter does" in refused(vcenter, port=web.port).sentence


def test_no_proxy_of_the_environment_sees_anything(
    vcenter: SimulatedVCenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(tmp_path) as proxy:
        for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
        with connected(server(vcenter)) as connection:
            assert datastore_name(connection, vcenter)
            with connection.files.open("GET", "/sdk/vimServiceVersions.xml") as answer:
                assert b"vim25" in b"".join(answer.chunks())
        assert not proxy.requests


def test_a_host_of_a_lease_is_known_by_the_thumbprint_in_it_and_gets_no_login(
    connection: Connection, vcenter: SimulatedVCenter
) -> None:
    url = f"https://localhost:{vcenter.port}/nfc/lease/disk"
    for thumbprint, why in ((vcenter.sha1, "answered with 404"), ("00" * 20, "not trusted"), ("", "not trusted")):
        with pytest.raises(VCenterError, match=why), connection.files.open("GET", url, thumbprint=thumbprint):
            pass
    (call,) = vcenter.calls(kind="nfc")
    assert "Cookie" not in call["arguments"]


def test_nothing_is_sent_without_tls(connection: Connection, vcenter: SimulatedVCenter) -> None:
    with pytest.raises(VCenterError, match="not https"), connection.files.open("GET", "http://127.0.0.1/nfc/a/b"):
        pass


def test_an_object_that_is_not_there_is_told(connection: Connection) -> None:
    with pytest.raises(VCenterError, match="no object datastore-404") as caught:
        connection.properties(connection.object(vim.Datastore, "datastore-404"), "name")
    assert caught.value.fault == "ManagedObjectNotFound"


def test_a_property_that_is_not_set_is_left_out(connection: Connection, vcenter: SimulatedVCenter) -> None:
    root = connection.content.rootFolder
    assert set(connection.properties(root, "name", "parent")) == {"name"}


def test_an_expired_login_is_made_again(connection: Connection, vcenter: SimulatedVCenter) -> None:
    vcenter.fail("session-end")
    connection.call(lambda: connection.object(vim.Datastore, vcenter.datastore.ref).RefreshDatastore())
    assert len(vcenter.calls("Login")) == 2


def test_a_login_that_was_idle_for_too_long_is_made_again(simulator: Path, tmp_path: Path) -> None:
    with simulated_vcenter(tmp_path, idle_seconds=1) as vcenter, connected(server(vcenter)) as connection:
        time.sleep(2.5)
        connection.call(lambda: connection.object(vim.Datastore, vcenter.datastore.ref).RefreshDatastore())
        assert len(vcenter.calls("Login")) == 2


def test_threads_that_meet_an_expired_login_make_one_new(connection: Connection, vcenter: SimulatedVCenter) -> None:
    vcenter.fail("session-end")
    managed = connection.object(vim.Datastore, vcenter.datastore.ref)
    trouble: list[Exception] = []

    def refresh() -> None:
        try:
            connection.call(lambda: managed.RefreshDatastore())
        except VCenterError as error:
            trouble.append(error)

    threads = [threading.Thread(target=refresh) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not trouble
    assert len(vcenter.calls("Login")) == 2


def test_a_login_that_expires_again_at_once_is_an_error(connection: Connection, vcenter: SimulatedVCenter) -> None:
    def expire() -> None:
        vcenter.fail("session-end")
        connection.object(vim.Datastore, vcenter.datastore.ref).RefreshDatastore()

    with pytest.raises(VCenterError, match="login has expired"):
        connection.call(expire)


def test_a_missing_privilege_is_named_by_a_handler_of_ours(connection: Connection, vcenter: SimulatedVCenter) -> None:
    vcenter.fail_method("RefreshDatastore", "NoPermission", privilegeId="Datastore.Browse")
    with pytest.raises(VCenterError, match=r"lacks the privilege Datastore\.Browse on datastore-12") as caught:
        connection.call(lambda: connection.object(vim.Datastore, vcenter.datastore.ref).RefreshDatastore())
    assert caught.value.fault == "NoPermission"


def test_a_fault_without_a_text_of_ours_is_told_by_its_name(connection: Connection, vcenter: SimulatedVCenter) -> None:
    vcenter.fail_method("RefreshDatastore", "HostConfigFault")
    with pytest.raises(VCenterError, match="HostConfigFault: as the test wants"):
        connection.call(lambda: connection.object(vim.Datastore, vcenter.datastore.ref).RefreshDatastore())


def test_a_server_that_dies_is_told_and_not_waited_for(simulator: Path, tmp_path: Path) -> None:
    with simulated_vcenter(tmp_path) as vcenter:
        began = time.monotonic()
        with pytest.raises(VCenterError, match=r"connection|reached"), connected(server(vcenter)) as connection:
            vcenter.kill()
            datastore_name(connection, vcenter)
        assert time.monotonic() - began < 10


def slow_task(connection: Connection, vcenter: SimulatedVCenter, seconds: float, name: str) -> object:
    vcenter.fail("slow-task", seconds=seconds)
    spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(diskType="thin", adapterType="lsiLogic", capacityKb=1024)
    manager = connection.content.virtualDiskManager
    datacenter = connection.object(vim.Datacenter, vcenter.datacenter_ref)
    path = f"[{vcenter.datastore.name}] {name}"
    return connection.call(lambda: manager.CreateVirtualDisk_Task(path, datacenter, spec))


def test_a_task_of_a_handler_of_ours_is_waited_for(connection: Connection, vcenter: SimulatedVCenter) -> None:
    task = slow_task(connection, vcenter, 1.0, "waited.vmdk")
    assert connection.wait(task) == f"[{vcenter.datastore.name}] waited.vmdk"
    assert (vcenter.datastore.directory / "waited.vmdk").exists()


def test_a_task_of_a_handler_of_ours_that_takes_too_long_is_cancelled(
    connection: Connection, vcenter: SimulatedVCenter
) -> None:
    task = slow_task(connection, vcenter, 20.0, "slow.vmdk")
    began = time.monotonic()
    with pytest.raises(VCenterError, match=r"takes longer than 0\.5 seconds"):
        connection.wait(task, within=0.5)
    assert time.monotonic() - began < 10
    info = connection.properties(task, "info.state")
    assert info["info.state"] == "error"
    assert not (vcenter.datastore.directory / "slow.vmdk").exists()
