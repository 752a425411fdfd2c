"""A self-contained OpenNebula (ONE_LOCATION), laid out from a source tree as that tree's install.sh does it.

Only what a datastore driver meets is laid out: the MADs and their libraries, the datastore and market drivers with
their settings, and ``etc``. Which file goes where is read from the tree's own install.sh, so that a release this
project has never seen is laid out by its own rules.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

Version = tuple[int, ...]

# Where a tree states its version. The first is what install.sh puts into remotes/; the others carry the same number
# and are there in trees that hold only a part of the sources.
_VERSION_FILES = ("src/im_mad/remotes/VERSION", "share/rubygems/generate", "share/onegate/onegate")
_VERSION_LINE = re.compile(r"^\s*(?:VERSION\s*=\s*['\"])?(\d+(?:\.\d+)+)['\"]?\s*$", re.MULTILINE)

_FILE_LIST = re.compile(r'^([A-Z0-9_]+)="([^"]*)"', re.MULTILINE)
_DESTINATIONS = re.compile(r"^INSTALL(?:_ETC)?_FILES=\(\n(.*?)^\)", re.MULTILINE | re.DOTALL)
_DESTINATION = re.compile(r"^\s*([A-Z0-9_]+):\$(LIB|ETC|VAR)_LOCATION(\S*)\s*$", re.MULTILINE)

# The parts of an installation that the datastore MAD and the drivers it starts can touch.
_PARTS = re.compile(r"(lib/(mads|ruby|sh)|etc|var/remotes|var/remotes/(etc/)?(datastore|market)(/.*)?)")

_PATHS_LIBRARY = "load_opennebula_paths"
_NEEDED = (
    "lib/mads/one_datastore",
    "lib/mads/one_datastore.rb",
    "lib/mads/madcommon.sh",
    "lib/ruby/OpenNebulaDriver.rb",
    "lib/ruby/CommandManager.rb",
    "lib/sh/scripts_common.sh",
    "var/remotes/datastore/xpath.rb",
    "var/remotes/datastore/fs/cp",
    "var/remotes/datastore/fs/stat",
    "var/remotes/etc/datastore/fs/fs.conf",
    "etc/defaultrc",
)


class LayoutError(Exception):
    """A path of ONE_REMOTES is no OpenNebula source tree, or an incomplete one."""


@dataclass(frozen=True)
class Tree:
    """An OpenNebula source tree."""

    path: Path
    version: Version

    @classmethod
    def at(cls, path: Path) -> Tree:
        for name in _VERSION_FILES:
            file = path / name
            if file.is_file() and (found := _VERSION_LINE.search(file.read_text(encoding="utf-8"))):
                return cls(path, tuple(int(number) for number in found[1].split(".")))
        raise LayoutError(f"{path} does not state an OpenNebula version in any of {', '.join(_VERSION_FILES)}")

    @property
    def release(self) -> str:
        return ".".join(str(number) for number in self.version)

    @property
    def documents_by_argument(self) -> bool:
        """Whether the MAD gives a driver its document as an argument unless it is told otherwise."""
        return self.version < (6, 8)

    @property
    def documents_by_choice(self) -> bool:
        """Whether this MAD knows the option that switches it from arguments to standard input."""
        mad = self.path / "src/datastore_mad/one_datastore.rb"
        return "'--stdin'" in mad.read_text(encoding="utf-8")

    def installed_files(self) -> dict[str, Path]:
        """What install.sh would copy here of the parts we need: place in ONE_LOCATION -> file of the tree."""
        script = (self.path / "install.sh").read_text(encoding="utf-8")
        lists = {name: files.replace("\\\n", " ").split() for name, files in _FILE_LIST.findall(script)}
        files: dict[str, Path] = {}
        for block in _DESTINATIONS.findall(script):
            for name, location, below in _DESTINATION.findall(block):
                directory = (location.lower() + below).rstrip("/")
                if not _PARTS.fullmatch(directory):
                    continue
                for listed in lists.get(name, ()):
                    source = self.path / listed
                    if source.is_file():
                        files[f"{directory}/{source.name}"] = source
        return files


class Installation:
    """A ONE_LOCATION laid out from a tree."""

    def __init__(self, tree: Tree, root: Path) -> None:
        self.tree = tree
        self.root = root
        self._native = {root / place: source for place, source in tree.installed_files().items()}
        if missing := [place for place in _NEEDED if root / place not in self._native]:
            raise LayoutError(f"{tree.path} has no {', '.join(missing)} to install")

    def lay_out(self) -> None:
        for place, source in self._native.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)  # follows symbolic links: fs/stat is one to common/stat
            shutil.copymode(source, place)
        version = self.remotes / "VERSION"
        if version not in self._native:
            version.write_text(self.tree.release + "\n", encoding="ascii")
        for datastore in (0, 1):
            self.datastore(datastore)
        # oned writes its configuration there when it starts; the MADs read only this one line of it.
        (self.root / "var/config").write_text("SCRIPTS_REMOTE_DIR=/var/tmp/one\n", encoding="ascii")
        self.scratch.mkdir()
        self._provide_ruby_libraries()

    @property
    def remotes(self) -> Path:
        return self.root / "var/remotes"

    @property
    def scratch(self) -> Path:
        """The directory that TMPDIR names for everything that runs here."""
        return self.root / "tmp"

    def datastore(self, ident: int) -> Path:
        path = self.root / "var/datastores" / str(ident)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def drivers(self) -> list[str]:
        """The datastore drivers that are installed now."""
        return sorted(cp.parent.name for cp in (self.remotes / "datastore").glob("*/cp"))

    def environment(self) -> dict[str, str]:
        """What oned's environment holds in a self-contained installation."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root / "var"),
            "LANG": "C.UTF-8",
            "ONE_LOCATION": str(self.root),
            "TMPDIR": str(self.scratch),
        }
        if self._ruby_path:
            environment["RUBYLIB"] = os.pathsep.join(self._ruby_path)
        return environment

    def altered_native_files(self) -> list[str]:
        """The files of OpenNebula's drivers, MADs and libraries that are no longer what the tree holds."""
        return [
            str(place.relative_to(self.root))
            for place, source in self._native.items()
            if place.relative_to(self.root).parts[0] != "etc"
            and (
                place.is_symlink()
                or not place.is_file()
                or place.read_bytes() != source.read_bytes()
                or os.access(place, os.X_OK) != os.access(source, os.X_OK)
            )
        ]

    def _provide_ruby_libraries(self) -> None:
        """Do what OpenNebula's packages do after install.sh for the releases that need it.

        From 7.x on every Ruby script loads ``load_opennebula_paths``, which the packages put on Ruby's path and which
        narrows RubyGems to share/gems: the gems of that directory come from a package of their own. Here the gems of
        the system's Ruby take their place.
        """
        self._ruby_path: list[str] = []
        library = self.root / "lib/ruby" / f"{_PATHS_LIBRARY}.rb"
        wanted = f"require '{_PATHS_LIBRARY}'" in (self.root / "lib/mads/one_datastore.rb").read_text(encoding="utf-8")
        if not wanted:
            return
        if not library.exists():
            library.touch()
        (self.root / "share/gems").mkdir(parents=True)
        gems = subprocess.run(
            [
                "ruby",
                "-e",
                "%w[rexml/document base64 getoptlong].each { |name| require name }\n"
                "puts Gem.loaded_specs.values.flat_map(&:full_require_paths)",
            ],
            check=True,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        ).stdout.split("\n")
        self._ruby_path = [str(library.parent), *filter(None, gems)]
