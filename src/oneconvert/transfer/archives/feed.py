"""The bytes of an archive while they arrive: exactly as many as are asked for, and never back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from oneconvert.errors import ImageRefusedError

PIECE = 1024 * 1024
"""The most bytes that are handed out at once where the size of a member decides."""


class Feed:
    """A stream of ``chunks`` of any sizes.

    ``name`` and ``kind``, "tar" or "zip", are for messages. ``position`` is the number of bytes read so far.
    """

    def __init__(self, chunks: Iterable[bytes], name: str, kind: str) -> None:
        self.name = name
        self.position = 0
        self._kind = kind
        self._chunks = iter(chunks)
        self._chunk = b""
        self._start = 0

    def some(self, most: int = PIECE) -> bytes:
        """The next bytes, at least one and not more than ``most``; none at the end."""
        while self._start == len(self._chunk):
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._chunk, self._start = chunk, 0
        piece = self._chunk[self._start : self._start + most]
        self._start += len(piece)
        self.position += len(piece)
        return piece

    def give_back(self, count: int) -> None:
        """Make the last ``count`` bytes of what some() returned last the next ones again."""
        self._start -= count
        self.position -= count

    def peek(self, count: int) -> bytes:
        """The next ``count`` bytes without reading them, or fewer where the stream ends; for small counts."""
        while len(self._chunk) - self._start < count:
            more = next(self._chunks, None)
            if more is None:
                break
            self._chunk, self._start = self._chunk[self._start :] + more, 0
        return self._chunk[self._start : self._start + count]

    def take(self, count: int) -> bytes:
        """Exactly ``count`` bytes, in one piece: for headers. Raises ImageRefusedError where the stream ends."""
        return b"".join(self.pieces(count))

    def pieces(self, count: int) -> Iterator[bytes]:
        """Exactly ``count`` bytes, in pieces. Raises ImageRefusedError where the stream ends."""
        while count:
            piece = self.some(min(count, PIECE))
            if not piece:
                raise self.truncated()
            count -= len(piece)
            yield piece

    def skip(self, count: int) -> None:
        """Read ``count`` bytes and forget them. Raises ImageRefusedError where the stream ends."""
        for _ in self.pieces(count):
            pass

    def finish(self) -> None:
        """Read to the end; raises ImageRefusedError where anything but padding with zeros is left."""
        for piece in iter(self.some, b""):
            if piece.count(0) != len(piece):
                raise self.damaged(f"something follows the end of the {self._kind} archive in it")

    def truncated(self) -> ImageRefusedError:
        """The error for a stream that has ended too early."""
        return ImageRefusedError(
            f"{self.name} is truncated: the {self._kind} archive goes on after its {self.position} bytes; "
            "check that it was published whole"
        )

    def damaged(self, reason: str) -> ImageRefusedError:
        """The error for a stream that contradicts the format; ``reason`` is a clause."""
        return ImageRefusedError(f"{self.name} is damaged: {reason}; publish it again")
