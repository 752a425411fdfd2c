"""The content of .bz2 streams, decoded on all cores while they arrive.

A stream is a header, blocks that know nothing of each other, and a trailer. Each block begins with a magic number, at
any bit; nothing says where it ends but the next one. So the data is cut at the magic numbers, and each block is given
to libbz2 as a stream of its own, which verifies its checksum. A magic number may also occur by chance within a block:
a block that cannot be decoded is tried again with what follows it.

Source: BZIP2 Format Specification, Joe Tsai, sections 2.2 (stream header and footer) and 2.3 (block header).
"""

from __future__ import annotations

import bz2
import re
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Semaphore
from types import MappingProxyType

from oneconvert.jobs.threads import pool, pool_size

HEADER = re.compile(rb"BZh[1-9]")
BLOCK = 0x314159265359
END = 0x177245385090
MAGIC_BITS = 48
CRC_BITS = 32
PIECE = 1024 * 1024
"""The most bytes that are decoded at a time."""
MOST_PIECES = 2
"""Decoded and waiting to be yielded, of a block; a few bytes of zeros can be 46 MB of content."""
LARGEST_BLOCK = 900_000 * 20 // 8 + 64 * 1024
"""Bytes before decoding: the longest code for each of its symbols, and its tables."""
MOST_JOINED = 8
"""Magic numbers by chance within one block; one is seldom enough."""


def _inner_bytes() -> dict[bytes, tuple[int, int]]:
    """What of a magic number fills its bytes, wherever it begins in a byte -> the number, the bit where it begins."""
    return {
        (magic << 8 - shift).to_bytes(7, "big")[1:6]: (magic, shift) for magic in (BLOCK, END) for shift in range(8)
    }


INNER = MappingProxyType(_inner_bytes())
ANY_INNER = re.compile(b"|".join(map(re.escape, INNER)))


class DamagedError(Exception):
    """The data is not what a compressor makes."""


def content(data: bytes, source: Iterator[bytes]) -> Generator[bytes, None, bytes]:
    """The content of the streams that begin with ``data`` and go on in ``source``, in pieces of at most PIECE bytes.

    Returns what was taken from ``source`` behind the streams. Raises DamagedError, and EOFError where they end too
    early.
    """
    stream = _Stream(data, source)
    blocks = _Blocks(stream)
    try:
        yield from blocks.content()
    finally:
        blocks.stop()
    return stream.rest


