"""The private directory of an import, where others may write beside it."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from pathlib import Path

import pytest

from oneconvert.errors import SettingsError
from oneconvert.jobs.workspace import PARENT, workspace

NOBODY = 65534
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # renameat2(2)


def exchange(one: Path, other: Path) -> None:
    """Have two names change places at once."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of another user")
def test_a_directory_that_becomes_a_link_between_two_looks_is_not_used(tmp_path: Path) -> None:
    """Another user's directory, exchanged all the time for a link to one of ours."""
    elsewhere, place, link = tmp_path / "elsewhere", tmp_path / PARENT, tmp_path / "link"
    for directory in (elsewhere, place):
        directory.mkdir()
        (directory / "kept").touch()
    os.chown(place, NOBODY, NOBODY)
    link.symlink_to(elsewhere)
    before = elsewhere.stat().st_mtime_ns
    stop = threading.Event()

    def attack() -> None:
        while not stop.is_set():
            exchange(place, link)

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            with pytest.raises(SettingsError, match="belongs to another user"), workspace(tmp_path, "42"):
                pass
    finally:
        stop.set()
        attacker.join()
    assert elsewhere.stat().st_mtime_ns == before, "nothing was ever made in it"
