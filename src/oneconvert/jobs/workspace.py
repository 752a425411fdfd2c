"""The private directory of one running import, and the end of what dead imports left."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from oneconvert.errors import SettingsError, TransferError

LOG = logging.getLogger(__name__)

# Below the file system's directory: hidden, so that nothing takes it for an image.
PARENT = ".oneconvert"
LOCK = "lock"
# In a workspace: the files elsewhere that belong to the unfinished import, one path a line.
CLAIMS = "claims"
FALLBACK = Path("/var/tmp")  # noqa: S108 (a 0700 directory is made in it)
# What can be done about a file system that is full.
MORE_SPACE = "free some, or set scratch_dir in oneconvert.conf to a larger file system"
# A directory without a held lock is a leftover, but not in the moment between its making and its locking.
GRACE_SECONDS = 60.0


@contextmanager
def workspace(base: Path, label: str) -> Iterator[Path]:
    """A new 0700 directory below ``base``, removed with all that is in it and all that it claims.

    A process that is killed by SIGKILL cannot remove anything: the next import below the same ``base`` on the same
    host does. A lock that the kernel drops with the process tells the dead from the living.
    Raises SettingsError when the directory cannot be made.
    """
    parent = base / PARENT
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())
    directory: Path | None = None
    try:
        try:
            directory = _make(parent, f"{host}.{label}.")
            lock = (directory / LOCK).open("w")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise SettingsError(
                f"cannot make a directory for the import in {base}: {error.strerror}; "
                "see scratch_dir in oneconvert.conf"
            ) from None
        with lock:
            _sweep(parent, host, directory)
            yield directory
    finally:
        if directory:
            _remove(directory)
        with suppress(OSError):
            parent.rmdir()


def give_up_claims(directory: Path) -> None:
    """The files that the workspace claims are the datastore's from now on."""
    (directory / CLAIMS).unlink(missing_ok=True)


def place_of(path: Path) -> Path:
    """The directory that the workspace with ``path`` in it was made in: the name by which a person knows it."""
    return next((each.parent for each in (path, *path.parents) if each.name == PARENT), path)


def write_failure(path: Path, length: int, name: str, error: OSError) -> TransferError:
    """Why ``path``, a file in a workspace with ``length`` bytes of ``name`` in it, cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TransferError(f"no space left in {place_of(path.parent)} after {length} bytes of {name}: {MORE_SPACE}")
    return TransferError(f"cannot write {name} to {place_of(path.parent)}: {error.strerror}")


def workspace_base(scratch_dir: Path | None, base_path: str, usable: bool) -> Path:
    """Where the workspace goes: the admin's choice, else the datastore's file system, else /var/tmp.

    ``usable`` tells whether ``base_path``, the datastore's directory, is a place of this front-end at all. One that
    does not exist yet is stood for by the nearest directory above it, which is on the same file system.
    """
    if scratch_dir is not None:
        return scratch_dir
    if usable and base_path.startswith("/"):
        candidate = Path(os.path.realpath(base_path))
        while not os.path.lexists(candidate) and candidate != candidate.parent:
            candidate = candidate.parent
        if candidate != candidate.parent and candidate.is_dir() and os.access(candidate, os.W_OK | os.X_OK):
            return candidate
    return FALLBACK


def _make(parent: Path, prefix: str) -> Path:
    # Another import may remove the empty parent between our making it and our using it.
    for _ in range(20):
        try:
            parent.mkdir(mode=0o700, exist_ok=True)
            # In /var/tmp anybody could have made it, and could then exchange what is in it, or it for a link: one look
            # tells both, and a directory of ours nobody else can move there.
            found = parent.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise SettingsError(f"{parent} belongs to another user; remove it or set scratch_dir elsewhere")
            return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        except FileNotFoundError:
            continue
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))


def _remove(directory: Path) -> None:
    with suppress(OSError, UnicodeDecodeError):
        for line in (directory / CLAIMS).read_text().splitlines():
            if line.startswith("/"):
                LOG.warning("removing %s, which belongs to an import that failed", line)
                Path(line).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def _sweep(parent: Path, host: str, ours: Path) -> None:
    for directory in parent.glob(f"{host}.*"):
        try:
            if directory == ours or time.time() - directory.stat().st_mtime < GRACE_SECONDS:
                continue
            with (directory / LOCK).open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                LOG.warning("removing %s, which an import that was killed left", directory)
                _remove(directory)
        except OSError:  # held, or gone in the meantime
            continue
