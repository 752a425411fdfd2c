"""Every hostile input is refused with one sentence or does no harm, within bounds, and finds no file of the front-end.

A canary is planted in the front-end; its bytes must be in nothing that an action leaves, stores or says.
"""

from __future__ import annotations

import itertools
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hostile.archives import ARCHIVES
from hostile.case import EITHER, HARMLESS, Case, Outcome, Scene, observe, send
from hostile.images import IMAGES
from hostile.messages import MESSAGES
from hostile.transports import TRANSPORTS
from rig.crafted import qemu_img
from rig.front_end import FrontEnd, messages
from rig.images import MIB, SIZE_MB, Images
from rig.messages import Datastore
from rig.web import Web

CASES = (*IMAGES, *ARCHIVES, *MESSAGES, *TRANSPORTS)
STRICT = (*IMAGES, *ARCHIVES, *MESSAGES, *TRANSPORTS)
"""Those whose refusals are read as a user reads them."""
FEWEST = 400
CANARY_SIZE = 64 * 1024


def each(cases: Sequence[Case]) -> pytest.MarkDecorator:
    params = [
        pytest.param(case, id=case.id, marks=[pytest.mark.xfail(strict=True, reason=case.bug)] if case.bug else [])
        for case in cases
    ]
    return pytest.mark.parametrize("case", params)


@pytest.fixture(scope="module")
def canary(front_end: FrontEnd) -> bytes:
    """The word in the file that nobody may read."""
    word = f"CANARY-{secrets.token_hex(8)}\n".encode()
    _canary_file(front_end).write_bytes(word * (CANARY_SIZE // len(word)))
    return word.strip()


@pytest.fixture
def scene(front_end: FrontEnd, canary: bytes, images: Images, web: Web, tmp_path: Path, case: Case) -> Iterator[Scene]:
    store = front_end.datastore(case.driver)
    with socket.create_server(("127.0.0.1", 0)) as bait:
        bait.setblocking(False)
        yield Scene(tmp_path, _canary_file(front_end), tmp_path / "spoils", bait, store, images, web)


def _canary_file(front_end: FrontEnd) -> Path:
    return front_end.location / "etc" / "canary"


@each(IMAGES)
def test_hostile_images(front_end: FrontEnd, canary: bytes, scene: Scene, case: Case) -> None:
    scene.web.pages[case.id] = send(case.build(scene))
    run(front_end, canary, scene, case, document(case, scene))


@each(ARCHIVES)
def test_hostile_archives(front_end: FrontEnd, canary: bytes, scene: Scene, case: Case) -> None:
    scene.web.pages[case.id] = send(case.build(scene))
    run(front_end, canary, scene, case, document(case, scene))


@each(MESSAGES)
def test_hostile_messages(front_end: FrontEnd, canary: bytes, scene: Scene, case: Case) -> None:
    run(front_end, canary, scene, case, case.build(scene))


@each(TRANSPORTS)
def test_hostile_transports(front_end: FrontEnd, canary: bytes, scene: Scene, case: Case) -> None:
    scene.web.pages[case.id] = case.build(scene)
    run(front_end, canary, scene, case, document(case, scene))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_an_image_larger_than_the_datastore_leaves_no_trace(
    front_end: FrontEnd, images: Images, web: Web, tmp_path: Path
) -> None:
    store = front_end.datastore("raw")
    raw, name = tmp_path / "raw", "larger-than-the-datastore"
    with raw.open("wb") as file:
        file.truncate(SIZE_MB * MIB)
        file.write(b"x" * 16 * MIB)
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, tmp_path / name)
    web.pages[name] = send((tmp_path / name).read_bytes())
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", store.base_path]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        outcome = observe(front_end, messages().cp(42, web.url(name), 64, store), store, 20)
        assert_refused(outcome, "No space left on device")
        assert front_end.left_in(store) == []
    finally:
        subprocess.run(["umount", store.base_path], check=True)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_something_in_the_place_of_the_scratch_space(front_end: FrontEnd, web: Web, tmp_path: Path, kind: str) -> None:
    """Nothing is written through a link, and nothing is removed that is not ours."""
    store = front_end.datastore("raw")
    place, elsewhere = Path(store.base_path) / ".oneconvert", tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "kept").write_text("kept")
    if kind == "link":
        place.symlink_to(elsewhere)
    else:
        place.write_text("kept")
    outcome = observe(front_end, messages().cp(42, web.url("qcow2"), SIZE_MB, store), store, 20)
    assert_refused(outcome, "scratch_dir")
    assert [path.name for path in elsewhere.iterdir()] == ["kept"]
    assert front_end.left_in(store) == [".oneconvert"]
    assert place.is_symlink() == (kind == "link")


