"""What long bodies and answers took is free again after them."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

BLOCKS, SIZE = 20, 8 * 2**20
#: Large blocks with a small one behind each, which stays; prints how many bytes more stay resident.
PROGRAM = f"""
import resource
from vpt.allocator import return_large_blocks

def resident():
    with open("/proc/self/statm") as told:
        return int(told.read().split()[1]) * resource.getpagesize()

return_large_blocks()
first = bytearray(b"x") * {SIZE}
del first
before = resident()
kept = [(bytearray(b"x") * {SIZE}, bytearray(4000)) for _ in range({BLOCKS})]
kept = [small for _, small in kept]
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_large_blocks_that_are_free_go_back_to_the_system() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < SIZE
