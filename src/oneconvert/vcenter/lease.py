"""Leases: the right to send or fetch the disks of a virtual machine over HTTP, which lasts while somebody says so.

Source: VMware, "vSphere Web Services API", HttpNfcLease.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable

from pyVmomi import vim

from oneconvert.errors import OneconvertError, VCenterError
from oneconvert.jobs.signals import interruptible
from oneconvert.jobs.threads import thread
from oneconvert.vcenter.connection import Connection
from oneconvert.vcenter.faults import explained

LOG = logging.getLogger(__name__)

INITIALIZING = 3600.0
"""Seconds that a lease may take to become ready: a virtual machine is made meanwhile, and its disk may be zeroed."""
LOOK = 0.2
KEEP_ALIVE = 20.0
"""The most seconds between two signs of life; as a rule a lease ends that has none for five minutes."""
NOTHING_BUT_TRANSFER = 99
"""Percent: those at 100 are ended by 'complete' alone."""


@dataclass(frozen=True)
class LeasedDisk:
    """A disk of the lease. ``url`` may have ``*`` for the vCenter, ``thumbprint`` is that of the host's certificate,
    ``key`` what the manifest calls it.
    """

    url: str
    thumbprint: str
    key: str


class Lease:
    """A lease that was asked for; ``held`` gives one that is ready."""

    def __init__(self, connection: Connection, managed: Any, progress: Callable[[], float]) -> None:
        self._connection = connection
        self._managed = managed
        self._progress = progress
        self._ended = threading.Event()
        self._interval = KEEP_ALIVE

    def wait_until_ready(self) -> None:
        """Raises VCenterError when it fails, or does not become ready."""
        until = time.monotonic() + INITIALIZING
        while True:
            state = self._connection.properties(self._managed, "state", "error")
            if state["state"] == vim.HttpNfcLease.State.ready:
                self._interval = min(KEEP_ALIVE, self._info().leaseTimeout / 4)
                return
            if state["state"] != vim.HttpNfcLease.State.initializing:
                raise self._why(state)
            if time.monotonic() > until:
                raise VCenterError(f"{self._connection.server.name}: the lease does not become ready")
            with interruptible():
                time.sleep(LOOK)

    def disks(self) -> tuple[LeasedDisk, ...]:
        """What can be sent or fetched."""
        return tuple(
            LeasedDisk(each.url, each.sslThumbprint or "", each.key or "")
            for each in self._info().deviceUrl
            if each.disk
        )

    def machine(self) -> Any:
        """The virtual machine; nobody tells any more when the lease has ended."""
        return self._info().entity

    def sent(self, disk: LeasedDisk) -> int | None:
        """Bytes of a disk that the vCenter has sent; None where it does not tell."""
        manifest = self._connection.call(lambda: self._managed.GetManifest()) or ()
        sizes = [int(each.size) for each in manifest if each.disk and disk.key in (each.key, "") and each.size]
        return sizes[0] if sizes else None

    @property
    def server_name(self) -> str:
        """What messages call the vCenter."""
        return self._connection.server.name

    def keep_alive(self) -> None:
        """Give signs of life until ``stop``."""
        while not self._ended.wait(self._interval):
            percent = min(NOTHING_BUT_TRANSFER, int(100 * self._progress()))
            try:
                self._connection.call(partial(self._managed.Progress, percent))
            except VCenterError as error:
                LOG.warning("the lease: %s", error.sentence)

    def stop(self) -> None:
        """Make ``keep_alive`` end."""
        self._ended.set()

    def complete(self) -> None:
        """All is transferred. Raises VCenterError."""
        self._connection.call(lambda: self._managed.Complete())

    def abort(self) -> None:
        """Give up; what was imported so far is removed by the vCenter."""
        with suppress(VCenterError):
            self._connection.call(lambda: self._managed.Abort(None))

    def failure(self) -> VCenterError | None:
        """Why the vCenter ended it, which explains a transfer that failed; None when it did not."""
        with suppress(VCenterError):
            state = self._connection.properties(self._managed, "state", "error")
            if state["state"] == vim.HttpNfcLease.State.error:
                return self._why(state)
        return None

    def _info(self) -> Any:
        return self._connection.properties(self._managed, "info")["info"]

    def _why(self, state: dict[str, Any]) -> VCenterError:
        fault = state.get("error")
        if fault is None:
            return VCenterError(f"{self._connection.server.name}: it ended the lease")
        error = explained(fault, self._connection.server)
        return error if isinstance(error, VCenterError) else VCenterError(str(error))


@contextmanager
def held(connection: Connection, managed: Any, progress: Callable[[], float]) -> Iterator[Lease]:
    """Hold a lease while the context lasts; at its end it is complete, after an error aborted.

    ``progress`` is asked for the share that is done, 0 to 1. Raises VCenterError; where the vCenter ended the lease, it
    tells why it did, and not what that did to the transfer.
    """
    lease = Lease(connection, managed, progress)
    try:
        lease.wait_until_ready()
        with thread("lease", lease.keep_alive, lease.stop):
            yield lease
        lease.complete()
    except OneconvertError as error:
        reason = lease.failure()
        lease.abort()
        raise (reason or error) from None
    except BaseException:
        lease.abort()
        raise