def test_the_cases_are_many_and_distinct() -> None:
    assert len(CASES) >= FEWEST
    assert len({case.id for case in CASES}) == len(CASES)
    assert len({case.why for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", STRICT, ids=lambda case: case.id)
def test_every_case_says_what_is_expected(case: Case) -> None:
    assert case.words
    assert bool(case.differs) == (case.words == EITHER)


def document(case: Case, scene: Scene) -> str:
    return messages().cp(42, scene.web.url(case.id), SIZE_MB, scene.store, attributes=dict(case.attributes))


def run(front_end: FrontEnd, canary: bytes, scene: Scene, case: Case, message: str | bytes) -> None:
    told = front_end.log.stat().st_size if front_end.log.exists() else 0
    asked = len(scene.web.requests)
    around = surroundings(front_end)
    with front_end.settings(**case.settings):
        outcome = observe(front_end, message, scene.store, case.seconds)
    assert outcome.seconds < case.seconds, "it takes too long"
    assert 0 < outcome.cpu_seconds < case.cpu_seconds
    assert 0 < outcome.memory < case.memory
    assert 0 < outcome.address_space < case.address_space
    assert outcome.scratch < case.scratch
    with front_end.log.open("rb") as log:
        log.seek(told)
        said = log.read() + outcome.stdout.encode() + outcome.stderr.encode()
    assert canary not in said
    assert canary.decode() not in repr(scene.web.requests[asked:])
    assert not scene.spoils.exists()
    with pytest.raises(BlockingIOError):
        scene.bait.accept()
    assert surroundings(front_end) == around
    if outcome.status == 0 and case.words in (HARMLESS, EITHER):
        assert_harmless(outcome, front_end, scene.store, canary, scene.directory)
    else:
        assert_refused(outcome, "" if case.words == EITHER else case.words)
        assert front_end.left_in(scene.store) == []
        if case in (*IMAGES, *ARCHIVES):
            assert "; " in outcome.stderr or "oneconvert.conf" in outcome.stderr, "nobody says what to do"


def surroundings(front_end: FrontEnd) -> set[Path]:
    """The front-end without what is inside of its datastores."""
    var = front_end.location / "var"
    places = (front_end.location, var, var / "datastores", front_end.remotes / "datastore" / "fs")
    return set(itertools.chain.from_iterable(place.iterdir() for place in places)) - {front_end.log}


def assert_refused(outcome: Outcome, words: str) -> None:
    assert outcome.status == 1, outcome
    assert outcome.stdout == ""
    assert outcome.stderr.endswith("\n")
    assert len(outcome.stderr.splitlines()) == 1, outcome.stderr
    assert outcome.stderr[:-1].isprintable()
    assert "Traceback" not in outcome.stderr
    assert "unexpected" not in outcome.stderr
    assert not outcome.stderr.startswith("-")
    assert words in outcome.stderr


def assert_harmless(outcome: Outcome, front_end: FrontEnd, store: Datastore, canary: bytes, scratch: Path) -> None:
    """One image in the datastore, of one file, and what a guest sees of it has no canary either."""
    source, image_format = outcome.stdout.split()
    stored = Path(source)
    assert stored.parent == Path(store.base_path)
    assert front_end.left_in(store) == [stored.name]
    assert not holds(stored, canary)
    if image_format != "raw":
        raw = scratch / "seen"
        qemu_img("convert", "-f", image_format, "-O", "raw", stored, raw)
        assert not holds(raw, canary)


def holds(path: Path, word: bytes) -> bool:
    end = b""
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            if word in end + chunk:
                return True
            end = chunk[-len(word) :]
    return False
