"""The database is stopped, killed and cut off: nothing crashes, nothing is lost, all goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiohttp
import pytest
import pytest_asyncio

from tests.actors.fake_host import FakeHost, Gate, passes, until
from tests.faults.kit import SOON, Postgres, Way, check_calm, postgres
from tests.system.kit import Process, ask, client, joined, make, open_folder, server
from vpt.model import Json

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEVICES = tuple(f"d{number}" for number in range(1, 5))
STEPS = ("one", "two", "three")
AWAY_S = 2.0
NORMAL_S = 5.0  # seconds in which all is as before


@dataclass
class Floor:
    """A server, its database, and a host with four devices."""

    one: Process
    database: Postgres
    way: Way
    session: aiohttp.ClientSession
    host: FakeHost

    async def campaign(self, entries: int) -> str:
        """Start a campaign that keeps all devices at work; give its execution's id."""
        case = await make(self.session, *STEPS, model="tv")
        body = {
            "name": "long",
            "test_cases": [{"test_case_id": case}] * entries,
            "parallelism": len(DEVICES),
        }
        campaign_id = (await ask(self.session, "POST", "/api/campaigns", body))["id"]
        path = f"/api/campaigns/{campaign_id}/execute"
        campaign_execution_id: str = (await ask(self.session, "POST", path, {}))[
            "campaign_execution_id"
        ]
        return campaign_execution_id

    async def loses(self, how: str) -> None:
        """Take the database away in one of these ways."""
        match how:
            case "stop":
                await self.database.stop()
            case "kill":
                await self.database.kill()
            case "swallow":
                self.way.swallow()

    async def finds(self, how: str) -> None:
        """Give the database back."""
        if how == "swallow":
            self.way.heal()
        else:
            await self.database.start()

    async def passed(self, campaign_execution_id: str, entries: int) -> None:
        """See that a campaign passed, each of its steps acted once and stored."""
        path = f"/api/campaign-executions/{campaign_execution_id}?wait=40"
        campaign = await ask(self.session, "GET", path)
        assert (campaign["status"], len(campaign["results"])) == ("completed", entries)
        ids = [item["execution_id"] for item in campaign["results"]]
        for execution_id in ids:
            execution = await ask(self.session, "GET", f"/api/executions/{execution_id}")
            assert (execution["status"], execution["attempt"]) == ("completed", 1)
            outputs = [(step["status"], step["output"]) for step in execution["steps"]]
            assert outputs == [("passed", "seen")] * len(STEPS)
        acts = [call.key for call in self.host.acted if call.body["execution_id"] in ids]
        assert len(set(acts)) == len(acts) == entries * len(STEPS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def floor() -> AsyncIterator[Floor]:
    """Give one server to all, and a database that each may stop."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(open_folder())
        database = await stack.enter_async_context(postgres(folder / "database"))
        way = await stack.enter_async_context(Way(database.dsn))
        one = await stack.enter_async_context(server(folder, DATABASE_URL=way.dsn, **SOON))
        session = await stack.enter_async_context(client(one))
        host = FakeHost("farm", DEVICES)
        for step in STEPS:
            host.on(step, passes("seen"))
        await stack.enter_async_context(joined(session, host))
        yield Floor(one, database, way, session, host)
        assert await one.stop() == 0
        check_calm(one)


async def _refused(session: aiohttp.ClientSession, method: str, path: str) -> Json:
    """Give a 503's JSON."""
    async with session.request(method, path, json={} if method == "POST" else None) as response:
        assert response.status == 503, (path, response.status)
        body: Json = await response.json()
        return body


async def _is_ready(session: aiohttp.ClientSession) -> bool:
    async with session.get("/api/health/ready") as response:
        return response.status == 200


@pytest.mark.parametrize("how", ["stop", "kill", "swallow"])
async def test_a_campaign_outlives_its_database_and_no_answer_is_lost_meanwhile(
    floor: Floor, how: str
) -> None:
    session, host, gate = floor.session, floor.host, Gate()
    before = len(host.actions)
    host.on("two", gate.held(passes("seen")))
    campaign_execution_id = await floor.campaign(6)
    await gate.reached(len(DEVICES))
    asked = len(host.actions)
    await floor.loses(how)
    gate.open()  # the answers come while nobody can store them
    ended = time.monotonic() + AWAY_S
    while time.monotonic() < ended or await _is_ready(session):  # which may be 2 s old news
        for method, path in (("GET", "/api/testcases"), ("POST", "/api/campaigns/x/execute")):
            body = await _refused(session, method, path)
            assert (body["code"], set(body)) == ("database_away", {"error", "code"})
        assert (await ask(session, "GET", "/api/health/live")) is not None
        await asyncio.sleep(0.2)
    assert len(host.actions) == asked, "nothing goes out before the last answer is stored"
    await floor.finds(how)
    async with asyncio.timeout(NORMAL_S):
        await until(lambda: len(host.actions) > asked)
        await until(lambda: _is_ready(session))
    assert (await ask(session, "GET", "/api/testcases"))["items"]
    await floor.passed(campaign_execution_id, 6)
    keys = [call.key for call in host.actions[before:]]
    assert len(set(keys)) == len(keys), "no host was asked twice"
    assert floor.one.child.returncode is None


async def test_connections_that_are_cut_again_and_again_under_load_lose_nothing(
    floor: Floor,
) -> None:
    campaign_execution_id = await floor.campaign(40)
    cut = 0
    for _ in range(20):
        cut += await floor.database.cut()
        await asyncio.sleep(0.03)  # any moment will do
    assert cut
    await floor.passed(campaign_execution_id, 40)
