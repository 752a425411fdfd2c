"""What the vSphere API and the network say, as one plain line.

The faults are those of VMware's "vSphere Web Services API" reference; their texts are in the language of the server, so
those that matter have ours.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import urllib3
from pyVmomi import vim, vmodl

from oneconvert.errors import OneconvertError, VCenterError
from oneconvert.vcenter.server import VCenterServer
from oneconvert.vcenter.tls import presented_certificate, untrusted

CUT_OFF = (
    ConnectionResetError,
    BrokenPipeError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    http.client.IncompleteRead,
    http.client.RemoteDisconnected,
    urllib3.exceptions.IncompleteRead,
)


def explained(error: Exception, server: VCenterServer, host: str = "", port: int = 0) -> OneconvertError:
    """The error to raise for ``error``; ``host`` and ``port`` where it was not the vCenter itself that was asked."""
    if isinstance(error, OneconvertError):
        return error
    if isinstance(error, vmodl.MethodFault):
        return VCenterError(f"{server.name}: {_meaning(error, server)}", fault_name(error))
    host, port = host or server.host, port or server.port
    name = server.name if (host, port) == (server.host, server.port) else f"{server.name}, host {host}"
    return VCenterError(f"{name}: {_network_trouble(error, server, host, port)}")


def fault_name(error: Any) -> str:
    """The API's name of the kind of a fault."""
    return type(error).__name__.rpartition(".")[2]


def _meaning(fault: Any, server: VCenterServer) -> str:
    file = getattr(fault, "file", None) or "the file"
    if isinstance(fault, vim.fault.InvalidLogin):
        return f"it does not accept the password of {server.user}; check VCENTER_USER and VCENTER_PASSWORD of the host"
    # NotAuthenticated is a NoPermission.
    if isinstance(fault, vim.fault.NotAuthenticated):
        return "the login has expired"
    if isinstance(fault, vim.fault.NoPermission):
        where = f" on {_reference(fault.object)}" if fault.object else ""
        return f"{server.user} lacks the privilege {fault.privilegeId or 'to do this'}{where}"
    if isinstance(fault, vim.fault.NoDiskSpace):
        return f"datastore {fault.datastore or ''} is full".replace("  ", " ")
    if isinstance(fault, vim.fault.FileNotFound):
        return f"{file} does not exist"
    if isinstance(fault, vim.fault.FileAlreadyExists):
        return f"{file} exists already"
    if isinstance(fault, vim.fault.FileLocked):
        return f"{file} is in use"
    if isinstance(fault, vmodl.fault.ManagedObjectNotFound):
        return f"there is no object {_reference(fault.obj)}"
    if isinstance(fault, vmodl.fault.RequestCanceled):
        return "the task was cancelled"
    details = [fault_name(fault)]
    details += [str(value) for key in ("property", "invalidProperty", "name", "file") if (value := _text(fault, key))]
    return ": ".join([*details, _text(fault, "msg") or "no details"])


def _reference(managed: Any) -> str:
    return str(getattr(managed, "_moId", "of that name"))


def _text(fault: Any, key: str) -> str:
    value = getattr(fault, key, None)
    return value if isinstance(value, str) else ""


def _network_trouble(error: Exception, server: VCenterServer, host: str, port: int) -> str:
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            certificate = b""
            with suppress(OSError):
                certificate = presented_certificate(host, port, server.timeout)
            return untrusted(host, port, cause.verify_message, certificate)
        if isinstance(cause, socket.gaierror):
            return f"there is no host {host}"
        # Until Python 3.10 socket.timeout is no TimeoutError.
        if isinstance(cause, (TimeoutError, socket.timeout, urllib3.exceptions.TimeoutError)):
            return f"it does not answer for {server.timeout:g} seconds"
    for cause in causes:
        if isinstance(cause, CUT_OFF):
            return "it ended the connection in the middle of an answer, or of a transfer"
        if isinstance(cause, http.client.HTTPException):
            return f"it answers as no vCenter does ({cause})"
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            return f"it cannot be reached at port {port}: {cause.strerror}"
    return f"it answers as no vCenter does ({type(error).__name__})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those within it: urllib3 wraps what happened, sometimes twice."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        each = pending.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        pending += [*(part for part in each.args if isinstance(part, BaseException)), each.__cause__, each.__context__]
