"""The native datastore drivers: what each takes, and how to run one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from oneconvert.errors import HandOverError
from oneconvert.images.format import ImageFormat
from oneconvert.jobs.process import UNLIMITED, Completed, run
from oneconvert.jobs.signals import restore_signals
from oneconvert.opennebula.invocation import Convention, Invocation

VCENTER = "vcenter"
"""The driver that OpenNebula has up to 6.10, and the scheme of the disks that a vCenter has."""
# Drivers that store one format whatever the DRIVER of the datastore says: their volumes are block devices.
ONLY_FORMAT = {
    "ceph": ImageFormat.RAW,
    "lvm": ImageFormat.RAW,
    "linstor": ImageFormat.RAW,
    "storpool": ImageFormat.RAW,
}
# Drivers that store nothing: they register what is there already.
REGISTERS_ONLY = frozenset({"dev", "iscsi_libvirt"})
# Drivers whose images are no disks that we could convert.
NOT_OURS = frozenset({"dummy", "virtiofs", "rsync", "restic", "interactive"})


def action_path(invocation: Invocation, action: str) -> Path:
    """The native driver's own executable for ``action``."""
    return invocation.remotes / "datastore" / invocation.native / action


def is_alone(invocation: Invocation) -> bool:
    """Whether there is no native driver behind us: OpenNebula has none for vCenter from 7.0 on."""
    return not os.access(action_path(invocation, "cp"), os.X_OK)


def become(invocation: Invocation, native: str = "") -> NoReturn:
    """Replace this process by the native action, or that of another native driver: same arguments, same document, its
    own output and exit status.
    """
    program = invocation.remotes / "datastore" / (native or invocation.native) / invocation.action
    if invocation.convention is not Convention.ARGUMENT:
        # A file, not a pipe: nobody would be left to fill a pipe.
        document = os.memfd_create("document")
        view = memoryview(invocation.payload)
        while view:
            view = view[os.write(document, view) :]
        os.lseek(document, 0, os.SEEK_SET)
        os.dup2(document, 0)
        os.close(document)
    restore_signals()
    try:
        os.execv(program, [str(program), *invocation.arguments])  # noqa: S606 (no shell)
    except OSError as error:
        raise HandOverError(f"cannot start the native driver {program}: {error.strerror}") from None


def run_action(program: Path, invocation: Invocation) -> Completed:
    """Run a native action and wait for it, with the arguments and the document of ``invocation``."""
    document = b"" if invocation.convention is Convention.ARGUMENT else invocation.payload
    return run([program, *invocation.arguments], UNLIMITED, stdin=document)
