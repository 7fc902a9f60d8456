"""Freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from fastvit_train.cpu_memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
torch.ones(2**26)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for size in (2**25, 2**24, 2**23):
    torch.ones(size)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.timeout(60)
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told so")
def test_the_second_tensor_takes_the_first_ones_pages():
    faults = {
        keep: int(
            subprocess.run([sys.executable, "-c", SCRIPT.format(keep=keep)], capture_output=True, check=True).stdout
        )
        for keep in (True, False)
    }
    assert faults[True] < 100
    assert faults[False] > 10 * max(faults[True], 1)
