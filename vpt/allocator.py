"""The memory that the C library keeps for later: large blocks go back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_LARGE = 2**20  # bytes


def return_large_blocks() -> None:
    """Let blocks of 1 MiB and more be mappings of their own, which end when they are freed.

    glibc begins so, but takes blocks as large as the largest that was ever freed, up to 32 MiB,
    from its heap, where a small one behind them keeps them for ever: some long answers at once
    would leave their memory with the server. Other C libraries have no such setting.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
