"""Campaigns: what starts when, what is skipped, and what they come to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.actors.conftest import Kit, StartLab, execution
from tests.actors.fake_host import FakeHost, Gate, fails, replies, until
from vpt.errors import ConflictError, NotFoundError, UnprocessableError


def entries(*names: str, **more: Any) -> list[Any]:
    return [execution(name, **more) for name in names]


async def results(lab: Kit) -> list[str | None]:
    """Return the status of each entry, None for a skipped one."""
    rows = await lab.fetch(
        """
        SELECT r.skipped, e.status FROM campaign_results r
        LEFT JOIN test_executions e ON e.id = r.execution_id ORDER BY r.position
        """
    )
    assert all(row["skipped"] == (row["status"] is None) for row in rows)
    return [row["status"] for row in rows]


async def test_entries_run_in_order_one_at_a_time(lab: Kit) -> None:
    host = await lab.host("h", "d1", "d2", "d3")
    campaign_id = await lab.campaign(*entries("a", "b", "c", "d"))
    row = await lab.campaign_final(campaign_id)
    assert (row["status"], row["total"]) == ("completed", 4)
    assert host.commands() == ["a", "b", "c", "d"]
    assert host.busiest == 1
    assert await results(lab) == ["completed"] * 4


async def test_progress_counts_up_and_ends_once(lab: Kit) -> None:
    await lab.host()
    campaign_id = await lab.campaign(*entries("a", "b", "c"))
    await lab.campaign_final(campaign_id)
    told = [(e.seq, e.done, e.total, e.status) for e in lab.campaign_progress()]
    assert told == [
        (1, 0, 3, "running"),
        (2, 1, 3, "running"),
        (3, 2, 3, "running"),
        (4, 3, 3, "completed"),
    ]


async def test_parallelism_is_used_and_respected(lab: Kit) -> None:
    host, gate = await lab.host("h", "d1", "d2", "d3", "d4"), Gate()
    for name in "abcdef":
        host.on(name, gate.held())
    campaign_id = await lab.campaign(*entries(*"abcdef"), parallelism=2)
    await gate.reached(2)
    probes = len(host.probes)
    await until(lambda: len(host.probes) > probes + 3)
    assert sorted(host.commands()) == ["a", "b"]
    gate.open()
    assert (await lab.campaign_final(campaign_id))["status"] == "completed"
    assert host.busiest == 2
    numbers = [event.seq for event in lab.campaign_progress()]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_stop_on_failure_skips_the_rest(lab: Kit) -> None:
    host = await lab.host()
    host.on("b", fails())
    campaign_id = await lab.campaign(*entries("a", "b", "c", "d"), stop_on_failure=True)
    assert (await lab.campaign_final(campaign_id))["status"] == "failed"
    assert await results(lab) == ["completed", "failed", None, None]
    assert host.commands() == ["a", "b"]


async def test_without_stop_on_failure_all_run(lab: Kit) -> None:
    host = await lab.host()
    host.on("a", fails())
    campaign_id = await lab.campaign(*entries("a", "b"))
    assert (await lab.campaign_final(campaign_id))["status"] == "failed"
    assert await results(lab) == ["failed", "completed"]


async def test_what_runs_finishes_when_another_one_fails(lab: Kit) -> None:
    host, gate = await lab.host("h", "d1", "d2"), Gate()
    host.on("a", gate.held())
    host.on("b", fails())
    more = {"stop_on_failure": True, "parallelism": 2}
    campaign_id = await lab.campaign(*entries("a", "b", "c"), **more)
    await until(lambda: any(event.done == 1 for event in lab.campaign_progress()))
    gate.open()
    assert (await lab.campaign_final(campaign_id))["status"] == "failed"
    assert await results(lab) == ["completed", "failed", None]


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        (("pass", "pass"), "completed"),
        (("pass", "error", "pass"), "error"),
        (("error", "fail", "pass"), "failed"),
        (("fail", "error"), "failed"),
        (("fail", "cancel", "error"), "cancelled"),
    ],
)
async def test_the_worst_decides(start_lab: StartLab, ends: tuple[str, ...], verdict: str) -> None:
    lab = await start_lab(infra_retries=0)
    host, gate = await lab.host(), Gate()
    host.on("fail", fails())
    host.on("error", replies(500))
    host.on("cancel", gate.held())
    campaign_id = await lab.campaign(*entries(*ends))
    if "cancel" in ends:
        await gate.reached()
        await lab.lab.executions.cancel(host.actions[-1].body["execution_id"], "ann")
    assert (await lab.campaign_final(campaign_id))["status"] == verdict
    assert len([status for status in await results(lab) if status]) == len(ends)


async def test_cancel_ends_what_runs_and_skips_the_rest(lab: Kit) -> None:
    host, gate = await lab.host("h", "d1", "d2"), Gate()
    host.on("b", gate.held())
    host.on("c", gate.held())
    campaign_id = await lab.campaign(*entries("a", "b", "c", "d"), parallelism=2)
    await gate.reached(2)
    await lab.lab.campaigns.cancel(campaign_id, "ann")
    assert (await lab.campaign_final(campaign_id))["status"] == "cancelled"
    assert await results(lab) == ["completed", "cancelled", "cancelled", None]
    assert host.done("d") == 0
    last = lab.campaign_progress()[-1]
    assert (last.done, last.total, last.status) == (3, 4, "cancelled")
    with pytest.raises(ConflictError):
        await lab.lab.campaigns.cancel(campaign_id, "ann")
    with pytest.raises(NotFoundError):
        await lab.lab.campaigns.cancel("never-was", "ann")


async def test_a_campaign_may_be_cancelled_at_any_moment(lab: Kit) -> None:
    host = await lab.host("h", "d1", "d2")
    gates = [_hanging(host, f"hold-{number}") for number in range(12)]
    ids = []
    for number in range(12):
        ids.append(await lab.campaign(*entries("a", f"hold-{number}", "c"), parallelism=2))
        await asyncio.sleep(number * 0.004)  # any moment will do
        await lab.lab.campaigns.cancel(ids[-1], "ann")
        assert (await lab.campaign_final(ids[-1]))["status"] == "cancelled"
    assert host.done("c") <= len(ids)
    assert all(gate.arrived <= 1 for gate in gates)
    assert (await lab.done("x"))["status"] == "completed"


def _hanging(host: FakeHost, name: str) -> Gate:
    gate = Gate()
    host.on(name, gate.held())
    return gate


async def test_a_campaign_with_an_entry_that_nobody_could_run_is_refused_whole(lab: Kit) -> None:
    host = await lab.host()
    with pytest.raises(UnprocessableError):
        await lab.campaign(execution("a"), execution("b", device_model="phone"))
    assert await lab.fetch("SELECT id FROM campaign_executions") == []
    assert host.commands() == []


async def test_a_campaign_waits_for_its_devices(lab: Kit) -> None:
    host = await lab.host()
    await lab.lab.registry.drain("h", on=True)
    campaign_id = await lab.campaign(*entries("a", "b"))
    await until(lambda: _queued(lab))
    await lab.lab.registry.drain("h", on=False)
    assert (await lab.campaign_final(campaign_id))["status"] == "completed"
    assert host.commands() == ["a", "b"]


async def _queued(lab: Kit) -> bool:
    return len(await lab.fetch("SELECT id FROM test_executions WHERE status = 'queued'")) == 1
