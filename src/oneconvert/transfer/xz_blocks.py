"""The content of an .xz stream of several blocks, decoded on all cores while the stream arrives.

'xz -T' and others that compress on several cores write the sizes of each block into its header, so that blocks can be
told apart without decoding them. Each is given to liblzma as a stream of its own, with the index and footer that such a
stream would have; so its header, sizes and check are verified there. A block that does not say its sizes, or a large
one, is decoded alone; so memory is bounded.

Source: "The .xz File Format", sections 1.2 (multibyte integers), 2.1 (stream header and footer), 3.1 (block header), 4
(index), 5.3.1 (dictionary size of LZMA2). It leaves out how LZMA2 divides its data into chunks; that is in the comment
at the head of lzma2_decode() in Linux, lib/xz/xz_dec_lzma2.c.
"""

from __future__ import annotations

import hashlib
import lzma
import struct
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from threading import Event
from typing import Callable
from zlib import crc32

from oneconvert.jobs.threads import pool, pool_size

STREAM_HEADER = 12  # bytes
FOOTER_MAGIC = b"YZ"
BOTH_SIZES = 0xC0
PIECE = 1024 * 1024
"""The most bytes that are taken from the stream, or decoded, at a time."""
MOST_MEMORY = 96 * 1024 * 1024
"""Bytes of all blocks that are being decoded or wait to be yielded: two or three of 24 MiB, those of 'xz -6'."""
LARGEST_BLOCK = 60 * 1024 * 1024
"""Bytes of memory; those of 'xz -6' fit even where they are hardly compressed at all."""


def begins_with_sized_block(head: bytes) -> bool:
    """True when the first block of the stream that begins with ``head`` can be decoded beside others."""
    first = head[STREAM_HEADER:]
    return bool(first and first[0]) and BlockHeader.parse(first[: 4 * first[0] + 4]).fits


def content(
    data: bytes, source: Iterator[bytes], new: Callable[[], lzma.LZMADecompressor]
) -> Generator[bytes, None, bytes]:
    """The content of the stream that begins with ``data`` and goes on in ``source``, in pieces of at most PIECE bytes.

    Returns what was taken from ``source`` behind the stream. ``new`` makes decompressors with the wanted limit of
    memory. Raises lzma.LZMAError for damage and for that limit, EOFError where the stream ends too early.
    """
    stream = _Stream(data, source)
    blocks = _Blocks(stream, new)
    try:
        yield from blocks.content()
    finally:
        blocks.stop()
    return stream.rest


