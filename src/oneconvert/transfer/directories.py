"""Which files of the front-end may become images: SAFE_DIRS and RESTRICTED_DIRS."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DirectoryRules:
    """The admin's rules, asked in the order that OpenNebula documents: a safe directory allows what a restricted one
    forbids, and what is below neither is allowed.

    Directories are resolved and compared by whole components: ``/var/tmp`` says nothing about ``/var/tmp-evil``.
    """

    safe: tuple[Path, ...]
    restricted: tuple[Path, ...]

    @classmethod
    def of(cls, safe: Iterable[str | Path], restricted: Iterable[str | Path]) -> DirectoryRules:
        """The rules for directories as the admin wrote them; what is no absolute path is left out of ``safe``."""
        return cls(
            tuple(Path(each).resolve() for each in safe if Path(each).is_absolute()),
            tuple(Path(each).resolve() for each in restricted),
        )

    def allow(self, resolved: Path) -> bool:
        """Whether the file at ``resolved``, a path without symbolic links, may be read."""
        if _below_one(resolved, self.safe):
            return True
        return not _below_one(resolved, self.restricted)


def _below_one(path: Path, directories: Iterable[Path]) -> bool:
    return any(directory == path or directory in path.parents for directory in directories)
