"""An image that is downloaded arrives in its datastore whole, and in the datastore's format."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from rig.crafted import create_encrypted
from rig.front_end import FrontEnd, info, messages, same_disk
from rig.images import COMPRESSIONS, FORMATS, SIZE_MB, Images
from rig.messages import App
from rig.web import Web, chunked, redirect

RELEASES = ("5.12", "6.4", "6.4 -i", "6.8", "7.4")


def digest(images: Images, name: str, algorithm: str = "md5") -> str:
    return hashlib.new(algorithm, images.file(name).read_bytes()).hexdigest()


@pytest.mark.parametrize("release", RELEASES)
def test_a_vmdk_app_becomes_a_qcow2_image_in_every_release(
    front_end: FrontEnd, images: Images, web: Web, release: str
) -> None:
    store = front_end.datastore("qcow2")
    app = App(7, "webserver", digest(images, "vmdk-stream"), web.url(""))
    document = messages(release).cp(42, web.url("vmdk-stream"), SIZE_MB, store, app)
    answer = front_end.call("cp", document, release=release)
    assert answer.status == 0, answer.stderr
    assert re.fullmatch(r"\S+ qcow2\n", answer.stdout), "one line: SOURCE FORMAT"
    assert front_end.left_in(store) == [answer.source.name]
    assert info(answer.source)["format"] == "qcow2"
    assert same_disk(images.file("raw"), "raw", answer.source, "qcow2")


TARGETS = ("qcow2", "raw", "vmdk", None)
# Every format for every target, and in every compression; what compression it was the target never knows.
ARRIVALS = [
    (name, compression, target)
    for name in FORMATS
    for number, compression in enumerate(COMPRESSIONS)
    for target in TARGETS
    if number == 0 or target == TARGETS[(number + len(name)) % len(TARGETS)]
]


@pytest.mark.parametrize(("name", "compression", "target"), ARRIVALS)
def test_every_format_and_compression_arrives_in_the_format_of_the_datastore(
    front_end: FrontEnd, images: Images, web: Web, name: str, compression: str, target: str | None
) -> None:
    store = front_end.datastore(target)
    url = web.url(images.file(name, compression).name)
    answer = front_end.call("cp", messages().cp(42, url, SIZE_MB, store))
    assert answer.status == 0, answer.stderr
    source_format = FORMATS[name][0]
    assert answer.format == (target or source_format)
    assert front_end.left_in(store) == [answer.source.name]
    assert same_disk(images.file(name), source_format, answer.source, answer.format)
    if target in (None, source_format):
        assert answer.source.read_bytes() == images.file(name).read_bytes(), "stored unchanged, without a conversion"


def test_a_raw_result_is_sparse(front_end: FrontEnd, images: Images, web: Web) -> None:
    answer = front_end.call("cp", messages().cp(42, web.url("raw.zst"), SIZE_MB, front_end.datastore("raw")))
    assert answer.source.stat().st_blocks * 512 < 6 << 20
    assert answer.source.stat().st_size == SIZE_MB << 20


@pytest.mark.parametrize("attribute", ["MD5", "SHA1", "SHA256", "FROM_APP_MD5"])
def test_a_right_checksum_is_accepted(front_end: FrontEnd, images: Images, web: Web, attribute: str) -> None:
    right = digest(images, "vmdk-sparse", attribute.removeprefix("FROM_APP_").lower()).upper()
    document = messages().cp(42, web.url("vmdk-sparse"), SIZE_MB, front_end.datastore(), attributes={attribute: right})
    assert front_end.call("cp", document).status == 0


@pytest.mark.parametrize("attribute", ["MD5", "SHA1", "SHA256", "FROM_APP_MD5"])
def test_a_wrong_checksum_is_refused_and_leaves_nothing(
    front_end: FrontEnd, images: Images, web: Web, attribute: str
) -> None:
    store = front_end.datastore()
    wrong = digest(images, "raw", attribute.removeprefix("FROM_APP_").lower())
    document = messages().cp(42, web.url("vmdk-sparse"), SIZE_MB, store, attributes={attribute: wrong})
    answer = front_end.call("cp", document)
    assert answer.status == 1
    assert answer.stdout == ""
    assert f"{attribute} says {wrong}" in answer.stderr
    assert front_end.left_in(store) == []


def test_the_made_up_checksum_of_a_container_market_is_not_verified(
    front_end: FrontEnd, images: Images, web: Web
) -> None:
    app = App(7, "alpine", "0" * 32, web.url(""), market_mad="linuxcontainers")
    answer = front_end.call("cp", messages().cp(42, web.url("qcow2"), SIZE_MB, front_end.datastore(), app))
    assert answer.status == 0, answer.stderr


def test_a_redirect_is_followed(front_end: FrontEnd, images: Images, web: Web) -> None:
    web.pages["moved"] = redirect("/vdi")
    answer = front_end.call("cp", messages().cp(42, web.url("moved"), SIZE_MB, front_end.datastore()))
    assert same_disk(images.file("raw"), "raw", answer.source, "qcow2")


def test_a_server_that_tells_no_length_is_understood(front_end: FrontEnd, images: Images, web: Web) -> None:
    web.pages["chunked"] = chunked(images.file("vhdx"))
    answer = front_end.call("cp", messages().cp(42, web.url("chunked"), SIZE_MB, front_end.datastore()))
    assert same_disk(images.file("vhdx"), "vhdx", answer.source, "qcow2")


def test_compression_is_kept_when_the_datastore_says_so(front_end: FrontEnd, images: Images, web: Web) -> None:
    store = front_end.datastore(None, attributes={"NO_DECOMPRESS": "yes"})
    answer = front_end.call("cp", messages().cp(42, web.url("raw.gz"), SIZE_MB, store))
    assert answer.status == 1
    assert "gzip" in answer.stderr, "a compressed file is no disk"


def test_concatenated_members_are_one_image(front_end: FrontEnd, images: Images, web: Web) -> None:
    data = images.file("raw").read_bytes()
    half = len(data) // 2
    compress = COMPRESSIONS["gz"]
    images.file("two-members.gz").write_bytes(compress(data[:half]) + compress(data[half:]) + bytes(512))
    answer = front_end.call("cp", messages().cp(42, web.url("two-members.gz"), SIZE_MB, front_end.datastore("raw")))
    assert answer.source.read_bytes() == data


def test_a_driver_that_only_stores_raw_gets_raw_whatever_the_datastore_says(
    front_end: FrontEnd, images: Images, web: Web
) -> None:
    store = front_end.datastore("qcow2", "oneconvert_ceph")
    front_end.will_answer("one/one-42 raw\n", driver="ceph")
    answer = front_end.call("cp", messages().cp(42, web.url("vmdk-stream"), SIZE_MB, store), driver="oneconvert_ceph")
    assert answer.stdout == "one/one-42 raw\n"


def test_a_third_party_driver_that_copies_by_itself_is_served(front_end: FrontEnd, images: Images, web: Web) -> None:
    store = front_end.datastore("qcow2", "oneconvert_thirdparty")
    document = messages().cp(42, web.url("vmdk-stream"), SIZE_MB, store)
    answer = front_end.call("cp", document, driver="oneconvert_thirdparty")
    assert answer.status == 0, answer.stderr
    assert answer.format == "qcow2"
    assert front_end.left_in(store) == ["volume-42"]
    assert same_disk(images.file("raw"), "raw", answer.source, "qcow2")


@pytest.mark.parametrize("name", ["link", "c++ (1)".replace(" ", "_"), "a,b;c'd"])
def test_a_datastore_may_be_a_link_and_have_an_odd_name(
    front_end: FrontEnd, web: Web, tmp_path: Path, name: str
) -> None:
    """Native drivers take the words of SAFE_DIRS for patterns, and compare them with resolved paths."""
    store = front_end.datastore()
    odd = tmp_path / name
    odd.symlink_to(store.base_path)
    document = messages().cp(42, web.url("vmdk-stream"), SIZE_MB, replace(store, base_path=str(odd)))
    answer = front_end.call("cp", document)
    assert answer.status == 0, answer.stderr
    assert front_end.left_in(store) == [answer.source.name]


def test_a_datastore_that_is_not_there_yet_is_made(front_end: FrontEnd, web: Web, tmp_path: Path) -> None:
    base = tmp_path / "datastores" / "100"
    document = messages().cp(42, web.url("raw"), SIZE_MB, replace(front_end.datastore(), base_path=str(base)))
    answer = front_end.call("cp", document)
    assert answer.status == 0, answer.stderr
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["datastores", "100", answer.source.name]


def test_an_encrypted_disk_is_stored_as_it_is(front_end: FrontEnd, images: Images, web: Web) -> None:
    create_encrypted(images.file("luks"), "luks")
    for driver in ("qcow2", "raw", None):
        answer = front_end.call("cp", messages().cp(42, web.url("luks"), SIZE_MB, front_end.datastore(driver)))
        assert answer.status == 0, answer.stderr
        assert answer.format == "raw", "what OpenNebula calls it"
        assert answer.source.read_bytes() == images.file("luks").read_bytes()


def test_a_disk_larger_than_the_quota_that_was_charged(front_end: FrontEnd, images: Images, web: Web) -> None:
    store = front_end.datastore()
    document = messages().cp(42, web.url("vmdk-stream"), 2, store)
    front_end.log.unlink(missing_ok=True)
    assert front_end.call("cp", document).status == 0
    assert f"its app should declare SIZE={SIZE_MB}" in front_end.log.read_text()
    with front_end.settings(size_policy="refuse"):
        answer = front_end.call("cp", document)
    assert answer.status == 1
    assert f"is a disk of {SIZE_MB} MiB, but the image has SIZE=2" in answer.stderr
    assert len(front_end.left_in(store)) == 1


@pytest.mark.parametrize("name", ["vmdk-stream", "raw.gz"])
def test_a_disk_above_the_ceiling_is_refused_whatever_was_charged(
    front_end: FrontEnd, images: Images, web: Web, name: str
) -> None:
    store = front_end.datastore()
    with front_end.settings(max_virtual_size="16M"):
        answer = front_end.call("cp", messages().cp(42, web.url(name), SIZE_MB, store))
    assert answer.status == 1
    assert "max_virtual_size" in answer.stderr
    assert front_end.left_in(store) == []


def test_the_log_tells_what_happened_and_no_secrets(front_end: FrontEnd, images: Images, web: Web) -> None:
    front_end.log.unlink(missing_ok=True)
    url = web.url("vmdk-stream?token=Geheimnis").replace("http://", "http://user:Passwort@")
    answer = front_end.call("cp", messages().cp(42, url, SIZE_MB, front_end.datastore()))
    assert answer.status == 0, answer.stderr
    log = front_end.log.read_text()
    assert "vmdk" in log
    assert "qemu-img convert" in log
    for secret in ("Geheimnis", "Passwort"):
        assert secret not in log + answer.stderr + answer.stdout
