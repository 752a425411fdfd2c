"""The disk in a streamOptimized VMDK as it streams by is the one that its tables tell of, or it is nothing."""

from __future__ import annotations

import random
import struct
import subprocess
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from oneconvert.images.vmdk_stream import NotSequentialError, StreamedDisk, streamed_header
from rig.crafted import le32, patched, vmware_stream

GRAIN = 64 * 1024
SECTOR = 512


def sample(grains: int = 200, tail: int = 0) -> bytes:
    """A disk with data, runs of zeros and, with a ``tail`` in bytes, a last grain that is not whole."""
    seeded = random.Random(7)
    pieces = [seeded.randbytes(GRAIN) if number % 5 not in (1, 2) else bytes(GRAIN) for number in range(grains)]
    return b"".join(pieces) + seeded.randbytes(tail)


def by_qemu(content: bytes, directory: Path) -> bytes:
    """The same disk as qemu-img writes it: with the tables in front."""
    raw, vmdk = directory / "raw", directory / "vmdk"
    raw.write_bytes(content)
    options = ("-o", "subformat=streamOptimized")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", *options, raw, vmdk], check=True)
    return vmdk.read_bytes()


def read(image: bytes, step: int = 100_000) -> bytes:
    header = streamed_header(image[:SECTOR])
    assert header is not None
    disk = bytearray(header.capacity * SECTOR)
    end = 0
    for offset, data in StreamedDisk((image[at : at + step] for at in range(0, len(image), step)), header):
        assert offset >= end
        end = offset + len(data)
        disk[offset:end] = data
    return bytes(disk)


@pytest.mark.parametrize("tail", [0, 512, GRAIN - 512])
@pytest.mark.parametrize("step", [511, 100_000, 1 << 24])
def test_the_disk_of_a_stream_with_its_tables_at_the_end(tail: int, step: int) -> None:
    content = sample(40, tail)
    assert read(vmware_stream(content), step) == content


@pytest.mark.parametrize("tail", [0, 1024])
def test_the_disk_of_a_stream_with_its_tables_in_front(tail: int, tmp_path: Path) -> None:
    content = sample(700, tail)
    assert read(by_qemu(content, tmp_path)) == content


def test_an_empty_disk(tmp_path: Path) -> None:
    assert read(by_qemu(bytes(GRAIN), tmp_path)) == bytes(GRAIN)


def ends_of(size: int, directory: Path) -> tuple[float, int]:
    """Read a disk as qemu-img writes it, empty but for its ends. Returns the CPU seconds and the bytes that it took."""
    raw, vmdk = directory / "raw", directory / "vmdk"
    content = random.Random(3).randbytes(GRAIN)
    with raw.open("wb") as disk:
        disk.truncate(size)
        for place in (0, size - GRAIN):
            disk.seek(place)
            disk.write(content)
    options = ("-o", "subformat=streamOptimized")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", *options, raw, vmdk], check=True)
    with vmdk.open("rb") as file:
        header = streamed_header(file.read(SECTOR))
        file.seek(0)
        assert header is not None
        tracemalloc.start()
        began = time.process_time()
        found = list(StreamedDisk(iter(lambda: file.read(1 << 20), b""), header))
        seconds = time.process_time() - began
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert found == [(0, content), (size - GRAIN, content)]
    return seconds, peak


def test_a_disk_four_times_as_large_has_four_times_the_tables_to_read(tmp_path: Path) -> None:
    """And not sixteen times, as when what is behind each table is copied: 32 MiB behind the first of 8,192."""
    seconds, _ = ends_of(1 << 36, tmp_path)
    more_seconds, peak = ends_of(1 << 38, tmp_path)
    assert more_seconds < 8 * seconds
    assert peak < 80 << 20, "the file's bytes, and what is kept of them"


