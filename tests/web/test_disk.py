"""A disk that is nearly full takes no new runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.actors.fake_host import until
from tests.conftest import Client
from tests.web.kit import FakeHost, got, made, refused, test_case
from vpt.actors import lab as lab_module
from vpt.actors.lab import Lab
from vpt.config import Config, ConfigError, from_env
from vpt.store.disk import Disk, DiskFullError


@pytest.fixture
def config(config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return settings of a server that looks often."""
    monkeypatch.setattr(lab_module, "DISK_EVERY", 0.02)
    return config


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 1 MiB of its own, where this process may make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "vpt-test", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"may not mount: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def said(logged: Any) -> list[str]:
    return [line["event"] for line in logged if line["event"].startswith("disk_")]


async def test_new_runs_wait_for_room_and_what_runs_goes_on(
    operator: Client, viewer: Client, host: FakeHost, lab: Lab
) -> None:
    case = await made(operator, "/api/testcases", test_case())
    entries = {"name": "all", "test_cases": [{"test_case_id": case["id"]}] * 2}
    campaign = await made(operator, "/api/campaigns", entries)
    host.gate.clear()
    execute = f"/api/testcases/{case['id']}/execute"
    key = {"Idempotency-Key": "once"}
    first = await (await operator.post(execute, json={}, headers=key)).json()
    begun = await made(operator, f"/api/campaigns/{campaign['id']}/execute", {})
    with capture_logs() as logged:
        lab.disk.min_free = 100  # more than there ever is
        await until(lambda: lab.disk.full and bool(said(logged)))
        for path in (execute, f"/api/campaigns/{campaign['id']}/execute"):
            async with operator.post(path, json={}) as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "30")
                answer = await response.json()
                assert answer["code"] == "disk_full"
                assert "% free, less than 100 %" in answer["error"]
        again = await operator.post(execute, json={}, headers=key)
        assert (again.status, (await again.json())["execution_id"]) == (202, first["execution_id"])
        assert (await refused(operator, "POST", "/api/testcases/no/execute"))[0] == 404
        health = await got(viewer, "/api/health")
        assert health["status"] == "healthy"
        assert health["details"]["disk"]["ok"] is False
        assert 0 < health["details"]["disk"]["free_percent"] < 100
        host.gate.set()
        over = await got(
            viewer, f"/api/campaign-executions/{begun['campaign_execution_id']}", wait="30"
        )
        assert over["summary"]["completed"] == 2
        assert said(logged) == ["disk_full"]
        lab.disk.min_free = 0
        await until(lambda: len(said(logged)) == 2)
        assert (await operator.post(execute, json={})).status == 202
        assert said(logged) == ["disk_full", "disk_has_room"]
    assert (await got(viewer, "/api/health"))["details"]["disk"]["ok"] is True


async def test_a_real_disk_fills_and_recovers(small: Path) -> None:
    disk = Disk(small, 6.25)  # 64 KiB, which are just enough
    ballast = small / "ballast"
    disk.check()  # nobody looked: nothing is known against it
    with capture_logs() as logged:
        for free, full in [(64, False), (60, True), (32, True), (64, False)]:
            ballast.write_bytes(bytes(2**20 - free * 1024))
            await disk.look()
            assert disk.room is not None
            assert (disk.room.free, disk.room.total) == (free * 1024, 2**20)
            assert disk.full is full, free
            if full:
                with pytest.raises(DiskFullError):
                    disk.check()
            else:
                disk.check()
    assert said(logged) == ["disk_full", "disk_has_room"]


async def test_a_folder_that_cannot_be_asked_refuses_nothing(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "gone", 100)
    await disk.look()
    assert (disk.room, disk.full) == (None, False)
    disk.check()


async def test_the_metric_is_what_the_system_says(
    operator: Client, lab: Lab, config: Config
) -> None:
    system = os.statvfs(config.vpt_data_dir)
    text = await (await operator.get("/metrics")).text()
    (line,) = [one for one in text.splitlines() if one.startswith("vpt_disk_free_ratio ")]
    assert float(line.split()[1]) == pytest.approx(system.f_bavail / system.f_blocks, abs=0.02)


@pytest.mark.parametrize(
    ("value", "good"), [("0", 1), ("12.5", 1), ("100", 1), ("-1", 0), ("101", 0)]
)
def test_the_setting_is_a_percentage(value: str, good: int) -> None:
    if good:
        assert from_env({"MIN_FREE_DISK": value}).min_free_disk == float(value)
    else:
        with pytest.raises(ConfigError, match="MIN_FREE_DISK: expected a percentage"):
            from_env({"MIN_FREE_DISK": value})
