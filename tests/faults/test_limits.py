"""Every time limit ends in its own kind of error, and every cancel is carried out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.actors.fake_host import FakeHost, Gate, hangs, replies, until
from tests.faults.kit import BOUND, SLACK, SOON, check_calm, grown, host_is, kinds, reason
from tests.system.kit import (
    Process,
    ask,
    client,
    execute,
    final,
    joined,
    make,
    open_folder,
    reference_host,
    server,
    shell,
)
from vpt.model import Json

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS = {
    "STEP_TIMEOUT": 0.6,
    "RUN_TIMEOUT": 1.2,
    "QUEUE_TIMEOUT": 0.8,
    "CANCEL_GRACE": 1.5,
    "INFRA_RETRIES": 0,
}


@dataclass
class Floor:
    """A server with short limits."""

    folder: Path
    one: Process
    session: aiohttp.ClientSession

    @asynccontextmanager
    async def host(self, name: str) -> AsyncIterator[FakeHost]:
        """Give a host with one free device of a model of its own."""
        async with joined(self.session, FakeHost(name, model=name)) as host:
            await host_is(self.session, name, "available")
            yield host

    async def run(self, model: str, *steps: str | Json, **more: Any) -> str:
        return await execute(self.session, await make(self.session, *steps, model=model), **more)

    async def cancel(self, execution_id: str) -> None:
        await ask(self.session, "POST", f"/api/executions/{execution_id}/cancel", {})

    async def show(self, execution_id: str) -> Json:
        execution: Json = await ask(self.session, "GET", f"/api/executions/{execution_id}")
        return execution


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def floor() -> AsyncIterator[Floor]:
    """Give one server to all; each test has a host of its own."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(open_folder())
        one = await stack.enter_async_context(server(folder, **SOON | LIMITS))
        yield Floor(folder, one, await stack.enter_async_context(client(one)))
        assert await one.stop() == 0
        check_calm(one)


def lasted(execution: Json, since: str = "started_at") -> float:
    """Give how many seconds passed until its end."""
    moments = (datetime.fromisoformat(execution[name]) for name in (since, "completed_at"))
    began, ended = moments
    return (ended - began).total_seconds()


async def test_a_step_past_its_time_is_a_step_timeout(floor: Floor) -> None:
    async with floor.host("slow-step") as host:
        host.on("slow", hangs())
        execution = await final(floor.session, await floor.run("slow-step", "a", "slow", "b"))
        assert (execution["status"], execution["error_kind"]) == ("error", "step_timeout")
        assert 0.6 <= lasted(execution) < 0.6 + SLACK
        assert [step["status"] for step in execution["steps"]] == ["passed", "error", "skipped"]
        assert host.commands() == ["a", "slow"]


async def test_a_run_past_its_time_is_a_run_timeout(floor: Floor) -> None:
    async with floor.host("slow-run") as host:
        steps = [{"command": f"{number}", "delay_s": 0.4} for number in range(5)]
        execution = await final(floor.session, await floor.run("slow-run", *steps))
        assert (execution["status"], execution["error_kind"]) == ("error", "run_timeout")
        assert 1.2 <= lasted(execution) < 1.2 + SLACK
        assert host.commands() == ["0", "1"]


async def test_a_wait_past_its_time_is_a_queue_timeout(floor: Floor) -> None:
    async with floor.host("full") as host:
        gate = Gate()
        host.on("hold", gate.held())
        holding = await floor.run("full", {"command": "hold", "timeout_s": 60}, timeout_s=60)
        execution = await final(floor.session, await floor.run("full", "b"))
        gate.open()
        assert (execution["status"], execution["error_kind"]) == ("error", "queue_timeout")
        assert 0.8 <= lasted(execution, "queued_at") < 0.8 + SLACK
        assert (await final(floor.session, holding))["status"] == "completed"
        assert host.commands() == ["hold"]


async def test_an_action_by_hand_past_its_time_is_answered_504(floor: Floor) -> None:
    async with floor.host("by-hand") as host:
        host.on("slow", hangs())
        action = {"command": "slow", "timeout_s": 0.3}
        async with floor.session.post("/api/hosts/by-hand/execute", json=action) as response:
            assert response.status == 504
            assert set(await response.json()) == {"error", "code"}


async def test_a_run_of_a_lost_host_is_final_within_the_bound_when_it_has_no_attempt_left(
    floor: Floor,
) -> None:
    acted = floor.folder / "lost.acted"
    async with reference_host(floor.one, floor.folder, "lost") as host:
        await host_is(floor.session, "lost", "available")
        step = {**shell(f"echo one >> {acted}; sleep 20"), "timeout_s": 60}
        execution_id = await floor.run("desktop", step, timeout_s=60)
        await grown(acted, "one")
        began = time.monotonic()
        await host.kill()
        execution = await final(floor.session, execution_id)
        assert time.monotonic() - began < BOUND + SLACK
    assert (execution["status"], execution["error_kind"]) == ("error", "host_lost")
    assert kinds(execution) == [("lost", "host_lost")]


