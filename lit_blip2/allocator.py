"""The C library's allocator on a CPU: keep what a step frees for the next one, and give back what nobody needs."""

import ctypes
import gc
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


def give_back_freed_memory() -> None:
    """Hand everything that is free back to the system, once after work of another kind than a step.

    A validation leaves holes of other sizes than a step's, and pictures refer to themselves, so that they wait for
    Python's next full collection, which comes late. A process would grow with each. Takes a quarter of a second.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
