"""Undoing compression around an image, or around an archive that holds one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from oneconvert.actions.sizes import bounded
from oneconvert.errors import ImageRefusedError
from oneconvert.transfer.archives import HEAD
from oneconvert.transfer.compression import decompressed, find_compression, unpacked_length

# '.tar.gz' that holds '.vmdk.gz' has two layers, one on each side of the archive; more is a game.
MOST_LAYERS = 3


@dataclass(frozen=True)
class Opened:
    """A stream whose first bytes are ``head``; ``length`` and ``position`` are those of landing.Head."""

    head: bytes
    chunks: Iterator[bytes]
    length: int | None
    position: int | None


def unpacked(opened: Opened, name: str, most: int) -> Opened:
    """Undo layers of compression: none, one or two. What comes out may have no more than ``most`` bytes.

    Raises ImageRefusedError.
    """
    for _ in range(MOST_LAYERS):
        head, chunks = _peek(opened.chunks)
        if find_compression(head) is None:
            return replace(opened, head=head, chunks=chunks)
        opened = Opened(head, bounded(decompressed(chunks, name), most, name), unpacked_length(head), None)
    raise ImageRefusedError(f"{name} is compressed more than {MOST_LAYERS - 1} times; publish it compressed once")


def _peek(chunks: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    source = iter(chunks)
    first = b""
    for chunk in source:
        first += chunk
        if len(first) >= HEAD:
            break
    return first[:HEAD], itertools.chain((first,) if first else (), source)
