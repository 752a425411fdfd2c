"""What the tests share: one front-end, one set of images, one web server for the whole run."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Iterator
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


@pytest.fixture(scope="session")
def front_end(tmp_path_factory: pytest.TempPathFactory) -> FrontEnd:
    """One for each worker of xdist, of one installation."""
    place = tmp_path_factory.mktemp("front-end") / "one"
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return FrontEnd.install(place)
    common = tmp_path_factory.getbasetemp().parent / "front-end"
    with common.with_suffix(".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not lock.tell():
            shutil.rmtree(common, ignore_errors=True)
            FrontEnd.install(common)
            lock.write("installed\n")
    return FrontEnd.copied(FrontEnd(common), place)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return Images.make(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def web(images: Images) -> Iterator[Web]:
    with serve(images.directory) as server:
        yield server
