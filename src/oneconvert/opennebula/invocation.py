"""How oned called us: which action of which driver, and where the document came in.

The conventions, by release (one_datastore.rb of each): up to 6.6.1 ``<base64> <id>``; with ``-i`` in the MAD's
ARGUMENTS (6.4.4, 6.6.2 and later) ``- <id>`` and the document on standard input; from 6.8.0 on ``<id>`` and
standard input. They can be told apart by the arguments alone, so each call is looked at by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from oneconvert.errors import MessageError

PREFIX = "oneconvert_"


class Convention(Enum):
    """Where the document is."""

    ARGUMENT = "argument"
    DASH = "dash"
    STDIN = "stdin"


@dataclass(frozen=True)
class Invocation:
    """One call by oned.

    ``program`` is our executable below ``remotes/datastore/oneconvert_<native>/``, ``arguments`` and ``payload`` (the
    base64 document) are as received, ``object_id`` is the last argument: the image's id for ``cp``.
    """

    program: Path
    arguments: tuple[str, ...]
    convention: Convention
    payload: bytes
    object_id: str

    @property
    def action(self) -> str:
        """The driver action, e.g. ``cp``."""
        return self.program.name

    @property
    def native(self) -> str:
        """The native driver behind us, e.g. ``fs`` for ``oneconvert_fs``."""
        return self.program.parent.name[len(PREFIX) :]

    @property
    def remotes(self) -> Path:
        """OpenNebula's ``remotes`` directory."""
        return self.program.parent.parent.parent

    def with_payload(self, payload: bytes) -> Invocation:
        """The same call with another document."""
        arguments = self.arguments
        if self.convention is Convention.ARGUMENT:
            arguments = (payload.decode("ascii"), *arguments[1:])
        return replace(self, payload=payload, arguments=arguments)


def read_invocation(program: str, arguments: Sequence[str], stdin: BinaryIO) -> Invocation:
    """Read the document by the convention that the arguments show.

    Raises MessageError when the call fits no convention of any release.
    """
    path = Path(program).absolute()
    if not path.parent.name.startswith(PREFIX):
        raise MessageError(f"{path} is not in a directory named {PREFIX}<native driver>; run install.sh again")
    if not arguments:
        raise MessageError(f"{path.name} was called without the id of an image")
    if len(arguments) == 1:
        convention, payload = Convention.STDIN, stdin.read()
    elif arguments[0] == "-":
        convention, payload = Convention.DASH, stdin.read()
    else:
        convention, payload = Convention.ARGUMENT, arguments[0].encode()
    return Invocation(path, tuple(arguments), convention, payload, arguments[-1])
