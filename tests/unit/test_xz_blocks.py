"""The blocks of an .xz stream are decoded beside each other, and nothing in it is believed."""

from __future__ import annotations

import io
import itertools
import lzma
import random
import re
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oneconvert.errors import TransferError
from oneconvert.jobs.signals import ENDING
from oneconvert.transfer.compression import CHUNK, decompressed
from oneconvert.transfer.xz_blocks import LARGEST_BLOCK, MOST_MEMORY, BlockHeader, begins_with_sized_block

KIB = 1024
MIB = 1024 * KIB
RANDOM = random.Random(7)
DISK = RANDOM.randbytes(700_000) + bytes(2_000_000) + b"text of a disk " * 60_000 + RANDOM.randbytes(99_999)
SMALL = RANDOM.randbytes(150) + bytes(300) + b"text" * 50


def xz(options: str, data: bytes = DISK) -> bytes:
    return subprocess.run(["xz", "-c", *options.split()], input=data, capture_output=True, check=True).stdout


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    stream = io.BytesIO(data)
    return iter(lambda: stream.read(size), b"")


def unpack(data: bytes, size: int = CHUNK) -> bytes:
    return b"".join(decompressed(pieces(data, size), "disk"))


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("xz")]


def small() -> bytes:
    """A stream of several small blocks with their sizes."""
    packed = xz("-T2 -0 --block-size=200 --check=crc32", SMALL)
    assert begins_with_sized_block(packed)
    return packed


def number(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80]) + number(value >> 7) if value >= 0x80 else bytes([value])


def header(packed: int | None, size: int | None, filters: bytes = b"\x21\x01\x08", flags: int = 0) -> bytes:
    """A block header, whatever it says; by default of a dictionary of 64 KiB."""
    flags |= (packed is not None) << 6 | (size is not None) << 7
    fields = bytes([flags]) + b"".join(number(each) for each in (packed, size) if each is not None) + filters
    fields += bytes(-(len(fields) + 1) % 4)
    data = bytes([(len(fields) + 1) // 4]) + fields
    return data + struct.pack("<I", zlib.crc32(data))


def raw(data: bytes) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 64 * KIB}]
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters)


def stored(data: bytes) -> bytes:
    """LZMA2 of what cannot be compressed: chunks with a control byte, the first of which resets the dictionary."""
    places = range(0, len(data), 64 * KIB)
    chunks = (data[place : place + 64 * KIB] for place in places)
    return b"".join(struct.pack(">BH", 2 - (not at), len(each) - 1) + each for at, each in enumerate(chunks)) + b"\0"


