"""Undoing compression in the stream. The kind is found from the first bytes, never from a name."""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Iterable, Iterator
from typing import Callable, Protocol, cast

from isal import igzip_lib

from oneconvert.errors import TransferError
from oneconvert.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

CHUNK = 1024 * 1024
# The largest dictionary that 'xz -9' makes wants 65 MiB; a header may ask for 4 GiB.
XZ_MEMORY = 256 * 1024 * 1024
# The largest window that 'zstd --long' makes without being told more: 128 MiB.
ZSTD_WINDOW_LOG = 27


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


def _xz() -> Decompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY)


def _zstd() -> Decompressor:
    return cast(Decompressor, ZstdDecompressor(options={DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}))


# First bytes: RFC 1952 (with deflate, its only method), bzip2 and its block magic, the .xz format, RFC 8878.
COMPRESSIONS: dict[str, tuple[bytes, Callable[[], Decompressor]]] = {
    "gzip": (b"\x1f\x8b\x08", _gzip),
    "bzip2": (b"BZh", bz2.BZ2Decompressor),
    "xz": (b"\xfd7zXZ\x00", _xz),
    "zstd": (b"\x28\xb5\x2f\xfd", _zstd),
}
LONGEST_MAGIC = max(len(magic) for magic, _ in COMPRESSIONS.values())
ERRORS: tuple[type[Exception], ...] = (
    cast(type[Exception], igzip_lib.IsalError),
    OSError,
    lzma.LZMAError,
    ZstdError,
    EOFError,
    ValueError,
)


def find_compression(head: bytes) -> str | None:
    """The kind of compression that ``head``, the first bytes of a stream, shows; None for none."""
    for kind, (magic, _) in COMPRESSIONS.items():
        if head.startswith(magic):
            return kind
    return None


def decompressed(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Undo the compression of ``chunks`` if there is one, in pieces of at most CHUNK bytes.

    Members and streams that follow one another (pigz, pbzip2, ``cat a.gz b.gz``) are one image, as for the tools.
    Raises TransferError when the compressed data is damaged or ends too early.
    """
    source = iter(chunks)
    head = b""
    for chunk in source:
        head += chunk
        if len(head) >= LONGEST_MAGIC:
            break
    kind = find_compression(head)
    if kind is None:
        if head:
            yield head
        yield from source
        return
    magic, new = COMPRESSIONS[kind]
    data, decompressor = head, new()
    while True:
        try:
            output = decompressor.decompress(data, CHUNK)
        except ERRORS:
            raise TransferError(
                f"{name} is damaged: its {kind} data cannot be decompressed; publish or download it again"
            ) from None
        if output:
            yield output
        data = b""
        if decompressor.eof:
            data = _next_member(decompressor.unused_data, magic, source)
            if not data:
                return
            if not data.startswith(magic):
                raise TransferError(f"{name} is damaged: something that is not {kind} follows its {kind} data")
            decompressor = new()
        elif decompressor.needs_input:
            data = next(source, b"")
            if not data:
                raise TransferError(f"{name} is truncated: its {kind} data ends too early")


def _next_member(data: bytes, magic: bytes, source: Iterator[bytes]) -> bytes:
    """What follows a member: empty at the end. Zero bytes are padding (tapes, block devices, the .xz format)."""
    while True:
        data = data.lstrip(b"\0")
        if len(data) >= len(magic):
            return data
        more = next(source, b"")
        if not more:
            return data
        data += more
