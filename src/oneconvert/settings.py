"""oneconvert.conf: every setting, its default and its check. The file that is installed explains them."""

from __future__ import annotations

import configparser
import ipaddress
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Callable

from oneconvert.errors import SettingsError

SECTION = "oneconvert"
HOST = re.compile(r"\*|(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")
THUMBPRINT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Settings:
    """The settings; times in seconds, sizes in bytes, ``min_rate`` in bytes per second. ``READERS`` says which words a
    setting may have. None stands for empty, a ``transfer_timeout`` of 0 for no limit, a ``cache_size`` of 0 for none;
    ``vcenter_thumbprint`` has hex digits in lower case.
    """

    scratch_dir: Path | None = None
    unset_driver: str = "keep"
    size_policy: str = "warn"
    max_virtual_size: int = 16 * 1024**4
    tls_verify: bool = True
    tls_ca_file: Path | None = None
    connect_timeout: float = 30.0
    idle_timeout: float = 60.0
    min_rate: int = 1024
    transfer_timeout: float = 86400.0
    private_addresses: str = "allow"
    allowed_hosts: tuple[str, ...] = ()
    cache_size: int = 0
    cache_dir: Path | None = None
    vcenter_upload: str = "import"
    vcenter_sources: str = "admins"
    vcenter_ca_file: Path | None = None
    vcenter_thumbprint: tuple[str, ...] = ()
    vcenter_credentials: Path | None = None
    log_file: Path | None = None


def _choice(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return text

    return read


def _size(text: str) -> int:
    digits, suffix = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not (digits.isascii() and digits.isdecimal()) or suffix not in ("", "K", "M", "G", "T"):
        raise ValueError("a size in bytes, or with K, M, G or T behind it")
    factor: int = 1024 ** " KMGT".index(suffix or " ")
    return int(digits) * factor


def _yes_or_no(text: str) -> bool:
    if text.lower() not in ("yes", "no"):
        raise ValueError("yes or no")
    return text.lower() == "yes"


def _file(text: str) -> Path | None:
    path = _path(text)
    if path and not path.is_file():
        raise ValueError("a file that exists")
    return path


def _path(text: str) -> Path | None:
    if text and not text.startswith("/"):
        raise ValueError("an absolute path")
    return Path(text) if text else None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ValueError("a number of seconds")
    return seconds


def _seconds_or_none(text: str) -> float:
    return 0.0 if text == "0" else _seconds(text)


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(each.lower().rstrip(".") for each in text.replace(",", " ").split())
    for each in hosts:
        if HOST.fullmatch(each):
            continue
        try:
            ipaddress.ip_network(each)
        except ValueError:
            raise ValueError("names of hosts, *.names of domains, addresses or networks such as 10.0.0.0/8") from None
    return hosts


def _thumbprints(text: str) -> tuple[str, ...]:
    found = tuple(each.replace(":", "").lower() for each in text.replace(",", " ").split())
    if not all(THUMBPRINT.fullmatch(each) for each in found):
        raise ValueError("SHA-1 or SHA-256 digests of certificates, with or without colons")
    return found


READERS: dict[str, Callable[[str], Any]] = {
    "scratch_dir": _path,
    "size_policy": _choice("warn", "refuse"),
    "max_virtual_size": _size,
    "unset_driver": _choice("keep", "qcow2", "raw"),
    "tls_verify": _yes_or_no,
    "tls_ca_file": _file,
    "connect_timeout": _seconds,
    "idle_timeout": _seconds,
    "min_rate": _size,
    "transfer_timeout": _seconds_or_none,
    "private_addresses": _choice("allow", "refuse"),
    "allowed_hosts": _hosts,
    "cache_size": _size,
    "cache_dir": _path,
    "vcenter_upload": _choice("import", "native"),
    "vcenter_sources": _choice("admins", "all"),
    "vcenter_ca_file": _file,
    "vcenter_thumbprint": _thumbprints,
    "vcenter_credentials": _file,
    "log_file": _path,
}


def read_settings(remotes: Path) -> Settings:
    """Read ``<remotes>/etc/oneconvert/oneconvert.conf``; without the file every setting has its default.

    Raises SettingsError naming the file and the setting.
    """
    path = remotes / "etc" / "oneconvert" / "oneconvert.conf"
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#",))
    try:
        with path.open(encoding="utf-8-sig") as file:
            parser.read_file(file)
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    except configparser.Error as error:
        raise SettingsError(f"{path} is not understood: {' '.join(error.message.split())}") from None
    unknown = [name for name in parser.sections() if name != SECTION]
    if unknown:
        raise SettingsError(f"{path}: there is no section [{unknown[0]}], only [{SECTION}]")
    given = dict(parser[SECTION]) if parser.has_section(SECTION) else {}
    known = {field.name for field in fields(Settings)}
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in known:
            raise SettingsError(f"{path}: there is no setting {name}")
        try:
            values[name] = READERS[name](text.strip())
        except ValueError as error:
            raise SettingsError(f"{path}: {name} must be {error}") from None
    return Settings(**values)


def opennebula_directories() -> tuple[Path, Path, Path]:
    """OpenNebula's var, etc and log directories: below ONE_LOCATION where that is set, else the system's."""
    location = os.environ.get("ONE_LOCATION")
    if location:
        return Path(location, "var"), Path(location, "etc"), Path(location, "var")
    return Path("/var/lib/one"), Path("/etc/one"), Path("/var/log/one")
