"""Settings of glibc's allocator that speed up repeated large allocations. No effect with another C library."""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # constants of <malloc.h>
TRIM_ABOVE = 2.5e9  # resident bytes above which ``trim_heap`` acts


def tune_malloc() -> None:
    """Keep freed memory for the next update and use pages of 2 MB.

    By default glibc returns the tensors of an update to the system and maps new pages for the next, which the kernel
    zeroes: up to a third of an update at paper size. Blocks above 32 MB are still returned at once.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch at its first allocation
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, 64 * 2**20)


def trim_heap() -> None:
    """Return free memory inside a large heap to the system.

    Tensors of different sizes and lifetimes fragment the heap: a second-order gradient of a large decoder holds 7 GB to
    use 2.6. Trimming costs some pages that are zeroed again.
    """
    if _resident_bytes() > TRIM_ABOVE and (malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        malloc_trim(0)


def _resident_bytes() -> int:
    """Return the resident memory of this process, or 0 without /proc."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
