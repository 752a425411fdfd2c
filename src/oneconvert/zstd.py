"""The zstd module of Python 3.14's standard library, or its backport for earlier Pythons."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError, get_frame_info
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError, get_frame_info

__all__ = ["DecompressionParameter", "ZstdDecompressor", "ZstdError", "get_frame_info"]
