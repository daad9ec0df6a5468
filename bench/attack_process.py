"""Memory and processor of another process of the same user, as Linux counts, and who goes first."""

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


class Processor:
    """Tells how long a process kept somebody waiting from how long the machine did.

    Linux counts for each thread how long it ran, and how long it could have run but waited for a
    processor.
    """

    def __init__(self, pid: int) -> None:
        """Measure process `pid`, and this one, which has to be woken to see an answer."""
        self._folders = (Path("/proc") / str(pid) / "task", Path("/proc/self/task"))
        self._before = (0.0, 0.0)

    def begin(self) -> None:
        """Begin to measure."""
        self._before = self._now()

    def blocked(self, seconds: float) -> float:
        """Return the part of `seconds`, which began with `begin`, that is the process's doing.

        It is at least what its threads ran meanwhile: they may have waited at the same time.
        """
        ran, waited = (now - before for now, before in zip(self._now(), self._before, strict=True))
        return max(seconds - waited, min(seconds, ran))

    def _now(self) -> tuple[float, float]:
        """Return the seconds that the process ran, and that either waited for a processor."""
        own, other = (_scheduled(folder) for folder in self._folders)
        return own[0], own[1] + other[1]


def _scheduled(folder: Path) -> tuple[float, float]:
    ran = waited = 0
    for name in os.listdir(folder):  # noqa: PTH208 (a hundred times a second)
        with contextlib.suppress(OSError), (folder / name / "schedstat").open("rb") as told:
            numbers = told.read().split()
            ran, waited = ran + int(numbers[0]), waited + int(numbers[1])
    return ran / 1e9, waited / 1e9


def prefer(pid: int, nice: int) -> None:
    """Set how nice a process is, within its session and, where Linux groups by them, that one.

    Does nothing where that is not allowed: going first is for root only.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        (Path("/proc") / str(pid) / "autogroup").write_text(str(nice), "ascii")
