"""What the tests share: one front-end, one set of images, one web server for the whole run."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rig.front_end import FrontEnd
from rig.images import Images
from rig.vcenter import build, unavailable
from rig.web import Web, serve


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """What is ignored stays so in all that the tests start: SIGINT in a shell's background jobs, SIGHUP with nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the vCenter before the time of the first test begins: it may take minutes, once on a machine."""
    wanted = any("simulator" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly and not unavailable():
        build()


@pytest.fixture(scope="session")
def simulator() -> Path:
    """The program that is the vCenter of the tests; without it they are skipped."""
    if reason := unavailable():
        pytest.skip(reason)
    return build()


def once(tmp_path_factory: pytest.TempPathFactory, place: str, make: Callable[[Path], object]) -> Path:
    """What ``make`` makes at ``place``, once for all workers of xdist; nobody changes it."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / place
    path.parent.mkdir(exist_ok=True)
    with path.with_suffix(".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not lock.tell():
            shutil.rmtree(path, ignore_errors=True)
            make(path)
            lock.write("made\n")
    return path


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> FrontEnd:
    """A front-end to copy, installed in a path with a blank."""
    return FrontEnd(once(tmp_path_factory, "front end/one nebula", FrontEnd.install))


@pytest.fixture(scope="session")
def front_end(installation: FrontEnd, tmp_path_factory: pytest.TempPathFactory) -> FrontEnd:
    return FrontEnd.copied(installation, tmp_path_factory.mktemp("front-end") / "one")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    made = once(tmp_path_factory, "images", Images.make)
    return Images(shutil.copytree(made, tmp_path_factory.mktemp("images") / "files"))


@pytest.fixture(scope="session")
def web(images: Images) -> Iterator[Web]:
    with serve(images.directory) as server:
        yield server
