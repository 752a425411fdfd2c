"""What whoever opens a source is told: settings of the network, and keys. Nothing that takes long to load."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from oneconvert.transfer.addresses import AddressRules


@dataclass(frozen=True)
class NetworkOptions:
    """How to talk to hosts. Timeouts in seconds: ``transfer_timeout`` is for the whole download, 0 for no limit.
    ``bandwidth``, the most that is taken, None for no limit, and ``min_rate``, the least that is tolerated, in bytes
    per second.
    """

    connect_timeout: float
    idle_timeout: float
    transfer_timeout: float
    bandwidth: int | None
    min_rate: int
    rules: AddressRules

    @property
    def patience(self) -> float:
        """Seconds that an answer may take to begin."""
        return self.connect_timeout + self.idle_timeout


@dataclass(frozen=True)
class HttpOptions(NetworkOptions):
    """How to talk to web servers. Without a ``ca_file`` the system's certificates are trusted; ``downgrade`` allows a
    redirect from https to http.

    ``fingerprint``, SHA-1 or SHA-256 in hex digits, is that of the one certificate to trust instead. ``cookie`` may be
    secret; it goes to the first server only. ``direct`` passes by every proxy.
    """

    verify: bool
    ca_file: Path | None
    downgrade: bool
    fingerprint: str = ""
    cookie: str = field(default="", repr=False)
    direct: bool = False


@dataclass(frozen=True)
class S3Credentials:
    """The attributes of the marketplace, as written by the admin; empty where there is none."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    region: str = ""
    endpoint: str = ""
    aws: str = ""
    force_path_style: str = ""
    signature_version: str = ""
