"""A growing image as a block device: qemu-img reads all of it, waits for what is not there, and never for ever."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

import pytest

from oneconvert.errors import CommandError
from oneconvert.images import qemu_img
from oneconvert.images.format import ImageFormat
from oneconvert.images.inspect import Inspection
from oneconvert.transfer.nbd import InFile, Piece, served

MIB = 1024 * 1024
SIZE = 24 * MIB


class Disk:
    """A raw disk of which ``there`` bytes have arrived."""

    def __init__(self, path: Path) -> None:
        self.size = SIZE
        self.there = 0
        self.ended = False
        self.abandoned = False
        self.asked: list[tuple[int, int]] = []
        self.read: list[tuple[int, int]] = []
        self.file = path.open("rb")
        self._call: Callable[[], None] = lambda: None

    def has(self, offset: int, length: int) -> bool:
        return offset + length <= self.there

    def pieces(self, offset: int, length: int) -> list[Piece]:
        return [InFile(self.file.fileno(), offset, length)]

    def lost(self) -> bool:
        return self.ended

    def on_arrival(self, call: Callable[[], None]) -> None:
        self._call = call
        call()

    def wanted(self, offset: int, length: int) -> None:
        self.asked.append((offset, length))

    def taken(self, offset: int, length: int) -> None:
        self.read.append((offset, length))

    def abandon(self) -> None:
        self.abandoned = True

    def arrive(self, there: int) -> None:
        self.there = there
        self._call()

    def end(self) -> None:
        self.ended = True
        self._call()


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """Data, a long hole, data."""
    path = tmp_path / "content"
    with path.open("wb") as file:
        file.write(os.urandom(5 * MIB + 512))
        file.seek(17 * MIB)
        file.write(os.urandom(3 * MIB))
        file.truncate(SIZE)
    return path


@contextmanager
def following(disk: Disk, result: Path) -> Iterator[list[CommandError | None]]:
    """qemu-img at work on the disk; at the end the error it ended with."""
    ended: list[CommandError | None] = []

    def convert() -> None:
        found = Inspection(ImageFormat.RAW, SIZE, ImageFormat.RAW)
        with served(disk) as connection:
            try:
                qemu_img.convert(connection, found, result, ImageFormat.QCOW2)
            except CommandError as error:
                ended.append(error)
            else:
                ended.append(None)

    worker = threading.Thread(target=convert)
    worker.start()
    yield ended
    worker.join(timeout=30)
    assert not worker.is_alive()


def read_to_its_end(content: Path, result: Path) -> Disk:
    """A disk that is there, which qemu-img has converted."""
    disk = Disk(content)
    disk.there = SIZE
    with following(disk, result) as ended:
        pass
    assert ended == [None]
    return disk


def test_what_arrives_slowly_is_converted_whole(content: Path, tmp_path: Path) -> None:
    disk = Disk(content)
    with following(disk, tmp_path / "result") as ended:
        for there in range(0, SIZE + 1, MIB):
            disk.arrive(there)
            time.sleep(0.01)
    assert ended == [None]
    assert disk.asked
    back = tmp_path / "back"
    qemu_img.convert(tmp_path / "result", Inspection(ImageFormat.QCOW2, SIZE, ImageFormat.QCOW2), back, ImageFormat.RAW)
    assert back.read_bytes() == content.read_bytes()


def test_a_timeout_for_all_sockets_does_no_harm(content: Path, tmp_path: Path) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(5)
    try:
        read_to_its_end(content, tmp_path / "result")
    finally:
        socket.setdefaulttimeout(before)


def test_every_byte_of_a_raw_disk_is_read_once_and_roughly_in_order(content: Path, tmp_path: Path) -> None:
    disk = read_to_its_end(content, tmp_path / "result")
    assert sum(length for _, length in disk.read) == SIZE
    furthest = 0
    for offset, length in disk.read:
        assert offset > furthest - 64 * MIB
        furthest = max(furthest, offset + length)


def test_nothing_is_read_before_it_is_there(content: Path, tmp_path: Path) -> None:
    disk = Disk(content)
    with following(disk, tmp_path / "result") as ended:
        disk.arrive(8 * MIB)
        time.sleep(0.5)
        assert all(offset + length <= 8 * MIB for offset, length in disk.read)
        assert not ended
        disk.arrive(SIZE)
    assert ended == [None]


def test_who_writes_the_disk_hears_of_the_end_of_its_reader(content: Path, tmp_path: Path) -> None:
    assert read_to_its_end(content, tmp_path / "result").abandoned


def test_qemu_img_ends_when_the_rest_will_never_come(content: Path, tmp_path: Path) -> None:
    disk = Disk(content)
    with following(disk, tmp_path / "result") as ended:
        disk.arrive(8 * MIB)
        time.sleep(0.3)
        disk.end()
    (error,) = ended
    assert error is not None


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n" * 4,
        struct.pack(">I8sII", 3, b"IHAVEOPT", 7, 0xFFFFFFFF),
        struct.pack(">I8sII", 3, b"IHAVEOPT", 7, 0) + bytes(28),
        struct.pack(">I8sII", 3, b"IHAVEOPT", 7, 0) + struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, SIZE, 512),
        struct.pack(">I8sII", 3, b"IHAVEOPT", 7, 0) + struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, 0, 1 << 31),
    ],
    ids=["no NBD", "endless option", "no request", "behind the end", "too long"],
)
def test_a_client_that_breaks_the_protocol_is_left(content: Path, said: bytes) -> None:
    disk = Disk(content)
    disk.there = SIZE
    with served(disk) as connection:
        connection.settimeout(10)
        connection.sendall(said)
        while connection.recv(65536):
            pass
    assert disk.read == []


def test_what_is_no_read_is_refused_and_the_next_request_is_served(content: Path) -> None:
    disk = Disk(content)
    disk.there = SIZE
    with served(disk) as connection:
        connection.settimeout(10)
        connection.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 7, 0))
        greeting = received(connection, 18 + 20 + 12 + 20)
        assert struct.unpack(">Q", greeting[40:48]) == (SIZE,)
        write, read = 1, 0
        connection.sendall(struct.pack(">IHHQQI", 0x25609513, 0, write, 7, 0, 512))
        assert struct.unpack(">IIQ", received(connection, 16)) == (0x67446698, 22, 7)
        connection.sendall(struct.pack(">IHHQQI", 0x25609513, 0, read, 8, 512, 1024))
        assert struct.unpack(">IIQ", received(connection, 16)) == (0x67446698, 0, 8)
        assert received(connection, 1024) == content.read_bytes()[512:1536]


def received(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        assert piece
        data += piece
    return data


def test_a_fault_of_ours_does_not_keep_qemu_img_waiting(content: Path, tmp_path: Path) -> None:
    class Faulty(Disk):
        def has(self, offset: int, length: int) -> bool:
            raise ZeroDivisionError

    with following(Faulty(content), tmp_path / "result") as ended:
        pass
    assert isinstance(ended[0], CommandError)


def test_what_was_fetched_early_is_served_early(content: Path, tmp_path: Path) -> None:
    class Fetching(Disk):
        """Everything is known at once, though nothing has arrived."""

        def has(self, offset: int, length: int) -> bool:
            return True

        def pieces(self, offset: int, length: int) -> list[Piece]:
            return [os.pread(self.file.fileno(), length, offset)]

    with following(Fetching(content), tmp_path / "result") as ended:
        pass
    assert ended == [None]
    back = tmp_path / "back"
    found = Inspection(ImageFormat.QCOW2, SIZE, ImageFormat.QCOW2)
    qemu_img.convert(tmp_path / "result", found, back, ImageFormat.RAW)
    assert back.read_bytes() == content.read_bytes()
