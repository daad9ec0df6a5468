"""The server is killed in the middle of everything, and started again: all goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.actors.fake_host import FakeHost, Gate, hangs, passes, replies, until
from tests.faults.kit import SOON, check_calm, grown, kinds, reason
from tests.system.kit import (
    ask,
    begun,
    client,
    execute,
    final,
    free_port,
    joined,
    make,
    open_folder,
    reference_host,
    server,
    shell,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

STEPS = range(1, 11)
LEASED, CAMPAIGN, CANCELLED, KEYED, STOPPED = (f"farm:d{number}" for number in range(1, 6))
KEY = {"Idempotency-Key": "as often as you like"}


@dataclass
class Survivors:
    """What was under way when the server was killed, and who can ask the one that came after."""

    folder: Path
    session: aiohttp.ClientSession
    stranger: aiohttp.ClientSession
    plain: FakeHost
    farm: FakeHost
    gate: Gate  # holds the steps "held" of the farm
    ids: dict[str, Any] = field(default_factory=dict)

    @property
    def acted(self) -> Path:
        return self.folder / "acted"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[Survivors]:
    """Kill a server -9 that has its hands full, with its database, and start it again."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(open_folder())
        settings = {
            "SERVER_PORT": free_port(),
            "VPT_DATA_DIR": folder / "data",
            "INFRA_RETRIES": 0,
            **SOON,
        }
        first = await stack.enter_async_context(server(folder, **settings))
        session = await stack.enter_async_context(client(first))
        stranger = await stack.enter_async_context(client(first, user="bob"))
        await stack.enter_async_context(reference_host(first, folder))
        plain = FakeHost("plain", model="plain", idempotency=False)
        farm = FakeHost("farm", tuple(f"d{number}" for number in range(1, 6)), model="phone")
        for host in (plain, farm):
            await stack.enter_async_context(joined(session, host))
        one = Survivors(folder, session, stranger, plain, farm, Gate())
        await _fill_hands(one)
        await first.kill()
        farm.on_cancel = replies(cancelled=True)
        second = await stack.enter_async_context(server(folder, **settings))
        yield one
        assert await second.stop() == 0
        check_calm(first, second)


async def _fill_hands(one: Survivors) -> None:
    """Begin all that shall survive; return in the middle of it."""
    session, ids = one.session, one.ids
    one.farm.on("held", one.gate.held())
    one.farm.on("long", hangs())
    one.farm.on_cancel = hangs()  # a cancel is stored, and not acknowledged before the end
    held_up = Gate()
    one.plain.on("b", held_up.held(), passes())
    lines = [shell(f"echo {n} >> {one.acted}; sleep {1.5 * (n == 4)}") for n in STEPS]
    ids["ten"] = await execute(session, await make(session, *lines))
    ids["plain"] = await execute(session, await make(session, "a", "b", model="plain"))
    phone = await make(session, "a", "held", "c", model="phone")
    await _begin_keyed(one, phone)
    await _begin_campaigns(one)
    cancelled = await make(session, "long", model="phone")
    ids["cancelled"] = await execute(session, cancelled, device_id=CANCELLED)
    await ask(session, "POST", f"/api/devices/{LEASED}/lease", {"ttl_s": 600})
    ids["waits"] = await execute(session, phone, device_id=LEASED)
    await until(lambda: one.farm.commands().count("long") == 2)
    await ask(session, "POST", f"/api/executions/{ids['cancelled']}/cancel", {})
    await ask(session, "POST", f"/api/campaign-executions/{ids['stopped']}/cancel", {})
    await one.gate.reached(2)
    await held_up.reached()
    await grown(one.acted, "4")


async def _begin_keyed(one: Survivors, test_case_id: str) -> None:
    async def post() -> Any:
        path, body = f"/api/testcases/{test_case_id}/execute", {"device_id": KEYED}
        async with one.session.post(path, json=body, headers=KEY) as response:
            return response.status, (await response.json())["execution_id"]

    answers = await asyncio.gather(*(post() for _ in range(50)))
    assert {status for status, _ in answers} == {202}
    [one.ids["keyed"]] = {execution_id for _, execution_id in answers}
    one.ids["keyed test"] = test_case_id


async def _begin_campaigns(one: Survivors) -> None:
    """Begin one that shall go on, and one that shall be cancelled."""
    for name, device_id, step in (("campaign", CAMPAIGN, "held"), ("stopped", STOPPED, "long")):
        cases = [await make(one.session, s, model="phone") for s in (f"{name} 1", step, "never")]
        entries = [{"test_case_id": case, "device_id": device_id} for case in cases]
        body = {"name": name, "test_cases": entries}
        campaign_id = (await ask(one.session, "POST", "/api/campaigns", body))["id"]
        path = f"/api/campaigns/{campaign_id}/execute"
        one.ids[name] = (await ask(one.session, "POST", path, {}))["campaign_execution_id"]


