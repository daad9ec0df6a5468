"""SIGTERM while a step is in flight: the server goes in time, and the run goes on after it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.actors.fake_host import FakeHost, Gate, until
from tests.faults.kit import SOON, check_calm
from tests.system.kit import client, execute, final, free_port, joined, make, server

STOP_S = 15.0  # seconds; SHUTDOWN_GRACE is 10


async def test_sigterm_refuses_new_work_gives_a_step_its_grace_and_leaves_the_run_to_the_next(
    tmp_path: Path, dsn: str
) -> None:
    settings = {"DATABASE_URL": dsn, "SERVER_PORT": free_port(), **SOON}
    host, gate = FakeHost(), Gate()
    host.on("a", gate.held())
    async with (
        server(tmp_path, **settings) as one,
        client(one) as session,
        joined(session, host),
    ):
        test_case_id = await make(session, "a", "b", model="tv")
        execution_id = await execute(session, test_case_id)
        await gate.reached()
        began = time.monotonic()
        one.child.send_signal(signal.SIGTERM)
        await until(lambda: "server_stopping" in one.said())
        async with session.post(f"/api/testcases/{test_case_id}/execute", json={}) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            assert set(await response.json()) == {"error", "code"}
        assert await one.ended(STOP_S + 5) == 0
        assert 10 <= time.monotonic() - began < STOP_S
        async with server(tmp_path, **settings) as again, client(again) as user:
            await until(lambda: len(host.actions) == 2)  # asked again, with the same key
            gate.open()
            execution = await final(user, execution_id)
            assert await again.stop() == 0
    assert (execution["status"], execution["attempt"]) == ("completed", 1)
    assert [call.command for call in host.acted] == ["a", "b"]
    check_calm(one, again)