@dataclass(frozen=True)
class BlockHeader:
    """What the header of a block says of it: bytes before and after decoding, and of the dictionary."""

    raw: bytes
    packed: int
    size: int
    dictionary: int
    sized: bool

    @classmethod
    def parse(cls, raw: bytes) -> BlockHeader:
        """Believe a header; whether it is well-formed is for liblzma to say."""
        flags = raw[1] if len(raw) > 1 else 0
        fields = iter(raw[2:-4])
        packed, size = (_parse_number(fields) if flags & bit else 0 for bit in (0x40, 0x80))
        properties = b""
        for _ in range((flags & 3) + 1):
            _parse_number(fields)  # filter ID
            properties = bytes(islice(fields, min(_parse_number(fields), len(raw))))
        bits = properties[0] if properties else 0
        return cls(raw, packed, size, (2 | bits & 1) << bits // 2 + 11, flags & BOTH_SIZES == BOTH_SIZES)

    @property
    def memory(self) -> int:
        """The most bytes that it takes to decode the block; of a dictionary no more is touched than what it is for."""
        return self.packed + self.size + min(self.dictionary, self.size)

    @property
    def fits(self) -> bool:
        """True when it says its sizes, and there may be others beside it in memory."""
        return self.sized and self.memory <= LARGEST_BLOCK


class _Stream:
    """Exactly as many bytes as are asked for."""

    def __init__(self, data: bytes, source: Iterator[bytes]) -> None:
        self._data = data
        self._start = 0
        self._source = source

    @property
    def rest(self) -> bytes:
        return self._data[self._start :]

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes; raises EOFError when there are fewer."""
        if len(self._data) - self._start < count:
            parts = [self.rest]
            missing = count - len(parts[0])
            while missing > 0:
                parts.append(next(self._source, b""))
                missing -= len(parts[-1])
                if not parts[-1]:
                    raise EOFError
            self._data, self._start = b"".join(parts), 0
        self._start += count
        return self._data[self._start - count : self._start]

    def pieces(self, count: int) -> Iterator[bytes]:
        """The next ``count`` bytes in pieces of at most PIECE."""
        while count:
            piece = self.take(min(count, PIECE))
            count -= len(piece)
            yield piece


class _Block:
    """A block on its way through a thread."""

    def __init__(self, header: BlockHeader, abandoned: Event) -> None:
        self.packed: SimpleQueue[bytes | None] = SimpleQueue()
        """The pieces of a stream with this block only; None behind the last."""
        self.unpacked: SimpleQueue[bytes | Exception | None] = SimpleQueue()
        self.memory = header.memory
        self._left = header.size
        self._abandoned = abandoned

    def work(self, decompressor: lzma.LZMADecompressor) -> None:
        """Decode the pieces until one of them is None."""
        try:
            for piece in _decoded(decompressor, iter(self.packed.get, None)):
                self._left -= len(piece)
                if self._left < 0:
                    raise lzma.LZMAError("a block is larger than its header says")
                self.unpacked.put(piece)
                if self._abandoned.is_set():
                    return
        except Exception as error:
            self.unpacked.put(error)
        else:
            self.unpacked.put(None)


class _Blocks:
    """All blocks of a stream, and its index."""

    def __init__(self, stream: _Stream, new: Callable[[], lzma.LZMADecompressor]) -> None:
        self._stream = stream
        self._new = new
        self._header = stream.take(STREAM_HEADER)
        self._flags = self._header[6:8]
        kind = self._flags[1] & 0xF
        self._check_size = 4 << (kind - 1) // 3 if kind else 0
        self._index = _Index()
        self._pool = pool("xz")
        self._abandoned = Event()
        self._waiting: deque[_Block] = deque()

    def content(self) -> Iterator[bytes]:
        try:
            while size := self._stream.take(1)[0]:
                header = BlockHeader.parse(bytes([size]) + self._stream.take(4 * size + 3))
                if header.fits:
                    yield from self._hand_over(header)
                else:
                    yield from self._all_waiting()
                    yield from _decoded(self._new(), self._unsized(header))
        except EOFError:
            # What has arrived is content, or damaged; that comes first.
            if self._waiting:
                self._waiting[-1].packed.put(None)
            yield from self._all_waiting()
            raise
        yield from self._all_waiting()
        self._index.verify(self._stream, self._flags)

    def stop(self) -> None:
        """Have all threads end; takes as long as decoding one piece."""
        self._abandoned.set()
        for block in self._waiting:
            block.packed.put(None)
        self._pool.shutdown(cancel_futures=True)

    def _hand_over(self, header: BlockHeader) -> Iterator[bytes]:
        """Give a block to a thread; what comes from those before it is yielded meanwhile."""
        while len(self._waiting) > 2 * pool_size() or (
            self._waiting and sum(each.memory for each in self._waiting) + header.memory > MOST_MEMORY
        ):
            yield from self._next_piece()
        block = _Block(header, self._abandoned)
        self._waiting.append(block)
        block.packed.put(self._header + header.raw)
        self._pool.submit(block.work, self._new())
        for piece in self._stream.pieces(header.packed + -header.packed % 4 + self._check_size):
            block.packed.put(piece)
            while self._waiting and not self._waiting[0].unpacked.empty():
                yield from self._next_piece()
        block.packed.put(self._end_of_block(header, header.packed, header.size))
        block.packed.put(None)

    def _all_waiting(self) -> Iterator[bytes]:
        while self._waiting:
            yield from self._next_piece()

    def _next_piece(self) -> Iterator[bytes]:
        """What comes next from the first block; nothing at its end."""
        block = self._waiting[0]
        piece = block.unpacked.get()
        if isinstance(piece, Exception):
            raise piece
        if piece is None:
            self._waiting.popleft()
        else:
            block.memory -= len(piece)
            yield piece

    def _unsized(self, header: BlockHeader) -> Iterator[bytes]:
        """The pieces of a stream with this block only; where it ends is found from its LZMA2 chunks."""
        yield self._header + header.raw
        packed = size = 0
        while control := self._stream.take(1):
            chunk = control
            if control[0] >= 0x80:
                chunk += self._stream.take(4)
                size += (control[0] & 0x1F) << 16
                length = int.from_bytes(chunk[3:5], "big") + 1 + (control[0] >= 0xC0)
            elif control[0]:
                chunk += self._stream.take(2)
                length = int.from_bytes(chunk[1:3], "big") + 1
            packed += len(chunk)
            if not control[0]:
                break
            size += int.from_bytes(chunk[1:3], "big") + 1
            packed += length
            yield chunk + self._stream.take(length)
        yield b"\0" + self._stream.take(-packed % 4 + self._check_size)
        yield self._end_of_block(header, packed, size)

    def _end_of_block(self, header: BlockHeader, packed: int, size: int) -> bytes:
        """The index and footer of a stream with this block only; it is in the index of the whole from now on."""
        record = _number(len(header.raw) + packed + self._check_size) + _number(size)
        self._index.add(record)
        index = b"\0\x01" + record
        index += bytes(-len(index) % 4)
        return index + struct.pack("<I", crc32(index)) + _footer(len(index) + 4, self._flags)


class _Index:
    """The index that a stream must have, of any number of blocks."""

    def __init__(self) -> None:
        self._count = 0
        self._length = 0
        self._digest = hashlib.sha256()

    def add(self, record: bytes) -> None:
        self._count += 1
        self._length += len(record)
        self._digest.update(record)

    def verify(self, stream: _Stream, flags: bytes) -> None:
        """Read index and footer behind the indicator of the former; raises LZMAError when they are not as expected."""
        head = b"\0" + _number(self._count)
        same = stream.take(len(head) - 1) == head[1:]
        checksum = crc32(head)
        digest = hashlib.sha256()
        for piece in stream.pieces(self._length):
            digest.update(piece)
            checksum = crc32(piece, checksum)
        padding = bytes(-(len(head) + self._length) % 4)
        tail = padding + struct.pack("<I", crc32(padding, checksum))
        tail += _footer(len(head) + self._length + len(tail), flags)
        if stream.take(len(tail)) != tail or digest.digest() != self._digest.digest() or not same:
            raise lzma.LZMAError("the index is not that of the blocks")


def _decoded(decompressor: lzma.LZMADecompressor, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The content of one stream, verified to its end."""
    for piece in pieces:
        data = piece
        while data or not decompressor.needs_input:
            if decompressor.eof:
                raise lzma.LZMAError("a block ends before its end")
            output = decompressor.decompress(data, PIECE)
            data = b""
            if output:
                yield output
            if decompressor.eof:
                break
    if not decompressor.eof:
        raise EOFError
    if decompressor.unused_data:
        raise lzma.LZMAError("a block ends before its end")


def _footer(index: int, flags: bytes) -> bytes:
    """The footer behind an index of this many bytes."""
    fields = struct.pack("<I", index // 4 - 1) + flags
    return struct.pack("<I", crc32(fields)) + fields + FOOTER_MAGIC


def _number(value: int) -> bytes:
    """A multibyte integer."""
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def _parse_number(fields: Iterator[int]) -> int:
    value = shift = 0
    for byte in fields:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return value
