"""oneconvert under the unmodified datastore MAD and drivers of OpenNebula releases.

ONE_REMOTES names the source trees (a checkout or an unpacked release each, separated by ':'). Each is laid out as a
self-contained OpenNebula in a temporary directory, oneconvert is installed into it, and the real ``one_datastore``
is spoken to over its pipes, as oned does. Nothing but the loopback interface is used.
"""

from __future__ import annotations

import base64
import re
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from conformance.arrivals import Arrivals
from conformance.conftest import Datastores, Marketplace, OnDisk, Release
from conformance.layout import Installation
from conformance.mad import Answer, DatastoreMad
from rig.front_end import info, same_disk
from rig.images import SIZE_MB, Images
from rig.messages import Datastore, Messages

# The time out covers the installation of oneconvert, which the first test of each release waits for.
pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

NATIVE, OURS = "fs", "oneconvert_fs"


def stored(answer: Answer, datastore: OnDisk, driver: str) -> Path:
    """The file of an import that must have succeeded, alone in its datastore."""
    assert answer.success, answer
    words = answer.info.split(" ")
    assert len(words) == 2, f"not 'SOURCE FORMAT': {answer.line}"
    source, stored_as = words
    assert stored_as == driver, answer.line
    image = datastore.holds(source)
    assert datastore.files() == [image.name], "the import left something beside the image"
    assert info(image)["format"] == driver
    return image


def error_attribute(answer: Answer) -> str:
    """What oned would put into IMAGE/TEMPLATE/ERROR: it must be one plain sentence."""
    assert not answer.success, answer.line
    sentence = answer.info
    assert sentence, "no text at all"
    assert not sentence.startswith("-"), f"oned drops what begins with '-': {sentence!r}"
    assert len(sentence) <= 1024
    assert sentence.isprintable()
    assert not re.search(r"\b(ERROR|WARN|WARNING|INFO|DEBUG|Traceback)\b|>8|8<", sentence), sentence
    return sentence


# --- the rig itself -------------------------------------------------------------------------------------------------


def test_installing_oneconvert_leaves_every_native_file_as_opennebula_ships_it(one: Installation) -> None:
    assert one.altered_native_files() == []
    assert (one.remotes / "VERSION").read_text(encoding="ascii").strip() == one.tree.release


def test_a_driver_is_installed_for_the_native_fs(one: Installation) -> None:
    assert OURS in one.drivers()


def test_documents_hold_the_elements_that_the_release_declares(messages: Messages, release: Release) -> None:
    schema = release.tree.path / "share/doc/xsd/image.xsd"
    if not schema.is_file():
        pytest.skip(f"{release.tree.path} has no share/doc/xsd/image.xsd")
    declared = set(re.findall(r'name="([A-Z_]+)"', schema.read_text(encoding="utf-8")))
    document = messages.cp(1, "/x", 1, Datastore(100, "/y", OURS))
    image = ElementTree.fromstring(document).find("IMAGE")
    assert image is not None
    written = {child.tag for child in image}
    assert written <= declared
    for name in ("FSTYPE", "FORMAT", "FS", "PREV_STATE", "MODTIME", "BACKUP_INCREMENTS", "BACKUP_DISK_IDS"):
        assert (name in written) == (name in declared), name


def test_the_native_driver_works_in_this_installation(
    mad: DatastoreMad, messages: Messages, datastores: Datastores, images: Images, ident: int
) -> None:
    datastore = datastores.make(NATIVE, "qcow2", safe_dirs=str(images.directory))
    answer = mad.request("CP", ident, messages.cp(ident, str(images.file("raw")), SIZE_MB, datastore.described))
    assert answer.success, answer
    source, *stored_as = answer.info.split(" ")
    # Up to 5.12 the native driver tells no format; from 6.0 on oned insists on one.
    assert stored_as == (["qcow2"] if messages.tell_formats else [])
    assert same_disk(images.file("raw"), "raw", datastore.holds(source), "qcow2")


# --- imports --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["qcow2", "raw"])
@pytest.mark.parametrize("name", ["raw", "qcow2", "vmdk-sparse", "vmdk-stream", "raw.gz", "qcow2.gz"])
def test_an_app_arrives_in_the_format_of_the_datastore(
    mad: DatastoreMad,
    messages: Messages,
    datastores: Datastores,
    marketplace: Marketplace,
    images: Images,
    ident: int,
    name: str,
    driver: str,
    one: Installation,
) -> None:
    datastore = datastores.make(OURS, driver)
    app = marketplace.app(name)
    answer = mad.request("CP", ident, messages.cp(ident, marketplace.address(name), SIZE_MB, datastore.described, app))
    image = stored(answer, datastore, driver)
    assert same_disk(images.file("raw"), "raw", image, driver)
    assert list(one.scratch.iterdir()) == []


