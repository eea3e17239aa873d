"""Memory of the process: freed blocks are kept for the next step instead of being given back to the system."""

import ctypes
import platform

# Numbers of mallopt's parameters in glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Makes glibc's malloc reuse large blocks; False (and nothing done) where the C library is another one.

    A step on the CPU frees and takes the same large temporaries again and again. By default they are mapped anew each
    time, and the kernel clears every page: measured for a small ViT on one core, 24,000 page faults and about a third
    of the CPU time of a step. Call it before the first computation. Costs: the process keeps its peak memory.
    Source: ours; the parameters are described in mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    largest = 2**31 - 1
    settings = {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: largest, _TOP_PAD: 64 * 2**20}
    return all(mallopt(parameter, value) == 1 for parameter, value in settings.items())
