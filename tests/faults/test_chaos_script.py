"""Chaos in small: everything is broken once, and nothing differs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).parents[2] / "bench" / "chaos.py"
SMALL = (
    *("--seconds", "5", "--hosts", "3", "--scripted", "2", "--executions", "30"),
    *("--seed", "1", "--tenth"),
)


@pytest.mark.long
def test_chaos_in_small_loses_nothing_and_does_nothing_twice() -> None:
    done = subprocess.run(
        [sys.executable, str(CHAOS), *SMALL], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for harm in ("server kills: 1", "database restarts: 1", "acted twice: 0", "spoil host: 4"):
        assert harm in done.stdout, done.stdout