async def test_a_reference_host_keeps_what_was_printed_and_leaves_nothing_to_the_next_run(
    floor: Floor,
) -> None:
    async with reference_host(floor.one, floor.folder, "tidy"):
        await host_is(floor.session, "tidy", "available")
        slow = {**shell("echo so far > left; cat left; exec sleep 1000"), "timeout_s": 3}
        timed_out = await final(floor.session, await floor.run("desktop", slow, timeout_s=60))
        step = {**shell("echo so far; ls; no-such-tool"), "timeout_s": 60}
        missing = await final(floor.session, await floor.run("desktop", step, timeout_s=60))
        begun = floor.folder / "tidy.begun"
        step = {**shell(f"echo so far; echo x > {begun}; exec sleep 1000"), "timeout_s": 60}
        execution_id = await floor.run("desktop", step, timeout_s=60)
        await grown(begun, "x")
        await floor.cancel(execution_id)
        cancelled = await final(floor.session, execution_id)
    ends = [(one["status"], one["error_kind"]) for one in (timed_out, missing, cancelled)]
    assert ends == [("error", "step_timeout"), ("error", "host_error"), ("cancelled", None)]
    assert missing["error"] == "tidy:desktop: exit code 127: a program was not found"
    outputs = [one["steps"][0]["output"] for one in (timed_out, missing, cancelled)]
    assert [output.splitlines()[0] for output in outputs] == ["so far"] * 3
    assert "left" not in missing["steps"][0]["output"]


async def test_what_waits_is_cancelled_at_once(floor: Floor) -> None:
    async with floor.host("line") as host:
        gate = Gate()
        host.on("hold", gate.held())
        holding = await floor.run("line", {"command": "hold", "timeout_s": 60}, timeout_s=60)
        waiting = await floor.run("line", "b")
        await floor.cancel(waiting)
        assert (await floor.show(waiting))["status"] == "cancelled"
        gate.open()
        assert (await final(floor.session, holding))["status"] == "completed"
        assert host.commands() == ["hold"]


async def test_a_cancel_that_the_host_does_not_take_gives_up_the_run_and_not_the_device(
    floor: Floor,
) -> None:
    async with floor.host("deaf") as host:
        gate = Gate()
        host.on("slow", gate.held())
        host.on_cancel = replies(503)
        slow = {"command": "slow", "timeout_s": 60}
        execution_id = await floor.run("deaf", slow, "b", timeout_s=60)
        await gate.reached()
        began = time.monotonic()
        await floor.cancel(execution_id)
        await until(lambda: host.cancels)
        assert (await floor.show(execution_id))["status"] == "running"
        execution = await final(floor.session, execution_id)
        assert execution["status"] == "cancelled"
        assert 1.4 < time.monotonic() - began < 1.5 + SLACK, "CANCEL_GRACE"
        following = await floor.run("deaf", "c", queue_timeout_s=10)
        assert await reason(floor.session, following) == "all_busy"
        devices = await ask(floor.session, "GET", "/api/devices/deaf:d1")
        assert devices["status"] == "busy"
        gate.open()  # the answer comes: now nothing acts on the device any more
        assert (await final(floor.session, following))["status"] == "completed"
        assert host.commands() == ["slow", "c"]
        assert (await floor.show(execution_id))["status"] == "cancelled"


async def test_a_cancelled_campaign_cancels_what_runs_and_skips_the_rest(floor: Floor) -> None:
    async with floor.host("campaign") as host:
        host.on("long", hangs())
        cases = [
            await make(floor.session, command, model="campaign", timeout_s=60)
            for command in ("a", "long", "never")
        ]
        body = {"name": "c", "test_cases": [{"test_case_id": case} for case in cases]}
        campaign = await ask(floor.session, "POST", "/api/campaigns", body)
        path = f"/api/campaigns/{campaign['id']}/execute"
        begun = await ask(floor.session, "POST", path, {})
        path = f"/api/campaign-executions/{begun['campaign_execution_id']}"
        await until(lambda: host.commands() == ["a", "long"])
        await ask(floor.session, "POST", f"{path}/cancel", {})
        execution = await ask(floor.session, "GET", f"{path}?wait=20")
        assert execution["status"] == "cancelled"
        statuses = [item["status"] for item in execution["results"]]
        assert statuses == ["completed", "cancelled", "skipped"]
        assert execution["results"][2]["execution_id"] is None
        assert [call.body["attempt"] for call in host.cancels] == [1]
        assert host.commands() == ["a", "long"]
