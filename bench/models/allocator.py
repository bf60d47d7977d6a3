"""What the C library does with memory that is freed, where it can be told."""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # glibc's numbers
TRIM_ABOVE = 2.5e9  # bytes in memory from which on holes in the heap are worth the pages that are taken anew


def tune_malloc() -> None:
    """Keep freed memory for the next update instead of giving it back; take pages of 2 MB.

    glibc returns the maps of one update to the system and takes them for the next, and every page that comes back is
    zeroed first: up to a third of the time of an update at paper size. Blocks above 32 MB still go back at once.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it when it first allocates
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(MMAP_THRESHOLD, 32 * 2**20)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        mallopt(TOP_PAD, 64 * 2**20)


def trim_heap() -> None:
    """Give back what lies free within a heap that has grown large.

    Maps of several sizes that live for several times leave holes which none of them fits: a gradient through the
    gradients of a large decoder holds 7 GB to use 2.6. Costs some pages that are zeroed again.
    """
    if _resident() > TRIM_ABOVE and (malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        malloc_trim(0)


def _resident() -> int:
    """Bytes of this process in memory; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
