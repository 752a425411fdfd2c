"""Whatever fails: one sentence, an exit status, and nothing left behind."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import threading
import xmlrpc.server
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rig.front_end import Answer, FrontEnd, info, messages, processes_of
from rig.images import MIB, SIZE_MB, Images
from rig.messages import Datastore
from rig.running import running
from rig.tls import make_certificate
from rig.web import Web, cut_off, drip, redirect, send_file, serve, stall, status, wait_until

RELEASES = ("5.12", "6.4", "6.4 -i", "6.8", "7.4")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")


def assert_refused(answer: Answer, *words: str, status: int = 1) -> None:
    """One sentence on standard error, nothing on standard output."""
    assert answer.status == status, answer
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 1, answer.stderr
    assert "Traceback" not in answer.stderr
    assert not answer.stderr.startswith("-")
    for word in words:
        assert word in answer.stderr


def download(front_end: FrontEnd, url: str, store: Datastore, release: str = "7.4") -> Answer:
    return front_end.call("cp", messages(release).cp(42, url, SIZE_MB, store), release=release)


@pytest.mark.parametrize("release", RELEASES)
def test_an_error_is_told_as_the_release_wants_it(front_end: FrontEnd, web: Web, release: str) -> None:
    answer = download(front_end, web.url("missing"), front_end.datastore(), release)
    assert answer.status == 1
    lines = answer.stderr.splitlines()
    if release == "5.12":
        assert lines[0] == "ERROR MESSAGE --8<------"
        assert lines[2:] == ["ERROR MESSAGE ------>8--"]
        lines = lines[1:2]
    assert lines == [f"{web.url('missing')}: the server answered 404 Not Found; check the address of the image"]


def test_a_server_that_cannot_be_reached(front_end: FrontEnd) -> None:
    store = front_end.datastore()
    assert_refused(download(front_end, "http://127.0.0.1:1/image?key=Geheimnis", store), "cannot be reached")
    assert front_end.left_in(store) == []
    assert "Geheimnis" not in front_end.log.read_text()


def test_a_connection_that_breaks_is_no_image(front_end: FrontEnd, images: Images, web: Web) -> None:
    web.pages["cut"] = cut_off(images.file("vmdk-sparse"), 2 * MIB)
    store = front_end.datastore()
    assert_refused(download(front_end, web.url("cut"), store), "incomplete", str(2 * MIB))
    assert front_end.left_in(store) == []


def test_a_server_that_falls_silent_is_given_up(front_end: FrontEnd, images: Images, web: Web) -> None:
    released = threading.Event()
    web.pages["stall"] = stall(images.file("vmdk-sparse"), 2 * MIB, released)
    store = front_end.datastore()
    with front_end.settings(idle_timeout=1):
        assert_refused(download(front_end, web.url("stall"), store), "stopped sending")
    released.set()
    assert front_end.left_in(store) == []


def test_a_server_that_drips_is_given_up(front_end: FrontEnd, images: Images, web: Web) -> None:
    web.pages["drip"] = drip(images.file("vmdk-sparse"), 20)
    store = front_end.datastore()
    with front_end.settings(idle_timeout=1):
        answer = download(front_end, web.url("drip"), store)
    assert_refused(answer, "bytes per second", "min_rate")
    assert answer.seconds < 10
    assert front_end.left_in(store) == []


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/image", "gopher://127.0.0.1/"])
def test_a_redirect_leads_to_http_and_https_only(front_end: FrontEnd, web: Web, target: str) -> None:
    web.pages["elsewhere"] = redirect(target)
    assert_refused(download(front_end, web.url("elsewhere"), front_end.datastore()), "redirect")


def test_a_server_that_cannot_prove_who_it_is(front_end: FrontEnd, images: Images, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path / "server.pem")
    with serve(images.directory, certificate) as web:
        store = front_end.datastore()
        assert_refused(download(front_end, web.url("vmdk-stream"), store), "certificate is not trusted", "tls_ca_file")
        assert front_end.left_in(store) == []
        with front_end.settings(tls_ca_file=certificate):
            assert download(front_end, web.url("vmdk-stream"), store).status == 0
        with front_end.settings(tls_verify="no"):
            answer = download(front_end, web.url("vmdk-stream"), store)
        assert answer.status == 0
        assert "Warning" not in answer.stderr
        # The way an administrator makes a host trust an authority of the house.
        document = messages().cp(42, web.url("vmdk-stream"), SIZE_MB, store)
        assert front_end.call("cp", document, SSL_CERT_FILE=str(certificate)).status == 0


@pytest.mark.parametrize("scheme", ["file", "ftp", "gopher", "nbd"])
def test_a_scheme_that_nobody_knows_is_refused(front_end: FrontEnd, scheme: str) -> None:
    assert_refused(download(front_end, f"{scheme}:///etc/passwd", front_end.datastore()), f"{scheme}://")


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("<!DOCTYPE html>\n<html><body>Please log in</body></html>\n", "web page"),
        ("<!-- comment -->\n<html lang=de>", "web page"),
        ("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML document"),
        ('{"error": "not found", "message": "no such appliance"}\n', "text"),
        ("404 page not found\n", "text"),
        ("%PDF-1.7\n\x01", "PDF"),
    ],
)
def test_a_page_is_no_image(front_end: FrontEnd, images: Images, web: Web, page: str, words: str) -> None:
    images.file("page").write_text(page * 100)
    store = front_end.datastore("raw")
    assert_refused(download(front_end, web.url("page"), store), words)
    assert front_end.left_in(store) == []


@pytest.mark.parametrize("name", ["raw.gz", "raw.bz2", "raw.xz", "raw.zst", "raw.lz4"])
def test_compressed_data_that_ends_too_early_is_no_image(
    front_end: FrontEnd, images: Images, web: Web, name: str
) -> None:
    images.file("short").write_bytes(images.file(name).read_bytes()[:-100])
    store = front_end.datastore("qcow2")
    assert_refused(download(front_end, web.url("short"), store), "truncated")
    assert front_end.left_in(store) == []


@pytest.mark.parametrize("name", ["raw.gz", "raw.bz2", "raw.xz", "raw.zst", "raw.lz4"])
def test_compressed_data_that_is_damaged_is_no_image(front_end: FrontEnd, images: Images, web: Web, name: str) -> None:
    data = bytearray(images.file(name).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    images.file("broken").write_bytes(data)
    store = front_end.datastore("qcow2")
    assert_refused(download(front_end, web.url("broken"), store), "damaged")
    assert front_end.left_in(store) == []


@pytest.mark.parametrize("name", ["qcow2", "qcow2-compressed", "vmdk-sparse", "vmdk-stream", "vdi", "vhd", "vhdx"])
def test_a_truncated_image_never_becomes_zeros(front_end: FrontEnd, images: Images, web: Web, name: str) -> None:
    data = images.file(name).read_bytes()
    images.file("truncated").write_bytes(data[: len(data) * 2 // 3])
    store = front_end.datastore("raw")
    assert_refused(download(front_end, web.url("truncated"), store), "truncated")
    assert front_end.left_in(store) == []


def test_an_image_that_reads_other_files_is_refused(front_end: FrontEnd, images: Images, web: Web) -> None:
    secret = images.file("secret")
    secret.write_bytes(b"canary" * 4096)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", secret, "-F", "raw", images.file("child"), "1M"],
        check=True,
    )
    store = front_end.datastore("raw")
    assert_refused(download(front_end, web.url("child"), store), "backing file")
    assert front_end.left_in(store) == []


def test_an_image_hidden_in_a_disk_is_refused(front_end: FrontEnd, images: Images, web: Web) -> None:
    """A raw result that begins like a qcow2 would be probed as one by the native driver."""
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", images.file("qcow2"), images.file("nested")]
    subprocess.run(command, check=True)
    store = front_end.datastore("raw")
    assert_refused(download(front_end, web.url("nested"), store), "itself a qcow2 image")
    assert front_end.left_in(store) == []


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"\xff\xfe not base64", "not base64"),
        (base64.b64encode(b"<DS_DRIVER_ACTION_DATA><IMAGE>"), "not well-formed"),
        (base64.b64encode(b"<OTHER/>"), "not a DS_DRIVER_ACTION_DATA"),
        (base64.b64encode(b"<!DOCTYPE a [<!ENTITY b 'c'>]><DS_DRIVER_ACTION_DATA/>"), "DOCTYPE"),
        (base64.b64encode(b"<DS_DRIVER_ACTION_DATA/>"), "IMAGE/ID"),
        (b"", "sent no document"),
    ],
)
def test_a_message_that_cannot_be_read(front_end: FrontEnd, payload: bytes, words: str) -> None:
    assert_refused(front_end.call("cp", payload), words)


def test_without_a_document_the_release_decides_how_an_error_is_told(front_end: FrontEnd) -> None:
    version = front_end.remotes / "VERSION"
    before = version.read_text()
    try:
        version.write_text("5.12.13\n")
        answer = front_end.call("cp", b"?", release="5.12")
    finally:
        version.write_text(before)
    assert answer.stderr.splitlines()[0] == "ERROR MESSAGE --8<------"


def test_a_driver_that_nobody_can_write(front_end: FrontEnd, web: Web) -> None:
    assert_refused(download(front_end, web.url("raw"), front_end.datastore("cow")), "DRIVER=cow")


def test_a_checksum_that_is_none_is_not_taken_for_a_checked_one(front_end: FrontEnd, web: Web) -> None:
    document = messages().cp(42, web.url("raw"), SIZE_MB, front_end.datastore(), attributes={"MD5": "abc; id"})
    assert_refused(front_end.call("cp", document), "MD5 of the image")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("no_such_setting = 1", "no_such_setting"),
        ("idle_timeout = soon", "idle_timeout must be a number"),
        ("scratch_dir = here", "scratch_dir must be an absolute path"),
        ("unset_driver = vdi", "unset_driver must be one of"),
        ("max_virtual_size = 1.5X", "max_virtual_size must be a size"),
        ("[other]", "section [other]"),
    ],
)
def test_a_setting_that_cannot_be_used(front_end: FrontEnd, web: Web, line: str, words: str) -> None:
    path = front_end.remotes / "etc" / "oneconvert" / "oneconvert.conf"
    before = path.read_text()
    path.write_text(before + line + "\n")
    try:
        assert_refused(download(front_end, web.url("raw"), front_end.datastore()), words, "oneconvert.conf")
    finally:
        path.write_text(before)


def test_a_scratch_directory_that_is_not_there(front_end: FrontEnd, web: Web) -> None:
    with front_end.settings(scratch_dir="/no/such/place"):
        assert_refused(download(front_end, web.url("raw"), front_end.datastore()), "/no/such/place", "scratch_dir")


@needs_root
@pytest.mark.parametrize(("size", "name"), [("1m", "vmdk-sparse"), ("2m", "raw.zst"), ("3400k", "vmdk-stream")])
def test_a_full_disk(front_end: FrontEnd, web: Web, tmp_path: Path, size: str, name: str) -> None:
    """Full by what is announced, while the image is unpacked, and while it is converted."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "oneconvert-test", tmp_path], check=True)
    try:
        store = front_end.datastore("qcow2")
        with front_end.settings(scratch_dir=tmp_path):
            answer = download(front_end, web.url(name), store)
        assert_refused(answer, "o space left")
        assert list(tmp_path.iterdir()) == []
        assert front_end.left_in(store) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@needs_root
