"""An image that is still arriving, as a network block device for qemu-img: reads wait for bytes that are not there yet.

The device is one end of a socket pair that qemu-img inherits: it has no name, needs no privilege, no mount and no other
program, and is gone with either process. Only what qemu-img needs is spoken of the protocol (NBD project,
``doc/proto.md``: fixed newstyle negotiation, structured replies, read only). There is no ``base:allocation``: before
``qemu-img convert`` copies anything it asks for the state of the whole disk, and would wait for the whole image. Holes
are told in the replies instead.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Callable, Protocol, Union

from oneconvert.jobs.threads import thread
from oneconvert.transfer.spool import ZEROS

LOG = logging.getLogger(__name__)

# qemu's own limit of a request, NBD_MAX_BUFFER_SIZE.
LARGEST_READ = 32 * 1024 * 1024
LARGEST_OPTION = 64 * 1024
# qemu's NBD client sends no more at a time than 16, MAX_NBD_REQUESTS.
MOST_PENDING = 64

MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC = b"NBDMAGIC", b"IHAVEOPT", 0x3E889045565A9
REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
OPTION_ABORT, OPTION_INFO, OPTION_GO, OPTION_STRUCTURED_REPLY = 2, 6, 7, 8
REPLY_ACK, REPLY_INFO, REPLY_UNSUPPORTED = 1, 3, 0x80000001
INFO_EXPORT = 0
FLAG_HAS_FLAGS, FLAG_READ_ONLY = 1, 2
COMMAND_READ, COMMAND_DISCONNECT = 0, 2
CHUNK_DONE, CHUNK_OFFSET_DATA, CHUNK_OFFSET_HOLE = 1, 1, 2
EINVAL = 22

OPTION = struct.Struct(">8sII")
OPTION_REPLY = struct.Struct(">QIII")
REQUEST = struct.Struct(">IHHQQI")
SIMPLE_REPLY = struct.Struct(">IIQ")
STRUCTURED_REPLY = struct.Struct(">IHHQIQ")  # with the offset that chunks of data and of holes begin with


@dataclass(frozen=True)
class Zeros:
    """So many bytes of zeros."""

    length: int


@dataclass(frozen=True)
class InFile:
    """Bytes of an open file; behind its end are zeros."""

    file: int
    offset: int
    length: int


Data = Union[bytes, bytearray]
Piece = Union[Data, Zeros, InFile]


class Growing(Protocol):
    """What is served."""

    size: int
    """Bytes of the device, whole sectors."""

    def has(self, offset: int, length: int) -> bool:
        """Whether these bytes are there."""
        ...

    def pieces(self, offset: int, length: int) -> list[Piece]:
        """These bytes, which are there."""
        ...

    def lost(self) -> bool:
        """Whether what is missing will never arrive, so that nobody must wait for it."""
        ...

    def on_arrival(self, call: Callable[[], None]) -> None:
        """Have ``call`` called, by any thread, whenever more has arrived."""
        ...

    def wanted(self, offset: int, length: int) -> None:
        """Somebody waits for these bytes."""
        ...

    def taken(self, offset: int, length: int) -> None:
        """These bytes were read."""
        ...

    def abandon(self) -> None:
        """Nobody reads any more."""
        ...


@dataclass(frozen=True)
class Read:
    """A request that waits for its bytes."""

    cookie: int
    offset: int
    length: int


@contextmanager
def served(disk: Growing) -> Iterator[socket.socket]:
    """Serve ``disk`` for as long as the context lasts, on the other end of the socket that it gives.

    A program that inherits that notices when we end.
    """
    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        # sendfile(2) and qemu-img want that; a library may have set a timeout for all sockets, as pyone does.
        each.setblocking(True)
    with theirs, _Server(ours, disk) as server, thread("nbd", server.run, server.stop):
        yield theirs


class _Server:
    """One connection. A single thread serves it: a read that has to wait is put aside, and others go first."""

    def __init__(self, connection: socket.socket, disk: Growing) -> None:
        self._connection = connection
        self._disk = disk
        self._structured = False
        self._received = bytearray()
        self._pending: list[Read] = []
        self._asleep = False
        # Sockets, not a pipe: to ring after they were closed is an error, and not a byte in another file.
        self._alarm, self._bell = socket.socketpair()
        self._bell.setblocking(False)

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._disk.on_arrival(lambda: None)
        self._connection.close()
        self._alarm.close()
        self._bell.close()

    def stop(self) -> None:
        """Make ``run`` end."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Serve until the client goes away, or breaks the protocol."""
        # ConnectionError: it was killed, or our side was shut down.
        try:
            with suppress(ConnectionError, EOFError):
                self._negotiate()
                self._disk.on_arrival(self._wake)
                self._transmit()
        except Exception:
            LOG.exception("the block device failed")
        finally:
            # Or else the client would wait for ever, and who writes the disk.
            self.stop()
            self._disk.abandon()

    def _negotiate(self) -> None:
        self._connection.sendall(MAGIC + OPTION_MAGIC + struct.pack(">H", FIXED_NEWSTYLE | NO_ZEROES))
        self._receive(4)
        while True:
            magic, option, length = OPTION.unpack(self._receive(OPTION.size))
            if magic != OPTION_MAGIC or length > LARGEST_OPTION:
                raise EOFError
            self._receive(length)
            if option == OPTION_STRUCTURED_REPLY:
                self._structured = True
            elif option in (OPTION_INFO, OPTION_GO):
                flags = FLAG_HAS_FLAGS | FLAG_READ_ONLY
                self._answer(option, REPLY_INFO, struct.pack(">HQH", INFO_EXPORT, self._disk.size, flags))
            elif option != OPTION_ABORT:
                self._answer(option, REPLY_UNSUPPORTED)
                continue
            self._answer(option, REPLY_ACK)
            if option == OPTION_GO:
                return

    def _answer(self, option: int, kind: int, data: bytes = b"") -> None:
        self._connection.sendall(OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(data)) + data)

    def _receive(self, length: int) -> bytes:
        """Exactly ``length`` bytes; raises EOFError when the client is gone."""
        while len(self._received) < length:
            self._fill()
        data = bytes(self._received[:length])
        del self._received[:length]
        return data

    def _fill(self) -> None:
        data = self._connection.recv(64 * 1024)
        if not data:
            raise EOFError
        self._received += data

    def _transmit(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            selector.register(self._alarm, selectors.EVENT_READ)
            while True:
                while len(self._received) >= REQUEST.size:
                    self._take_request()
                self._asleep = True  # before the look at what is there: what comes after it rings
                self._serve_pending()
                if self._disk.lost():
                    return
                for key, _ in selector.select():
                    if key.fileobj is self._alarm:
                        self._alarm.recv(4096)
                    else:
                        self._fill()

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            with suppress(OSError):
                self._bell.send(b"\0")

    def _take_request(self) -> None:
        magic, _, command, cookie, offset, length = REQUEST.unpack(self._receive(REQUEST.size))
        if magic != REQUEST_MAGIC or command == COMMAND_DISCONNECT:
            raise EOFError
        if command != COMMAND_READ:
            # Without structure whatever was negotiated: that is for reads only.
            self._connection.sendall(SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, EINVAL, cookie))
            return
        if not 0 < length <= LARGEST_READ or offset + length > self._disk.size or len(self._pending) == MOST_PENDING:
            raise EOFError
        read = Read(cookie, offset, length)
        if self._disk.has(offset, length):
            self._reply(read)
        else:
            self._pending.append(read)
            self._disk.wanted(offset, length)

    def _serve_pending(self) -> None:
        ready = [read for read in self._pending if self._disk.has(read.offset, read.length)]
        for read in ready:
            self._pending.remove(read)
            self._reply(read)

    def _reply(self, read: Read) -> None:
        pieces = self._disk.pieces(read.offset, read.length)
        if sum(map(_length, pieces)) != read.length:
            raise ValueError("a block device must give what it is asked for")
        if self._structured and all(isinstance(piece, Zeros) for piece in pieces):
            self._send_head(read, CHUNK_OFFSET_HOLE, 4, struct.pack(">I", read.length))
        else:
            if self._structured:
                self._send_head(read, CHUNK_OFFSET_DATA, read.length)
            else:
                self._connection.sendall(SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, read.cookie))
            for piece in pieces:
                self._send(piece)
        self._disk.taken(read.offset, read.length)

    def _send(self, piece: Piece) -> None:
        if not isinstance(piece, (Zeros, InFile)):
            self._connection.sendall(piece)
            return
        left = piece.length
        if isinstance(piece, InFile):
            offset = piece.offset
            while left and (sent := os.sendfile(self._connection.fileno(), piece.file, offset, left)):
                offset, left = offset + sent, left - sent
        while left:
            count = min(left, len(ZEROS))
            self._connection.sendall(ZEROS[:count])
            left -= count

    def _send_head(self, read: Read, kind: int, payload: int, data: bytes = b"") -> None:
        head = STRUCTURED_REPLY.pack(STRUCTURED_REPLY_MAGIC, CHUNK_DONE, kind, read.cookie, payload + 8, read.offset)
        self._connection.sendall(head + data)


def _length(piece: Piece) -> int:
    return piece.length if isinstance(piece, (Zeros, InFile)) else len(piece)
