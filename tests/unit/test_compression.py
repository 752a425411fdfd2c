"""Compressed images are unpacked in the stream, whatever tool made them and however they arrive."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator

import lz4.frame
import pytest

from oneconvert.errors import TransferError
from oneconvert.transfer.compression import CHUNK, decompressed, find_compression

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CONTENT = random.Random(5).randbytes(70_000) + bytes(200_000) + b"the end"


def named_gzip(data: bytes) -> bytes:
    """With the optional fields of RFC 1952: extra, name, comment and a checksum of the header."""
    packed = gzip.compress(data)
    header = packed[:3] + b"\x1e" + packed[4:10] + b"\x04\x00abcd" + b"name\0" + b"comment\0"
    return header + (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little") + packed[10:]


def skippable(length: int) -> bytes:
    return b"\x5a\x2a\x4d\x18" + length.to_bytes(4, "little") + bytes(length)


COMPRESS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
    "lz4": lz4.frame.compress,
}


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    stream = io.BytesIO(data)
    return iter(lambda: stream.read(size), b"")


def unpack(data: bytes, size: int = CHUNK) -> bytes:
    return b"".join(decompressed(pieces(data, size), "disk"))


@pytest.mark.parametrize("size", [1, 7, 1000, CHUNK])
@pytest.mark.parametrize("kind", COMPRESS)
def test_any_size_of_chunk_gives_the_same_content(kind: str, size: int) -> None:
    assert unpack(COMPRESS[kind](CONTENT), size) == CONTENT


@pytest.mark.parametrize("size", [1, 7, 100, CHUNK])
@pytest.mark.parametrize("kind", COMPRESS)
def test_members_one_after_the_other_are_one_image(kind: str, size: int) -> None:
    half = len(CONTENT) // 2
    members = COMPRESS[kind](CONTENT[:half]), COMPRESS[kind](b""), COMPRESS[kind](CONTENT[half:])
    assert unpack(b"".join(members), size) == CONTENT
    assert unpack(b"".join(members) + bytes(100_000), size) == CONTENT, "zeros at the end are padding"


@pytest.mark.parametrize("kind", COMPRESS)
def test_something_else_behind_the_data_is_damage(kind: str) -> None:
    with pytest.raises(TransferError, match=f"not {kind} follows"):
        unpack(COMPRESS[kind](CONTENT) + b"something else")


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("cut", [1, 8, 1000])
def test_data_that_ends_too_early_is_truncated(kind: str, cut: int) -> None:
    with pytest.raises(TransferError, match="truncated"):
        unpack(COMPRESS[kind](CONTENT)[:-cut])


@pytest.mark.parametrize("size", [100, CHUNK])
def test_gzip_with_all_its_optional_fields(size: int) -> None:
    data = named_gzip(CONTENT)
    assert gzip.decompress(data) == CONTENT
    assert unpack(gzip.compress(CONTENT) + data, size) == CONTENT * 2


@pytest.mark.parametrize("size", [1, 7, CHUNK])
@pytest.mark.parametrize("kind", ["zstd", "lz4"])
def test_what_decoders_pass_over_is_passed_over(kind: str, size: int) -> None:
    """pzstd begins with a skippable frame, the seekable format ends with one."""
    packed = COMPRESS[kind](CONTENT)
    assert unpack(skippable(4) + packed + skippable(200_000) + packed + skippable(0), size) == CONTENT * 2
    with pytest.raises(TransferError, match="truncated"):
        unpack(skippable(10) + packed + skippable(200)[:-1], size)


@pytest.mark.parametrize("content", [b"", b"x", CONTENT])
@pytest.mark.parametrize("size", [1, CHUNK])
def test_what_is_not_compressed_is_left_as_it_is(content: bytes, size: int) -> None:
    assert unpack(content, size) == content


@pytest.mark.parametrize("kind", COMPRESS)
def test_output_comes_in_pieces_of_bounded_size(kind: str) -> None:
    packed = COMPRESS[kind](bytes(8 * CHUNK))
    assert max(map(len, decompressed(iter([packed]), "disk"))) <= CHUNK


# Several blocks, members or frames for every tool that works on more than one at a time.
DISK = random.Random(6).randbytes(1_500_000) + bytes(4_000_000) + b"text of a disk " * 100_000
TOOLS = (
    "gzip -9",
    "pigz -p 2 -b 128",
    "pigz -p 2 --independent",
    "bgzip -c",
    "xz -T 2 --block-size=512KiB",
    "xz --check=sha256",
    "xz --check=none",
    "xz --x86 --lzma2=dict=64MiB",
    "bzip2 -1",
    "pbzip2 -c -p2 -b1",
    "lbzip2 -n 2 -1",
    "zstd -q -T0",
    "zstd -q --no-check",
    "zstd -q --long=27",
    "zstd -q --ultra -22",
    "pzstd -q -p 3 -c",
    "lz4 -q",
    "lz4 -q -9 -BD -B4",
    "lz4 -q --no-frame-crc -BX",
)


def of_tool(command: str, data: bytes) -> bytes:
    """What a program makes of ``data``."""
    program, *options = command.split()
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    return subprocess.run([program, *options], input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize("command", TOOLS)
def test_what_real_tools_make(command: str) -> None:
    packed = of_tool(command, DISK)
    assert len(packed) < len(DISK) // 2
    assert find_compression(packed[:512]) is not None
    assert unpack(packed) == DISK
    assert unpack(packed + packed, 10_007) == DISK * 2


def test_xz_with_padding_between_its_streams() -> None:
    packed = of_tool("xz -0", DISK)
    assert unpack(packed + bytes(4096) + packed + bytes(8)) == DISK * 2


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("zstd -q --long=28", "--long=27 or less"),
        ("zstd -q --long=31", "--long=27 or less"),
        ("xz --lzma2=preset=0,dict=512MiB", "a dictionary of 128 MiB"),
    ],
)
def test_a_window_larger_than_is_allowed_is_not_damage(command: str, hint: str) -> None:
    """From a pipe zstd does not know that the content is smaller than its window."""
    with pytest.raises(TransferError, match=f"memory.*{hint}"):
        unpack(of_tool(command, DISK))


def test_a_dictionary_larger_than_any_tool_makes_is_not_allocated() -> None:
    packed = lzma.compress(CONTENT, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}])
    with pytest.raises(TransferError, match="memory"):
        unpack(packed)
