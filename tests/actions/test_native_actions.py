"""What is the native driver's own reaches it unchanged, and its answer reaches oned unchanged."""

from __future__ import annotations

import base64
import statistics
import time
from pathlib import Path

import pytest

from rig.front_end import FrontEnd, messages
from rig.images import SIZE_MB
from rig.messages import Datastore

ACTIONS = ("rm", "stat", "mkfs", "clone", "monitor", "snap_delete", "export", "restore")
RELEASES = ("5.12", "6.4", "6.4 -i", "6.8", "7.4")


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_is_the_native_drivers_own(front_end: FrontEnd, action: str, release: str) -> None:
    front_end.will_answer("first line\nsecond line\n", "a word\n", status=7)
    document = messages(release).monitor(front_end.datastore(ds_mad="oneconvert_recorder"))
    answer = front_end.call(action, document, driver="oneconvert_recorder", release=release)
    assert (answer.status, answer.stdout, answer.stderr) == (7, "first line\nsecond line\n", "a word\n")
    payload = base64.b64encode(document.encode())
    given = front_end.record()
    assert given.program.endswith(f"/datastore/recorder/{action}")
    if release in ("5.12", "6.4"):
        assert given.arguments == [payload.decode(), "42"]
    else:
        assert given.arguments == (["-", "42"] if release == "6.4 -i" else ["42"])
        assert given.stdin == payload


@pytest.mark.parametrize(("action", "imposed_ms"), [("monitor", 80), ("stat", 500)])
def test_an_action_costs_little_more_than_the_native_one(front_end: FrontEnd, action: str, imposed_ms: float) -> None:
    """For stat oned waits up to 90 s."""
    front_end.will_answer("12\n")
    document = messages().monitor(front_end.datastore(ds_mad="oneconvert_recorder"))

    def seconds(driver: str) -> float:
        times = []
        for _ in range(9):
            started = time.monotonic()
            front_end.call(action, document, driver=driver)
            times.append(time.monotonic() - started)
        return statistics.median(times)

    assert (seconds("oneconvert_recorder") - seconds("recorder")) * 1000 < imposed_ms


def test_an_action_that_the_native_driver_lacks_is_not_invented(front_end: FrontEnd) -> None:
    assert not (front_end.remotes / "datastore" / "oneconvert_recorder" / "snap_flatten").exists()


def left_alone() -> list[tuple[str, dict[str, object], dict[str, object]]]:
    """Name, arguments for the document, changes of the datastore."""
    url = "http://127.0.0.1:9/image"
    cases: list[tuple[str, dict[str, object], dict[str, object]]] = [
        (name, {"path": url, "kind": kind}, {})
        for name, kind in (("CD-ROM", 1), ("kernel", 3), ("ramdisk", 4), ("context", 5), ("file system", 7))
    ]
    cases += [
        ("files datastore", {"path": url}, {"kind": 2}),
        ("CONVERT=no", {"path": url}, {"attributes": {"CONVERT": "NO"}}),
    ]
    cases += [
        (f"CD-ROM by {scheme}", {"path": f"{scheme}://somewhere/image?size=1", "kind": 1}, {})
        for scheme in ("s3", "ssh")
    ]
    schemes = ("restic", "rsync", "onebex", "lxd", "docker", "dockerfile", "rbd")
    return cases + [(scheme, {"path": f"{scheme}://somewhere/image?size=1"}, {}) for scheme in schemes]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("arguments", "datastore"), [pytest.param(a, d, id=i) for i, a, d in left_alone()])
def test_what_is_no_disk_or_not_to_be_converted_is_left_alone(
    front_end: FrontEnd, arguments: dict[str, object], datastore: dict[str, object], release: str
) -> None:
    store = front_end.datastore(None, "oneconvert_recorder", **datastore)
    document = messages(release).cp(42, size_mb=SIZE_MB, datastore=store, **arguments)  # type: ignore[arg-type]
    front_end.will_answer("/somewhere/else raw\n", "INFO: cp: done\n", status=3)
    answer = front_end.call("cp", document, driver="oneconvert_recorder", release=release)
    assert (answer.status, answer.stdout, answer.stderr) == (3, "/somewhere/else raw\n", "INFO: cp: done\n")
    given = front_end.record()
    payload = base64.b64encode(document.encode())
    assert payload in (given.stdin, given.arguments[0].encode())
    assert given.arguments[-1] == "42"


def test_a_document_too_large_for_a_pipe_is_left_alone_too(front_end: FrontEnd) -> None:
    store = Datastore(100, "/nowhere", "oneconvert_recorder", images=tuple(range(40_000)))
    document = messages().cp(42, "http://127.0.0.1:9/image", SIZE_MB, store, kind=1)
    front_end.will_answer("/there raw\n")
    assert front_end.call("cp", document, driver="oneconvert_recorder").status == 0
    assert front_end.record().stdin == base64.b64encode(document.encode())


def test_an_odd_character_in_a_url_is_encoded(front_end: FrontEnd) -> None:
    store = front_end.datastore(None, "oneconvert_recorder")
    document = messages().cp(42, "http://127.0.0.1:9/it's?a=1&b=$(id)", SIZE_MB, store, kind=1)
    front_end.will_answer("/there raw\n")
    front_end.call("cp", document, driver="oneconvert_recorder")
    given = base64.b64decode(front_end.record().stdin).decode()
    assert "http://127.0.0.1:9/it%27s?a=1&b=%24(id)" in given.replace("&amp;", "&")


def test_a_native_driver_finds_its_signals_as_oned_left_them(front_end: FrontEnd, tmp_path: Path) -> None:
    """Python ignores SIGPIPE; a shell script in our place must not."""
    script = front_end.remotes / "datastore" / "recorder" / "cp"
    before = script.read_text()
    script.write_text("#!/bin/sh\ngrep Sig[BI] /proc/self/status\n")
    try:
        document = messages().cp(42, "http://127.0.0.1:9/image", SIZE_MB, front_end.datastore(), kind=1)
        ours = front_end.call("cp", document, driver="oneconvert_recorder")
        assert ours.stdout == front_end.call("cp", document, driver="recorder").stdout
    finally:
        script.write_text(before)


def test_a_quote_in_a_path_is_refused(front_end: FrontEnd) -> None:
    store = front_end.datastore(None, "oneconvert_recorder")
    front_end.will_answer("/there raw\n")
    document = messages().cp(42, "/var/tmp/it's.iso", SIZE_MB, store, kind=1)
    answer = front_end.call("cp", document, driver="oneconvert_recorder")
    assert answer.status == 1
    assert "rename the file" in answer.stderr


def test_a_driver_for_devices_gets_the_device_and_refuses_downloads(front_end: FrontEnd) -> None:
    store = front_end.datastore(None, "oneconvert_dev")
    front_end.will_answer("/dev/sdz raw\n", driver="dev")
    answer = front_end.call("cp", messages().cp(42, "/dev/sdz", SIZE_MB, store), driver="oneconvert_dev")
    assert answer.stdout == "/dev/sdz raw\n"
    document = messages().cp(42, "http://127.0.0.1:9/image", SIZE_MB, store)
    refused = front_end.call("cp", document, driver="oneconvert_dev")
    assert refused.status == 1
    assert "cannot store a download" in refused.stderr