def stream(*blocks: tuple[bytes, bytes, bytes]) -> bytes:
    """A stream of blocks given as header, compressed data and content; check and index are right."""
    flags = b"\0\x01"
    result = b"\xfd7zXZ\0" + flags + struct.pack("<I", zlib.crc32(flags))
    index = b"\0" + number(len(blocks))
    for head, packed, content in blocks:
        result += head + packed + bytes(-len(packed) % 4) + struct.pack("<I", zlib.crc32(content))
        index += number(len(head) + len(packed) + 4) + number(len(content))
    index += bytes(-len(index) % 4)
    footer = struct.pack("<I", len(index) // 4) + flags
    return result + index + struct.pack("<II", zlib.crc32(index), zlib.crc32(footer)) + footer + b"YZ"


def block(data: bytes, sized: bool = True, pack: Callable[[bytes], bytes] = raw) -> tuple[bytes, bytes, bytes]:
    packed = pack(data)
    return header(len(packed), len(data)) if sized else header(None, None), packed, data


def noise(length: int) -> tuple[bytes, bytes, bytes]:
    """A block of what cannot be compressed."""
    return block(RANDOM.randbytes(length), pack=stored)


SHAPES = (
    "-T2 -0 --block-size=64KiB",
    "-T2 -1 --block-size=1MiB",
    "-T2 -1 --block-size=333333",
    "-T2 -6",
    "-T2 -0 --block-list=100KiB,1,64KiB,0",
    "-T2 -0 --block-size=256KiB --check=none",
    "-T2 -0 --block-size=256KiB --check=crc32",
    "-T2 -0 --block-size=256KiB --check=sha256",
    "-T2 --block-size=256KiB --x86 --lzma2=preset=0",
    "-T2 --block-size=256KiB --delta=dist=3 --x86 --lzma2=preset=1",
    "-T2 --block-size=256KiB --lzma2=preset=0,dict=64MiB",
    "-T1 -0 --block-size=256KiB",
)


@pytest.mark.parametrize("size", [997, 64 * KIB, 16 * MIB])
@pytest.mark.parametrize("options", SHAPES)
def test_the_content_is_that_of_a_decoder_in_sequence(options: str, size: int) -> None:
    packed = xz(options)
    assert lzma.decompress(packed) == DISK
    assert begins_with_sized_block(packed) != options.startswith("-T1")
    assert unpack(packed, size) == DISK
    assert not threads()


def test_any_size_of_chunk_gives_the_same_content() -> None:
    packed = small()
    for size in range(1, len(packed) + 1):
        assert unpack(packed, size) == SMALL, size


def test_output_comes_in_pieces_of_bounded_size() -> None:
    packed = xz("-T2 -0 --block-size=4MiB", bytes(16 * MIB))
    lengths = [len(each) for each in decompressed(iter([packed]), "disk")]
    assert sum(lengths) == 16 * MIB
    assert max(lengths) <= CHUNK


@pytest.mark.parametrize("size", [1, 1000, CHUNK])
def test_streams_of_all_kinds_one_after_the_other(size: int) -> None:
    several, plain, empty = small(), lzma.compress(SMALL), xz("-T2", b"")
    assert unpack(several + plain + several, size) == SMALL * 3
    assert unpack(empty + several + empty + plain, size) == SMALL * 2
    assert unpack(several + bytes(4) + several + bytes(100_000) + plain + bytes(8) + several, size) == SMALL * 4
    assert unpack(empty, size) == b""


@pytest.mark.parametrize("size", [1, 7, CHUNK])
def test_blocks_without_sizes_among_those_with_them(size: int) -> None:
    contents = [SMALL, RANDOM.randbytes(70_000), b"", bytes(3_000_000), SMALL * 1000]
    for sizes in ((1, 0, 1, 0, 1), (1, 1, 0, 0, 0), (1, 0, 0, 1, 1)):
        packed = stream(*(block(each, bool(sized)) for each, sized in zip(contents, sizes)))
        assert lzma.decompress(packed) == b"".join(contents)
        assert begins_with_sized_block(packed)
        assert unpack(packed, size) == b"".join(contents)


def test_a_large_block_among_small_ones_is_decoded_alone() -> None:
    large = bytes(LARGEST_BLOCK + 1)
    packed = stream(block(SMALL), block(large), block(SMALL))
    assert begins_with_sized_block(packed)
    assert not begins_with_sized_block(stream(block(large)))
    assert unpack(packed) == SMALL + large + SMALL


@pytest.mark.parametrize("sized", [True, False])
def test_it_ends_too_early_wherever_it_is_cut(sized: bool) -> None:
    packed = small() if sized else stream(block(SMALL), block(SMALL, False), block(SMALL))
    for length in range(6, len(packed)):
        with pytest.raises(TransferError, match="is truncated"):
            unpack(packed[:length])


@pytest.mark.parametrize("sized", [True, False])
def test_a_wrong_byte_is_found_wherever_it_is(sized: bool) -> None:
    """Some bits of LZMA2 mean nothing; those are the ones that a decoder in sequence does not mind either."""
    packed = small() if sized else stream(block(SMALL), block(SMALL, False), block(SMALL))
    for place, bits in itertools.product(range(6, len(packed)), (0x01, 0x80, 0xFF)):
        bent = bytearray(packed)
        bent[place] ^= bits
        try:
            expected = lzma.decompress(bytes(bent))
        except lzma.LZMAError:
            with pytest.raises(TransferError, match=r"is damaged|is truncated|memory that is allowed for xz"):
                unpack(bytes(bent))
        else:
            assert expected == unpack(bytes(bent)) == SMALL * (1 if sized else 3), place
    assert not threads()


def test_what_has_arrived_is_given_before_the_end_that_is_missing() -> None:
    packed = xz("-T2 -0 --block-size=64KiB")
    got = b""
    with pytest.raises(TransferError, match="is truncated"):
        for piece in decompressed(iter([packed[: len(packed) // 2]]), "disk"):
            got += piece
    assert len(got) > 128 * KIB
    assert DISK.startswith(got)


PACKED = raw(SMALL)
LIES = {
    "compressed-smaller": header(len(PACKED) - 4, len(SMALL)),
    "compressed-larger": header(len(PACKED) + 4, len(SMALL)),
    "compressed-none": header(0, len(SMALL)),
    "compressed-huge": header((1 << 63) - 1, len(SMALL)),
    "content-smaller": header(len(PACKED), len(SMALL) - 1),
    "content-larger": header(len(PACKED), len(SMALL) + 1),
    "content-none": header(len(PACKED), 0),
    "content-huge": header(len(PACKED), (1 << 63) - 1),
    "number-without-end": header(len(PACKED), len(SMALL))[:2] + b"\xff" * 1018 + bytes(4),
    "reserved-bit": header(len(PACKED), len(SMALL), flags=0x10),
    "filter-unknown": header(len(PACKED), len(SMALL), b"\x33\x00"),
    "filter-missing": header(len(PACKED), len(SMALL), flags=3),
    "filter-not-last": header(len(PACKED), len(SMALL), b"\x21\x01\x08\x04\x00", flags=1),
    "filter-properties": header(len(PACKED), len(SMALL), b"\x21" + number((1 << 63) - 1)),
    "dictionary-unknown": header(len(PACKED), len(SMALL), b"\x21\x01\x29"),
    "checksum": header(len(PACKED), len(SMALL))[:-1] + b"\0",
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("place", [0, 1])
def test_a_block_header_that_lies_is_refused(lie: str, place: int) -> None:
    blocks = [block(SMALL)] * place + [(LIES[lie], PACKED, SMALL), block(DISK)]
    with pytest.raises(lzma.LZMAError):
        lzma.decompress(stream(*blocks))
    with pytest.raises(TransferError, match="is damaged"):
        unpack(stream(*blocks))


def test_a_bomb_is_stopped_at_the_size_that_its_header_declares() -> None:
    bomb = raw(bytes(64 * MIB))
    packed = stream(block(SMALL), (header(len(bomb), MIB), bomb, bytes(MIB)))
    got = 0
    with pytest.raises(TransferError, match="is damaged"):
        for piece in decompressed(iter([packed]), "disk"):
            got += len(piece)
    assert got <= len(SMALL) + MIB


def test_a_dictionary_beyond_the_limit_is_not_damage() -> None:
    packed = stream(block(SMALL), (header(len(PACKED), len(SMALL), b"\x21\x01\x25"), PACKED, SMALL), block(SMALL))
    with pytest.raises(TransferError, match="memory that is allowed for xz; compress it with a dictionary"):
        unpack(packed)


def test_an_index_of_other_blocks_is_refused() -> None:
    whole = stream(block(SMALL), block(SMALL[:-1]), block(b""))
    others = (
        stream(block(SMALL), block(SMALL[:-1])),
        stream(block(SMALL[:-1]), block(SMALL), block(b"")),
        stream(*[block(b"")] * 3),
        stream(*[block(SMALL)] * 4),
        stream(),
    )
    blocks = whole[: whole.rindex(b"\0\x03")]
    assert unpack(blocks + whole[len(blocks) :]) == SMALL + SMALL[:-1]
    for other in others:
        length = 4 * int.from_bytes(other[-8:-4], "little") + 4 + 12
        with pytest.raises(TransferError, match=r"is damaged|is truncated"):
            unpack(blocks + other[-length:])


def test_the_memory_that_a_block_is_declared_to_take_counts_its_dictionary_no_larger_than_its_content() -> None:
    one = BlockHeader.parse(header(1000, 24 * MIB, b"\x21\x01\x16"))
    assert (one.packed, one.size, one.dictionary, one.sized) == (1000, 24 * MIB, 8 * MIB, True)
    assert one.memory == 1000 + 32 * MIB
    assert BlockHeader.parse(header(1000, MIB, b"\x04\x00\x21\x01\x16", 1)).memory == 1000 + 2 * MIB
    assert BlockHeader.parse(header(24 * MIB + 2 * KIB, 24 * MIB, b"\x21\x01\x16")).fits, "random data, xz -6"
    assert not BlockHeader.parse(header(1, 1 << 63)).fits
    assert not BlockHeader.parse(header(None, 1)).fits
    assert not BlockHeader.parse(header(1, None)).fits


def test_no_more_is_read_ahead_than_memory_allows() -> None:
    """Of a consumer that takes its time the source must feel it."""
    one = stream(noise(8 * MIB))
    body = one[12 : -12 - 4 * int.from_bytes(one[-8:-4], "little") - 4]
    taken = 0

    def source() -> Iterator[bytes]:
        nonlocal taken
        for chunk in itertools.chain([one[:12]], itertools.repeat(body)):
            taken += len(chunk)
            yield chunk

    content = decompressed(source(), "disk")
    assert next(content)
    time.sleep(0.5)
    assert taken <= MOST_MEMORY
    given = CHUNK
    for piece in itertools.islice(content, 300):
        given += len(piece)
        assert taken <= given + MOST_MEMORY
    content.close()


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


@pytest.mark.parametrize("content", ["random", "zeros"])
def test_memory_is_bounded_however_slow_the_consumer_is(content: str) -> None:
    part = RANDOM.randbytes(24 * MIB) if content == "random" else bytes(24 * MIB)
    packed = stored(part) if content == "random" else raw(part)
    one = header(len(packed), len(part), b"\x21\x01\x16"), packed, part
    assert BlockHeader.parse(one[0]).fits
    run = subprocess.run([sys.executable, "-c", MEMORY], input=stream(*[one] * 8), capture_output=True, check=True)
    assert 5 < int(run.stdout) < MOST_MEMORY // MIB + 30


def test_an_abandoned_stream_leaves_no_thread_behind() -> None:
    packed = stream(*[noise(4 * MIB)] * 16)
    content = decompressed(pieces(packed, CHUNK), "disk")
    next(content)
    assert threads()
    content.close()
    assert not threads()


def test_signals_stay_with_the_main_thread() -> None:
    content = decompressed(pieces(stream(*[noise(4 * MIB)] * 16), CHUNK), "disk")
    next(content)
    masks = [
        int(re.search(r"SigBlk:\s+(\w+)", Path(f"/proc/self/task/{each.native_id}/status").read_text())[1], 16)
        for each in threads()
    ]
    content.close()
    assert any(all(mask >> (number - 1) & 1 for number in ENDING) for mask in masks)


def test_an_error_of_the_source_is_passed_on_and_leaves_no_thread_behind() -> None:
    packed = xz("-T2 -0 --block-size=256KiB")

    def source() -> Iterator[bytes]:
        yield packed[: len(packed) // 2]
        raise OSError("the network is gone")

    with pytest.raises(OSError, match="the network is gone"):
        for _ in decompressed(source(), "disk"):
            pass
    assert not threads()


def test_blocks_are_decoded_while_they_arrive() -> None:
    """The content of a block does not wait for its end, nor for the next one."""
    packed = stream(*[noise(8 * MIB)] * 2)
    taken = 0

    def source() -> Iterator[bytes]:
        nonlocal taken
        for piece in pieces(packed, CHUNK):
            taken += len(piece)
            yield piece
            time.sleep(0.05)

    assert next(decompressed(source(), "disk"))
    assert taken < 6 * MIB
