"""The attacks in small: bodies, silence, floods and bad answers hold up nobody, and cost little."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ATTACK = Path(__file__).parents[2] / "bench" / "attack.py"
#: Attacks that must have been tried.
TRIED = ("end of a script", "host: action", "100 slow", "3 readers", "floods of refusals", "bad")


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory")
def test_small_attacks_stay_within_the_limits() -> None:
    done = subprocess.run(
        [sys.executable, str(ATTACK), "--small"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in TRIED:
        assert f"| {name}" in done.stdout