@pytest.mark.parametrize("name", ["vmdk-sparse", "raw"])
def test_the_finished_image_is_moved_to_its_place_and_not_copied(
    mad: DatastoreMad, messages: Messages, datastores: Datastores, marketplace: Marketplace, ident: int, name: str
) -> None:
    datastore = datastores.make(OURS, "qcow2")
    with Arrivals(datastore.directory) as arrivals:
        document = messages.cp(ident, marketplace.address(name), SIZE_MB, datastore.described, marketplace.app(name))
        image = stored(mad.request("CP", ident, document), datastore, "qcow2")
        assert arrivals.of(image.name) == ["moved in"]


def test_the_watch_sees_that_the_native_driver_writes_its_image_in_place(
    mad: DatastoreMad, messages: Messages, datastores: Datastores, images: Images, ident: int
) -> None:
    datastore = datastores.make(NATIVE, safe_dirs=str(images.directory))
    with Arrivals(datastore.directory) as arrivals:
        document = messages.cp(ident, str(images.file("raw")), SIZE_MB, datastore.described)
        answer = mad.request("CP", ident, document)
        assert answer.success, answer
        assert arrivals.of(Path(answer.info.split(" ")[0]).name) == ["created"]


def test_a_local_image_below_safe_dirs_is_imported(
    mad: DatastoreMad, messages: Messages, datastores: Datastores, images: Images, ident: int
) -> None:
    datastore = datastores.make(OURS, "qcow2", safe_dirs=f"/var/tmp {images.directory}")
    vmdk = images.file("vmdk-stream")
    before = vmdk.stat()
    answer = mad.request("CP", ident, messages.cp(ident, str(vmdk), SIZE_MB, datastore.described))
    assert same_disk(images.file("raw"), "raw", stored(answer, datastore, "qcow2"), "qcow2")
    after = vmdk.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)


def test_a_local_image_below_restricted_dirs_is_refused(
    mad: DatastoreMad, messages: Messages, datastores: Datastores, images: Images, ident: int
) -> None:
    datastore = datastores.make(
        OURS, "qcow2", safe_dirs=str(datastores.elsewhere), restricted_dirs=str(images.directory)
    )
    path = str(images.file("vmdk-sparse"))
    answer = mad.request("CP", ident, messages.cp(ident, path, SIZE_MB, datastore.described))
    sentence = error_attribute(answer)
    assert path in sentence
    assert "RESTRICTED_DIRS" in sentence
    assert datastore.files() == []


def test_an_app_that_does_not_match_its_checksum_is_not_stored(
    mad: DatastoreMad,
    messages: Messages,
    datastores: Datastores,
    marketplace: Marketplace,
    ident: int,
    one: Installation,
) -> None:
    datastore = datastores.make(OURS, "qcow2")
    app = marketplace.app("vmdk-stream", md5="0" * 32)
    document = messages.cp(ident, marketplace.address("vmdk-stream"), SIZE_MB, datastore.described, app)
    sentence = error_attribute(mad.request("CP", ident, document))
    assert re.search(r"checksum|MD5", sentence, re.IGNORECASE), sentence
    assert datastore.files() == []
    assert list(one.scratch.iterdir()) == []


def test_an_app_that_is_gone_is_reported_in_one_sentence(
    mad: DatastoreMad, messages: Messages, datastores: Datastores, marketplace: Marketplace, ident: int
) -> None:
    datastore = datastores.make(OURS, "qcow2")
    url = f"{marketplace.url}no-such-image"
    answer = mad.request("CP", ident, messages.cp(ident, url, SIZE_MB, datastore.described))
    assert "404" in error_attribute(answer)
    assert datastore.files() == []


def test_a_datastore_with_very_many_images_takes_another_one(
    mad: DatastoreMad,
    messages: Messages,
    datastores: Datastores,
    marketplace: Marketplace,
    ident: int,
    release: Release,
) -> None:
    if release.documents_by_argument:
        pytest.skip("this release gives the document as an argument, which cannot hold 128 KiB")
    datastore = datastores.make(OURS, "raw", images=tuple(range(10_000)))
    document = messages.cp(ident, marketplace.address("qcow2"), SIZE_MB, datastore.described)
    assert len(base64.b64encode(document.encode())) > 128 * 1024
    stored(mad.request("CP", ident, document), datastore, "raw")


# --- everything else is the native driver's -------------------------------------------------------------------------


def same(answer: Answer, datastore: OnDisk) -> tuple[str, list[str]]:
    """An answer without what differs from call to call: its datastore, the driver's name, the document, a random name.

    The document in the log is that of the releases that give it as an argument.
    """

    def cleaned(line: str) -> str:
        line = line.replace(datastore.described.base_path, "<base path>").replace(f"datastore/{OURS}/", "datastore/fs/")
        line = re.sub(r"\b[0-9a-f]{32}\b", "<name>", line)
        return re.sub(r"PERT[A-Za-z0-9+/]{100,}=*", "<document>", line)

    return cleaned(answer.line), [cleaned(line) for line in answer.log]


