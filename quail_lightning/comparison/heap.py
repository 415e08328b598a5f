"""How the C library's heap treats the temporary tensors of a comparison."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_BLOCK = 2**25  # the most that glibc accepts
_KEPT = 2**28


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks of up to 32 MB, and 256 MB of each heap's end; of other libraries, nothing.

    Pieces of two models make and free a hundred tensors of a megabyte. The system would get each of them back and
    hand it out again page by page, filled with zeros: a quarter of a comparison's time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_TRIM_THRESHOLD, _KEPT)
