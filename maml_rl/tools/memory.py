"""What training asks of the C library's memory allocator."""

from __future__ import annotations

import ctypes
import platform

# From malloc.h of glibc.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next iteration; on other systems do nothing.

    By default large arrays go back to the operating system when they are freed, and every iteration gets them anew
    as pages to be filled with zeros one by one. That took up to a quarter of the time of a supervised
    meta-iteration (docs/log.md, "Speed").
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