# Over HTTP one is enough: the native driver of 6.4 needs up to half a minute for each.
@pytest.mark.parametrize(
    ("name", "remote"),
    [("raw", False), ("qcow2", False), ("vmdk-sparse", False), ("vmdk-stream", False), ("vmdk-stream", True)],
)
def test_stat_tells_what_the_native_driver_tells(
    mad: DatastoreMad,
    messages: Messages,
    datastores: Datastores,
    marketplace: Marketplace,
    images: Images,
    ident: int,
    name: str,
    remote: bool,
) -> None:
    path = marketplace.address(name) if remote else str(images.file(name))
    answers = []
    for ds_mad in (NATIVE, OURS):
        datastore = datastores.make(ds_mad, "qcow2", safe_dirs=str(images.directory))
        answers.append(same(mad.request("STAT", ident, messages.stat(path, datastore.described)), datastore))
    native, ours = answers
    assert ours == native
    assert native[0] == f"STAT SUCCESS {ident} {SIZE_MB}"


def test_stat_of_a_missing_image_fails_as_with_the_native_driver(
    mad: DatastoreMad, messages: Messages, datastores: Datastores, images: Images, ident: int
) -> None:
    answers = []
    for ds_mad in (NATIVE, OURS):
        datastore = datastores.make(ds_mad, "qcow2", safe_dirs=str(images.directory))
        document = messages.stat(str(images.directory / "missing"), datastore.described)
        answers.append(same(mad.request("STAT", ident, document), datastore))
    native, ours = answers
    assert ours == native
    assert native[0].startswith("STAT FAILURE")


@pytest.mark.parametrize("driver", ["qcow2", "raw"])
def test_mkfs_makes_what_the_native_driver_makes(
    mad: DatastoreMad, messages: Messages, datastores: Datastores, ident: int, driver: str
) -> None:
    answers = []
    for ds_mad in (NATIVE, OURS):
        datastore = datastores.make(ds_mad, driver)
        answer = mad.request("MKFS", ident, messages.mkfs(ident, driver, 8, datastore.described))
        answers.append(same(answer, datastore))
        assert answer.success, answer
        made = datastore.holds(answer.info)
        assert info(made)["format"] == driver
        assert datastore.files() == [made.name]
    native, ours = answers
    assert ours == native


def test_clone_copies_as_the_native_driver_does(
    mad: DatastoreMad, messages: Messages, datastores: Datastores, images: Images, ident: int
) -> None:
    answers = []
    for ds_mad in (NATIVE, OURS):
        datastore = datastores.make(ds_mad, "qcow2")
        original = f"{datastore.described.base_path}/original"
        Path(original).write_bytes(images.file("qcow2").read_bytes())
        answer = mad.request("CLONE", ident, messages.clone(ident, original, "qcow2", SIZE_MB, datastore.described))
        answers.append(same(answer, datastore))
        assert answer.success, answer
        clone = datastore.holds(answer.info.split(" ")[0])
        assert datastore.files() == sorted([clone.name, "original"])
        assert same_disk(images.file("raw"), "raw", clone, "qcow2")
    native, ours = answers
    assert ours == native


def test_rm_removes_an_image_and_answers_a_missing_one_as_the_native_driver_does(
    mad: DatastoreMad, messages: Messages, datastores: Datastores, ident: int
) -> None:
    answers = []
    for ds_mad in (NATIVE, OURS):
        datastore = datastores.make(ds_mad, "raw")
        image = Path(f"{datastore.described.base_path}/image")
        image.write_bytes(bytes(4096))
        document = messages.rm(ident, f"{datastore.described.base_path}/image", "raw", 1, datastore.described)
        there, missing = (mad.request("RM", ident, document) for _ in range(2))
        assert there.success, there
        assert datastore.files() == []
        answers.append((same(there, datastore), same(missing, datastore)))
    native, ours = answers
    assert ours == native


def test_monitor_reports_the_figures_of_the_native_driver(
    mad: DatastoreMad, messages: Messages, datastores: Datastores
) -> None:
    native, ours = datastores.make(NATIVE), datastores.make(OURS)

    def figures(datastore: OnDisk) -> dict[str, int]:
        number = datastore.described.ident
        answer = mad.request("MONITOR", number, messages.monitor(datastore.described))
        assert answer.success, answer
        told = base64.b64decode(answer.info, validate=True).decode()
        assert re.fullmatch(r"USED_MB=\d+\nFREE_MB=\d+\nTOTAL_MB=\d+\n?", told), told
        return {name: int(value) for name, value in (line.split("=") for line in told.split())}

    # Others use the file system, too: the native driver is asked before and after, and all three again when what
    # happened meanwhile was no steady growth.
    deadline = time.monotonic() + 60
    while True:
        before, told, after = figures(native), figures(ours), figures(native)
        if all(min(before[name], after[name]) <= told[name] <= max(before[name], after[name]) for name in told):
            break
        assert time.monotonic() < deadline, f"{told} is never between {before} and {after}"
