"""Who may log in to a vCenter: the OpenNebula host that was imported from it knows, or a file of the administrator."""

from __future__ import annotations

import configparser
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oneconvert.errors import OnedError, SettingsError
from oneconvert.opennebula.api import oned
from oneconvert.opennebula.request import VCenterPlace, vcenter_place

PORT = 443
READABLE_BY_OTHERS = 0o077


@dataclass(frozen=True)
class VCenterAccess:
    """A vCenter and a user of it."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)


def access_to(place: VCenterPlace, credentials: Path | None) -> VCenterAccess:
    """The vCenter of ``place``, with a user from the file ``credentials`` or, without one, from oned.

    Raises SettingsError where the file cannot be used, OnedError where oned does not know.
    """
    if credentials and place.host:
        return _from_file(credentials, place.host)
    imported = _from_host(place)
    return _from_file(credentials, imported.host) if credentials else imported


def place_of_datastore(datastore_id: int) -> VCenterPlace:
    """The vCenter datastore behind one of OpenNebula. Raises OnedError, MessageError when it is none of a vCenter."""
    with oned() as server:
        template = server.datastore.info(datastore_id).TEMPLATE
    return vcenter_place(datastore_id, lambda name: str(template.get(name) or "").strip())


def place_of_image(image_id: int) -> VCenterPlace:
    """The vCenter datastore that an image is in. Raises as ``place_of_datastore`` does."""
    with oned() as server:
        datastore_id = int(server.image.info(image_id).DATASTORE_ID)
    return place_of_datastore(datastore_id)


def imported_clusters(instance_id: str) -> frozenset[str]:
    """References (``domain-c7``) of the clusters of a vCenter that are hosts of OpenNebula. Raises OnedError."""
    with oned() as server:
        return frozenset(_text(each, "VCENTER_CCR_REF") for each in _hosts_of(server, instance_id))


def _from_host(place: VCenterPlace) -> VCenterAccess:
    """From the host with the same VCENTER_INSTANCE_ID. Its password is encrypted, and oned decrypts it for oneadmin."""
    with oned() as server:
        same = _hosts_of(server, place.instance_id)
        host = server.host.info(same[-1].ID, True) if same else None
    if host is None:
        raise OnedError(
            f"no OpenNebula host has the VCENTER_INSTANCE_ID of datastore {place.datastore_id}; import a cluster of "
            "that vCenter, or set vcenter_credentials in oneconvert.conf"
        )
    address, user, password = (_text(host, f"VCENTER_{name}") for name in ("HOST", "USER", "PASSWORD"))
    port = _text(host, "VCENTER_PORT") or str(PORT)
    if not ((place.host or address) and user and password and port.isdecimal()):
        raise OnedError(
            f"OpenNebula host {host.ID} lacks VCENTER_HOST, VCENTER_USER or VCENTER_PASSWORD; "
            "or set vcenter_credentials in oneconvert.conf"
        )
    return VCenterAccess(place.host or address, int(port), user, password)


def _hosts_of(server: Any, instance_id: str) -> list[Any]:
    """The hosts of OpenNebula that were imported from a vCenter."""
    return [each for each in server.hostpool.info().HOST if _text(each, "VCENTER_INSTANCE_ID") == instance_id]


def _text(host: Any, name: str) -> str:
    return str(host.TEMPLATE.get(name) or "").strip()


def _from_file(path: Path, host: str) -> VCenterAccess:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno())
            if mode.st_mode & READABLE_BY_OTHERS or mode.st_uid not in (os.geteuid(), 0):
                raise SettingsError(
                    f"{path} (vcenter_credentials) can be read by others ({stat.filemode(mode.st_mode)}); "
                    "give it to oneadmin, with mode 0600"
                )
            parser.read_file(file)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"cannot read {path} (vcenter_credentials): {getattr(error, 'strerror', None) or 'not UTF-8'}"
        ) from None
    except configparser.Error:
        # Its message would quote the line.
        raise SettingsError(
            f"{path} (vcenter_credentials) is not understood: sections and 'name = value' only"
        ) from None
    section = next((name for name in parser.sections() if name.lower() == host.lower()), None)
    if section is None:
        raise SettingsError(f"{path} (vcenter_credentials) has no section [{host}]")
    values = parser[section]
    port = values.get("port", str(PORT))
    if not (values.get("user") and values.get("password") and port.isdecimal()):
        raise SettingsError(
            f"{path} (vcenter_credentials): section [{host}] needs user and password, and port a number"
        )
    return VCenterAccess(host, int(port), values["user"], values["password"])
