"""Which files of the front-end may become images: SAFE_DIRS and RESTRICTED_DIRS, taken at their word."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rig.front_end import Answer, FrontEnd, messages, same_disk
from rig.images import SIZE_MB, Images


@pytest.fixture
def shelf(tmp_path: Path, images: Images) -> Path:
    """A directory with an image in it."""
    directory = tmp_path / "shelf"
    directory.mkdir()
    (directory / "disk.vmdk").write_bytes(images.file("vmdk-stream").read_bytes())
    return directory


def register(front_end: FrontEnd, path: object, safe: object = "/nowhere", restricted: str = "/") -> Answer:
    store = front_end.datastore("qcow2", safe_dirs=str(safe), restricted_dirs=restricted)
    answer = front_end.call("cp", messages().cp(42, str(path), SIZE_MB, store))
    assert len(front_end.left_in(store)) == (answer.status == 0)
    return answer


def assert_not_allowed(answer: Answer) -> None:
    assert answer.status == 1
    assert "SAFE_DIRS and RESTRICTED_DIRS" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_a_file_in_a_safe_directory(front_end: FrontEnd, shelf: Path, images: Images) -> None:
    answer = register(front_end, shelf / "disk.vmdk", safe=f"/elsewhere {shelf}")
    assert answer.status == 0, answer.stderr
    assert same_disk(images.file("raw"), "raw", answer.source, "qcow2")
    assert (shelf / "disk.vmdk").exists(), "the user's file is copied, not taken"


def test_a_path_may_have_blanks_quotes_and_accents(front_end: FrontEnd, shelf: Path) -> None:
    odd = shelf / 'l\'été $(id) "1" & 2.vmdk'
    (shelf / "disk.vmdk").rename(odd)
    answer = register(front_end, odd, safe=shelf)
    assert answer.status == 0, answer.stderr


def test_a_file_outside_of_safe_directories(front_end: FrontEnd, shelf: Path) -> None:
    assert_not_allowed(register(front_end, shelf / "disk.vmdk"))


def test_a_directory_whose_name_begins_like_a_safe_one(front_end: FrontEnd, shelf: Path) -> None:
    other = shelf.with_name("shelf-evil")
    shelf.rename(other)
    assert_not_allowed(register(front_end, other / "disk.vmdk", safe=shelf))


def test_a_safe_directory_is_a_name_and_no_pattern(front_end: FrontEnd, shelf: Path) -> None:
    assert_not_allowed(register(front_end, shelf / "disk.vmdk", safe=str(shelf.parent) + "/.*"))


def test_a_restricted_directory_forbids_only_what_is_in_it(front_end: FrontEnd, shelf: Path) -> None:
    assert register(front_end, shelf / "disk.vmdk", restricted="/etc/one /somewhere").status == 0
    assert_not_allowed(register(front_end, shelf / "disk.vmdk", restricted=str(shelf)))


@pytest.mark.parametrize("directory", ["var", "etc"])
def test_opennebulas_own_directories_are_restricted_always(front_end: FrontEnd, images: Images, directory: str) -> None:
    path = front_end.location / directory / "disk.vmdk"
    path.write_bytes(images.file("vmdk-stream").read_bytes())
    assert_not_allowed(register(front_end, path, restricted="/somewhere"))


def test_dots_in_a_path_lead_nowhere(front_end: FrontEnd, shelf: Path) -> None:
    (shelf / "safe").mkdir()
    assert_not_allowed(register(front_end, shelf / "safe" / ".." / "disk.vmdk", safe=shelf / "safe"))


@pytest.mark.parametrize("link", [os.symlink, None])
def test_a_link_is_judged_by_where_it_leads(front_end: FrontEnd, shelf: Path, tmp_path: Path, link: object) -> None:
    safe = tmp_path / "safe"
    if link:
        safe.mkdir()
        (safe / "disk.vmdk").symlink_to(shelf / "disk.vmdk")
        assert_not_allowed(register(front_end, safe / "disk.vmdk", safe=safe))
    else:
        safe.symlink_to(shelf)
        assert register(front_end, safe / "disk.vmdk", safe=safe).status == 0, "a safe directory may be a link"


def test_a_link_that_changes_all_the_time_never_leads_outside(front_end: FrontEnd, shelf: Path, tmp_path: Path) -> None:
    """The file that is read is the one that was asked about, whatever happens to names in between."""
    safe = tmp_path / "safe"
    safe.mkdir()
    (safe / "mine").write_bytes((shelf / "disk.vmdk").read_bytes())
    secret = shelf / "secret"
    secret.write_bytes(b"canary!!" * 65536)
    flip = (
        "import os, sys\n"
        "for i in range(10**7):\n"
        "    os.symlink(sys.argv[1 + i % 2], sys.argv[3] + '.new'); os.replace(sys.argv[3] + '.new', sys.argv[3])\n"
    )
    link = safe / "link"
    flipper = subprocess.Popen([sys.executable, "-c", flip, safe / "mine", secret, link])
    try:
        store = front_end.datastore(None, safe_dirs=str(safe))
        for _ in range(12):
            answer = front_end.call("cp", messages().cp(42, str(link), SIZE_MB, store))
            if answer.status == 0:
                assert b"canary" not in answer.source.read_bytes()
            else:
                assert "SAFE_DIRS" in answer.stderr or "No such file" in answer.stderr
    finally:
        flipper.send_signal(signal.SIGKILL)
        flipper.wait()


def test_what_is_missing_is_told_where_it_is_allowed_only(front_end: FrontEnd, shelf: Path) -> None:
    allowed = register(front_end, shelf / "missing.vmdk", safe=shelf)
    assert "No such file" in allowed.stderr
    assert_not_allowed(register(front_end, shelf / "missing.vmdk"))


def test_a_fifo_does_not_stop_the_import(front_end: FrontEnd, shelf: Path) -> None:
    os.mkfifo(shelf / "fifo")
    answer = register(front_end, shelf / "fifo", safe=shelf)
    assert "neither a regular file nor a block device" in answer.stderr


@pytest.mark.parametrize("path", ["disk.vmdk", "../disk.vmdk", "json:{}", "-o", "nbd:127.0.0.1:1"])
def test_a_path_that_is_not_absolute(front_end: FrontEnd, path: str) -> None:
    assert "neither a URL nor an absolute path" in register(front_end, path).stderr


def test_a_directory_is_no_image(front_end: FrontEnd, shelf: Path) -> None:
    assert register(front_end, shelf, safe=shelf).status == 1


def test_the_home_of_oneadmin_is_restricted_always(front_end: FrontEnd, shelf: Path) -> None:
    store = front_end.datastore("qcow2", safe_dirs="/nowhere", restricted_dirs="/somewhere")
    document = messages().cp(42, str(shelf / "disk.vmdk"), SIZE_MB, store)
    assert_not_allowed(front_end.call("cp", document, HOME=str(shelf)))
