"""Where images come from: one module per scheme, each with the same ``open``; this is their registry.

A module is loaded when its scheme is wanted: the library for http takes a third of the time that an action needs to
begin.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Protocol

from oneconvert.errors import NotAllowedError
from oneconvert.transfer.directories import DirectoryRules
from oneconvert.transfer.options import HttpOptions, S3Credentials

if TYPE_CHECKING:
    from oneconvert.transfer.http_parts import Parts

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class Source(Protocol):
    """An opened image: its bytes once, front to back, in chunks.

    ``name`` stands for it in messages and holds nothing secret. ``length`` is in bytes, None when it is not known.
    Iterating raises TransferError when fewer bytes arrive than were announced.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def length(self) -> int | None: ...  # noqa: D102
    def __iter__(self) -> Iterator[bytes]: ...
    def parts(self) -> Parts | None:
        """A way to read parts of it out of turn, where there is one."""

    def stop(self) -> None:
        """Make another thread that waits for bytes give up."""


@dataclass(frozen=True)
class SourceOptions:
    """What the openers need to know: the settings of the network and the admin's rules for local files.

    ``s3`` is None for an image that comes from no marketplace with such keys. ``vcenter`` opens what a vCenter has.
    """

    network: HttpOptions
    s3: S3Credentials | None
    directories: DirectoryRules
    vcenter: Callable[[str], AbstractContextManager[Source]]


Opener = Callable[[str, SourceOptions], "AbstractContextManager[Source]"]


def _open_file(location: str, options: SourceOptions) -> AbstractContextManager[Source]:
    from oneconvert.transfer.local import open_file

    return open_file(location, options.directories)


def _open_url(location: str, options: SourceOptions) -> AbstractContextManager[Source]:
    from oneconvert.transfer.http import open_url

    return open_url(location, options.network)


def _open_object(location: str, options: SourceOptions) -> AbstractContextManager[Source]:
    if options.s3 is None:
        raise NotAllowedError(
            "s3:// images are fetched with the keys of the marketplace that their app is in; this one comes from no "
            "marketplace with ACCESS_KEY_ID and SECRET_ACCESS_KEY"
        )
    from oneconvert.transfer.s3 import open_object

    return open_object(location, options.s3, options.network)


def _open_remote_file(location: str, options: SourceOptions) -> AbstractContextManager[Source]:
    from oneconvert.transfer.ssh import open_remote_file

    return open_remote_file(location, options.network)


OPENERS: dict[str, Opener] = {
    "": _open_file,
    "http": _open_url,
    "https": _open_url,
    "s3": _open_object,
    "ssh": _open_remote_file,
    "vcenter": lambda location, options: options.vcenter(location),
}


def scheme_of(location: str) -> str:
    """The scheme of a URL in lower case; empty for a path."""
    match = SCHEME.match(location)
    return match.group(1).lower() if match else ""


def open_source(location: str, options: SourceOptions) -> AbstractContextManager[Source]:
    """Open ``location``. Raises NotAllowedError for a scheme that is not in the registry."""
    scheme = scheme_of(location)
    if scheme not in OPENERS:
        raise NotAllowedError(
            f"images cannot be fetched by {scheme}://; use http://, https://, s3://, ssh://, vcenter:// or a path on "
            "the front-end"
        )
    return OPENERS[scheme](location, options)
