"""A member of an archive, and the names it may have."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from oneconvert.errors import ImageRefusedError

MOST_MEMBERS = 1000
LONGEST_NAME = 512
"""In bytes, of UTF-8."""
LONGEST_SHOWN = 80
# Control characters, and the two separators that end a line as those do. Where the name came as bytes that are no
# UTF-8, Python's substitutes for them are category Cs, and allowed.
FORBIDDEN_CATEGORIES = ("Cc", "Zl", "Zp")


class Member:
    """One file of an archive, to be iterated for its bytes while the archive is at it.

    ``name`` is as the archive says. ``path`` is the same without "./" and doubled slashes: what an OVF calls the file.
    ``size`` is None where the archive tells it only after the bytes. ``offset`` is where the bytes are in the archive,
    None where they are compressed. Iterating again goes on where it stopped.
    """

    def __init__(self, name: str, size: int | None, offset: int | None, pieces: Iterator[bytes]) -> None:
        self.name = name
        self.path = plain(name)
        self.size = size
        self.offset = offset
        self._pieces = pieces
        self._passed = False

    def __iter__(self) -> Iterator[bytes]:
        if self._passed:
            raise RuntimeError("a member can be read only before the next one is asked for")
        return self._pieces

    def pass_by(self) -> None:
        """Skip what was not read; its checksum is verified all the same."""
        self._passed = True
        for _ in self._pieces:
            pass


class Names:
    """The names met so far in the archive that messages call ``archive``."""

    def __init__(self, archive: str) -> None:
        self._archive = archive
        self._count = 0
        self._files: set[str] = set()

    def admit(self, name: str, *, directory: bool) -> None:
        """Take the next name; raises ImageRefusedError.

        No name reaches a file system from here, but one that is meant to lead elsewhere marks the whole archive as an
        attack on whoever extracts it, and of two members of one name each reader may take another.
        """
        self._count += 1
        if self._count > MOST_MEMBERS:
            raise ImageRefusedError(
                f"{self._archive} is an archive of more than {MOST_MEMBERS} members; publish the disk alone"
            )
        reason = _objection(name, directory)
        path = plain(name)
        if not reason and not directory and path in self._files:
            reason = "occurs more than once"
        if reason:
            raise ImageRefusedError(
                f"{self._archive} is refused: its member {quoted(name)} {reason}; "
                "pack each file once, under a plain name"
            )
        if not directory:
            self._files.add(path)


def plain(name: str) -> str:
    """A name without the components that mean nothing."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def quoted(name: str) -> str:
    """A name from an archive for a message: printable ASCII, bounded."""
    shown = ascii(name[:LONGEST_SHOWN])[1:-1]
    cut = len(name) > LONGEST_SHOWN or len(shown) > LONGEST_SHOWN
    return f"'{shown[:LONGEST_SHOWN]}...'" if cut else f"'{shown}'"


def _objection(name: str, directory: bool) -> str:
    """What is wrong with a name, as a predicate; empty for nothing."""
    if len(name.encode("utf-8", "surrogateescape")) > LONGEST_NAME:
        return f"has a name of more than {LONGEST_NAME} bytes"
    if any(unicodedata.category(character) in FORBIDDEN_CATEGORIES for character in name):
        return "has a control character in its name"
    if "\\" in name:
        return "has a backslash in its name"
    if name.startswith("/"):
        return "has an absolute path"
    if ".." in name.split("/"):
        return "has a path that leads out of the archive"
    if not directory and (not plain(name) or name.endswith(("/", "/."))):
        return "has a name that is not that of a file"
    return ""
