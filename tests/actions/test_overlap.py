"""An image is converted while it arrives: the result is the same, and no failure leaves more behind than otherwise."""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from oneconvert.actions.landing import Arrival
from oneconvert.actions.overlap import convert_arrived
from oneconvert.images.format import ImageFormat
from oneconvert.images.inspect import Inspection
from oneconvert.transfer.growing import KEPT_BEHIND
from oneconvert.transfer.passing import MOST_WAITING
from rig.crafted import patched, vmware_stream
from rig.front_end import Answer, FrontEnd, messages, processes_of, same_disk
from rig.images import COMPRESSIONS, FORMATS, MIB, SIZE_MB, Images, zstd
from rig.messages import Datastore
from rig.web import Behaviour, Handler, Web, chunked, cut_off, wait_until

# Their tables are where qemu-img finds them before the data has come.
FOLLOWED = ["vmdk-sparse", "vmdk-stream", "vhd", "vhdx", "vdi", "raw", "ova"]


@pytest.fixture(scope="module", autouse=True)
def _full_disks(images: Images) -> None:
    """Disks that are full of data: qemu-img reads 16 MiB ahead of what it writes, and may keep all of it back until the
    last of these reads has its answer.
    """
    content = full(images, "raw")
    content.write_bytes(random.Random(5).randbytes(SIZE_MB * MIB))
    for name, (qemu_format, options) in FORMATS.items():
        if name in FOLLOWED and name != "raw":
            command = ["qemu-img", "convert", "-f", "raw", "-O", qemu_format, *options, content, full(images, name)]
            subprocess.run(command, check=True)
    write_ova(full(images, "ova"), images, "disk.vmdk")


def full(images: Images, name: str) -> Path:
    return images.file(f"full-{name}")


def disk_of(images: Images, name: str) -> tuple[Path, str]:
    """What a guest must see: not always the same disk, that of the VHD is larger for its geometry."""
    return (full(images, "vhd"), "vpc") if name == "vhd" else (full(images, "raw"), "raw")


def write_ova(path: Path, images: Images, *more: str) -> None:
    """An appliance whose description names disk.vmdk, which is the first of its disks, and ``more`` members."""
    unit = 'ovf:capacityAllocationUnits="byte * 2^20"'
    files = "".join(f'<File ovf:id="{name}" ovf:href="{name}"/>' for name in more)
    disks = "".join(f'<Disk ovf:diskId="d{name}" ovf:fileRef="{name}" ovf:capacity="24" {unit}/>' for name in more)
    descriptor = f"""<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References>{files}</References><DiskSection><Info>Disks</Info>{disks}</DiskSection>
<VirtualSystem ovf:id="vm"><Info>A machine</Info></VirtualSystem></Envelope>""".encode()
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        header = tarfile.TarInfo("machine.ovf")
        header.size = len(descriptor)
        archive.addfile(header, io.BytesIO(descriptor))
        for name in more:
            archive.add(full(images, "vmdk-stream"), name)


class Paused:
    """A server that sends all but the last bytes of a file and waits."""

    def __init__(self, path: Path, after: int | None = None) -> None:
        self.path = path
        self.after = path.stat().st_size - 100_000 if after is None else after
        self.goes_on = threading.Event()
        self.breaks = False

    def __call__(self, request: Handler) -> None:
        data = self.path.read_bytes()
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[: self.after])
        request.wfile.flush()
        self.goes_on.wait(60)
        if self.breaks:
            request.close_connection = True
        else:
            request.wfile.write(data[self.after :])


