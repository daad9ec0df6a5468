"""Each service manager waits longer than a stop of vpt may take."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.system.kit import ROOT
from vpt import background, serve
from vpt.config import Config
from vpt.embedded.server import STOP_TIMEOUT

UNIT = ROOT / "deploy" / "vpt.service"


def longest_stop() -> float:
    """Return the sum (s) of the timeouts of a stop, which are used one after the other."""
    steps = Config().shutdown_grace
    web = 2 * serve._WEB_GRACE  # open requests, and then their connections
    lab = background._CLOSE_TIMEOUT  # for all its tasks together
    claim = serve._CLAIM_GRACE
    pools = 2 * 2.0
    return steps + web + lab + claim + pools + STOP_TIMEOUT


def waits() -> dict[str, float]:
    """Return how long (s) each waits for what it stops."""
    conf = configparser.RawConfigParser()
    conf.read(ROOT / "supervisord.conf", encoding="utf-8")
    programs = [conf.getfloat(f"program:{name}", "stopwaitsecs") for name in ("vpt", "grafana")]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return {
        "supervisord": programs[0],
        "supervisord for both": sum(programs),
        "compose": float(compose["services"]["vpt"]["stop_grace_period"].removesuffix("s")),
        "systemd": float(unit("TimeoutStopSec")),
    }


def unit(key: str) -> str:
    """Return the last value of a key of the unit."""
    values = re.findall(rf"^{key}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    assert values, key
    return str(values[-1])


def test_limits_nest() -> None:
    wait = waits()
    assert longest_stop() < wait["supervisord"]
    assert longest_stop() < wait["systemd"]
    assert wait["supervisord for both"] < wait["compose"]
    smoke = (ROOT / "deploy" / "compose-smoke").read_text(encoding="utf-8")
    assert f"--timeout {wait['compose']:.0f}" in smoke


def test_only_the_server_is_told_to_stop() -> None:
    """PostgreSQL, told so itself, takes no more connections while the server still writes."""
    conf = configparser.RawConfigParser()
    conf.read(ROOT / "supervisord.conf", encoding="utf-8")
    assert conf["program:vpt"].get("stopasgroup", "false") == "false"
    assert unit("KillMode") == "mixed"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Provide the unit with a command that exists here."""
    text = UNIT.read_text(encoding="utf-8")
    assert unit("ExecStart") == "/opt/vpt/bin/vpt serve"
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("/opt/vpt/bin/vpt serve", f"{sys.executable} -m vpt serve"))
    return copy


systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")


@systemd
def test_systemd_takes_the_unit(installed: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(installed)],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, ours) == (0, [])


@systemd
def test_the_unit_may_do_little(installed: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(installed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
