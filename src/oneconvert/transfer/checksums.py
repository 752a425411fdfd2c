"""Checksums of the bytes as they were received: before any decompression, as the publisher of the file counts them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from oneconvert.errors import MessageError, TransferError

HEX_DIGITS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


@dataclass(frozen=True)
class Checksum:
    """An expected digest. ``attribute`` is the attribute of the image that holds it, e.g. ``FROM_APP_MD5``."""

    attribute: str
    algorithm: str
    digest: str

    @classmethod
    def parse(cls, attribute: str, text: str) -> Checksum:
        """Read the value of an attribute: hexadecimal digits, whose number must be right for the attribute's name.

        An app has one field for all kinds of checksum, called MD5, so there the number of digits says which it is.
        Raises MessageError otherwise: a checksum that cannot be checked must not pass for one that was.
        """
        digest = text.lower()
        algorithm = HEX_DIGITS.get(len(digest)) if set(digest) <= set("0123456789abcdef") else None
        expected = None if attribute.startswith("FROM_APP") else attribute.lower()
        if algorithm is None or expected not in (None, algorithm):
            raise MessageError(
                f"{attribute} of the image is not a checksum of {expected or 'MD5, SHA1, SHA256 or SHA512'}: "
                "correct it or remove it"
            )
        return cls(attribute, algorithm, digest)


def verified(chunks: Iterable[bytes], expected: Iterable[Checksum], name: str) -> Iterator[bytes]:
    """Pass ``chunks`` on and, after the last one, raise TransferError unless every expected checksum is right."""
    wanted = tuple(expected)
    hashes = {each.algorithm: hashlib.new(each.algorithm, usedforsecurity=False) for each in wanted}
    for chunk in chunks:
        for running in hashes.values():
            running.update(chunk)
        yield chunk
    for each in wanted:
        actual = hashes[each.algorithm].hexdigest()
        if actual != each.digest:
            raise TransferError(
                f"{name} does not have the checksum it should: {each.attribute} says {each.digest}, what arrived has "
                f"{each.algorithm.upper()} {actual}; either the file was changed at its source or the checksum is old"
            )
