"""The blocks of bzip2 data are decoded beside each other, and no magic number in it is believed."""

from __future__ import annotations

import bz2
import functools
import io
import itertools
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from oneconvert.errors import TransferError
from oneconvert.jobs.signals import ENDING
from oneconvert.transfer import bzip2_blocks
from oneconvert.transfer.bzip2_blocks import BLOCK, END, INNER, LARGEST_BLOCK, MOST_JOINED, Bits, decoded
from oneconvert.transfer.compression import CHUNK, decompressed

KIB = 1024
MIB = 1024 * KIB
RANDOM = random.Random(7)
DISK = RANDOM.randbytes(1_100_000) + bytes(60_000_000) + b"text of a disk " * 60_000 + RANDOM.randbytes(99_999)
PARTS = [RANDOM.randbytes(60), b"x", bytes(3000), b"text" * 20, RANDOM.randbytes(33)]
SMALL = b"".join(PARTS)


def made_by(command: str, data: bytes) -> bytes:
    return subprocess.run(command.split(), input=data, capture_output=True, check=True).stdout


@functools.cache
def disk_made_by(command: str) -> bytes:
    packed = made_by(command, DISK)
    assert bz2.decompress(packed) == DISK
    return packed


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    stream = io.BytesIO(data)
    return iter(lambda: stream.read(size), b"")


def unpack(data: bytes, size: int = CHUNK) -> bytes:
    return b"".join(decompressed(pieces(data, size), "disk"))


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("bzip2")]


def in_sequence(data: bytes) -> bytes | str:
    """The content of one stream, or what is wrong with it, as libbz2 alone says."""
    decompressor = bz2.BZ2Decompressor()
    try:
        content = decompressor.decompress(data)
    except OSError:
        return "is damaged"
    return content if decompressor.eof else "is truncated"


def bits(value: int, count: int) -> str:
    return f"{value:0{count}b}"


def block(content: bytes) -> str:
    """The bits of one block with this content."""
    packed = bz2.compress(content, 1)
    both = bits(int.from_bytes(packed, "big"), len(packed) * 8)
    return both[32 : both.rindex(bits(END, 48))]


