"""Who the host says it is, where it is, and whether its devices can be used."""

import asyncio
import importlib.util
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from vpt.host.description import own_url
from vpt.host.folder import instance_id
from vpt.host.membership import HostReplacedError
from vpt.host.server import run_host
from vpt.host.settings import HostSettings

from .kit import TOKEN, Caller, FakeServer, process, running, until


async def health_of(host: Caller) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {host.secret}"}
    async with host.session.get(f"{host.url}/host/health", headers=headers) as response:
        body: dict[str, Any] = await response.json()
        return body


async def told(server: FakeServer, available: bool, device_id: str = "desktop") -> dict[str, Any]:
    """Wait until a heartbeat says that the device is available, or is not; what it said."""

    def newest() -> dict[str, Any]:
        bodies = [body for call, body, _ in server.calls if call == "heartbeat"]
        return bodies[-1]["devices"][device_id] if bodies else {}

    await until(lambda: newest().get("available") is available, 30)
    return newest()


# ---------------------------------------------------------------- who it is


async def test_registration_heartbeat_and_health_name_one_installation(
    server: FakeServer, tmp_path: Path
) -> None:
    async with running(server, tmp_path / "data") as host:
        card, beat = await server.heard("register"), await server.heard("heartbeat")
        health = await health_of(host)
    file = tmp_path / "data" / "instance_id"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(card["instance_id"]) >= 16
    assert card["instance_id"] == beat["instance_id"] == health["instance_id"]
    assert (await server.heard("unregister"))["instance_id"] == card["instance_id"]
    assert health["host_name"] == "lab"
    assert beat["host_url"] == card["host_url"]
    async with running(server, tmp_path / "data"):
        assert (await server.heard("register", 2))["instance_id"] == card["instance_id"]


def test_a_copied_folder_is_another_installation(tmp_path: Path) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"
    first.mkdir()
    name = instance_id(first)
    assert instance_id(first) == name
    shutil.copytree(first, copy)
    assert instance_id(copy) != name
    assert instance_id(copy) == instance_id(copy)
    assert instance_id(first) == name
    (first / "instance_id").write_text("torn")
    assert instance_id(first) not in {name, "torn"}


async def test_a_call_for_another_host_does_nothing(host: Caller, tmp_path: Path) -> None:
    body = {"command": "execute_bash_command", "params": {"command": f"touch {tmp_path}/ran"}}
    for path in ("/host/remote/executeAction", "/host/cancel"):
        status, answer = await host.post(path, body, **{"Vpt-Host": "other"})
        assert (status, answer["code"]) == (421, "another_host")
        assert answer["error"] == "this is the host lab, and not other"
    assert not (tmp_path / "ran").exists()
    status, _ = await host.post("/host/remote/executeAction", body, **{"Vpt-Host": "lab"})
    assert (status, (tmp_path / "ran").exists()) == (200, True)


# ---------------------------------------------------------------- where it is


async def test_a_host_finds_its_address_anew_for_each_registration_and_heartbeat(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(server, tmp_path / "data"):
        await server.heard("heartbeat")
        for url in ("http://10.0.0.9:1", None):  # None: there is no network just now
            monkeypatch.setattr("vpt.host.description.own_url", lambda *_, url=url: url)
            beats = server.count("heartbeat")
            assert (await server.heard("heartbeat", beats + 2))["host_url"] == "http://10.0.0.9:1"
        server.say["heartbeat"] = 404
        assert (await server.heard("register", 2))["host_url"] == "http://10.0.0.9:1"


def test_a_host_that_listens_on_all_addresses_names_the_one_towards_the_server() -> None:
    settings = HostSettings("http://127.0.0.1:9", "lab", listen="0.0.0.0", data_dir=Path("/x"))
    assert own_url(settings, 6109) == "http://127.0.0.1:6109"


async def test_a_replaced_host_stops_and_leaves_its_successor_alone(
    server: FakeServer, tmp_path: Path
) -> None:
    settings = HostSettings(
        server.url, "lab", data_dir=tmp_path / "data", join_token=TOKEN, heartbeat_s=0.05
    )
    task = asyncio.create_task(run_host(settings))
    await server.heard("heartbeat")
    server.status, server.say["heartbeat"] = "replaced", 409
    with pytest.raises(HostReplacedError, match="another host of the name lab"):
        await task
    assert server.count("unregister") == 0


async def test_a_replaced_host_exits_with_a_code_of_its_own_and_one_line(
    server: FakeServer, tmp_path: Path
) -> None:
    async with process(server, tmp_path / "data", "--heartbeat", "0.1") as (child, _):
        server.status, server.say["heartbeat"] = "replaced", 409
        assert await child.wait() == 5
    log = (tmp_path / "host.log").read_text()
    assert log.count("another host of the name lab now") == 1
    assert "Traceback" not in log
    assert '"event":"host_replaced"' in log


async def test_another_conflict_does_not_stop_a_host(host: Caller, server: FakeServer) -> None:
    server.say["heartbeat"] = 409
    await server.heard("heartbeat", server.count("heartbeat") + 3)
    assert (await host.bash("true"))[0] == 200


# ---------------------------------------------------------------- its devices


async def test_a_device_whose_folder_cannot_be_written_is_away_until_it_can(
    server: FakeServer, tmp_path: Path
) -> None:
    work = tmp_path / "data" / "work"
    async with running(server, tmp_path / "data") as host:
        card = await server.heard("register")
        assert card["devices"][0]["available"] is True
        assert card["devices"][0]["properties"]["system"].startswith("Linux")
        shutil.rmtree(work, ignore_errors=True)
        work.write_text("in the way")
        device = await told(server, available=False)
        assert device["reason"].startswith("the work folder cannot be written: ")
        answer = (await host.bash("true", execution_id="e", attempt=1))[1]
        assert answer["kind"] == "host_error"
        assert answer["device"]["available"] is False
        work.unlink()
        await told(server, available=True)
        answer = (await host.bash("exit 1", execution_id="e", attempt=1))[1]
        assert (answer["success"], answer["device"]["available"]) == (False, True)
        assert "outcome" not in answer


async def test_a_shell_without_bash_is_away(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    async with running(server, tmp_path / "data"):
        device = (await server.heard("register"))["devices"][0]
        assert (device["available"], device["reason"]) == (False, "there is no bash in PATH")


ready = importlib.util.find_spec("playwright") and shutil.which("chromium")


@pytest.mark.skipif(not ready, reason="needs Playwright and Chromium")
async def test_a_browser_that_does_not_start_is_away_and_back_by_itself(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, broken = shutil.which("chromium"), tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho no display >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with running(server, tmp_path / "data", devices=("web",), heartbeat_s=0.2) as host:
        await told(server, True, "web")
        answer = (await host.act("open_browser"))[1]
        assert (answer["kind"], answer["device"]["available"]) == ("host_error", False)
        reason = (await told(server, False, "web"))["reason"]
        assert reason.startswith("the browser did not start: ")
        assert reason.endswith("; no display")
        broken.unlink()
        await server.heard("heartbeat", server.count("heartbeat") + 2)
        assert (await told(server, False, "web"))["reason"] == f"the browser is missing: {broken}"
        broken.symlink_to(str(good))
        await told(server, True, "web")
        assert (await host.act("open_browser"))[1]["success"] is True