@contextmanager
def importing(
    front_end: FrontEnd, web: Web, behaviour: Behaviour, store: Datastore, size_mb: int = SIZE_MB, **attributes: object
) -> Iterator[subprocess.Popen[bytes]]:
    web.pages["paused"] = behaviour
    message = messages().cp(42, web.url("paused"), size_mb, store, attributes=attributes)
    process = front_end.begin("cp", message)
    try:
        yield process
    except AssertionError:
        print("log:", front_end.log.read_text()[-4000:], "processes:", processes_of(process.pid), sep="\n")
        raise
    finally:
        for pid in (process.pid, *processes_of(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _, stderr = process.communicate()
        print("stderr:", stderr.decode(), sep="\n")


def converters(process: subprocess.Popen[bytes]) -> list[int]:
    """The qemu-img that runs for an import: it has a session of its own."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    found = []
    with suppress(OSError):
        for pid in map(int, children.read_text().split()):
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == "qemu-img":
                    found.append(pid)
    return found


def written(store: Datastore) -> int:
    """Bytes of the disk that the unfinished result holds."""
    total = 0
    for path in Path(store.base_path).rglob("result"):
        with suppress(OSError):
            total += path.stat().st_blocks * 512
    return total


@pytest.mark.parametrize("name", FOLLOWED)
def test_the_conversion_begins_before_the_download_ends(
    front_end: FrontEnd, images: Images, web: Web, name: str
) -> None:
    server = Paused(full(images, name), full(images, name).stat().st_size - 2 * MIB)
    store = front_end.datastore("qcow2")
    with importing(front_end, web, server, store) as process:
        assert wait_until(lambda: written(store) >= MIB), "nothing is converted while the download waits"
        assert len(converters(process)) == 1
        server.goes_on.set()
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    source, image_format = stdout.decode().split()
    assert same_disk(*disk_of(images, name), Path(source), image_format)
    assert front_end.left_in(store) == [Path(source).name]


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_download_that_breaks_ends_the_conversion(front_end: FrontEnd, images: Images, web: Web, name: str) -> None:
    server = Paused(full(images, name))
    server.breaks = True
    store = front_end.datastore("qcow2")
    with importing(front_end, web, server, store) as process:
        assert wait_until(lambda: converters(process) != [])
        (converter,) = converters(process)
        server.goes_on.set()
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stdout == b""
    assert b"the download is incomplete" in stderr
    assert len(stderr.splitlines()) == 1
    assert not Path(f"/proc/{converter}").exists()
    assert front_end.left_in(store) == []


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_wrong_checksum_throws_the_result_away(front_end: FrontEnd, images: Images, web: Web, name: str) -> None:
    store = front_end.datastore("qcow2")
    wrong = hashlib.md5(b"another").hexdigest()
    answer = front_end.call("cp", messages().cp(42, web.url(f"full-{name}"), SIZE_MB, store, attributes={"MD5": wrong}))
    assert answer.status == 1
    assert "does not have the checksum" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert front_end.left_in(store) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("name", ["vmdk-sparse", "vmdk-stream"])
def test_a_signal_ends_all_of_it(front_end: FrontEnd, images: Images, web: Web, name: str, number: int) -> None:
    server = Paused(full(images, name))
    store = front_end.datastore("qcow2")
    with importing(front_end, web, server, store) as process:
        assert wait_until(lambda: written(store) >= MIB)
        (converter,) = converters(process)
        process.send_signal(number)
        status = process.wait(timeout=30)
        assert wait_until(lambda: not Path(f"/proc/{converter}").exists())
    server.goes_on.set()
    if number == signal.SIGKILL:
        # Nobody could clean up; the next import does, once the leftovers are old enough to be ones.
        for path in Path(store.base_path, ".oneconvert").iterdir():
            os.utime(path, (0, 0))
        assert front_end.call("cp", messages().cp(43, web.url("raw"), SIZE_MB, store)).status == 0
        assert len(front_end.left_in(store)) == 1
    else:
        assert status == 128 + number
        assert front_end.left_in(store) == []


def import_without_converter(
    front_end: FrontEnd, images: Images, web: Web, name: str, the_rest_comes: bool
) -> tuple[Answer, Datastore]:
    """Import a disk, whose converter is killed before all of it has arrived."""
    server = Paused(full(images, name))
    store = front_end.datastore("qcow2")
    with importing(front_end, web, server, store) as process:
        assert wait_until(lambda: written(store) >= MIB)
        os.kill(converters(process)[0], signal.SIGKILL)
        assert wait_until(lambda: converters(process) == [])
        if the_rest_comes:
            server.goes_on.set()
        stdout, stderr = process.communicate(timeout=40)
        server.goes_on.set()
    return Answer(process.returncode, stdout.decode(), stderr.decode(), 0), store


def test_a_converter_that_dies_is_made_up_for_when_the_image_is_there(
    front_end: FrontEnd, images: Images, web: Web
) -> None:
    answer, _ = import_without_converter(front_end, images, web, "vmdk-sparse", the_rest_comes=True)
    assert answer.status == 0, answer.stderr
    assert same_disk(*disk_of(images, "vmdk-sparse"), answer.source, answer.format)
    assert "could not be converted while it arrived" in front_end.log.read_text()


def test_a_converter_that_dies_where_nothing_is_left_to_begin_anew_is_an_error(
    front_end: FrontEnd, images: Images, web: Web
) -> None:
    answer, store = import_without_converter(front_end, images, web, "vmdk-stream", the_rest_comes=False)
    assert answer.status == 1, "and nobody waits for the rest"
    assert "qemu-img was killed" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert front_end.left_in(store) == []


@pytest.fixture(scope="module")
def large(images: Images) -> Path:
    """A stream whose disk is larger than what may wait for the converter."""
    raw, stream = images.file("large-raw"), images.file("large-stream")
    raw.write_bytes(random.Random(6).randbytes(1024) * (3 * MOST_WAITING // 1024))
    options = ("-o", "subformat=streamOptimized")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", *options, raw, stream], check=True)
    return stream


def test_more_than_may_wait_comes_through(front_end: FrontEnd, images: Images, web: Web, large: Path) -> None:
    store = front_end.datastore("qcow2")
    answer = front_end.call("cp", messages().cp(42, web.url(large.name), 3 * MOST_WAITING // MIB, store))
    assert answer.status == 0, answer.stderr
    assert same_disk(images.file("large-raw"), "raw", answer.source, "qcow2")


@pytest.mark.parametrize("ends", ["import", "converter"])
def test_a_disk_that_waits_for_a_converter_which_stands_still_is_given_up_with_it(
    front_end: FrontEnd, web: Web, large: Path, ends: str
) -> None:
    server = Paused(large, after=large.stat().st_size // 2)
    store = front_end.datastore("qcow2")
    with importing(front_end, web, server, store, 3 * MOST_WAITING // MIB) as process:
        assert wait_until(lambda: written(store) >= MIB)
        (converter,) = converters(process)
        os.kill(converter, signal.SIGSTOP)
        server.goes_on.set()
        time.sleep(1.0)
        os.kill(*(process.pid, signal.SIGTERM) if ends == "import" else (converter, signal.SIGKILL))
        status = process.wait(timeout=30)
        assert not Path(f"/proc/{converter}").exists()
    assert status == (128 + signal.SIGTERM if ends == "import" else 1)
    assert front_end.left_in(store) == []


def test_a_stream_whose_tables_lead_elsewhere_is_read_by_them(
    front_end: FrontEnd, images: Images, web: Web, tmp_path: Path
) -> None:
    """Two grains exchange their places: in the file, and in the table that says where they are."""
    content = images.file("raw").read_bytes()
    grain = 64 * 1024
    exchanged = content[grain : 2 * grain] + content[:grain] + content[2 * grain :]
    other = vmware_stream(exchanged)
    # The second file with its two first markers and table entries exchanged is the first disk in another order.
    start = 128 * 512
    size = int.from_bytes(other[start + 8 : start + 12], "little")
    behind = start + -(-(12 + size) // 512) * 512
    table = other.index((start // 512).to_bytes(4, "little") + (behind // 512).to_bytes(4, "little"), behind)
    swapped = patched(
        other,
        (start, other[behind : behind + 8]),
        (behind, other[start : start + 8]),
        (table, (behind // 512).to_bytes(4, "little") + (start // 512).to_bytes(4, "little")),
    )
    (images.directory / "swapped").write_bytes(swapped)
    before = len(web.requests)
    answer = front_end.call("cp", messages().cp(42, web.url("swapped"), SIZE_MB, front_end.datastore("qcow2")))
    assert answer.status == 0, answer.stderr
    assert same_disk(images.file("raw"), "raw", answer.source, "qcow2")
    assert len(web.requests) - before == 2
    assert "fetched again" in front_end.log.read_text()


def partitioned(path: Path, size: int, content: bytes, unused: int = 0) -> None:
    """A disk of ``size`` bytes with a GUID partition table, and ``content`` in its partition; ``unused`` are bytes at
    its end that are in none.
    """
    with path.open("wb") as disk:
        disk.truncate(size)
    script = f"label: gpt\nstart=2048, size={(size - unused) // 512 - 4096}\n"
    subprocess.run(["sfdisk", "-q", path], input=script.encode(), check=True)
    with path.open("rb+") as disk:
        disk.seek(MIB)
        disk.write(content)


@pytest.mark.parametrize("compression", ["gz", "xz", "zst"])
def test_a_compressed_disk_says_by_its_partition_table_how_long_it_is(
    front_end: FrontEnd, images: Images, web: Web, compression: str
) -> None:
    disk = images.file("gpt")
    partitioned(disk, SIZE_MB * MIB, full(images, "raw").read_bytes()[: -2 * MIB])
    packed = images.file("gpt", compression)
    packed.write_bytes(COMPRESSIONS[compression](disk.read_bytes()))
    store = front_end.datastore("qcow2")
    server = Paused(packed, packed.stat().st_size - MIB)
    with importing(front_end, web, server, store) as process:
        assert wait_until(lambda: written(store) >= MIB), "nothing is converted while the download waits"
        server.goes_on.set()
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert same_disk(disk, "raw", Path(stdout.decode().split()[0]), "qcow2")


@pytest.mark.parametrize("length", [(SIZE_MB - 4) * MIB, (SIZE_MB + 4) * MIB, SIZE_MB * MIB + 512])
@pytest.mark.parametrize("target", ["qcow2", "vmdk"])
def test_a_partition_table_that_is_wrong_about_the_length_costs_time_only(
    front_end: FrontEnd, images: Images, web: Web, length: int, target: str
) -> None:
    """Of a disk that was cut behind its partition, or made larger without moving the copy of its table to the end."""
    disk = images.file("gpt")
    partitioned(disk, SIZE_MB * MIB, full(images, "raw").read_bytes()[: -2 * MIB], unused=4 * MIB)
    with disk.open("rb+") as file:
        file.truncate(length)
    packed = images.file("gpt", "gz")
    packed.write_bytes(COMPRESSIONS["gz"](disk.read_bytes()))
    with front_end.settings(max_virtual_size=length):
        answer = front_end.call("cp", messages().cp(42, web.url(packed.name), SIZE_MB, front_end.datastore(target)))
    assert answer.status == 0, answer.stderr
    assert same_disk(disk, "raw", answer.source, target)


@pytest.mark.parametrize("compression", ["plain", "gz"])
@pytest.mark.parametrize("target", ["qcow2", "raw"])
def test_a_partitioned_disk_that_is_cut_is_no_image(
    front_end: FrontEnd, images: Images, web: Web, compression: str, target: str
) -> None:
    """Though a raw disk has no end of its own, and the server sends all that it has."""
    disk = images.file("gpt")
    partitioned(disk, SIZE_MB * MIB, full(images, "raw").read_bytes()[: -2 * MIB])
    packed = images.file("gpt-cut", compression)
    packed.write_bytes(COMPRESSIONS[compression](disk.read_bytes()[: -4 * MIB]))
    store = front_end.datastore(target)
    answer = front_end.call("cp", messages().cp(42, web.url(packed.name), SIZE_MB, store))
    assert answer.status == 1
    assert "is truncated: its partitions need" in answer.stderr
    assert front_end.left_in(store) == []


def test_a_disk_that_is_there_gives_its_space_back_while_it_is_converted(tmp_path: Path) -> None:
    source, result = tmp_path / "source", tmp_path / "result"
    content = random.Random(7).randbytes(2 * KEPT_BEHIND)
    source.write_bytes(content)
    found = Inspection(ImageFormat.RAW, len(content), ImageFormat.RAW)
    convert_arrived(Arrival("disk.img", source, found), result, ImageFormat.QCOW2)
    assert source.stat().st_blocks * 512 < 1.5 * KEPT_BEHIND
    source.write_bytes(content)
    assert same_disk(source, "raw", result, "qcow2")


@pytest.mark.parametrize("compression", ["plain", "zst"])
def test_what_only_the_end_shows_to_be_no_raw_disk_is_fetched_again(
    front_end: FrontEnd, images: Images, web: Web, compression: str
) -> None:
    path = images.file("vhd-fixed", compression)
    answer = front_end.call("cp", messages().cp(42, web.url(path.name), SIZE_MB, front_end.datastore("qcow2")))
    assert answer.status == 0, answer.stderr
    assert same_disk(images.file("vhd-fixed"), "vpc", answer.source, "qcow2")


def test_without_a_length_what_needs_none_is_followed_all_the_same(
    front_end: FrontEnd, images: Images, web: Web
) -> None:
    for name in ("vdi", "vmdk-stream", "qcow2-compressed", "raw", "vhdx", "vmdk-sparse"):
        web.pages["chunked"] = chunked(images.file(name))
        answer = front_end.call("cp", messages().cp(42, web.url("chunked"), SIZE_MB, front_end.datastore("raw")))
        assert answer.status == 0, answer.stderr
        assert same_disk(images.file("raw"), "raw", answer.source, "raw")


def test_a_second_disk_is_found_though_the_first_is_converted_already(
    front_end: FrontEnd, images: Images, web: Web
) -> None:
    write_ova(images.file("two.ova"), images, "one.vmdk", "two.vmdk")
    store = front_end.datastore("qcow2")
    answer = front_end.call("cp", messages().cp(42, web.url("two.ova"), SIZE_MB, store))
    assert answer.status == 1
    assert "has 2 disks: 1 'one.vmdk', 2 'two.vmdk'" in answer.stderr
    with tarfile.open(images.file("two.tar"), "w") as archive:
        for name in ("a.img", "b.img"):
            archive.add(images.file("vmdk-sparse"), name)
    answer = front_end.call("cp", messages().cp(42, web.url("two.tar"), SIZE_MB, store))
    assert answer.status == 1
    assert "has 2 disks: 1 'a.img', 2 'b.img'" in answer.stderr
    assert front_end.left_in(store) == []


def test_a_cut_file_is_told_as_such(front_end: FrontEnd, images: Images, web: Web) -> None:
    """The length is that of what was published: the file itself is too short."""
    for name in ("vmdk-sparse", "vmdk-stream", "vdi", "vhdx"):
        path = images.file(f"short-{name}")
        path.write_bytes(images.file(name).read_bytes()[:-300_000])
        store = front_end.datastore("qcow2")
        answer = front_end.call("cp", messages().cp(42, web.url(path.name), SIZE_MB, store))
        assert answer.status == 1
        assert "is truncated" in answer.stderr
        assert front_end.left_in(store) == []


def test_the_rest_is_not_fetched_of_what_is_too_large(front_end: FrontEnd, images: Images, web: Web) -> None:
    server = Paused(images.file("vmdk-sparse"))
    store = front_end.datastore("qcow2")
    with front_end.settings(max_virtual_size="20M"), importing(front_end, web, server, store) as process:
        _, stderr = process.communicate(timeout=20)
    server.goes_on.set()
    assert process.returncode == 1
    assert b"max_virtual_size" in stderr
    assert front_end.left_in(store) == []


def test_the_disk_that_arrives_is_the_one_that_is_measured(front_end: FrontEnd, images: Images, web: Web) -> None:
    """A small disk comes first, the description and what it means, a large one, later; and the other way round."""
    large = images.directory / "large.vdi"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vdi", large, "40G"], check=True)
    descriptor = """<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"
xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><References><File ovf:id="f" ovf:href="{0}"/></References>
<DiskSection><Info>Disks</Info><Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="1"/></DiskSection>
<VirtualSystem ovf:id="vm"><Info>A machine</Info></VirtualSystem></Envelope>"""
    members = {"a.vdi": images.file("vdi"), "b.vdi": large}
    for wanted, order in (("b.vdi", ("a.vdi", "b.vdi")), ("a.vdi", ("b.vdi", "a.vdi"))):
        text = descriptor.format(wanted).encode()
        with tarfile.open(images.file("late.tar"), "w", format=tarfile.USTAR_FORMAT) as archive:
            for name in order:
                archive.add(members[name], name)
            header = tarfile.TarInfo("x.ovf")
            header.size = len(text)
            archive.addfile(header, io.BytesIO(text))
        store = front_end.datastore("qcow2")
        with front_end.settings(size_policy="refuse"):
            answer = front_end.call("cp", messages().cp(42, web.url("late.tar"), SIZE_MB, store))
        if wanted == "a.vdi":
            assert answer.status == 0, answer.stderr
            assert same_disk(images.file("raw"), "raw", answer.source, "qcow2")
        else:
            assert answer.status == 1
            assert "declare SIZE=40960" in answer.stderr
            assert front_end.left_in(store) == []


def test_a_length_that_a_frame_announces_need_not_be_that_of_the_disk(
    front_end: FrontEnd, images: Images, web: Web
) -> None:
    content = images.file("raw").read_bytes()
    half = len(content) // 2
    frames = {
        "two frames": zstd.compress(content[:half]) + zstd.compress(content[half:]),
        "an empty frame first": zstd.compress(b"") + zstd.compress(content),
        "a short frame first": zstd.compress(content[:100]) + zstd.compress(content[100:]),
        "pzstd": b"\x50\x2a\x4d\x18\x04\0\0\0\x10\0\0\0" + zstd.compress(content),
    }
    for kind, packed in frames.items():
        images.file("frames").write_bytes(packed)
        answer = front_end.call("cp", messages().cp(42, web.url("frames"), SIZE_MB, front_end.datastore("qcow2")))
        assert answer.status == 0, (kind, answer.stderr)
        assert same_disk(images.file("raw"), "raw", answer.source, "qcow2"), kind


def test_cut_off_is_no_image_either(front_end: FrontEnd, images: Images, web: Web) -> None:
    web.pages["cut"] = cut_off(images.file("vdi"), 2 * MIB)
    store = front_end.datastore()
    answer = front_end.call("cp", messages().cp(42, web.url("cut"), SIZE_MB, store))
    assert answer.status == 1
    assert "incomplete" in answer.stderr
    assert front_end.left_in(store) == []
