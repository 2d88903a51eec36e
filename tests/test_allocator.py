"""Freed memory stays with the process, by glibc's own count."""

import platform
import subprocess
import sys

import pytest

BLOCK = 24 * 2**20  # bytes

FREE_A_BLOCK = """
import ctypes, sys, torch
from lit_blip2.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
class Mallinfo2(ctypes.Structure):  # malloc.h; fordblks is the free space that is still mapped
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2
block = torch.ones(int(sys.argv[2]), dtype=torch.uint8)
held = mallinfo2().fordblks
del block
print(mallinfo2().fordblks - held)
"""


def kept_of_a_freed_block(how: str) -> int:
    command = [sys.executable, "-c", FREE_A_BLOCK, how, str(BLOCK)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.run
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_what_is_freed_is_kept_for_the_next_step():
    assert kept_of_a_freed_block("as it comes") < BLOCK / 2
    assert kept_of_a_freed_block("kept") >= BLOCK
