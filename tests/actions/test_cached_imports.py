"""The same app for a second datastore: taken from the cache, or fetched again where anything is different."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rig.front_end import Answer, FrontEnd, messages, same_disk
from rig.images import MIB, SIZE_MB, Images
from rig.messages import App, Datastore
from rig.web import Handler, Web, send_file, wait_until

NAME = "vmdk-sparse"


@pytest.fixture
def directory(front_end: FrontEnd, tmp_path: Path) -> Iterator[Path]:
    """The directory of a cache that is switched on."""
    with front_end.settings(cache_size="1G", cache_dir=tmp_path / "cache"):
        yield tmp_path / "cache"


@pytest.fixture(autouse=True)
def _no_requests_so_far(web: Web) -> None:
    web.requests.clear()


class Importer:
    """Imports the image behind a URL, by default with its checksum, into a new datastore."""

    def __init__(self, front_end: FrontEnd, images: Images, web: Web) -> None:
        self.front_end, self.images, self.web = front_end, images, web

    def document(self, store: Datastore, name: str = NAME, size: int = SIZE_MB, path: str = "", **given: str) -> str:
        attributes: dict[str, object] = dict(given or {"SHA256": self.sha256(name)})
        return messages().cp(42, path or self.web.url(name), size, store, attributes=attributes)

    def sha256(self, name: str = NAME) -> str:
        return hashlib.sha256(self.images.file(name).read_bytes()).hexdigest()

    def __call__(self, driver: str = "qcow2", **other: object) -> Answer:
        store = self.front_end.datastore(driver)
        answer = self.front_end.call("cp", self.document(store, **other))  # type: ignore[arg-type]
        assert answer.status == 0, answer.stderr
        assert self.front_end.left_in(store) == [answer.source.name]
        assert answer.format == driver
        assert same_disk(answer.source, driver, self.images.file("raw"), "raw")
        return answer

    def asks_the_server(self, driver: str = "qcow2", **other: object) -> bool:
        before = len(self.web.requests)
        self(driver, **other)
        return len(self.web.requests) > before


@pytest.fixture
def download(front_end: FrontEnd, images: Images, web: Web) -> Importer:
    return Importer(front_end, images, web)


def kept_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.name != "lock")


@pytest.mark.parametrize(
    ("name", "driver"),
    [("vdi", "qcow2"), ("vmdk-sparse", "raw"), ("vmdk-stream", "raw"), ("raw.gz", "vmdk"), ("qcow2-compressed", "raw")],
)
def test_the_second_datastore_costs_no_download(download: Importer, directory: Path, name: str, driver: str) -> None:
    first = download(driver, name=name)
    download.web.requests.clear()
    second = download(driver, name=name)
    assert download.web.requests == []
    assert first.source.read_bytes() == second.source.read_bytes()
    assert first.source.stat().st_mode == second.source.stat().st_mode
    assert abs(first.source.stat().st_blocks - second.source.stat().st_blocks) * 512 < MIB, "as sparse as before"


@pytest.mark.parametrize(
    ("name", "driver"), [("qcow2-compressed", "qcow2"), ("vmdk-stream", "vmdk"), ("raw.gz", "raw")]
)
def test_what_is_not_converted_is_not_kept(download: Importer, directory: Path, name: str, driver: str) -> None:
    assert download.asks_the_server(driver, name=name)
    assert kept_in(directory) == []


def test_it_is_told_in_the_log_and_the_summary_is_as_always(
    download: Importer, front_end: FrontEnd, directory: Path
) -> None:
    told = [download().stderr for _ in range(2)]
    without_what_differs = [re.sub(r"datastore \d+|[\d.]+ s$", "", each.strip()) for each in told]
    assert without_what_differs[0] == without_what_differs[1]
    assert f"vmdk {download.web.url(NAME)} stored as qcow2" in front_end.log.read_text().splitlines()[-1]
    assert front_end.log.read_text().count("image 42: taken from the cache") == 1


@pytest.fixture(autouse=True)
def _empty_log(front_end: FrontEnd) -> None:
    front_end.log.write_text("")


def test_an_app_is_known_by_its_checksum(download: Importer, front_end: FrontEnd, directory: Path) -> None:
    md5 = hashlib.md5(download.images.file(NAME).read_bytes()).hexdigest()
    for _ in range(2):
        store = front_end.datastore()
        app = App(7, "app", md5, "http://market.example.org")
        answer = front_end.call("cp", messages().cp(42, download.web.url(NAME), SIZE_MB, store, app))
        assert answer.status == 0, answer.stderr
    assert front_end.log.read_text().count("fetching") == 1
    # The same digest, by another attribute, is the same checksum.
    assert not download.asks_the_server(MD5=md5.upper())


def test_it_is_off_by_default(download: Importer, front_end: FrontEnd, tmp_path: Path) -> None:
    with front_end.settings(cache_dir=tmp_path / "cache"):
        assert download.asks_the_server()
        assert download.asks_the_server()
    assert list(tmp_path.iterdir()) == []


def test_by_default_it_is_in_the_var_directory(download: Importer, front_end: FrontEnd) -> None:
    directory = front_end.location / "var" / "oneconvert_cache"
    with front_end.settings(cache_size="1G"):
        assert download.asks_the_server()
        assert not download.asks_the_server()
    assert directory.stat().st_mode & 0o777 == 0o700
    assert len(kept_in(directory)) == 1


def test_another_target_another_url_another_disk_another_checksum(download: Importer, directory: Path) -> None:
    download()
    download.web.pages["copy"] = send_file(download.images.file(NAME))
    both = {"SHA256": download.sha256(), "SHA1": hashlib.sha1(download.images.file(NAME).read_bytes()).hexdigest()}
    assert download.asks_the_server("raw")
    assert download.asks_the_server(path=download.web.url("copy"))
    assert download.asks_the_server(path=download.web.url(f"{NAME}?version=2"))
    assert download.asks_the_server(path=download.web.url(NAME).replace("//", "//user:word@"))
    assert download.asks_the_server(SHA256=download.sha256(), ONECONVERT_DISK="1")
    assert download.asks_the_server(**both)
    assert not download.asks_the_server()
    assert len(kept_in(directory)) == 7


def test_other_rules_for_sources_hold_for_the_cache_too(
    download: Importer, front_end: FrontEnd, directory: Path
) -> None:
    download()
    store = front_end.datastore()
    with front_end.settings(private_addresses="refuse"):
        answer = front_end.call("cp", download.document(store))
    assert (answer.status, answer.stdout) == (1, "")
    assert "private address" in answer.stderr


def test_nobody_gets_an_image_by_a_checksum_alone(download: Importer, front_end: FrontEnd, directory: Path) -> None:
    download()
    store = front_end.datastore()
    answer = front_end.call("cp", download.document(store, path=download.web.url("missing"), SHA256=download.sha256()))
    assert (answer.status, answer.stdout) == (1, "")
    assert "404" in answer.stderr


def test_an_object_is_kept_for_those_with_the_same_keys(
    download: Importer, front_end: FrontEnd, directory: Path
) -> None:
    download.web.pages[f"bucket/{NAME}"] = send_file(download.images.file(NAME))
    asked = []
    for secret in ("one", "one", "other"):
        market = f"<ENDPOINT>{download.web.url('')}</ENDPOINT><AWS>no</AWS><ACCESS_KEY_ID>x</ACCESS_KEY_ID>"
        market += f"<SECRET_ACCESS_KEY>{secret}</SECRET_ACCESS_KEY>"
        market = f"<MARKETPLACE><MARKET_MAD>s3</MARKET_MAD><TEMPLATE>{market}</TEMPLATE></MARKETPLACE>"
        document = download.document(front_end.datastore(), path=f"s3://bucket/{NAME}", SHA256=download.sha256())
        download.web.requests.clear()
        answer = front_end.call("cp", document.replace("</DS_DRIVER_ACTION_DATA>", market + "</DS_DRIVER_ACTION_DATA>"))
        assert answer.status == 0, answer.stderr
        asked.append(bool(download.web.requests))
    assert asked == [True, False, True]


def test_a_file_of_the_front_end_is_not_kept(download: Importer, front_end: FrontEnd, directory: Path) -> None:
    store = front_end.datastore(safe_dirs=str(download.images.directory))
    answer = front_end.call("cp", download.document(store, path=str(download.images.file(NAME))))
    assert answer.status == 0, answer.stderr
    assert not directory.exists()


def test_without_a_checksum_nothing_is_kept(download: Importer, front_end: FrontEnd, directory: Path) -> None:
    for _ in range(2):
        assert download.asks_the_server(DESCRIPTION="none")
    assert not directory.exists()


def test_an_image_that_fails_is_not_kept(download: Importer, front_end: FrontEnd, directory: Path) -> None:
    images, web = download.images, download.web
    images.file("cut").write_bytes(images.file(NAME).read_bytes()[: 2 * MIB])
    wrong = {"SHA256": download.sha256("vhd")}
    for name, attributes in ((NAME, wrong), ("cut", {})):
        answer = front_end.call("cp", download.document(front_end.datastore(), name=name, **attributes))
        assert (answer.status, answer.stdout) == (1, ""), web.url(name)
    assert kept_in(directory) == []


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4096)


def other_format(path: Path) -> None:
    path.write_bytes(b"KDMV" + path.read_bytes()[4:])


def no_tables(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(65536)
        file.write(b"\xff" * 65536)


@pytest.mark.parametrize("damage", [cut, other_format, no_tables])
def test_a_damaged_entry_is_not_used(download: Importer, front_end: FrontEnd, directory: Path, damage: object) -> None:
    download()
    (entry,) = kept_in(directory)
    damage(entry / "image")  # type: ignore[operator]
    assert download.asks_the_server()
    assert "is damaged, and removed" in front_end.log.read_text()
    assert not download.asks_the_server(), "it was kept again"


def test_the_size_of_the_cache_is_kept_to(download: Importer, front_end: FrontEnd, tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    with front_end.settings(cache_size="4M", cache_dir=directory):  # a result takes more than 3
        assert download.asks_the_server()
        assert not download.asks_the_server()
        assert download.asks_the_server("raw")
        assert len(kept_in(directory)) == 1
        assert not download.asks_the_server("raw")
        assert download.asks_the_server()
    with front_end.settings(cache_size="1M", cache_dir=directory):
        assert download.asks_the_server("vmdk", name="vdi")
        assert download.asks_the_server("vmdk", name="vdi")


@pytest.mark.parametrize(
    ("setting", "size", "words"),
    [({"size_policy": "refuse"}, 1, "size_policy"), ({"max_virtual_size": "1M"}, SIZE_MB, "max_virtual_size")],
)
def test_an_image_in_the_cache_is_held_against_its_size(
    download: Importer, front_end: FrontEnd, directory: Path, setting: dict[str, str], size: int, words: str
) -> None:
    download()
    asked = len(download.web.requests)
    store = front_end.datastore()
    with front_end.settings(**setting):
        answer = front_end.call("cp", download.document(store, size=size))
    assert (answer.status, answer.stdout) == (1, "")
    assert words in answer.stderr
    assert len(download.web.requests) == asked
    assert front_end.left_in(store) == []


def test_a_directory_that_others_could_change_is_not_used(
    download: Importer, front_end: FrontEnd, directory: Path, tmp_path: Path
) -> None:
    directory.mkdir()
    directory.chmod(0o777)
    assert download.asks_the_server()
    assert list(directory.iterdir()) == []
    directory.rmdir()
    (tmp_path / "real").mkdir(0o700)
    directory.symlink_to(tmp_path / "real")
    assert download.asks_the_server()
    assert list((tmp_path / "real").iterdir()) == []
    assert front_end.log.read_text().count(f"the cache {directory} is not used") == 2


def test_no_secret_is_in_the_cache(download: Importer, front_end: FrontEnd, directory: Path) -> None:
    url = f"{download.web.url(NAME)}?key=Geheimnis".replace("//", "//user:Passwort@")
    assert download.asks_the_server(path=url)
    assert not download.asks_the_server(path=url)
    (entry,) = kept_in(directory)
    description = (entry / "description").read_text()
    for secret in ("Geheimnis", "Passwort"):
        assert secret not in entry.name + description + front_end.log.read_text()


def test_several_imports_of_one_image_at_once(download: Importer, directory: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for answer in [pool.submit(download) for _ in range(4)]:
            answer.result()
    assert len(kept_in(directory)) == 1
    assert not download.asks_the_server()


def test_a_signal_while_the_result_is_kept(download: Importer, front_end: FrontEnd, directory: Path) -> None:
    """Somebody else holds the cache, so the import waits there."""
    begun, released = threading.Event(), threading.Event()
    data = download.images.file(NAME).read_bytes()

    def behave(request: Handler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        begun.set()
        released.wait(60)
        request.wfile.write(data)

    download.web.pages["slow"] = behave
    store = front_end.datastore()
    process = front_end.begin("cp", download.document(store, path=download.web.url("slow"), SHA256=download.sha256()))
    try:
        assert begun.wait(30)  # by now it knows that nothing is kept
        with (directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            released.set()
            assert wait_until(lambda: waits_for_a_lock(process.pid)), front_end.log.read_text()
            process.terminate()
            assert process.wait(timeout=30) == 128 + signal.SIGTERM
    finally:
        released.set()
        process.kill()
        process.wait()
    assert kept_in(directory) == []
    assert front_end.left_in(store) == []


def waits_for_a_lock(pid: int) -> bool:
    return any("->" in line and str(pid) in line.split() for line in Path("/proc/locks").read_text().splitlines())
