"""A datastore of vSphere: its directories, files and virtual disks.

Paths are relative to the root of the datastore, ``one/7/one-7.vmdk``. A virtual disk is named by its descriptor; its
content is a file beside that which vSphere makes, moves and deletes with it (FileManager, VirtualDiskManager and
HostDatastoreBrowser of the "vSphere Web Services API" reference; /folder: its "Programming Guide", HTTP access).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from pyVmomi import vim

from oneconvert.errors import VCenterError
from oneconvert.jobs.signals import interruptible
from oneconvert.vcenter.connection import Connection
from oneconvert.vcenter.http import Answer, FileAddress

DISK_TYPE = "thin"
ADAPTER_TYPE = "lsiLogic"

# Seconds, for a server that has lost an upload to notice that.
SETTLE = 15.0
PAUSE = 0.5


@dataclass(frozen=True)
class Space:
    """Sizes in bytes; ``accessible`` tells whether any host reaches the datastore."""

    capacity: int
    free: int
    accessible: bool


@dataclass(frozen=True)
class FileEntry:
    """A file or a directory. ``size`` is in bytes, of a disk with its content; ``capacity``, in bytes, is for disks."""

    name: str
    size: int
    is_directory: bool
    capacity: int | None = None


class Datastore:
    """One datastore; ``managed`` is its object and ``datacenter`` that of its datacenter, both of pyVmomi."""

    def __init__(self, connection: Connection, reference: str) -> None:
        """Find it by its reference, ``datastore-12``. Raises VCenterError when there is none."""
        self.connection = connection
        self.reference = reference
        self.managed = connection.object(vim.Datastore, reference)
        found = connection.properties(self.managed, "name", "parent", "browser")
        self.name: str = found["name"]
        self._browser = found["browser"]
        self.datacenter, self.datacenter_path = self._find_datacenter(found.get("parent"))

    def path(self, path: str) -> str:
        """How the API writes the path of a file."""
        return f"[{self.name}] {path}".rstrip()

    def space(self) -> Space:
        """How much fits. vSphere counts from time to time, so it is asked to do so now."""
        with suppress(VCenterError):  # a privilege that is not needed otherwise
            self.connection.call(lambda: self.managed.RefreshDatastore())
        names = ("summary.capacity", "summary.freeSpace", "summary.accessible")
        found = self.connection.properties(self.managed, *names)
        capacity, free, accessible = (found.get(name) for name in names)
        return Space(int(capacity or 0), int(free or 0), bool(accessible))

    def make_directory(self, path: str) -> None:
        """Make a directory, and those above it, where they are not there."""
        manager = self.connection.content.fileManager
        with _accepting("FileAlreadyExists"):
            self.connection.call(lambda: manager.MakeDirectory(self.path(path), self.datacenter, True))

    def delete_directory_if_empty(self, path: str) -> bool:
        """Delete a directory unless something is in it; whether it was deleted."""
        # vSphere's own deleting is recursive.
        if self.entries(path) != ():
            return False
        self.delete_file(path, missing_ok=True)
        return True

    def entries(self, path: str) -> tuple[FileEntry, ...] | None:
        """What is in a directory; None where there is none. Disks are without their capacity."""
        return self._search(path, "*", None)

    def look_up(self, path: str) -> FileEntry | None:
        """A file or a directory, with the capacity where it is a virtual disk; None where there is none."""
        parts = PurePosixPath(path)
        # In patterns * and ? are special, and there is no way to write others for sure.
        pattern = "".join("?" if each in "*?[]\\" else each for each in parts.name)
        directory = "" if str(parts.parent) == "." else str(parts.parent)
        for query in (_disk_query(), None) if parts.suffix.lower() == ".vmdk" else (None,):
            for entry in self._search(directory, pattern, query) or ():
                if entry.name == parts.name:
                    return entry
        return None

    def check_absent(self, path: str) -> None:
        """Raise VCenterError (FileAlreadyExists) when there is something at ``path``."""
        if self.look_up(path):
            raise VCenterError(f"{self.connection.server.name}: {self.path(path)} exists already", "FileAlreadyExists")

    def delete_file(self, path: str, missing_ok: bool = False) -> None:
        """Delete a file, or a directory with all that is in it. For disks there is ``delete_disk``."""
        manager = self.connection.content.fileManager
        with _accepting("FileNotFound" if missing_ok else ""):
            self.connection.run(partial(manager.DeleteDatastoreFile_Task, self.path(path), self.datacenter))

    def create_disk(
        self, path: str, capacity: int, disk_type: str = DISK_TYPE, adapter_type: str = ADAPTER_TYPE
    ) -> None:
        """Make an empty disk of ``capacity`` bytes, rounded up to KiB; its directory must be there."""
        spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(
            diskType=disk_type, adapterType=adapter_type, capacityKb=-(-capacity // 1024)
        )
        manager = self.connection.content.virtualDiskManager
        start = partial(manager.CreateVirtualDisk_Task, self.path(path), self.datacenter, spec)
        self.connection.run(start, long=True)

    def copy_disk(self, source: str, target: str, to: Datastore) -> None:
        """Copy a disk to the datastore ``to``. When this is interrupted, there may be a part of the target."""
        manager = self.connection.content.virtualDiskManager
        names = (self.path(source), self.datacenter, to.path(target), to.datacenter)
        self.connection.run(partial(manager.CopyVirtualDisk_Task, *names, None, False), long=True)

    def copy_file(self, source: str, target: str, to: Datastore) -> None:
        """Copy a file that is no disk; otherwise as ``copy_disk``."""
        manager = self.connection.content.fileManager
        names = (self.path(source), self.datacenter, to.path(target), to.datacenter)
        self.connection.run(partial(manager.CopyDatastoreFile_Task, *names, False), long=True)

    def move_disk(self, source: str, target: str) -> None:
        """Move a disk within the datastore; the target's directory must be there."""
        manager = self.connection.content.virtualDiskManager
        names = (self.path(source), self.datacenter, self.path(target), self.datacenter)
        self.connection.run(partial(manager.MoveVirtualDisk_Task, *names, False))

    def delete_disk(self, path: str, missing_ok: bool = False) -> None:
        """Delete a disk with its content, also one whose content is gone."""
        manager = self.connection.content.virtualDiskManager
        try:
            self.connection.run(partial(manager.DeleteVirtualDisk_Task, self.path(path), self.datacenter))
        except VCenterError as error:
            if error.fault != "FileNotFound":
                raise
            self.delete_file(path, missing_ok)

    def size(self, path: str) -> int | None:
        """Bytes of a file; None where there is none. Of a disk, that is its descriptor alone."""
        with _accepting("FileNotFound"), self._open("HEAD", path) as answer:
            return answer.length
        return None

    @contextmanager
    def get(self, path: str) -> Iterator[Answer]:
        """The content of a file. Raises VCenterError (FileNotFound)."""
        with self._open("GET", path) as answer:
            yield answer

    def address(self, path: str) -> FileAddress:
        """Where somebody else can ask for a file. Raises VCenterError."""
        return self.connection.files.address(self._url(path))

    def put(self, path: str, content: Iterable[bytes], length: int) -> None:
        """Upload a file of ``length`` bytes that is not there yet; its directory must be.

        Whatever fails, also in ``content``, the file is removed. Raises VCenterError, and what ``content`` raises.
        """
        # This also sees to it that the login is a live one: content can be sent only once.
        self.check_absent(path)
        try:
            headers = {"Content-Type": "application/octet-stream"}
            request = self.connection.files.open("PUT", self._url(path), body=content, length=length, headers=headers)
            with interruptible(), request:
                pass
            # A full datastore may have taken a part of it and said nothing.
            stored = self.size(path)
            if stored != length:
                raise VCenterError(
                    f"{self.connection.server.name}: of {self.path(path)} only {stored or 0} of {length} bytes were "
                    "stored; is the datastore full?",
                    "NoDiskSpace",
                )
        except BaseException:
            self._remove_part(path)
            raise

    def _remove_part(self, path: str) -> None:
        """Delete what an upload has left. The server may still be busy with what it received, or just begin with it."""
        until = time.monotonic() + SETTLE
        while time.monotonic() < until:
            try:
                self.delete_file(path, missing_ok=True)
                time.sleep(PAUSE)
                if not self.look_up(path):
                    return
            except VCenterError as error:
                if error.fault not in ("FileLocked", "CannotDeleteFile"):
                    return
                time.sleep(PAUSE)

    @contextmanager
    def _open(self, method: str, path: str, headers: dict[str, str] | None = None) -> Iterator[Answer]:
        """Ask for a file, once more after another login where the first one has expired."""
        login = self.connection.login
        with ExitStack() as stack:
            try:
                answer = stack.enter_context(self.connection.files.open(method, self._url(path), headers=headers))
            except VCenterError as error:
                if error.fault != "NotAuthenticated":
                    raise
                self.connection.log_in(unless_after=login)
                answer = stack.enter_context(self.connection.files.open(method, self._url(path), headers=headers))
            yield answer

    def _url(self, path: str) -> str:
        place = f"dcPath={quote(self.datacenter_path, safe='')}&dsName={quote(self.name, safe='')}"
        return f"/folder/{quote(path)}?{place}"

    def _search(self, directory: str, pattern: str, query: Any) -> tuple[FileEntry, ...] | None:
        spec = vim.host.DatastoreBrowser.SearchSpec(
            matchPattern=[pattern],
            query=[query] if query else [],
            details=vim.host.DatastoreBrowser.FileInfo.Details(
                fileType=True, fileSize=True, modification=False, fileOwner=False
            ),
        )
        with _accepting("FileNotFound"):
            found = self.connection.run(partial(self._browser.SearchDatastore_Task, self.path(directory), spec))
            return tuple(_entry(each) for each in found.file or ())
        return None

    def _find_datacenter(self, parent: Any) -> tuple[Any, str]:
        """The datacenter above, and its path in the inventory without the root folder."""
        datacenter: Any = None
        names: list[str] = []
        while parent is not None:
            found = self.connection.properties(parent, "name", "parent")
            above = found.get("parent")
            if isinstance(parent, vim.Datacenter):
                datacenter = parent
            if datacenter is not None and above is not None:
                names.insert(0, found["name"])
            parent = above
        if datacenter is None:
            raise VCenterError(f"{self.connection.server.name}: the datastore {self.name} is in no datacenter")
        return datacenter, "/".join(names)


def _disk_query() -> Any:
    browser = vim.host.DatastoreBrowser
    return browser.VmDiskQuery(
        details=browser.VmDiskQuery.Details(
            diskType=False, capacityKb=True, hardwareVersion=False, controllerType=False, diskExtents=False, thin=True
        )
    )


def _entry(found: Any) -> FileEntry:
    browser = vim.host.DatastoreBrowser
    capacity = found.capacityKb if isinstance(found, browser.VmDiskInfo) else None
    return FileEntry(
        name=found.path,
        size=int(found.fileSize or 0),
        is_directory=isinstance(found, browser.FolderInfo),
        capacity=int(capacity) * 1024 if capacity else None,
    )


@contextmanager
def _accepting(*faults: str) -> Iterator[None]:
    """These faults are no error."""
    try:
        yield
    except VCenterError as error:
        if not error.fault or error.fault not in faults:
            raise
