"""The cache by itself: what is kept and for how long, copies of sparse files, and processes that die."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oneconvert.errors import ImageRefusedError
from oneconvert.jobs import cache
from oneconvert.jobs.cache import Entry, Original, key_of, open_entry
from rig.images import MIB
from rig.web import wait_until

ORIGINAL = Original("http://example.org/image", "vmdk", 4 * MIB)


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def entry(directory: Path, number: int, limit: int = 100 * MIB) -> Entry:
    found = open_entry(directory, limit, key_of(number))
    assert found is not None
    return found


def image(directory: Path, size: int = MIB) -> Path:
    path = directory / f"image-{size}"
    path.write_bytes(os.urandom(size))
    return path


def take(kept: Entry, target: Path) -> Original | None:
    return kept.take(target, lambda *_: None, lambda *_: None)


def kept_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {cache.LOCK}


def age(directory: Path, number: int, seconds: int) -> None:
    os.utime(directory / key_of(number), (seconds, seconds))


def test_what_is_kept_is_taken_again(directory: Path, tmp_path: Path) -> None:
    source = image(tmp_path)
    assert take(entry(directory, 1), tmp_path / "early") is None
    entry(directory, 1).store(source, ORIGINAL)
    assert take(entry(directory, 1), tmp_path / "taken") == ORIGINAL
    assert (tmp_path / "taken").read_bytes() == source.read_bytes()
    assert take(entry(directory, 2), tmp_path / "other") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "image-1048576", "taken"]


def test_nobody_else_may_read_it_and_no_name_tells_anything(directory: Path, tmp_path: Path) -> None:
    key = key_of("https://user:Geheimnis@example.org/image")
    kept = open_entry(directory, MIB * 9, key)
    assert kept is not None
    kept.store(image(tmp_path), ORIGINAL)
    assert kept_in(directory) == {key}
    assert cache.KEY.fullmatch(key)
    modes = {path.stat().st_mode & 0o777 for path in (directory, directory / key, directory / key / cache.IMAGE)}
    assert modes == {0o700, 0o600}


def test_a_change_of_the_copy_does_not_change_what_is_kept(directory: Path, tmp_path: Path) -> None:
    source = image(tmp_path)
    entry(directory, 1).store(source, ORIGINAL)
    take(entry(directory, 1), tmp_path / "taken")
    (tmp_path / "taken").write_bytes(bytes(MIB))
    take(entry(directory, 1), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == source.read_bytes()


def sparse(path: Path) -> Path:
    """Data at the beginning, in the middle and at the odd end, and a hole at the end of another kind."""
    with path.open("wb") as file:
        for offset in (0, 3 * MIB + 4096, 6 * MIB):
            file.seek(offset)
            file.write(os.urandom(70_001))
    return path


@pytest.mark.parametrize("hole_at_the_end", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("step", [65_536, cache.STEP])
def test_holes_are_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool, hole_at_the_end: bool, step: int
) -> None:
    monkeypatch.setattr(cache, "STEP", step)
    source = sparse(tmp_path / "sparse")
    if hole_at_the_end:
        os.truncate(source, 9 * MIB + 1)
    place = tmp_path
    if elsewhere:
        place = Path("/dev/shm")
        if not place.is_dir() or place.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("no second file system here")
    directory = place / f"oneconvert-test-{os.getpid()}"
    try:
        entry(directory, 1).store(source, ORIGINAL)
        assert take(entry(directory, 1), tmp_path / "taken") == ORIGINAL
    finally:
        subprocess.run(["rm", "-r", directory], check=True)
    assert (tmp_path / "taken").read_bytes() == source.read_bytes()
    assert (tmp_path / "taken").stat().st_blocks * 512 < MIB


def test_an_empty_disk(directory: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    os.truncate(empty, 5 * MIB)
    entry(directory, 1).store(empty, ORIGINAL)
    assert take(entry(directory, 1), tmp_path / "taken") == ORIGINAL
    assert (tmp_path / "taken").stat().st_size == 5 * MIB


def test_the_longest_unused_images_make_room(directory: Path, tmp_path: Path) -> None:
    limit = 3 * MIB + MIB // 2
    for number in (1, 2, 3):
        entry(directory, number, limit).store(image(tmp_path), ORIGINAL)
        age(directory, number, number)
    assert kept_in(directory) == {key_of(1), key_of(2), key_of(3)}
    take(entry(directory, 1, limit), tmp_path / "taken")
    entry(directory, 4, limit).store(image(tmp_path), ORIGINAL)
    assert kept_in(directory) == {key_of(1), key_of(3), key_of(4)}
    entry(directory, 5, limit).store(image(tmp_path, 2 * MIB), ORIGINAL)
    assert kept_in(directory) == {key_of(4), key_of(5)}


def test_an_image_larger_than_the_cache_is_not_kept_and_drives_nothing_out(directory: Path, tmp_path: Path) -> None:
    entry(directory, 1, 2 * MIB).store(image(tmp_path), ORIGINAL)
    entry(directory, 2, 2 * MIB).store(image(tmp_path, 3 * MIB), ORIGINAL)
    assert kept_in(directory) == {key_of(1)}


def test_a_smaller_limit_holds_from_the_next_image_on(directory: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        entry(directory, number).store(image(tmp_path), ORIGINAL)
        age(directory, number, number)
    entry(directory, 4, 2 * MIB + MIB // 2).store(image(tmp_path), ORIGINAL)
    assert kept_in(directory) == {key_of(3), key_of(4)}


def test_what_is_read_may_be_driven_out(directory: Path, tmp_path: Path) -> None:
    source = image(tmp_path)
    entry(directory, 1, 2 * MIB).store(source, ORIGINAL)
    (other := tmp_path / "other").mkdir()

    def drive_out(*_: object) -> None:
        entry(directory, 2, 2 * MIB).store(image(other, 2 * MIB - 65_536), ORIGINAL)
        assert kept_in(directory) == {key_of(2)}

    assert entry(directory, 1).take(tmp_path / "taken", drive_out, lambda *_: None) == ORIGINAL
    assert (tmp_path / "taken").read_bytes() == source.read_bytes()


def test_an_image_that_another_import_kept_meanwhile(
    directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        entry(directory, 1).store(image(tmp_path), ORIGINAL)
    assert kept_in(directory) == {key_of(1)}
    assert not caplog.records


def shorten(place: Path) -> None:
    os.truncate(place / cache.IMAGE, MIB - 512)


def forget(place: Path) -> None:
    (place / cache.DESCRIPTION).unlink()


def lose(place: Path) -> None:
    (place / cache.IMAGE).unlink()


def describe(text: str) -> object:
    return lambda place: (place / cache.DESCRIPTION).write_text(text)


@pytest.mark.parametrize(
    "damage",
    [shorten, forget, lose, describe(""), describe("{}"), describe("5"), describe("[[1]]"), describe('{"length": 1}'),
     describe(json.dumps({"length": MIB, "name": "x"})), describe(json.dumps({"length": MIB, "unheard-of": 1}))],
)  # fmt: skip
def test_a_damaged_entry_is_removed(directory: Path, tmp_path: Path, damage: object) -> None:
    entry(directory, 1).store(image(tmp_path), ORIGINAL)
    damage(directory / key_of(1))  # type: ignore[operator]
    assert take(entry(directory, 1), tmp_path / "taken") is None
    assert kept_in(directory) == set()
    assert not (tmp_path / "taken").exists()


def test_a_copy_that_is_not_confirmed_is_removed_with_its_entry(directory: Path, tmp_path: Path) -> None:
    def confirm(_: Original) -> None:
        raise ImageRefusedError("damaged")

    entry(directory, 1).store(image(tmp_path), ORIGINAL)
    assert entry(directory, 1).take(tmp_path / "taken", lambda *_: None, confirm) is None
    assert kept_in(directory) == set()
    assert not (tmp_path / "taken").exists()


def test_what_is_not_approved_is_not_copied_and_stays(directory: Path, tmp_path: Path) -> None:
    def approve(original: Original, length: int) -> None:
        raise ImageRefusedError(f"{original.virtual_size} {length}")

    entry(directory, 1).store(image(tmp_path), ORIGINAL)
    with pytest.raises(ImageRefusedError, match=f"{4 * MIB} {MIB}"):
        entry(directory, 1).take(tmp_path / "taken", approve, lambda *_: None)
    assert kept_in(directory) == {key_of(1)}
    assert not (tmp_path / "taken").exists()


def test_a_copy_that_fails_is_no_failure_of_the_import(directory: Path, tmp_path: Path) -> None:
    entry(directory, 1).store(image(tmp_path), ORIGINAL)
    assert take(entry(directory, 1), tmp_path / "missing" / "taken") is None
    assert kept_in(directory) == {key_of(1)}


def test_little_space_is_left_alone(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)
    source = image(tmp_path)

    def with_free(size: int) -> None:
        values = list(real)
        values[4] = size // real.f_frsize  # f_bavail
        monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(values))

    with_free(2 * MIB - real.f_frsize)
    entry(directory, 1).store(source, ORIGINAL)
    assert kept_in(directory) == set()
    with_free(2 * MIB)
    entry(directory, 1).store(source, ORIGINAL)
    assert kept_in(directory) == {key_of(1)}


def test_an_image_that_cannot_be_kept_is_a_warning(
    directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = entry(directory, 1)
    (directory / cache.LOCK).mkdir()
    kept.store(image(tmp_path), ORIGINAL)
    assert "did not take the image: Is a directory" in caplog.text
    assert kept_in(directory) == set()


def link(directory: Path) -> None:
    directory.with_name("real").mkdir(0o700)
    directory.symlink_to("real")


def writable(mode: int) -> object:
    def make(directory: Path) -> None:
        directory.mkdir()
        directory.chmod(mode)

    return make


def belongs_to_another(directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to give a directory away")
    directory.mkdir(0o700)
    os.chown(directory, 65534, -1)


@pytest.mark.parametrize(
    "make",
    [link, writable(0o777), writable(0o1777), writable(0o770), belongs_to_another,
     lambda directory: directory.touch(), lambda directory: directory.symlink_to("nowhere")],
)  # fmt: skip
def test_a_directory_that_others_could_change_is_not_used(
    directory: Path, caplog: pytest.LogCaptureFixture, make: object
) -> None:
    make(directory)  # type: ignore[operator]
    assert open_entry(directory, MIB, key_of(1)) is None
    assert str(directory) in caplog.text


def test_a_directory_that_cannot_be_made_is_not_used(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert open_entry(directory / "below", MIB, key_of(1)) is None
    assert "No such file or directory" in caplog.text


STORING = """
import sys
from pathlib import Path
from oneconvert.errors import InterruptedBySignalError
from oneconvert.jobs import cache
from oneconvert.jobs.signals import hold_signals
hold_signals()
cache.STEP = 1
try:
    cache.open_entry(Path(sys.argv[1]), 2**30, cache.key_of(9)).store(Path(sys.argv[2]), cache.Original("x", "raw", 1))
