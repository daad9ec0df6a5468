"""What a host does in the background goes on when its machine gives it nothing more."""

import asyncio
from pathlib import Path

import pytest
from yarl import URL

from tests.test_connections import no_descriptors
from vpt.connections import ConnectionLimits
from vpt.host import membership
from vpt.host.device_worker import DeviceWorker
from vpt.host.journal import Journal

from .kit import Caller, FakeServer, running


async def test_heartbeats_go_on_without_descriptors(server: FakeServer, tmp_path: Path) -> None:
    async with running(server, tmp_path / "data"):
        assert "system_stats" in await server.heard("heartbeat")
        with no_descriptors():
            for _ in range(1000):
                body = await server.heard("heartbeat", server.count("heartbeat") + 1)
                if "system_stats" not in body:  # how busy the machine is could not be read
                    break
            assert "system_stats" not in body
            assert body["instance_id"]
        for _ in range(1000):
            body = await server.heard("heartbeat", server.count("heartbeat") + 1)
            if "system_stats" in body:
                break
        assert "system_stats" in body
        assert server.count("register") == 1


async def test_a_token_that_cannot_be_kept_does_not_end_the_host(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(membership, "keep_token", fail)
    async with running(server, tmp_path / "data"):
        await server.heard("heartbeat", 2)


async def test_membership_survives_a_defect(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = membership.Membership._beat
    failed = 0

    async def fail_twice(self: membership.Membership) -> None:
        nonlocal failed
        failed += 1
        if failed <= 2:
            raise ValueError("a defect")
        await beat(self)

    monkeypatch.setattr(membership.Membership, "_beat", fail_twice)
    async with running(server, tmp_path / "data"):
        await server.heard("heartbeat", 2)
    assert failed == 3


async def test_a_device_works_on_after_a_defect(
    host: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = DeviceWorker._execute
    failed = False

    async def fail_once(self: DeviceWorker, action: object) -> None:
        nonlocal failed
        await execute(self, action)  # type: ignore[arg-type]
        if not failed:
            failed = True
            raise ValueError("a defect")

    monkeypatch.setattr(DeviceWorker, "_execute", fail_once)
    assert (await host.bash("true"))[0] == 200
    assert (await host.bash("true"))[0] == 200
    assert failed


async def test_a_journal_that_cannot_start_a_thread_refuses_and_goes_on(
    host: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_thread = Journal._in_thread

    async def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Journal, "_in_thread", fail)
    status, body = await host.act("wait", {"seconds": 0}, key="first")
    assert (status, body["code"]) == (503, "journal_unavailable")
    monkeypatch.setattr(Journal, "_in_thread", in_thread)
    assert (await host.act("wait", {"seconds": 0}, key="second"))[0] == 200


async def test_a_silent_connection_to_a_host_is_closed(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = ConnectionLimits(20, 10, silent_s=0.2)
    monkeypatch.setattr(ConnectionLimits, "of_process", lambda: limits)
    async with running(server, tmp_path / "data") as caller:
        url = URL(caller.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"GET /host/health HTTP/1.1\r\n")
        assert await reader.read() == b""
        writer.close()
