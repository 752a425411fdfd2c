"""What is decided from oned's message alone."""

from __future__ import annotations

import base64
import re

import pytest

from oneconvert.actions.plan import Import, PassThrough, Register, plan
from oneconvert.errors import MessageError, NotAllowedError, SettingsError
from oneconvert.images.format import ImageFormat
from oneconvert.opennebula.document import Document
from oneconvert.opennebula.request import Request, read_request
from oneconvert.settings import Settings
from rig.front_end import messages
from rig.messages import Datastore

URL = "http://127.0.0.1/image"


def request(path: str = URL, driver: str | None = "qcow2", release: str = "7.4", **other: object) -> Request:
    attributes = other.pop("image", {})
    store = Datastore(1, "/ds/1", "oneconvert_fs", driver, attributes=other.pop("datastore", {}))  # type: ignore[arg-type]
    text = messages(release).cp(42, path, 10, store, attributes=attributes, **other)  # type: ignore[arg-type]
    return read_request(Document.decode(base64.b64encode(text.encode())))


def test_a_nul_in_whatever_field_is_no_xml() -> None:
    """A reader that ends there would take the rest for nothing."""
    text = messages().cp(42, URL, 10, Datastore(1, "/ds/1", "oneconvert_fs", "raw"), attributes={"MD5": "0" * 32})
    places = [found.start() for found in re.finditer(r"</", text)]
    assert len(places) > 80
    for place in places:
        for nul in ("\0", "&#0;"):
            payload = base64.b64encode((text[:place] + nul + text[place:]).encode())
            with pytest.raises(MessageError, match="not well-formed"):
                Document.decode(payload)


@pytest.mark.parametrize(
    ("driver", "target"),
    [
        ("qcow2", ImageFormat.QCOW2),
        ("QCOW2", ImageFormat.QCOW2),
        ("raw", ImageFormat.RAW),
        ("vmdk", ImageFormat.VMDK),
        ("vcenter", ImageFormat.VMDK),
        (None, None),
    ],
)
def test_the_driver_of_the_datastore_is_the_target(driver: str | None, target: ImageFormat | None) -> None:
    assert plan(request(driver=driver), "fs", Settings()) == Import(URL, target)


@pytest.mark.parametrize(("setting", "target"), [("qcow2", ImageFormat.QCOW2), ("raw", ImageFormat.RAW)])
def test_a_datastore_without_a_driver_can_be_given_one(setting: str, target: ImageFormat) -> None:
    assert plan(request(driver=None), "fs", Settings(unset_driver=setting)) == Import(URL, target)


@pytest.mark.parametrize("native", ["ceph", "lvm", "linstor", "storpool"])
@pytest.mark.parametrize("driver", [None, "qcow2", "nonsense"])
def test_drivers_of_block_devices_get_raw(native: str, driver: str | None) -> None:
    assert plan(request(driver=driver), native, Settings()) == Import(URL, ImageFormat.RAW)


def test_a_format_that_cannot_be_written() -> None:
    with pytest.raises(SettingsError, match="DRIVER=vhd"):
        plan(request(driver="vhd"), "fs", Settings())


def test_url_args_of_old_releases_are_part_of_the_url() -> None:
    args = {"URL_ARGS": "tag=1"}
    assert plan(request(image=args, release="6.8"), "fs", Settings()) == Import(f"{URL}&tag=1", ImageFormat.QCOW2)


@pytest.mark.parametrize("path", ["/dev/sdb", "/dev/vg/lv"])
def test_drivers_that_register_devices_do_it_themselves(path: str) -> None:
    assert isinstance(plan(request(path), "dev", Settings()), PassThrough)


@pytest.mark.parametrize("path", ["/var/tmp/a'b", "/var/tmp/$(id)", "/var/tmp/`id`", "/a\\b", "/a;b", "/a|b"])
def test_a_path_with_an_odd_character_is_not_passed_on(path: str) -> None:
    with pytest.raises(NotAllowedError):
        plan(request(path, kind=1), "fs", Settings())


@pytest.mark.parametrize("path", ["/var/tmp/Windows Server (x64).iso", "/var/tmp/Müller & Söhne.iso"])
def test_a_path_with_blanks_parentheses_and_accents_is_left_alone(path: str) -> None:
    assert plan(request(path, kind=1), "fs", Settings()) == PassThrough("an image of type CDROM is no disk", path)


def test_a_base_path_with_a_blank() -> None:
    store = Datastore(1, "/ds/a b", "oneconvert_fs", "qcow2")
    text = messages().cp(42, URL, 10, store)
    with pytest.raises(SettingsError, match="BASE_PATH"):
        plan(read_request(Document.decode(base64.b64encode(text.encode()))), "fs", Settings())