def test_a_finished_image_crosses_to_another_file_system(front_end: FrontEnd, web: Web, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "oneconvert-test", tmp_path], check=True)
    try:
        store = front_end.datastore("qcow2")
        with front_end.settings(scratch_dir=tmp_path):
            answer = download(front_end, web.url("vmdk-stream"), store)
        assert answer.status == 0, answer.stderr
        assert front_end.left_in(store) == [answer.source.name]
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_the_download(front_end: FrontEnd, images: Images, web: Web, number: int) -> None:
    released = threading.Event()
    web.pages["slow"] = stall(images.file("vmdk-sparse"), 2 * MIB, released)
    store = front_end.datastore()
    process = front_end.begin("cp", messages().cp(42, web.url("slow"), SIZE_MB, store))
    assert wait_until(lambda: any(name.endswith("source") for name in front_end.left_in(store)))
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    released.set()
    assert process.stderr.read().decode().startswith("interrupted by SIG")  # type: ignore[union-attr]
    assert front_end.left_in(store) == []
    assert processes_of(process.pid) == []


def children(pid: int) -> list[tuple[int, str]]:
    """The direct children of a process, with their names."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[1]) == pid:
            found.append((int(path.parent.name), text[text.index("(") + 1 : text.rindex(")")]))
    return found


@pytest.fixture(scope="module")
def large(images: Images) -> Path:
    """An image whose conversion takes long enough to be disturbed."""
    raw, vmdk = images.file("large.raw"), images.file("large")
    with raw.open("wb") as file:
        for _ in range(6):
            file.write(os.urandom(16 * MIB) * 4)
    command = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk]
    subprocess.run(command, check=True)
    raw.unlink()
    return vmdk


def start_and_wait_for_qemu_img(front_end: FrontEnd, web: Web, store: Datastore) -> tuple[subprocess.Popen[bytes], int]:
    process = front_end.begin("cp", messages().cp(42, web.url("large"), 384, store))

    def converting() -> list[int]:
        if not any(name.endswith("result") for name in front_end.left_in(store)):
            return []
        return [pid for pid, name in children(process.pid) if name == "qemu-img"]

    assert wait_until(lambda: bool(converting()))
    return process, converting()[0]


def test_a_qemu_img_that_is_killed(front_end: FrontEnd, web: Web, large: Path) -> None:
    store = front_end.datastore()
    process, converter = start_and_wait_for_qemu_img(front_end, web, store)
    os.kill(converter, signal.SIGKILL)
    assert process.wait(timeout=30) == 1
    assert "qemu-img was killed" in process.stderr.read().decode()  # type: ignore[union-attr]
    assert front_end.left_in(store) == []


def test_a_signal_during_the_conversion(front_end: FrontEnd, web: Web, large: Path) -> None:
    store = front_end.datastore()
    process, converter = start_and_wait_for_qemu_img(front_end, web, store)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert not Path(f"/proc/{converter}").exists()
    assert front_end.left_in(store) == []


def test_after_a_sigkill_no_process_stays_and_the_next_import_removes_the_files(
    front_end: FrontEnd, web: Web, large: Path
) -> None:
    store = front_end.datastore()
    process, converter = start_and_wait_for_qemu_img(front_end, web, store)
    process.kill()
    process.wait()
    assert wait_until(lambda: not Path(f"/proc/{converter}").exists())
    left = [path for path in Path(store.base_path).glob(".oneconvert/*") if path.is_dir()]
    assert len(left) == 1
    os.utime(left[0], (0, 0))  # as if a minute had passed
    answer = download(front_end, web.url("raw"), store)
    assert answer.status == 0, answer.stderr
    assert front_end.left_in(store) == [answer.source.name]


def test_a_running_import_is_not_taken_for_a_dead_one(front_end: FrontEnd, images: Images, web: Web) -> None:
    released = threading.Event()
    slow = stall(images.file("vmdk-sparse"), MIB, released)

    def behave(request: object) -> None:
        slow(request)  # type: ignore[arg-type]

    web.pages["slow-one"] = behave
    store = front_end.datastore()
    process = front_end.begin("cp", messages().cp(42, web.url("slow-one"), SIZE_MB, store))
    assert wait_until(lambda: any(name.endswith("source") for name in front_end.left_in(store)))
    (running,) = Path(store.base_path).glob(".oneconvert/*")
    os.utime(running, (0, 0))
    assert download(front_end, web.url("raw"), store).status == 0
    assert running.exists()
    process.terminate()
    process.wait(timeout=30)
    released.set()


NATIVE = """#!/bin/sh
# Like the native fs driver: finds ../downloader.sh by dirname $0.
document=$(cat)
target={base}/stored-42
{before}
path=$(printf %s "$document" | base64 -d | sed 's/.*<PATH><!.CDATA.\\([^]]*\\).*/\\1/')
"$(dirname "$0")/../downloader.sh" --nodecomp "$path" "$target" || exit 1
{after}
"""


def native(front_end: FrontEnd, store: Datastore, before: str = "", after: str = 'echo "$target qcow2"') -> None:
    """Make the recording driver store images, with something that happens before or after."""
    script = front_end.remotes / "datastore" / "recorder" / "cp"
    script.write_text(NATIVE.format(base=store.base_path, before=before, after=after))


@pytest.fixture
def recorder(front_end: FrontEnd) -> Iterator[Path]:
    directory = front_end.remotes / "datastore" / "recorder"
    before = {name: (directory / name).read_text() for name in ("cp", "rm")}
    yield directory
    for name, text in before.items():
        (directory / name).write_text(text)


def test_a_native_driver_that_fails_is_quoted_and_cleaned_up_after(
    front_end: FrontEnd, web: Web, recorder: Path
) -> None:
    store = front_end.datastore("qcow2", "oneconvert_recorder")
    native(front_end, store, after='echo "ERROR: cp: details" >&2; echo "Quota of the volume is used up" >&2; exit 1')
    document = messages().cp(42, web.url("vmdk-stream"), SIZE_MB, store)
    answer = front_end.call("cp", document, driver="oneconvert_recorder")
    assert_refused(answer, "native recorder driver", "Quota of the volume is used up")
    assert front_end.left_in(store) == []


def test_the_native_driver_gets_the_very_file_that_was_converted(front_end: FrontEnd, web: Web, recorder: Path) -> None:
    store = front_end.datastore("qcow2", "oneconvert_recorder")
    native(front_end, store, after='stat -c %i "$target" > "$target.after"; echo "$target qcow2"')
    script = recorder / "cp"
    script.write_text(
        script.read_text().replace("--nodecomp", '--nodecomp $(stat -c "-l %i" "$path" | tee $target.before)')
    )
    answer = front_end.call("cp", messages().cp(42, web.url("vmdk-stream"), SIZE_MB, store), "oneconvert_recorder")
    assert answer.status == 0, answer.stderr
    before, after = (Path(f"{answer.source}.{when}").read_text().split()[-1] for when in ("before", "after"))
    assert before == after, "renamed, not copied"


def test_a_native_driver_that_says_nothing_is_a_failure(front_end: FrontEnd, web: Web, recorder: Path) -> None:
    store = front_end.datastore("qcow2", "oneconvert_recorder")
    native(front_end, store, after="exit 0")
    document = messages().cp(42, web.url("vmdk-stream"), SIZE_MB, store)
    assert_refused(front_end.call("cp", document, driver="oneconvert_recorder"), "did not store the image")
    assert front_end.left_in(store) == []


def test_after_a_sigkill_during_the_hand_over_the_next_import_removes_the_image(
    front_end: FrontEnd, web: Web, recorder: Path
) -> None:
    store = front_end.datastore("qcow2", "oneconvert_recorder")
    native(front_end, store, after="sleep 60 & wait")
    document = messages().cp(42, web.url("vmdk-stream"), SIZE_MB, store)
    process = front_end.begin("cp", document, driver="oneconvert_recorder")
    assert wait_until(lambda: "stored-42" in front_end.left_in(store))
    process.kill()
    process.wait()
    for left in Path(store.base_path).glob(".oneconvert/*"):
        os.utime(left, (0, 0))  # as if a minute had passed
    answer = download(front_end, web.url("raw"), store)
    assert answer.status == 0, answer.stderr
    assert front_end.left_in(store) == [answer.source.name]


def test_a_signal_while_a_driver_stores_what_only_it_can_name(front_end: FrontEnd, web: Web, recorder: Path) -> None:
    """Such a driver is let finish, and its own rm removes the image."""
    store = front_end.datastore("qcow2", "oneconvert_recorder")
    script = recorder / "cp"
    volume = f"{store.base_path}/volume-42"
    script.write_text(f"#!/bin/sh\ncat > /dev/null\necho > {volume}\nsleep 2\necho {volume} raw\n")
    (recorder / "rm").write_text(f"#!/bin/sh\ncat > /dev/null\nrm {volume}\n")
    document = messages().cp(42, web.url("vmdk-stream"), SIZE_MB, store)
    process = front_end.begin("cp", document, driver="oneconvert_recorder")
    assert wait_until(lambda: "volume-42" in front_end.left_in(store))
    process.terminate()
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert front_end.left_in(store) == []


def test_a_signal_that_arrives_while_a_failure_is_cleaned_up_changes_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from oneconvert.jobs.signals import hold_signals, interruptible\n"
        "from oneconvert.jobs.workspace import workspace\n"
        "hold_signals()\n"
        "with workspace(Path(sys.argv[1]), '42') as directory:\n"
        "    (directory / 'source').write_bytes(bytes(1000))\n"
        "    try:\n"
        "        with interruptible(): raise ValueError\n"
        "    finally:\n"
        "        for _ in range(5): os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, check=False)
    assert b"ValueError" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_standard_streams_that_are_closed(front_end: FrontEnd, web: Web) -> None:
    store = front_end.datastore()
    program = front_end.remotes / "datastore" / "oneconvert_fs" / "cp"
    payload = base64.b64encode(messages("5.12").cp(42, web.url("vmdk-stream"), SIZE_MB, store).encode()).decode()
    for closed in ("0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"):
        command = ["sh", "-c", f'exec "$0" "$@" {closed}', program, payload, "42"]
        ended = subprocess.run(command, env=front_end.environment(), capture_output=True, check=False)
        heard = "1>" not in closed
        assert (ended.returncode == 0) is heard, ended.stderr
        assert len(front_end.left_in(store)) == heard
        for name in front_end.left_in(store):
            Path(store.base_path, name).unlink()


def test_a_signal_during_the_hand_over(front_end: FrontEnd, web: Web, recorder: Path) -> None:
    store = front_end.datastore("qcow2", "oneconvert_recorder")
    native(front_end, store, after="sleep 60 & wait")
    document = messages().cp(42, web.url("vmdk-stream"), SIZE_MB, store)
    process = front_end.begin("cp", document, driver="oneconvert_recorder")
    assert wait_until(lambda: "stored-42" in front_end.left_in(store))
    ((driver, _),) = children(process.pid)
    process.terminate()
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert front_end.left_in(store) == []
    assert processes_of(driver) == [], "what the native driver started is gone, too"


def test_an_image_that_oned_never_hears_of_is_taken_back(front_end: FrontEnd, web: Web, recorder: Path) -> None:
    """oned or its MAD died: nobody reads our answer, nobody would ever remove the image."""
    store = front_end.datastore("qcow2", "oneconvert_recorder")
    native(front_end, store, after='sleep 1; echo "$target qcow2"')
    front_end.will_answer()
    document = messages().cp(42, web.url("vmdk-stream"), SIZE_MB, store)
    process, stdin = front_end.start("cp", document, driver="oneconvert_recorder")
    process.stdout.close()  # type: ignore[union-attr]
    process.stdin.write(stdin)  # type: ignore[union-attr]
    process.stdin.close()  # type: ignore[union-attr]
    assert process.wait(timeout=30) == 1
    assert front_end.left_in(store) == []
    removal = base64.b64decode(front_end.record().stdin).decode()
    assert re.search(r"<SOURCE>(<!\[CDATA\[)?" + re.escape(f"{store.base_path}/stored-42"), removal)


@contextmanager
def mock_oned(answer: list[object]) -> Iterator[str]:
    """A mock of oned's API, which cannot run here: it gives ``answer`` to every ``one.image.info``."""
    server = xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False)
    server.register_function(lambda *_: answer, "one.image.info")
    with running(server):
        yield f"http://127.0.0.1:{server.server_address[1]}/RPC2"


