"""One OpenNebula with oneconvert installed for each tree that ONE_REMOTES names, and what the tests feed it with."""

from __future__ import annotations

import hashlib
import http.server
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from conformance.layout import Installation, Tree
from conformance.mad import DatastoreMad
from rig.images import Images
from rig.messages import App, Datastore, Messages
from rig.running import running

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDED_PROGRAMS = ("ruby", "qemu-img", "curl", "file", "mkfs.ext4")


@dataclass(frozen=True)
class Release:
    """A tree, and one of the ways in which its MAD gives documents to drivers."""

    tree: Tree
    stdin_option: bool

    @property
    def name(self) -> str:
        return self.tree.release + (" -i" if self.stdin_option else "")

    @property
    def documents_by_argument(self) -> bool:
        return self.tree.documents_by_argument and not self.stdin_option


def _releases() -> list[Release]:
    trees = [Tree.at(Path(name).resolve()) for name in os.environ.get("ONE_REMOTES", "").split(os.pathsep) if name]
    return [
        Release(tree, stdin_option)
        for tree in trees
        for stdin_option in ((False, True) if tree.documents_by_choice else (False,))
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "release" not in metafunc.fixturenames:
        return
    releases = _releases()
    parameters: list[Any] = [pytest.param(release, id=release.name) for release in releases]
    if not releases:
        reason = "ONE_REMOTES names no OpenNebula source tree (paths, separated by ':')"
        parameters = [pytest.param(None, id="no tree", marks=pytest.mark.skip(reason=reason))]
    metafunc.parametrize("release", parameters, scope="session")


class Installations:
    """The installations of this session, each made when the first test needs it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: dict[Path, Installation] = {}

    def __iter__(self) -> Iterator[Installation]:
        return iter(self._made.values())

    def of(self, tree: Tree) -> Installation:
        if tree.path not in self._made:
            root = self._directory / f"one-{len(self._made)}"
            root.mkdir()
            installation = Installation(tree, root)
            installation.lay_out()
            _install_oneconvert(root)
            self._made[tree.path] = installation
        return self._made[tree.path]


def _install_oneconvert(root: Path) -> None:
    done = subprocess.run(
        ["./install.sh", "--no-packages"],
        cwd=REPOSITORY,
        env={**os.environ, "ONE_LOCATION": str(root)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert done.returncode == 0, f"install.sh ended with {done.returncode}:\n{done.stdout}"


@pytest.fixture(scope="session")
def installations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installations]:
    missing = [program for program in NEEDED_PROGRAMS if not shutil.which(program)]
    assert not missing, f"OpenNebula's drivers need {', '.join(missing)}"
    made = Installations(tmp_path_factory.mktemp("opennebula"))
    yield made
    altered = {installation.tree.release: installation.altered_native_files() for installation in made}
    assert not any(altered.values()), f"the tests altered OpenNebula's own files: {altered}"


@pytest.fixture
def one(release: Release, installations: Installations) -> Installation:
    """OpenNebula of this release, with oneconvert."""
    return installations.of(release.tree)


@pytest.fixture
def messages(release: Release) -> Messages:
    return Messages(release.tree.version)


@pytest.fixture
def mad(release: Release, one: Installation) -> Iterator[DatastoreMad]:
    with DatastoreMad(one, documents_on_stdin=release.stdin_option) as running:
        yield running


_datastore_idents = itertools.count(100)
_object_idents = itertools.count(40)


@pytest.fixture
def ident() -> int:
    """The number of an image that no other test uses."""
    return next(_object_idents)


@dataclass(frozen=True)
class OnDisk:
    """A datastore of its own for a test: where it is, and how documents describe it."""

    directory: Path
    described: Datastore

    def files(self) -> list[str]:
        """All that lies in the datastore, hidden or not."""
        return sorted(path.name for path in self.directory.iterdir())

    def holds(self, source: str) -> Path:
        """The file that an image's SOURCE names; it must be one of this datastore."""
        assert source.startswith(self.described.base_path + "/"), source
        path = Path(source)
        assert path.is_file(), f"SOURCE {source} is no file"
        return path


class Datastores:
    """Makes datastores in one installation."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation

    @property
    def elsewhere(self) -> Path:
        """A directory that exists and holds no image."""
        return self._installation.scratch

    def make(self, ds_mad: str, driver: str | None = None, **attributes: Any) -> OnDisk:
        ident = next(_datastore_idents)
        directory = self._installation.datastore(ident)
        # As oned composes it: with the two slashes.
        base_path = f"{self._installation.root}/var//datastores/{ident}"
        return OnDisk(directory, Datastore(ident, base_path, ds_mad, driver, **attributes))


@pytest.fixture
def datastores(one: Installation) -> Datastores:
    return Datastores(one)


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    """Says nothing when a client has read enough: looking at the first bytes of an image is how drivers probe it."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@dataclass(frozen=True)
class Marketplace:
    """A web server on the loopback interface that holds the images."""

    url: str
    images: Images

    def address(self, name: str) -> str:
        return f"{self.url}{self.images.file(name).name}"

    def app(self, name: str, md5: str | None = None) -> App:
        """The app for an image; ``md5`` stands for a checksum that does not fit it."""
        content = self.images.file(name).read_bytes()
        return App(7, f"app_{name}", md5 or hashlib.md5(content, usedforsecurity=False).hexdigest(), self.url)


@pytest.fixture(scope="session")
def marketplace(images: Images) -> Iterator[Marketplace]:
    handler = partial(_QuietHandler, directory=str(images.directory))
    server = _Server(("127.0.0.1", 0), handler)
    with running(server):
        yield Marketplace(f"http://127.0.0.1:{server.server_port}/", images)
