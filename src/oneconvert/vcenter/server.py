"""How a vCenter is reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

HTTPS = 443


@dataclass(frozen=True)
class VCenterServer:
    """A vCenter, and who logs in there.

    Its certificate must be one of ``thumbprints`` (SHA-1 or SHA-256, in digits with colons or without) or be signed by
    one of ``ca_file``; with neither, by one that this host trusts. ``timeout`` is the time in seconds to connect, and
    for the next bytes of an answer.
    """

    host: str
    user: str
    password: str = field(repr=False)
    port: int = HTTPS
    ca_file: Path | None = None
    thumbprints: tuple[str, ...] = ()
    timeout: float = 60.0

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"vCenter {self.host}" if self.port == HTTPS else f"vCenter {self.host}:{self.port}"