def test_url_args_with_an_odd_character_are_not_passed_on() -> None:
    with pytest.raises(NotAllowedError, match="URL_ARGS"):
        plan(request(kind=1, image={"URL_ARGS": "';id;'"}), "fs", Settings())


def test_a_url_with_an_address_of_ipv6_and_a_query_reaches_it_unchanged() -> None:
    url = "https://[::1]:8443/a%20b/c?d=e&f=%27#g"
    assert plan(request(url, kind=1), "fs", Settings()) == PassThrough("an image of type CDROM is no disk", url)


@pytest.mark.parametrize("attribute", ["MD5", "SHA1", "SHA256", "FROM_APP_MD5"])
@pytest.mark.parametrize("value", ["0", "x" * 32, "'; id; '", "d41d8cd98f00b204e9800998ecf8427", "1" * 33])
def test_a_checksum_must_look_like_one(attribute: str, value: str) -> None:
    with pytest.raises(MessageError, match=attribute):
        request(image={attribute: value})


@pytest.mark.parametrize("value", ["", "-"])
def test_no_checksum_is_none(value: str) -> None:
    assert request(image={"MD5": value}).image.checksums == ()


def test_the_checksum_of_an_app_may_be_of_any_kind() -> None:
    (checksum,) = request(image={"FROM_APP_MD5": "A" * 64}).image.checksums
    assert (checksum.algorithm, checksum.digest) == ("sha256", "a" * 64)


@pytest.mark.parametrize(
    ("text", "rate"), [("10", 10), ("500k", 512_000), ("10M", 10 << 20), ("1G", 1 << 30), ("", None)]
)
def test_the_bandwidth_limit_is_read_as_curl_reads_it(text: str, rate: int | None) -> None:
    assert request(datastore={"LIMIT_TRANSFER_BW": text}).datastore.bandwidth == rate


@pytest.mark.parametrize("text", ["fast", "k", "0", "-1", "1.5M"])
def test_a_bandwidth_limit_that_is_none(text: str) -> None:
    with pytest.raises(MessageError, match="LIMIT_TRANSFER_BW"):
        request(datastore={"LIMIT_TRANSFER_BW": text})


@pytest.mark.parametrize("size", ["-1", "１０", "1_0", "1e3", "9" * 19])
def test_a_number_that_is_none(size: str) -> None:
    text = messages().cp(42, URL, 10, Datastore(1, "/ds/1", "oneconvert_fs")).replace("<SIZE>10<", f"<SIZE>{size}<")
    with pytest.raises(MessageError, match="IMAGE/SIZE"):
        read_request(Document.decode(base64.b64encode(text.encode())))


@pytest.mark.parametrize("driver", [None, "vcenter", "vmdk", "qcow2"])
@pytest.mark.parametrize("way", ["import", "native"])
def test_a_vcenter_gets_a_raw_disk_that_becomes_a_vmdk_on_its_way_in(driver: str | None, way: str) -> None:
    settings = Settings(vcenter_upload=way)
    assert plan(request(driver=driver), "vcenter", settings) == Import(URL, ImageFormat.RAW, vcenter=way)


def test_a_disk_that_the_vcenter_has_is_only_registered() -> None:
    path = "vcenter://one/7/my%20disk.vmdk"
    assert plan(request(path), "vcenter", Settings(), alone=True) == Register("one/7/my%20disk.vmdk")
    assert plan(request(path), "vcenter", Settings()) == PassThrough("the disk is in the datastore already", path)


@pytest.mark.parametrize("native", ["fs", "ceph", "vcenter"])
def test_a_disk_of_another_vcenter_datastore_is_fetched(native: str) -> None:
    path = "vcenter://one/7/one-7.vmdk?param_dsid=100"
    decision = plan(request(path), native, Settings())
    assert isinstance(decision, Import)
    assert decision.location == path


def test_what_only_the_native_driver_could_do_is_refused_where_there_is_none() -> None:
    with pytest.raises(NotAllowedError, match="type KERNEL is no disk, and OpenNebula has no driver vcenter here"):
        plan(request(kind=3), "vcenter", Settings(), alone=True)
    with pytest.raises(SettingsError, match="vcenter_upload"):
        plan(request(), "vcenter", Settings(vcenter_upload="native"), alone=True)
    with pytest.raises(NotAllowedError, match="has no driver fs here"):
        plan(request(), "fs", Settings(), alone=True)
