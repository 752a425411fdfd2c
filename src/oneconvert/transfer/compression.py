"""Undoing compression in the stream. The kind is found from the first bytes, never from a name."""

from __future__ import annotations

import bz2
import lzma
import re
from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import Callable, Protocol, cast

import lz4.frame
from isal import igzip_lib

from oneconvert.errors import TransferError
from oneconvert.transfer import bzip2_blocks, xz_blocks
from oneconvert.zstd import DecompressionParameter, ZstdDecompressor, ZstdError, get_frame_info

CHUNK = 1024 * 1024
# The largest dictionary that 'xz -9' makes wants 65 MiB; a header may ask for 4 GiB.
XZ_MEMORY = 256 * 1024 * 1024
# The largest window that 'zstd --long' makes without being told more: 128 MiB.
ZSTD_WINDOW_LOG = 27
LARGEST_WINDOW: MappingProxyType[str, str] = MappingProxyType(
    {"zstd": "--long=27 or less", "xz": "a dictionary of 128 MiB or less"}
)
"""What to tell those who went beyond that."""


class Decompressor(Protocol):
    """The shape that bz2, lzma, zstd and ISA-L share: one member or stream, bounded output."""

    @property
    def eof(self) -> bool: ...  # noqa: D102
    @property
    def needs_input(self) -> bool: ...  # noqa: D102
    @property
    def unused_data(self) -> bytes: ...  # noqa: D102
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...  # noqa: D102


def _gzip() -> Decompressor:
    return cast(Decompressor, igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP))


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY)


def _zstd() -> Decompressor:
    return cast(Decompressor, ZstdDecompressor(options={DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}))


def _lz4() -> Decompressor:
    return cast(Decompressor, lz4.frame.LZ4FrameDecompressor())


# First bytes: RFC 1952 (with deflate, its only method), bzip2 and its block magic, the .xz format, RFC 8878,
# the LZ4 frame format.
COMPRESSIONS: dict[str, tuple[bytes, Callable[[], Decompressor]]] = {
    "gzip": (b"\x1f\x8b\x08", _gzip),
    "bzip2": (b"BZh", bz2.BZ2Decompressor),
    "xz": (b"\xfd7zXZ\x00", _xz),
    "zstd": (b"\x28\xb5\x2f\xfd", _zstd),
    "lz4": (b"\x04\x22\x4d\x18", _lz4),
}
# RFC 8878, 3.1.2: frames of any content that decoders of zstd and lz4 pass over; pzstd begins with one.
SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18(.{4})", re.DOTALL)
# A decompressor gets at least this much of a new member, where there is so much: ISA-L wants its header in one piece.
HEADER_ROOM = 64 * 1024
ERRORS: tuple[type[Exception], ...] = (
    cast(type[Exception], igzip_lib.IsalError),
    OSError,
    lzma.LZMAError,
    ZstdError,
    EOFError,
    ValueError,
    RuntimeError,  # of lz4
)


def find_compression(head: bytes) -> str | None:
    """The kind of compression that ``head``, the first bytes of a stream, shows; None for none."""
    if SKIPPABLE.match(head):
        return "zstd"
    return next((kind for kind, (magic, _) in COMPRESSIONS.items() if head.startswith(magic)), None)


def unpacked_length(head: bytes) -> int | None:
    """The number of bytes that are compressed in a stream, where its first frame says so; it may be wrong.

    Source: RFC 8878, "Frame_Content_Size"; the LZ4 frame format, "Content Size".
    """
    try:
        if find_compression(head) == "zstd":
            return get_frame_info(head).decompressed_size or None
        if find_compression(head) == "lz4":
            return int(lz4.frame.get_frame_info(head)["content_size"]) or None
    except ERRORS:
        pass
    return None


def decompressed(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Undo the compression of ``chunks`` if there is one, in pieces of at most CHUNK bytes.

    Members and streams that follow one another (pigz, pbzip2, ``cat a.gz b.gz``) are one image, as for the tools.
    Raises TransferError when the compressed data is damaged or ends too early.
    """
    source = iter(chunks)
    data = _filled(b"", source)
    kind = find_compression(data)
    while SKIPPABLE.match(data):
        data = _next_member(_after_skippable(data, source, name), source)
        kind = find_compression(data) or kind
    if kind is None:
        if data:
            yield data
        yield from source
        return
    magic, new = COMPRESSIONS[kind]
    while data:
        if SKIPPABLE.match(data) and kind in ("zstd", "lz4"):
            data = _after_skippable(data, source, name)
        elif kind == "xz" and data.startswith(magic) and xz_blocks.begins_with_sized_block(data):
            try:
                data = yield from xz_blocks.content(data, source, _xz)
            except lzma.LZMAError as error:
                raise _refused(error, kind, name) from None
            except EOFError:
                raise _truncated(kind, name) from None
        elif kind == "bzip2" and data.startswith(magic):
            try:
                data = yield from bzip2_blocks.content(data, source)
            except bzip2_blocks.DamagedError as error:
                raise _refused(error, kind, name) from None
            except EOFError:
                raise _truncated(kind, name) from None
        elif data.startswith(magic):
            decompressor = new()
            yield from _member(decompressor, data, source, kind, name)
            data = decompressor.unused_data or b""  # lz4 says None
        else:
            raise TransferError(
                f"{name} is damaged: something that is not {kind} follows its {kind} data; publish it again"
            )
        data = _next_member(data, source)


def _member(decompressor: Decompressor, data: bytes, source: Iterator[bytes], kind: str, name: str) -> Iterator[bytes]:
    """The content of one member that begins with ``data``."""
    while True:
        try:
            output = decompressor.decompress(data, CHUNK)
        except ERRORS as error:
            raise _refused(error, kind, name) from None
        if output:
            yield output
        data = b""
        if decompressor.eof:
            return
        if decompressor.needs_input:
            data = next(source, b"")
            if not data:
                raise _truncated(kind, name)


def _refused(error: Exception, kind: str, name: str) -> TransferError:
    """What ``error`` of a decompressor means."""
    # Of xz and zstd; neither has an exception of its own for it.
    if "memory" in str(error).lower():
        return TransferError(
            f"{name} cannot be decompressed within the memory that is allowed for {kind}; "
            f"compress it with {LARGEST_WINDOW.get(kind, 'a smaller window')}"
        )
    return TransferError(f"{name} is damaged: its {kind} data cannot be decompressed; publish or download it again")


def _truncated(kind: str, name: str) -> TransferError:
    return TransferError(f"{name} is truncated: its {kind} data ends too early; check that it was published whole")


def _next_member(data: bytes, source: Iterator[bytes]) -> bytes:
    """What follows a member; empty at the end. Zero bytes are padding: of tapes, block devices, the .xz format."""
    while not data.lstrip(b"\0"):
        data = next(source, b"")
        if not data:
            return b""
    return _filled(data.lstrip(b"\0"), source)


def _after_skippable(data: bytes, source: Iterator[bytes], name: str) -> bytes:
    """What follows a frame to be passed over, as far as it has arrived."""
    left = 8 + int.from_bytes(data[4:8], "little")
    while len(data) < left:
        left -= len(data)
        data = next(source, b"")
        if not data:
            raise TransferError(
                f"{name} is truncated: its compressed data ends too early; check that it was published whole"
            )
    return data[left:]


def _filled(data: bytes, source: Iterator[bytes]) -> bytes:
    """``data`` and what follows it, up to HEADER_ROOM bytes or the end."""
    while len(data) < HEADER_ROOM:
        more = next(source, b"")
        if not more:
            break
        data += more
    return data
