"""A file that still arrives: what is there, what is fetched out of turn, and what is given back."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from oneconvert.actions.landing import Announcement, Head, land
from oneconvert.errors import ImageRefusedError, SourceChangedError
from oneconvert.transfer.growing import (
    BLOCK,
    FAR,
    FORGET_STEP,
    KEPT_BEHIND,
    KEPT_IN_FRONT,
    Filled,
    GrowingFile,
    check_fetched,
)
from oneconvert.transfer.nbd import InFile, Zeros
from oneconvert.transfer.spool import Spool
from rig.crafted import vhd_footer

MIB = 1024 * 1024
LENGTH = 16 * MIB


class Server:
    """Gives parts of ``content``, which is ``before`` bytes into its file."""

    def __init__(self, content: bytes, before: int) -> None:
        self.content = bytes(before) + content
        self.asked: list[tuple[int, int]] = []

    def read_at(self, offset: int, length: int) -> bytes | None:
        self.asked.append((offset, length))
        return self.content[offset : offset + length]


class Mute:
    """Gives no parts."""

    def __init__(self) -> None:
        self.asked = 0

    def read_at(self, offset: int, length: int) -> bytes | None:
        self.asked += 1
        return None


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", "disk.img")


def fetch(disk: GrowingFile, *wanted: tuple[int, int]) -> None:
    for offset, length in wanted:
        disk.wanted(offset, length)
    disk.stop_fetching()
    worker = threading.Thread(target=disk.fetch)
    worker.start()
    worker.join(10)
    assert not worker.is_alive()


def rest_arrives(spool: Spool, content: bytes) -> Path:
    spool.write(content[spool.length :])
    spool.finish()
    return spool.path


def test_what_is_needed_early_is_fetched_out_of_turn(spool: Spool) -> None:
    content = os.urandom(LENGTH)
    server = Server(content, 1536)
    with GrowingFile(spool, LENGTH, read_once=False, parts=server, position=1536) as disk:
        spool.write(content[: 100 * 1024])
        late = LENGTH - 3 * BLOCK - 4096
        calls = []
        disk.on_arrival(lambda: calls.append(True))
        assert not disk.has(late, 8192)
        fetch(disk, (late, 8192), (late, 4096))
        assert len(server.asked) == 1
        assert disk.has(late, 8192)
        assert disk.pieces(late, 8192) == [content[late : late + 8192]]
        assert not disk.has(late - BLOCK, 8192)
        assert len(calls) == 2
        check_fetched(disk.fetched, rest_arrives(spool, content), "disk.img")


def test_what_was_fetched_must_be_what_arrives(spool: Spool) -> None:
    content = os.urandom(LENGTH)
    with GrowingFile(spool, LENGTH, read_once=False, parts=Server(content, 0), position=0) as disk:
        fetch(disk, (LENGTH - 4096, 4096))
        other = rest_arrives(spool, content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(SourceChangedError, match="changed while"):
            check_fetched(disk.fetched, other, "disk.img")


def test_what_is_near_is_waited_for(spool: Spool) -> None:
    server = Server(bytes(LENGTH), 0)
    with GrowingFile(spool, LENGTH, read_once=False, parts=server, position=0) as disk:
        fetch(disk, (FAR - 4096, 4096))
        assert server.asked == []


def test_a_server_that_gives_no_parts_is_asked_once(spool: Spool) -> None:
    server = Mute()
    with GrowingFile(spool, LENGTH, read_once=False, parts=server, position=0) as disk:
        fetch(disk, (LENGTH - 4096, 4096), (LENGTH - MIB, 4096))
        assert disk.fetched == {}
        assert server.asked == 1


@pytest.mark.parametrize("zeros", [0, BLOCK, 3 * BLOCK - 512])
def test_a_read_across_what_has_arrived_and_what_was_fetched(spool: Spool, zeros: int) -> None:
    """Zeros at the end of what has arrived are a hole, which is not in the file before there is something behind it."""
    arrived = 40 * BLOCK
    content = os.urandom(arrived - zeros) + bytes(zeros) + os.urandom(LENGTH - arrived)
    with GrowingFile(spool, LENGTH, read_once=False, parts=Server(content, 0), position=0) as disk:
        disk.fetched.update({number: content[number * BLOCK :][:BLOCK] for number in range(40, 44)})
        spool.write(content[:arrived])
        assert disk.has(arrived - 2 * BLOCK, 4 * BLOCK)
        start = arrived - 2 * BLOCK
        assert disk.pieces(start, 4 * BLOCK) == [content[start : start + 4 * BLOCK]]


def test_a_disk_that_is_read_once_hardly_takes_space(spool: Spool) -> None:
    length = KEPT_IN_FRONT + KEPT_BEHIND + 3 * FORGET_STEP
    content = os.urandom(MIB) * (length // MIB)
    rest_arrives(spool, content)
    with GrowingFile(spool, length, read_once=True, parts=None, position=0) as disk:
        for offset in range(0, length, 2 * MIB):
            assert disk.has(offset, 2 * MIB)
            disk.taken(offset, 2 * MIB)
        assert spool.path.stat().st_blocks * 512 < length - FORGET_STEP
        left = spool.path.read_bytes()
        assert left[:KEPT_IN_FRONT] == content[:KEPT_IN_FRONT]
        assert left[-KEPT_BEHIND:] == content[-KEPT_BEHIND:]
        with pytest.raises(LookupError):
            disk.has(KEPT_IN_FRONT - 512, 1024)
        assert disk.has(0, KEPT_IN_FRONT)


def test_another_disk_stays_whole(spool: Spool) -> None:
    length = KEPT_IN_FRONT + KEPT_BEHIND + 3 * FORGET_STEP
    rest_arrives(spool, os.urandom(MIB) * (length // MIB))
    before = spool.path.stat().st_blocks
    with GrowingFile(spool, length, read_once=False, parts=None, position=0) as disk:
        for offset in range(0, length, 2 * MIB):
            disk.taken(offset, 2 * MIB)
        assert disk.has(0, length)
    assert spool.path.stat().st_blocks == before


def test_what_was_refused_as_an_image_does_not_become_one_when_it_is_kept(tmp_path: Path) -> None:
    """An archive keeps a member that is no image: who reads it as one already must not wait for it, nor take it."""
    heads: list[Head] = []
    content = bytes(LENGTH - 512) + vhd_footer(kind=4)
    announcement = Announcement(heads.append, lambda _: True, certain=False)
    with pytest.raises(ImageRefusedError):
        land(iter([content[:MIB], content[MIB:]]), "disk.img", tmp_path / "spool", LENGTH, 0, announcement, keep=True)
    (head,) = heads
    assert head.spool.failed
    assert head.spool.path.read_bytes() == content


def test_a_hole_is_told_as_zeros_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.write(os.urandom(MIB))
        file.truncate(LENGTH)
    file_of_it = Filled(path)
    with GrowingFile(file_of_it, LENGTH, read_once=False) as disk:
        assert disk.pieces(4 * MIB, 2 * MIB) == [Zeros(2 * MIB)]
        (piece,) = disk.pieces(0, 2 * MIB)
        assert isinstance(piece, InFile)
        assert (piece.offset, piece.length) == (0, 2 * MIB)
