"""A seat for the native ``cp``: a directory that mirrors ``remotes`` and in which the downloader is ours.

The shell drivers of OpenNebula find what they need beside themselves (``$(dirname $0)/../downloader.sh``). Started
from the seat, through a symbolic link to the unmodified script, a driver chooses its target and runs our downloader,
which moves the finished image there instead of copying it.
"""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

DOWNLOADER = "downloader.sh"


def can_sit(script: Path) -> bool:
    """Whether the driver is a script that looks for the downloader beside itself."""
    try:
        text = script.read_bytes()
    except OSError:
        return False
    return text.startswith(b"#!") and b"/downloader.sh" in text and b"dirname" in text


def take_seat(seat: Path, remotes: Path, native: str) -> None:
    """Build the mirror in the directory ``seat``, which must not exist yet."""
    ours = seat / "datastore" / native
    ours.mkdir(parents=True)
    _link_all(remotes, seat, leave_out="datastore")
    _link_all(remotes / "datastore", seat / "datastore", leave_out=native)
    _link_all(remotes / "datastore" / native, ours, leave_out="")
    downloader = seat / "datastore" / DOWNLOADER
    downloader.unlink(missing_ok=True)
    source = resources.files("oneconvert.opennebula").joinpath(DOWNLOADER)
    with source.open("rb") as packaged, downloader.open("wb") as copy:
        shutil.copyfileobj(packaged, copy)
    downloader.chmod(0o700)


def _link_all(origin: Path, mirror: Path, leave_out: str) -> None:
    for entry in origin.iterdir():
        if entry.name != leave_out:
            (mirror / entry.name).symlink_to(entry)
