"""The CPU seconds that a server has used, with all of its children."""

from __future__ import annotations

import contextlib

import psutil


def used(pid: int) -> float:
    """Return user + system seconds of `pid` and of everything below it that lives."""
    parent = psutil.Process(pid)
    total = 0.0
    for process in (parent, *parent.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def all_used(pids: dict[str, int]) -> dict[str, float]:
    """Return what each of `pids` has used by now."""
    return {name: used(pid) for name, pid in pids.items()}


def since(before: dict[str, float], pids: dict[str, int]) -> dict[str, float]:
    """Return what each of `pids` has used since `before`."""
    return {name: spent - before[name] for name, spent in all_used(pids).items()}
