"""A disk that passes through memory: all of it, once, in bounded memory, and nobody waits for ever."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

import pytest

from oneconvert.errors import CommandError
from oneconvert.images import qemu_img
from oneconvert.images.format import ImageFormat
from oneconvert.images.inspect import Inspection
from oneconvert.transfer.nbd import Zeros, served
from oneconvert.transfer.passing import MOST_WAITING, PassingDisk

MIB = 1024 * 1024
PIECE = 64 * 1024


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[threading.Thread]:
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    yield worker
    worker.join(30)
    assert not worker.is_alive()


@contextmanager
def waiting(disk: PassingDisk, pieces: int) -> Iterator[threading.Thread]:
    """Who writes so many pieces, and cannot go on."""

    def write() -> None:
        for number in range(pieces):
            disk.put(number * PIECE, bytes(PIECE))

    with beside(write) as writer:
        writer.join(0.3)
        assert writer.is_alive()
        yield writer


def test_all_of_the_disk_comes_out_of_it(tmp_path: Path) -> None:
    """More than may wait; pieces of several lengths, and between them zeros that nobody wrote."""
    size = 3 * MOST_WAITING
    content = bytearray(size)
    pieces = []
    at = PIECE
    while at < size - 20 * MIB:
        data = os.urandom(PIECE - 512 * (len(pieces) % 3))
        content[at : at + len(data)] = data
        pieces.append((at, data))
        at += len(data) + (3 * MIB if len(pieces) % 100 == 0 else 0)
    disk = PassingDisk(size)

    def write() -> None:
        with disk:
            for piece in pieces:
                disk.put(*piece)

    result, back = tmp_path / "result", tmp_path / "back"
    with beside(write), served(disk) as connection:
        qemu_img.convert(connection, Inspection(ImageFormat.RAW, size, ImageFormat.RAW), result, ImageFormat.QCOW2)
    qemu_img.convert(result, Inspection(ImageFormat.QCOW2, size, ImageFormat.QCOW2), back, ImageFormat.RAW)
    assert back.read_bytes() == content


def test_what_a_read_cuts_is_whole_in_the_end() -> None:
    disk = PassingDisk(4 * PIECE)
    data = os.urandom(PIECE)
    with disk:
        disk.put(PIECE, data)
    assert disk.has(0, PIECE + 512)
    assert disk.pieces(0, PIECE + 512) == [Zeros(PIECE), data[:512]]
    disk.taken(0, PIECE + 512)
    assert disk.pieces(PIECE + 512, 2 * PIECE) == [data[512:], Zeros(PIECE + 512)]
    disk.taken(PIECE + 512, 2 * PIECE)
    with pytest.raises(LookupError, match="a second time"):
        disk.has(2 * PIECE, 512)
    assert disk.has(3 * PIECE + 512, 512)


def test_what_comes_before_what_was_read_is_kept() -> None:
    disk = PassingDisk(4 * PIECE)
    with disk:
        for number in range(4):
            disk.put(number * PIECE, bytes([number]) * PIECE)
    disk.taken(2 * PIECE, PIECE)
    assert disk.pieces(0, 2 * PIECE) == [bytes(PIECE), b"\1" * PIECE]
    disk.taken(0, 2 * PIECE)
    assert disk.pieces(3 * PIECE, PIECE) == [b"\3" * PIECE]


def test_who_writes_waits_for_who_reads() -> None:
    most = MOST_WAITING // PIECE
    disk = PassingDisk(4 * MOST_WAITING)
    with waiting(disk, most + 1) as writer:
        assert not disk.has(MOST_WAITING, PIECE)
        disk.taken(0, PIECE)
        writer.join(10)
        assert disk.has(MOST_WAITING, PIECE)


def test_what_somebody_waits_for_is_written_however_much_waits() -> None:
    most = MOST_WAITING // PIECE
    disk = PassingDisk(4 * MOST_WAITING)
    with waiting(disk, most + 3) as writer:
        calls: list[bool] = []
        disk.on_arrival(lambda: calls.append(True))
        disk.wanted(MOST_WAITING, 3 * PIECE)
        writer.join(10)
        assert disk.has(MOST_WAITING, 3 * PIECE)
        assert len(calls) == 2, "at once, and when it is there"


def test_who_writes_does_not_wait_when_nobody_reads_any_more() -> None:
    disk = PassingDisk(4 * MOST_WAITING)
    with waiting(disk, 4 * MOST_WAITING // PIECE):
        disk.abandon()


def test_a_write_that_fails_ends_the_reader(tmp_path: Path) -> None:
    disk = PassingDisk(16 * MIB)

    def write() -> None:
        with pytest.raises(ZeroDivisionError), disk:
            disk.put(0, os.urandom(PIECE))
            raise ZeroDivisionError

    with beside(write), served(disk) as connection, pytest.raises(CommandError):
        found = Inspection(ImageFormat.RAW, 16 * MIB, ImageFormat.RAW)
        qemu_img.convert(connection, found, tmp_path / "result", ImageFormat.QCOW2)
    assert disk.lost()
