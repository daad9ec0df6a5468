"""The memory of another process of the same user, as Linux counts it, and who goes first."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_KIB = 1024


class Memory:
    """Measures the growth of one process: its highest resident set since `begin`."""

    def __init__(self, pid: int) -> None:
        """Measure process `pid`."""
        self._folder = Path("/proc") / str(pid)
        self._before = 0

    def begin(self) -> None:
        """Begin to measure: the kernel forgets the peak so far."""
        (self._folder / "clear_refs").write_text("5", "ascii")
        self._before = self.resident()

    def growth(self) -> int:
        """Return by how many bytes the peak since `begin` is above what it was then."""
        return max(0, self._field("VmHWM") - self._before)

    def resident(self) -> int:
        """Return the bytes that are resident now."""
        return self._field("VmRSS")

    def _field(self, name: str) -> int:
        lines = (self._folder / "status").read_text("ascii", "replace").splitlines()
        value = next(line for line in lines if line.startswith(f"{name}:"))
        return int(value.split()[1]) * _KIB


def prefer(pid: int, nice: int) -> None:
    """Set how nice a process is, within its session and, where Linux groups by them, that one.

    Does nothing where that is not allowed: going first is for root only.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        (Path("/proc") / str(pid) / "autogroup").write_text(str(nice), "ascii")