def stream(*blocks: str, crc: int = 0) -> bytes:
    """A stream of blocks at any bit, with the checksum that belongs to them; ``crc`` is what is wrong with it."""
    combined = 0
    for each in blocks:
        combined = (combined << 1 | combined >> 31) & 0xFFFFFFFF ^ int(each[48:80], 2)
    both = "".join(blocks) + bits(END, 48) + bits(combined ^ crc, 32)
    both += "0" * (-len(both) % 8)
    return b"BZh1" + int(both, 2).to_bytes(len(both) // 8, "big")


def checksum(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 * (value >> 31)) & 0xFFFFFFFF
    return value ^ 0xFFFFFFFF


def block_of(symbols: Sequence[int]) -> tuple[str, bytes]:
    """The block whose Huffman codes are these bytes, and its content. 254 values and two symbols for runs and the end
    are 256 codes of 8 bits each; so anything without a byte of ones can be in a block."""
    front, last_column, run, weight = list(range(254)), [], 0, 1
    for symbol in [*symbols, 255]:
        if symbol < 2:
            run, weight = run + weight * (symbol + 1), weight * 2
            continue
        last_column += [front[0]] * run
        run, weight = 0, 1
        if symbol < 255:
            front.insert(0, front.pop(symbol - 1))
            last_column.append(front[0])
    order = sorted(range(len(last_column)), key=last_column.__getitem__)
    content, at = bytearray(), order[0]
    for _ in order:
        content.append(last_column[at])
        at = order[at]
    assert not re.search(rb"(.)\1\1\1", content, re.DOTALL), "runs are not undone here"
    selectors = -(-(len(symbols) + 1) // 50)
    table = bits(8, 5) + "0" * 256
    result = bits(BLOCK, 48) + bits(checksum(bytes(content)), 32) + bits(0, 25)
    result += "1" * 16 + "1" * 254 + "00" + bits(2, 3) + bits(selectors, 15) + "0" * selectors + table * 2
    return result + "".join(bits(each, 8) for each in [*symbols, 255]), bytes(content)


COMMANDS = (
    "bzip2 -1",
    "bzip2 -5",
    "bzip2 -9",
    "pbzip2 -c -p2 -1",
    "pbzip2 -c -p2 -b3 -9",
    "pbzip2 -c -p2 -b20 -4",
    "lbzip2 -n2 -1",
    "lbzip2 -n2 -9",
)


@pytest.mark.parametrize("size", [997, 64 * KIB, 16 * MIB])
@pytest.mark.parametrize("command", COMMANDS)
def test_the_content_is_that_of_a_decoder_in_sequence(command: str, size: int) -> None:
    assert unpack(disk_made_by(command), size) == DISK
    assert not threads()


def test_blocks_begin_at_any_bit() -> None:
    assert len(INNER) == 16
    starts = set()
    for count in range(1, 40):
        blocks = [block(SMALL[each:]) for each in range(count)]
        starts.add(sum(map(len, blocks)) % 8)
        packed = stream(*blocks)
        assert unpack(packed) == bz2.decompress(packed) == b"".join(SMALL[each:] for each in range(count))
    assert starts == set(range(8))


def test_any_size_of_chunk_gives_the_same_content() -> None:
    packed = stream(*map(block, PARTS))
    assert bz2.decompress(packed) == SMALL
    for size in range(1, len(packed) + 1):
        assert unpack(packed, size) == SMALL, size


def test_output_comes_in_pieces_of_bounded_size() -> None:
    lengths = [len(each) for each in decompressed(iter([bz2.compress(bytes(100 * MIB))]), "disk")]
    assert sum(lengths) == 100 * MIB
    assert max(lengths) <= CHUNK


@pytest.mark.parametrize("size", [1, 7, 1000, CHUNK])
def test_streams_one_after_the_other_with_padding_or_without(size: int) -> None:
    several, plain, empty = stream(*map(block, PARTS)), bz2.compress(SMALL), bz2.compress(b"")
    assert unpack(several + plain + several, size) == SMALL * 3
    assert unpack(empty + several + empty + empty + plain, size) == SMALL * 2
    assert unpack(several + bytes(4) + several + bytes(100_000) + plain + bytes(9) + several + b"\0", size) == SMALL * 4
    assert unpack(empty, size) == b""


@pytest.mark.parametrize("garbage", [b"B", b"BZ", b"something", b"BZip", bytes(99) + b"BY", BLOCK.to_bytes(6, "big")])
@pytest.mark.parametrize("size", [1, CHUNK])
def test_something_else_behind_the_data_is_damage(garbage: bytes, size: int) -> None:
    with pytest.raises(TransferError, match="is damaged: something that is not bzip2 follows"):
        unpack(stream(*map(block, PARTS)) + garbage, size)


@pytest.mark.parametrize("header", [b"BZh0", b"BZh:", b"BZhh"])
def test_a_header_of_no_known_block_size_is_damage(header: bytes) -> None:
    whole = bz2.compress(SMALL)
    for before in (b"", whole):
        with pytest.raises(TransferError, match="is damaged"):
            unpack(before + header + whole[4:])


def test_a_block_larger_than_its_stream_says_is_damage() -> None:
    packed = bz2.compress(RANDOM.randbytes(500_000), 9)
    with pytest.raises(OSError, match="Invalid data"):
        bz2.decompress(b"BZh1" + packed[4:])
    with pytest.raises(TransferError, match="is damaged"):
        unpack(b"BZh1" + packed[4:])


def test_it_ends_too_early_wherever_it_is_cut() -> None:
    whole = stream(*map(block, PARTS))
    for length in range(3, len(whole)):
        with pytest.raises(TransferError, match="is truncated"):
            unpack(whole[:length])
        with pytest.raises(TransferError, match="is truncated"):
            unpack(whole + whole[:length])


@pytest.mark.parametrize("wrong", [0x01, 0x80, 0xFF])
def test_a_wrong_byte_is_found_wherever_it_is(wrong: int) -> None:
    """What is said of it is what a decoder in sequence says; some bits mean nothing, to neither."""
    packed = stream(*map(block, PARTS))
    for place in range(3, len(packed)):
        bent = bytearray(packed)
        bent[place] ^= wrong
        expected = in_sequence(bytes(bent))
        if isinstance(expected, str):
            with pytest.raises(TransferError, match=expected):
                unpack(bytes(bent))
        else:
            assert expected == unpack(bytes(bent)) == SMALL, place
    assert not threads()


def test_damage_in_the_data_of_real_tools_is_found() -> None:
    for command in ("bzip2 -1", "pbzip2 -c -p2 -b1 -1", "lbzip2 -n2 -1"):
        packed = made_by(command, DISK[:700_000] + bytes(500_000))
        for place in RANDOM.sample(range(4, len(packed)), 12):
            bent = bytearray(packed)
            bent[place] ^= 0x10
            with pytest.raises(TransferError, match=r"is damaged|is truncated"):
                unpack(bytes(bent))
    assert not threads()


def test_the_checksum_of_a_stream_is_verified() -> None:
    blocks = [*map(block, PARTS)]
    for crc in (1, 1 << 31):
        for packed in (stream(*blocks, crc=crc), stream(crc=crc), bz2.compress(SMALL) + stream(*blocks, crc=crc)):
            with pytest.raises(TransferError, match="is damaged"):
                unpack(packed)


def test_blocks_that_are_left_out_or_exchanged_are_found_by_it() -> None:
    blocks = [*map(block, PARTS)]
    trailer = stream(*blocks)[-12:]
    for others in (blocks[1:], blocks[:-1], [blocks[1], blocks[0], *blocks[2:]], [*blocks, blocks[-1]]):
        whole = stream(*others)
        # The trailer of the right blocks at the bit where that of the others is.
        right, wrong = (int.from_bytes(each, "big") for each in (trailer, whole))
        value = bits(wrong, len(whole) * 8)
        end = value.rindex(bits(END, 48)) + 48
        packed = bits(right, 96)
        start = packed.rindex(bits(END, 48)) + 48
        value = value[:end] + packed[start : start + 32] + value[end + 32 :]
        with pytest.raises(TransferError, match="is damaged"):
            unpack(int(value, 2).to_bytes(len(whole), "big"))


def test_what_has_arrived_is_given_before_the_end_that_is_missing() -> None:
    packed = bz2.compress(DISK[:1_000_000], 1)
    got = b""
    with pytest.raises(TransferError, match="is truncated"):
        for piece in decompressed(iter([packed[: len(packed) // 2]]), "disk"):
            got += piece
    assert len(got) > 390_000
    assert DISK.startswith(got)


BLOCK_BYTES = BLOCK.to_bytes(6, "big")
END_BYTES = END.to_bytes(6, "big")
CHANCES = {
    "block": [BLOCK_BYTES],
    "end": [END_BYTES],
    "both": [BLOCK_BYTES, END_BYTES],
    "end-first": [END_BYTES, BLOCK_BYTES],
    "adjacent": [BLOCK_BYTES + END_BYTES + BLOCK_BYTES],
    "overlapping": [b"\x31\x41\x59\x26\x53\x59\x31\x41\x59\x26\x53\x59\x26\x53\x59"],
    "many": [BLOCK_BYTES, END_BYTES] * (MOST_JOINED // 2),
}


def by_chance(magics: list[bytes]) -> tuple[str, bytes]:
    """A block in which there are magic numbers."""
    fill = random.Random(len(magics) * 11 + magics[0][0])
    symbols = [fill.randrange(2, 250) for _ in range(200)]
    for each in magics:
        symbols += [*each, *(fill.randrange(2, 250) for _ in range(100))]
    return block_of(symbols)


@pytest.mark.parametrize("size", [1, 64, CHUNK])
@pytest.mark.parametrize("name", CHANCES)
def test_a_magic_number_by_chance_in_a_block_is_content(name: str, size: int) -> None:
    crafted, content = by_chance(CHANCES[name])
    assert sum(crafted.count(bits(each, 48)) for each in (BLOCK, END)) > 1
    plain = block(SMALL)
    for order in itertools.product((True, False), repeat=4):
        packed = stream(*(crafted if each else plain for each in order))
        expected = b"".join(content if each else SMALL for each in order)
        assert bz2.decompress(packed) == expected
        assert unpack(packed + packed, size) == expected * 2
    assert not threads()


def test_more_magic_numbers_by_chance_than_blocks_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders so slow that the next magic numbers are always found before."""

    def slowly(block: Bits) -> Iterator[bytes]:
        time.sleep(0.02)
        return decoded(block)

    monkeypatch.setattr(bzip2_blocks, "decoded", slowly)
    crafted, content = by_chance([BLOCK_BYTES] * MOST_JOINED)
    for count in range(8):
        packed = stream(*[block(SMALL)] * count, crafted, block(SMALL), crafted)
        expected = SMALL * count + content + SMALL + content
        assert bz2.decompress(packed) == expected
        assert unpack(packed) == expected


def test_magic_numbers_by_chance_at_any_bit() -> None:
    crafted, content = by_chance(CHANCES["both"])
    for count in range(16):
        before = [block(SMALL[:each]) for each in range(1, count + 1)]
        packed = stream(*before, crafted, block(SMALL))
        assert unpack(packed) == b"".join(SMALL[:each] for each in range(1, count + 1)) + content + SMALL


@pytest.mark.parametrize("name", CHANCES)
def test_damage_and_ends_are_found_behind_a_magic_number_by_chance(name: str) -> None:
    crafted, _ = by_chance(CHANCES[name])
    packed = stream(block(SMALL), crafted, block(SMALL))
    for place in range(4, len(packed), 3):
        with pytest.raises(TransferError, match="is truncated"):
            unpack(packed[:place])
        bent = bytearray(packed)
        bent[place] ^= 0x40
        expected = in_sequence(bytes(bent))
        if isinstance(expected, str):
            with pytest.raises(TransferError, match=r"is damaged|is truncated"):
                unpack(bytes(bent))
        else:
            assert unpack(bytes(bent)) == expected


def test_magic_numbers_without_end_cost_no_time() -> None:
    began = time.monotonic()
    for magic in (BLOCK_BYTES, END_BYTES):
        with pytest.raises(TransferError, match="is damaged"):
            unpack(b"BZh9" + BLOCK_BYTES + magic * 300_000)
    assert time.monotonic() - began < 10


def test_no_more_is_read_ahead_for_a_block_than_one_can_have() -> None:
    taken = 0

    def source() -> Iterator[bytes]:
        nonlocal taken
        yield b"BZh9" + BLOCK_BYTES
        while True:
            taken += 64 * KIB
            yield RANDOM.randbytes(64 * KIB)

    with pytest.raises(TransferError, match="is damaged"):
        for _ in decompressed(source(), "disk"):
            pass
    assert taken < LARGEST_BLOCK + MIB


# Not getrusage(): its peak may be that of the parent.
MEMORY = """
import re, sys, time
from pathlib import Path
from oneconvert.transfer.compression import decompressed

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = peak()
for number, _ in enumerate(decompressed(iter(lambda: sys.stdin.buffer.read(1 << 20), b""), "disk")):
    if number % 24 == 0:
        time.sleep(0.2)
print((peak() - before) // 1024)
"""


@pytest.mark.parametrize(("content", "most"), [("random", 36), ("zeros", 36), ("empty", 5)])
def test_memory_is_bounded_however_slow_the_consumer_is(content: str, most: int) -> None:
    """In MiB; each of the contents is more than that, or its compressed data is."""
    packed = {
        "random": bz2.compress(DISK[:1_000_000]) * 40,
        "zeros": bz2.compress(bytes(80 * MIB)),
        "empty": bz2.compress(b"") * 400_000,
    }[content]
    run = subprocess.run([sys.executable, "-c", MEMORY], input=packed, capture_output=True, check=True)
    assert int(run.stdout) < most


def test_an_abandoned_stream_leaves_no_thread_behind() -> None:
    for packed in (bz2.compress(DISK[:1_000_000], 1) * 8, bz2.compress(bytes(100 * MIB), 9)):
        content = decompressed(pieces(packed, CHUNK), "disk")
        next(content)
        assert threads()
        content.close()
        assert not threads()


def test_signals_stay_with_the_main_thread() -> None:
    content = decompressed(pieces(bz2.compress(DISK[:1_000_000], 1) * 8, CHUNK), "disk")
    next(content)
    masks = [
        int(re.search(r"SigBlk:\s+(\w+)", Path(f"/proc/self/task/{each.native_id}/status").read_text())[1], 16)
        for each in threads()
    ]
    content.close()
    assert masks
    assert all(mask >> (number - 1) & 1 for mask in masks for number in ENDING)


def test_an_error_of_the_source_is_passed_on_and_leaves_no_thread_behind() -> None:
    packed = bz2.compress(DISK[:1_000_000], 1)

    def source() -> Iterator[bytes]:
        yield packed[: len(packed) // 2]
        raise OSError("the network is gone")

    with pytest.raises(OSError, match="the network is gone"):
        for _ in decompressed(source(), "disk"):
            pass
    assert not threads()


def test_blocks_are_decoded_while_they_arrive() -> None:
    packed = bz2.compress(DISK[:1_000_000], 1) * 4
    taken = 0

    def source() -> Iterator[bytes]:
        nonlocal taken
        for piece in pieces(packed, 50_000):
            taken += len(piece)
            yield piece
            time.sleep(0.05)

    assert next(decompressed(source(), "disk"))
    assert taken < 500_000
