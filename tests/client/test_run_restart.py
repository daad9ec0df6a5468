"""`vpt run` through the death of its server."""

from __future__ import annotations

from contextlib import AsyncExitStack

from aiohttp import ClientSession

from tests.actors.fake_host import FakeHost, Gate, until
from tests.client.kit import Cli
from tests.system.kit import (
    SECRET,
    ask,
    client,
    free_port,
    joined,
    make,
    open_folder,
    server,
)
from vpt.model import Role
from vpt.store.tokens import issue_token


async def test_a_killed_server_is_waited_for_and_the_lines_go_on() -> None:
    port, gate = free_port(), Gate()
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(open_folder())
        first = await stack.enter_async_context(server(folder, SERVER_PORT=port))
        session = await stack.enter_async_context(client(first))
        host = await stack.enter_async_context(joined(session, FakeHost(model="tv")))
        host.on("held", gate.held())
        case_id = await make(session, "a", "held", "c", model="tv")
        body = {"name": "Nightly", "test_cases": [{"test_case_id": case_id}]}
        await ask(session, "POST", "/api/campaigns", body)
        vpt = Cli(first.url, issue_token(SECRET, "ci", Role.OPERATOR, 1))
        running = await stack.enter_async_context(vpt.under_way("run", "campaign", "Nightly"))
        await running.says("t: step 1/3 passed")
        await gate.reached()
        await first.kill()
        await running.says("does not answer")
        second = await stack.enter_async_context(server(folder, SERVER_PORT=port))
        await running.says("answers again")
        await until(lambda: _is_listened_to(session))
        gate.open()
        ended = await running.ended()
        runs = await ask(session, "GET", "/api/campaign-executions")
        assert await second.stop() == 0
    assert ended.code == 0
    steps = [line for line in ended.lines if ": step " in line]
    assert steps == [f"t: step {number}/3 passed (h:d1)" for number in (1, 2, 3)]
    assert len(runs["items"]) == 1


async def _is_listened_to(session: ClientSession) -> bool:
    """Return True when the live connection of the command is back."""
    async with session.get("/metrics") as answer:
        return "\nvpt_socketio_clients 1" in await answer.text()
