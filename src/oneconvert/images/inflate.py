"""A piece of zlib data, undone in one go and within bounds, by the fastest library that lets other threads work.

That is libdeflate; its binding keeps Python's lock, before the version that wants Python 3.10. There ISA-L stands in.
"""

from __future__ import annotations

import sys
from typing import cast


class InflateError(Exception):
    """It is no zlib data, or has more in it than was allowed."""


if sys.version_info >= (3, 10):
    import deflate

    def inflated(data: memoryview, most: int) -> bytes | bytearray:
        """What is in ``data``, ``most`` bytes at most; what follows its end is ignored. Raises InflateError."""
        try:
            return deflate.zlib_decompress(data, most)
        except deflate.DeflateError:
            raise InflateError from None

else:
    from isal import igzip_lib

    _ERROR = cast(type[Exception], igzip_lib.IsalError)

    def inflated(data: memoryview, most: int) -> bytes | bytearray:
        """What is in ``data``, ``most`` bytes at most; what follows its end is ignored. Raises InflateError."""
        reader = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_ZLIB)
        try:
            content = reader.decompress(data, most)
            if not reader.eof and reader.decompress(b"", 1):
                raise InflateError
        except _ERROR:
            raise InflateError from None
        if not reader.eof:
            raise InflateError
        return cast(bytes, content)