except InterruptedBySignalError as error:
    sys.exit(128 + error.signum)
"""


def storing(directory: Path, source: Path) -> subprocess.Popen[bytes]:
    """A process that takes long to store an image, and has begun to."""
    process = subprocess.Popen([sys.executable, "-c", STORING, directory, source])
    # Its copy gets its length when the copying begins.
    assert wait_until(lambda: any(path.stat().st_size for path in directory.glob(f"{cache.UNFINISHED}*/image")))
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_an_image_is_copied(directory: Path, tmp_path: Path, number: int) -> None:
    process = storing(directory, image(tmp_path, 32 * MIB))
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    assert kept_in(directory) == set()


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_makes_is_not(
    directory: Path, tmp_path: Path
) -> None:
    process = storing(directory, image(tmp_path, 32 * MIB))
    process.send_signal(signal.SIGSTOP)
    (unfinished,) = kept_in(directory)
    entry(directory, 1).store(image(tmp_path), ORIGINAL)
    assert kept_in(directory) == {unfinished, key_of(1)}
    process.kill()
    process.wait(timeout=30)
    (directory / f"{cache.UNFINISHED}early").mkdir()
    entry(directory, 2).store(image(tmp_path), ORIGINAL)
    assert kept_in(directory) == {key_of(1), key_of(2)}


def test_a_signal_ends_the_wait_for_another_import(directory: Path, tmp_path: Path) -> None:
    directory.mkdir(0o700)
    with (directory / cache.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen([sys.executable, "-c", STORING, directory, image(tmp_path)])
        assert wait_until(lambda: waits_for_a_lock(process.pid))
        process.terminate()
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert kept_in(directory) == set()


def waits_for_a_lock(pid: int) -> bool:
    return any("->" in line and str(pid) in line.split() for line in Path("/proc/locks").read_text().splitlines())