async def test_ten_steps_on_the_reference_host_complete_and_each_was_acted_once(
    world: Survivors,
) -> None:
    info = await ask(world.session, "GET", "/api/system/info")
    assert (info["database"]["mode"], bool(info["database"]["version"])) == ("embedded", True)
    execution = await final(world.session, world.ids["ten"])
    assert (execution["status"], len(execution["attempts"])) == ("completed", 1)
    assert [step["status"] for step in execution["steps"]] == ["passed"] * 10
    assert world.acted.read_text().split() == [str(number) for number in STEPS]
    keys = [f"{world.ids['ten']}/1/{step}/1" for step in STEPS]
    assert begun(world.folder / "lab") == keys


async def test_a_run_on_a_host_that_cannot_tell_begins_anew_and_the_restart_does_not_count(
    world: Survivors,
) -> None:
    execution = await final(world.session, world.ids["plain"])
    assert execution["status"] == "completed", "INFRA_RETRIES is 0"
    assert kinds(execution) == [("plain", "server_restarted"), ("plain", None)]
    assert world.plain.commands() == ["a", "b", "a", "b"]
    told = [(call.body["execution_id"], call.body["attempt"]) for call in world.plain.cancels]
    assert told == [(world.ids["plain"], 1)]


async def test_a_campaign_goes_on_where_it_was(world: Survivors) -> None:
    world.gate.open()
    path = f"/api/campaign-executions/{world.ids['campaign']}"
    execution = await ask(world.session, "GET", f"{path}?wait=30")
    assert execution["status"] == "completed"
    assert [item["status"] for item in execution["results"]] == ["completed"] * 3
    ids = {item["execution_id"] for item in execution["results"]}
    acted = [call.command for call in world.farm.acted if call.body.get("execution_id") in ids]
    assert acted == ["campaign 1", "held", "never"]


async def test_a_cancel_that_was_stored_is_carried_out(world: Survivors) -> None:
    execution = await final(world.session, world.ids["cancelled"])
    assert (execution["status"], execution["attempt"]) == ("cancelled", 1)
    following = await make(world.session, "after", model="phone")
    after = await execute(world.session, following, device_id=CANCELLED)
    assert (await final(world.session, after))["status"] == "completed", "its device is free"


async def test_a_campaign_that_was_to_be_cancelled_cancels_what_ran_and_skips_the_rest(
    world: Survivors,
) -> None:
    path = f"/api/campaign-executions/{world.ids['stopped']}"
    execution = await ask(world.session, "GET", f"{path}?wait=30")
    assert execution["status"] == "cancelled"
    statuses = [item["status"] for item in execution["results"]]
    assert statuses == ["completed", "cancelled", "skipped"]


async def test_a_key_of_fifty_equal_requests_still_names_the_one_execution_they_started(
    world: Survivors,
) -> None:
    path = f"/api/testcases/{world.ids['keyed test']}/execute"
    for body, status in (({"device_id": KEYED}, 202), ({"device_id": KEYED, "priority": 1}, 409)):
        async with world.session.post(path, json=body, headers=KEY) as response:
            assert response.status == status
            if status == 202:
                assert (await response.json())["execution_id"] == world.ids["keyed"]
    world.gate.open()
    assert (await final(world.session, world.ids["keyed"]))["attempt"] == 1
    filters = f"test_case_id={world.ids['keyed test']}&device_id={KEYED}"
    page = await ask(world.session, "GET", f"/api/executions?{filters}")
    assert [item["execution_id"] for item in page["items"]] == [world.ids["keyed"]]


async def test_a_lease_is_still_its_holders_and_its_end_lets_the_waiting_run_begin(
    world: Survivors,
) -> None:
    lease = f"/api/devices/{LEASED}/lease"
    async with world.stranger.post(lease, json={}) as response:
        assert response.status == 423
    action = {"device_id": "d1", "command": "by hand"}
    assert (await ask(world.session, "POST", "/api/hosts/farm/execute", action))["success"]
    async with world.stranger.post("/api/hosts/farm/execute", json=action) as response:
        assert response.status == 409
    assert await reason(world.session, world.ids["waits"]) == "leased"
    await ask(world.session, "POST", lease, {"ttl_s": 1})
    world.gate.open()
    assert (await final(world.session, world.ids["waits"]))["status"] == "completed"
