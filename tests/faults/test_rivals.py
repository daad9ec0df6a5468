"""A server that was away for so long that another one took over does nothing any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.actors.fake_host import FakeHost, Gate, passes, until
from tests.faults.kit import SOON, check_calm, continued, kinds, stopped
from tests.system.kit import ask, client, execute, final, joined, make, server


@pytest.mark.long
async def test_a_server_that_stood_still_until_another_took_over_sends_nothing_and_ends(
    tmp_path: Path, dsn: str
) -> None:
    host, gate = FakeHost(idempotency=False), Gate()
    host.on("a", passes(), gate.held())
    settings = {"DATABASE_URL": dsn, **SOON}
    async with (
        server(tmp_path, **settings) as first,
        client(first) as session,
        joined(session, host),
    ):
        case = await make(session, "a", {"command": "b", "delay_s": 2}, model="tv")
        execution_id = await execute(session, case)

        async def waits_before_b() -> bool:
            execution = await ask(session, "GET", f"/api/executions/{execution_id}")
            return [step["status"] for step in execution["steps"]] == ["passed", "running"]

        await until(waits_before_b)
        stopped(first)
        async with server(tmp_path, **settings) as second, client(second) as user:
            await gate.reached()  # the next attempt, since nobody knows of b
            continued(first)  # and for the first one it is time for b
            assert await first.ended() == 2
            assert host.commands() == ["a", "a"]
            gate.open()
            execution = await final(user, execution_id)
            assert await second.stop() == 0
    assert kinds(execution) == [("h", "server_restarted"), ("h", None)]
    assert (execution["status"], host.commands()) == ("completed", ["a", "a", "b"])
    assert first.said().splitlines()[-1].startswith("Error: Another vpt server")
    check_calm(first, second)
