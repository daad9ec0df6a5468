"""A VirtualPyTest host as a process of its own, with nothing set but SERVER_URL and its key."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.actors.fake_host import until
from tests.faults.kit import SOON, events, host_is, kinds
from tests.system.kit import (
    JOIN_TOKEN,
    Process,
    ask,
    client,
    execute,
    final,
    free_port,
    make,
    reference_host,
    server,
)
from tests.virtualpytest.kit import StandInProcess
from vpt.model import Json

KEY = "the-key-of-all-hosts"
SETTINGS = SOON | {"API_KEY": KEY, "RUN_GRACE": 10}
PACE = '{"start": 0.02, "boundary": 1, "again": 0.02, "retry": 0.1}'
SLOW = {"command": "slow", "action_type": "remote", "params": {}}


@dataclass
class Field:
    """A server and a host in the field, both to be killed."""

    folder: Path
    one: Process
    session: aiohttp.ClientSession
    pi: StandInProcess

    def acted(self) -> list[str]:
        return [line["command"] for line in self.pi.lines("act")]

    async def in_the_middle(self) -> str:
        """Run a slow step between two quick ones, and wait until it was begun."""
        test_case_id = await make(self.session, "before", SLOW, "after", model="tv")
        execution_id = await execute(self.session, test_case_id)
        await until(lambda: "slow" in self.acted())
        path = f"/api/executions/{execution_id}"

        async def begun() -> bool:
            shown: Json = await ask(self.session, "GET", path)
            return [step["status"] for step in shown["steps"]] == ["passed", "running"]

        await until(begun)
        return execution_id


@pytest.fixture
async def field(tmp_path: Path, dsn: str) -> AsyncIterator[Field]:
    """Give a lab whose one host was only told where its server is."""
    port = free_port()
    settings = SETTINGS | {"DATABASE_URL": dsn, "SERVER_PORT": port}
    pi = StandInProcess(
        f"http://pi:{JOIN_TOKEN}@127.0.0.1:{port}",
        tmp_path / "pi.journal",
        *("--key", KEY, "--device", "d=tv", "--on", 'slow={"seconds": 3}', "--pace", PACE),
    )
    async with server(tmp_path, **settings) as one, client(one) as session:
        await pi.start()
        try:
            await host_is(session, "pi", "available")
            yield Field(tmp_path, one, session, pi)
        finally:
            await pi.end()
        assert pi.lines("overlap") == []
        assert events(one, "request_failed") == []


async def test_a_host_in_the_field_joins_and_runs_beside_one_of_ours(field: Field) -> None:
    async with reference_host(field.one, field.folder, "ours"):
        await host_is(field.session, "ours", "available")
        ids = [
            await make(field.session, "zap", model="tv"),
            await make(field.session, {"command": "wait", "params": {"seconds": 0}}),
        ]
        entries = [{"test_case_id": each} for each in ids]
        body = {"name": "c", "test_cases": entries, "parallelism": 2}
        campaign = await ask(field.session, "POST", "/api/campaigns", body)
        path = f"/api/campaigns/{campaign['id']}/execute"
        begun = (await ask(field.session, "POST", path))["campaign_execution_id"]
        over = await ask(field.session, "GET", f"/api/campaign-executions/{begun}?wait=30")
    assert [(each["host"], each["status"]) for each in over["results"]] == [
        ("pi", "completed"),
        ("ours", "completed"),
    ]
    assert field.acted() == ["zap"]
    assert KEY not in field.one.said()


async def test_a_step_goes_on_when_the_server_was_killed_in_its_middle(field: Field) -> None:
    execution_id = await field.in_the_middle()
    await field.one.kill()
    settings = {
        name: field.one.settings[name] for name in (*SETTINGS, "DATABASE_URL", "SERVER_PORT")
    }
    async with server(field.folder, **settings):
        over = await final(field.session, execution_id)
    assert (over["status"], kinds(over)) == ("completed", [("pi", None)])
    assert field.acted() == ["before", "slow", "after"], "each was begun once"


async def test_a_host_that_was_killed_costs_an_attempt_and_no_verdict(field: Field) -> None:
    execution_id = await field.in_the_middle()
    await field.pi.end(signal.SIGKILL)
    await field.pi.start()
    over = await final(field.session, execution_id)
    assert (over["status"], kinds(over)) == ("completed", [("pi", "host_lost"), ("pi", None)])
    assert field.acted() == ["before", "slow", "before", "slow", "after"]


async def test_a_host_that_the_server_forgot_is_back_within_a_second_of_its_ping(
    field: Field,
) -> None:
    async with field.session.delete("/api/hosts/pi") as response:
        assert response.status == 204
    async with field.session.get("/api/hosts/pi/status") as response:
        assert response.status == 404
    async with asyncio.timeout(1 + 1.5):  # to its next ping, and a second
        await host_is(field.session, "pi", "available", "suspect")
    await host_is(field.session, "pi", "available")


async def test_a_host_that_leaves_is_offline(field: Field) -> None:
    assert await field.pi.end(signal.SIGTERM) == 0
    await host_is(field.session, "pi", "offline")
