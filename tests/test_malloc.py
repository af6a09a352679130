"""keep_freed_memory: a freed block is used again instead of being mapped anew."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from ltm.malloc import keep_freed_memory
{call}
for _ in range(10):  # an aligned block fits into a freed one only with room to spare, so it takes a few rounds
    torch.ones(20_000_000).sum()
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(20_000_000).sum()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))  # a block may find its neighbour in the way now and then, by how the threads lie
"""


def page_faults(call: str) -> int:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(call=call)], capture_output=True, text=True, check=True
    )
    return int(result.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_memory_is_used_again():
    pages = 5 * 20_000_000 * 4 // resource.getpagesize()
    assert page_faults("pass") > pages // 100  # the default maps anew (huge pages fault less often)
    assert page_faults("assert keep_freed_memory()") < pages // 4