def markers(image: bytes) -> list[tuple[int, int, int]]:
    """Position, size and kind of every marker; a grain has kind -1."""
    found, at = [], 128 * SECTOR
    while True:
        value, size, kind = struct.unpack_from("<QII", image, at)
        found.append((at, size, -1 if size else kind))
        if size:
            at += -(-(12 + size) // SECTOR) * SECTOR
        elif kind == 0:
            return found
        else:
            at += (1 + value) * SECTOR


def at(image: bytes, kind: int, number: int = 0) -> int:
    return [position for position, _, each in markers(image) if each == kind][number]


def swapped(image: bytes) -> bytes:
    """Two neighbours exchange their places in the disk."""
    first, second = at(image, -1, 0), at(image, -1, 1)
    one, other = image[first : first + 8], image[second : second + 8]
    return patched(image, (first, other), (second, one))


def twice(image: bytes) -> bytes:
    first, second = at(image, -1, 0), at(image, -1, 1)
    return patched(image, (second, image[first : first + 8]))


def replaced(image: bytes, content: bytes) -> bytes:
    """The first grain has other data, deflated, that is not longer than the old."""
    position, size, _ = markers(image)[0]
    packed = zlib.compress(content)
    assert len(packed) <= size
    return patched(image, (position + 8, le32(len(packed)) + packed))


# All but the first of them are read in another way, or not at all, by who goes by the tables.
CONTRADICTIONS: dict[str, Callable[[bytes], bytes]] = {
    "a table leads elsewhere": lambda image: patched(image, (at(image, 1) + SECTOR, le32(5))),
    "a table leaves a grain out": lambda image: patched(image, (at(image, 1) + SECTOR, le32(0))),
    "the directory leads elsewhere": lambda image: patched(image, (at(image, 2) + SECTOR, le32(1))),
    "the footer leads elsewhere": lambda image: patched(image, (at(image, 3) + SECTOR + 56, le32(1))),
    "grains are not in order": swapped,
    "a grain comes twice": twice,
    "a grain is behind the end of the disk": lambda image: patched(image, (at(image, -1), le32(1 << 24))),
    "a grain begins within another": lambda image: patched(image, (at(image, -1), le32(1))),
    "a grain is longer than any": lambda image: patched(image, (at(image, -1) + 8, le32(1 << 30))),
    "a grain unfolds to more": lambda image: replaced(image, bytes(GRAIN + 1)),
    "a grain unfolds to less": lambda image: replaced(image, bytes(GRAIN - 1)),
    "a grain cannot be inflated": lambda image: patched(image, (at(image, -1) + 12, b"\xff" * 64)),
    "metadata is longer than any": lambda image: patched(image, (at(image, 1), le32(1 << 30))),
    "it ends within a grain": lambda image: image[: at(image, -1, 3) + 5000],
    "it ends before its tables": lambda image: image[: at(image, 1)],
    "it ends before its end": lambda image: image[: at(image, 0)],
}


@pytest.mark.parametrize("change", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_contradictions_are_not_ours_to_interpret(change: Callable[[bytes], bytes]) -> None:
    image = change(vmware_stream(sample(20)))
    with pytest.raises(NotSequentialError):
        read(image)


def test_tables_in_front_that_unfold_to_more_than_they_are_take_no_memory() -> None:
    """All entries of the directory are one table: a few MiB in the file, and hundreds of times as much unfolded."""
    tables = 1 << 18
    overhead = 21 + tables * 4 // SECTOR + 4
    numbers = (tables * 512 * 128, 128, 1, 20, 512, 0, 21, overhead)
    header = struct.pack("<4sIIQQQQIQQQB4sH", b"KDMV", 3, 0x30001, *numbers, 0, b"\n \r\n", 1)
    image = header.ljust(21 * SECTOR, b"\0") + le32(21 + tables * 4 // SECTOR) * tables + bytes(4 * SECTOR)
    parsed = streamed_header(image[:SECTOR])
    assert parsed is not None
    tracemalloc.start()
    try:
        with pytest.raises(NotSequentialError):
            list(StreamedDisk([image], parsed))
        assert tracemalloc.get_traced_memory()[1] < 4 * len(image)
    finally:
        tracemalloc.stop()


def test_grains_that_wait_keep_nothing_else() -> None:
    """Small ones, each behind a lot of metadata that means nothing: a thousand of them wait for each other."""
    metadata, grains = 4 << 20, 24
    numbers = (1 << 12, 1, 1, 20, 512, 0, 2**64 - 1, 128)
    header = struct.pack("<4sIIQQQQIQQQB4sH", b"KDMV", 3, 0x30001, *numbers, 0, b"\n \r\n", 1)
    parsed = streamed_header(header.ljust(SECTOR, b"\0"))
    assert parsed is not None

    def chunks() -> Iterator[bytes]:
        waiting = bytearray(header.ljust(128 * SECTOR, b"\0"))
        for number in range(grains):
            packed = zlib.compress(bytes([number + 1]) * SECTOR)
            waiting += (struct.pack("<QI", number, len(packed)) + packed).ljust(SECTOR, b"\0")
            waiting += struct.pack("<QII", metadata // SECTOR, 0, 9).ljust(SECTOR, b"\0") + bytes(metadata)
            while len(waiting) > 1_000_000:
                yield bytes(waiting[:1_000_000])
                del waiting[:1_000_000]
        yield bytes(waiting)

    tracemalloc.start()
    try:
        with pytest.raises(NotSequentialError):
            list(StreamedDisk(chunks(), parsed))
        assert tracemalloc.get_traced_memory()[1] < grains * metadata // 3
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("entry", [0, 1, 12345])
def test_tables_in_front_must_tell_the_same(entry: int, tmp_path: Path) -> None:
    image = by_qemu(sample(20), tmp_path)
    header = streamed_header(image[:SECTOR])
    assert header is not None
    (table,) = struct.unpack_from("<I", image, header.directory * SECTOR)
    with pytest.raises(NotSequentialError):
        read(patched(image, (table * SECTOR, le32(entry))))


@pytest.mark.parametrize(
    "change",
    [(0, b"COWD"), (8, le32(1)), (0x14, le32(1 << 20)), (0x2C, le32(256)), (0x4D, b"\0")],
    ids=["magic", "flags", "grain", "entries", "compression"],
)
def test_other_layouts_are_left_to_qemu_img(change: tuple[int, bytes]) -> None:
    assert streamed_header(patched(vmware_stream(sample(2)), change)[:SECTOR]) is None
