"""Compressed images are unpacked in the stream, whatever tool made them and however they arrive."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import sys
import zlib
from collections.abc import Iterator

import lz4.frame
import pytest

from oneconvert.errors import TransferError
from oneconvert.transfer.compression import CHUNK, decompressed

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


def test_a_dictionary_larger_than_any_tool_makes_is_not_allocated() -> None:
    packed = lzma.compress(CONTENT, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}])
    with pytest.raises(TransferError, match="damaged"):
        unpack(packed)