NO_SUCH_IMAGE = [False, "[one.image.info] Error getting image [42].", 0x0400, 42, ""]
THERE_IT_IS = [True, "<IMAGE><ID>42</ID></IMAGE>", 0, 42, ""]


@pytest.mark.parametrize(("answer", "kept"), [(NO_SUCH_IMAGE, False), (THERE_IT_IS, True)])
def test_an_image_that_was_deleted_meanwhile_is_taken_back_with_a_mock_of_oned(
    front_end: FrontEnd, web: Web, tmp_path: Path, answer: list[object], kept: bool
) -> None:
    auth = tmp_path / "one_auth"
    auth.write_text("oneadmin:opennebula\n")
    store = front_end.datastore()
    document = messages().cp(42, web.url("vmdk-stream"), SIZE_MB, store)
    with mock_oned(answer) as endpoint:
        result = front_end.call("cp", document, ONE_AUTH=str(auth), ONE_XMLRPC=endpoint)
    if kept:
        assert result.status == 0, result.stderr
        assert front_end.left_in(store) == [result.source.name]
    else:
        assert_refused(result, "image 42 was deleted")
        assert front_end.left_in(store) == []


def test_an_oned_that_does_not_answer_is_no_reason_to_fail(front_end: FrontEnd, web: Web, tmp_path: Path) -> None:
    auth = tmp_path / "one_auth"
    auth.write_text("oneadmin:opennebula\n")
    document = messages().cp(42, web.url("vmdk-stream"), SIZE_MB, front_end.datastore())
    assert front_end.call("cp", document, ONE_AUTH=str(auth), ONE_XMLRPC="http://127.0.0.1:1/RPC2").status == 0


def test_what_was_in_the_datastore_stays(front_end: FrontEnd, web: Web) -> None:
    store = front_end.datastore()
    first = download(front_end, web.url("vmdk-stream"), store)
    assert_refused(download(front_end, web.url("missing"), store))
    assert front_end.left_in(store) == [first.source.name]
    assert info(first.source)["format"] == "qcow2"


def test_a_status_that_is_no_file(front_end: FrontEnd, web: Web) -> None:
    web.pages["denied"] = status(403)
    assert_refused(download(front_end, web.url("denied"), front_end.datastore()), "403")


def test_no_content_is_no_image(front_end: FrontEnd, images: Images, web: Web) -> None:
    images.file("empty").write_bytes(b"")
    web.pages["empty"] = send_file(images.file("empty"))
    assert_refused(download(front_end, web.url("empty"), front_end.datastore()), "empty")
