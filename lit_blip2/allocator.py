"""The C library's allocator on a CPU: keep what a step frees for the next one."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_KEPT = 32 * 2**20  # bytes; the most that glibc accepts
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Stop glibc from handing freed activations back to the system, to be faulted in again page by page each step.

    Blocks up to LARGEST_KEPT stay with the process. Returns whether this took effect: False where the C library is
    another.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(M_TRIM_THRESHOLD, NEVER))
