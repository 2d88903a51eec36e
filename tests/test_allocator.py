"""Freed memory stays with the process: the pages that a repeated step faults in, counted."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, sys, torch
from lit_blip2.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def step():
    return [torch.ones(2**21) for _ in range(6)]  # 6 x 8 MiB, all freed behind it
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_step_faults_its_memory_in_once():
    assert faults("kept") * 10 < faults("as it comes")