@dataclass(frozen=True)
class Bits:
    """``count`` bits within ``data``, of whose first byte ``skip`` bits are not among them."""

    header: bytes
    """That of their stream; it says how large blocks are."""
    data: bytes
    skip: int
    count: int
    complete: bool = True
    """False when the file ends behind them."""

    @property
    def crc(self) -> int:
        """The checksum in the header of a block."""
        head = int.from_bytes(self.data[:11].ljust(11, b"\0"), "big")
        return head >> 88 - self.skip - MAGIC_BITS - CRC_BITS & 0xFFFFFFFF

    def joined(self, behind: Bits) -> Bits:
        """These, and those that follow them in the file."""
        shared = (self.skip + self.count) % 8 > 0
        data = self.data[: len(self.data) - shared] + behind.data
        return Bits(self.header, data, self.skip, self.count + behind.count, behind.complete)

    def as_stream(self) -> bytes:
        """A stream with this block only; without its end where the file ends before."""
        value = int.from_bytes(bytes([self.data[0] & 0xFF >> self.skip]) + self.data[1:], "big")
        value >>= len(self.data) * 8 - self.skip - self.count
        if not self.complete:
            return self.header + (value >> self.count % 8).to_bytes(self.count // 8, "big")
        count = self.count + MAGIC_BITS + CRC_BITS
        value = (value << MAGIC_BITS | END) << CRC_BITS | self.crc
        return self.header + (value << -count % 8).to_bytes((count + 7) // 8, "big")


def decoded(block: Bits) -> Iterator[bytes]:
    """The content of one block, verified to its end. libbz2 gives none before it has met the end of the block."""
    decompressor = bz2.BZ2Decompressor()
    data = block.as_stream()
    while not decompressor.eof:
        try:
            output = decompressor.decompress(data, PIECE)
        except OSError:
            raise DamagedError from None
        data = b""
        if output:
            yield output
        elif decompressor.needs_input and not decompressor.eof:
            raise DamagedError if block.complete else EOFError
    if decompressor.unused_data or not block.complete:
        raise DamagedError


class _Stream:
    """The file, bit by bit."""

    def __init__(self, data: bytes, source: Iterator[bytes]) -> None:
        self._data = bytearray(data)
        self.at = 0
        """The next bit."""
        self._dropped = 0
        self._header = b""
        self._source = source

    @property
    def rest(self) -> bytes:
        return bytes(self._data[self._byte :])

    @property
    def _byte(self) -> int:
        return self.at // 8 - self._dropped

    def peek(self, count: int) -> int:
        """The next bits, which stay the next; raises EOFError when there are fewer."""
        end = self.at + count
        while (self._dropped + len(self._data)) * 8 < end:
            if not self._more():
                raise EOFError
        last = -(-end // 8) - self._dropped
        return int.from_bytes(self._data[self._byte : last], "big") >> -end % 8 & (1 << count) - 1

    def begins_stream(self) -> bool:
        """True when the header of a stream, or what shall be one, is next."""
        while len(self._data) - self._byte < 3 and self._more():
            pass
        return self._data.startswith(b"BZh", self._byte)

    def take_header(self) -> None:
        self._header = self.peek(32).to_bytes(4, "big")
        if not HEADER.fullmatch(self._header):
            raise DamagedError
        self.at += 32

    def skip_end(self) -> None:
        """Pass over the trailer, and over the bits that fill its last byte."""
        self.at += MAGIC_BITS + CRC_BITS
        self.at += -self.at % 8

    def take_block(self) -> Bits:
        """What begins with the magic number that is next, up to the following one."""
        self._drop()
        skip = self.at % 8
        searched = 0
        while (end := self._find(searched, skip)) is None and len(self._data) <= LARGEST_BLOCK:
            searched = max(0, len(self._data) - 6)
            if not self._more():
                end = len(self._data) * 8
                self.at += end - skip
                return Bits(self._header, bytes(self._data), skip, end - skip, complete=False)
        if end is None or end > LARGEST_BLOCK * 8:
            raise DamagedError
        self.at += end - skip
        return Bits(self._header, bytes(self._data[: -(-end // 8)]), skip, end - skip)

    def _find(self, searched: int, skip: int) -> int | None:
        """The bit where the first magic number begins that does so behind the bit ``skip``, and is there wholly."""
        while found := ANY_INNER.search(self._data, searched):
            searched = found.start() + 1
            magic, shift = INNER[found[0]]
            start = (found.start() - 1) * 8 + shift
            around = self._data[max(0, found.start() - 1) : found.start() + 5 + (shift > 0)]
            ends = int.from_bytes(around, "big") >> -shift % 8 & (1 << MAGIC_BITS) - 1 == magic
            if start > skip and len(around) == 6 + (shift > 0) and ends:
                return start
        return None

    def _more(self) -> bool:
        self._drop()
        data = next(self._source, b"")
        self._data += data
        return bool(data)

    def _drop(self) -> None:
        del self._data[: self._byte]
        self._dropped = self.at // 8


class _Block:
    """A block on its way through a thread."""

    def __init__(self, bits: Bits) -> None:
        self.bits = bits
        self.is_last = not bits.complete
        """True when the trailer of its stream is known to follow it, or nothing."""
        self.begun = False
        """True when some of its content was yielded."""
        self.unpacked: SimpleQueue[bytes | Exception | None] = SimpleQueue()
        self.room = Semaphore(MOST_PIECES)
        self._abandoned = False

    def work(self) -> None:
        try:
            for piece in decoded(self.bits):
                self.room.acquire()
                if self._abandoned:
                    return
                self.unpacked.put(piece)
        except Exception as error:
            self.unpacked.put(error)
        else:
            self.unpacked.put(None)

    def abandon(self) -> None:
        """Nobody waits for its content; its thread ends after the next piece."""
        self._abandoned = True
        self.room.release()


class _Blocks:
    """All blocks of the streams."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._pool = pool("bzip2")
        self._most = 2 * pool_size()
        self._waiting: deque[_Block] = deque()
        self._combined = 0
        """The checksum of the blocks of this stream, without those that wait."""

    def content(self) -> Iterator[bytes]:
        try:
            while self._stream.begins_stream():
                self._stream.take_header()
                yield from self._blocks()
        except EOFError:
            # What has arrived is content, or damaged; that comes first.
            yield from self._all_waiting()
            raise
        yield from self._all_waiting()

    def stop(self) -> None:
        """Have all threads end; takes as long as decoding one piece."""
        for block in self._waiting:
            block.abandon()
        self._pool.shutdown(cancel_futures=True)

    def _blocks(self) -> Iterator[bytes]:
        """Give the blocks of one stream to threads, and verify its checksum; what is ready is yielded meanwhile."""
        while True:
            # Before anything is taken from the stream: one of them may need what follows it.
            while self._waiting and (len(self._waiting) > self._most or not self._waiting[0].unpacked.empty()):
                yield from self._next_piece()
            magic = self._stream.peek(MAGIC_BITS)
            if magic == BLOCK:
                block = _Block(self._stream.take_block())
                self._waiting.append(block)
                self._pool.submit(block.work)
            elif magic == END:
                at = self._stream.at
                crc = self._stream.peek(MAGIC_BITS + CRC_BITS) & 0xFFFFFFFF
                if crc != self._expected():
                    # Perhaps one of the magic numbers, this one or another, is there by chance.
                    yield from self._all_waiting()
                    if self._stream.at != at:
                        continue
                    if crc != self._combined:
                        raise DamagedError
                if self._waiting:
                    self._waiting[-1].is_last = True
                else:
                    self._combined = 0
                self._stream.skip_end()
                return
            else:
                raise DamagedError

    def _expected(self) -> int:
        """The checksum of this stream if it ends here."""
        combined = self._combined
        for block in self._waiting:
            combined = 0 if block.is_last else _combined(combined, block.bits.crc)
        return combined

    def _all_waiting(self) -> Iterator[bytes]:
        while self._waiting:
            yield from self._next_piece()

    def _next_piece(self) -> Iterator[bytes]:
        """What comes next from the first block; nothing at its end."""
        block = self._waiting[0]
        piece = block.unpacked.get()
        if isinstance(piece, bytes):
            block.begun = True
            block.room.release()
            yield piece
            return
        self._waiting.popleft()
        if isinstance(piece, Exception):
            if block.begun or block.is_last or not isinstance(piece, DamagedError):
                raise piece
            yield from self._with_what_follows(block)
        self._combined = 0 if block.is_last else _combined(self._combined, block.bits.crc)

    def _with_what_follows(self, block: _Block) -> Iterator[bytes]:
        """The content of a block in which there is a magic number by chance, or damage.

        Should the bits before that number happen to be a block, the file is refused for their checksum.
        """
        bits = block.bits
        for _ in range(MOST_JOINED):
            if block.is_last:
                break
            if self._waiting:
                following = self._waiting.popleft()
                following.abandon()
            else:
                following = _Block(self._stream.take_block())
            block.is_last = following.is_last
            bits = bits.joined(following.bits)
            if len(bits.data) > LARGEST_BLOCK:
                break
            pieces = decoded(bits)
            try:
                first = next(pieces)
            except DamagedError:
                continue
            yield first
            yield from pieces
            return
        raise DamagedError


def _combined(before: int, crc: int) -> int:
    """The checksum of a stream that goes on with a block."""
    return (before << 1 | before >> 31) & 0xFFFFFFFF ^ crc
