"""Campaigns: what starts when, what is skipped, and what they come to."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from tests.actors.conftest import Kit, StartLab, campaign, execution
from tests.actors.fake_host import FakeHost, Gate, fails, replies, until
from vpt.errors import ConflictError, NotFoundError, UnprocessableError
from vpt.store.db import Session
from vpt.submission import TestCaseChangedError


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


async def test_steps_are_stored_once_a_test_case_and_go_when_all_is_over(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("hold", gate.held())
    [shared] = [await lab.with_test_case(execution("hold", "b"))]
    campaign_id = await lab.lab.campaigns.start(campaign(*[shared] * 50))
    await gate.reached()
    assert len(await lab.fetch("SELECT FROM campaign_steps")) == 1
    assert await lab.fetch("SELECT FROM campaign_results WHERE request ? 'steps'") == []
    await lab.lab.campaigns.cancel(campaign_id, "ann")
    await lab.campaign_final(campaign_id)
    assert await lab.fetch("SELECT FROM campaign_steps") == []


async def test_parameters_are_filled_in_when_an_entry_starts(lab: Kit) -> None:
    host = await lab.host()
    step = {"command": "${what}", "params": {"n": "${n}"}}
    one = await lab.with_test_case(execution(step))
    entries_ = [replace(one, parameters={"what": name, "n": n}) for n, name in enumerate("abc")]
    await lab.campaign_final(await lab.lab.campaigns.start(campaign(*entries_)))
    assert host.commands() == ["a", "b", "c"]
    rows = await lab.fetch("SELECT steps FROM test_executions ORDER BY created_at")
    assert [json.loads(row["steps"])[0]["params"]["n"] for row in rows] == [0, 1, 2]


async def test_a_test_case_that_changes_while_it_is_copied_starts_nothing(lab: Kit) -> None:
    await lab.host()
    entry = await lab.with_test_case(execution("a"))
    await lab.fetch("UPDATE test_cases SET version = 2")
    with pytest.raises(TestCaseChangedError):
        await lab.lab.campaigns.start(campaign(entry))
    assert await lab.fetch("SELECT FROM campaign_executions") == []


async def test_an_entry_that_an_older_vpt_stored_is_run(lab: Kit) -> None:
    """It has the steps in its request, filled in, and the priority; no steps stand beside it."""
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held())
    campaign_id = await lab.campaign(*entries("a", "b"))
    await gate.reached()
    old = asdict(execution("old ${step}", "older"))
    await lab.fetch("DELETE FROM campaign_steps")
    await lab.fetch(
        "UPDATE campaign_results SET request = $1::text::jsonb WHERE position = 1", json.dumps(old)
    )
    gate.open()
    assert (await lab.campaign_final(campaign_id))["status"] == "completed"
    assert host.commands() == ["a", "old ${step}", "older"]


async def test_an_entry_that_is_skipped_while_it_starts_does_not_run(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held())
    campaign_id = await lab.campaign(*entries("a", "b", "c"))
    await gate.reached()
    row_of = Session.row

    async def skip_before_the_link(session: Session, name: str, /, **args: Any) -> Any:
        if name == "link_campaign_result" and args["position"] == 1:
            await lab.fetch("UPDATE campaign_results SET skipped = true WHERE position = 1")
        return await row_of(session, name, **args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "row", skip_before_the_link)
        gate.open()
        assert (await lab.campaign_final(campaign_id))["status"] == "completed"
    assert host.commands() == ["a", "c"], "what has no link must not run"
    assert await results(lab) == ["completed", None, "completed"]
    assert len(await lab.fetch("SELECT FROM test_executions")) == 2


async def test_a_campaign_that_cannot_go_on_ends_as_an_error(lab: Kit) -> None:
    """A field of its request that nobody knows, as after an upgrade; each sweep started it anew."""
    host, first, second = await lab.host("h", "d1", "d2"), Gate(), Gate()
    host.on("a", first.held())
    host.on("b", second.held())
    campaign_id = await lab.campaign(*entries("a", "b", "c", "d"), parallelism=2)
    await first.reached()
    await second.reached()
    await lab.fetch(
        "UPDATE campaign_results SET request = request || '{\"novel\": 1}' WHERE position = 2"
    )
    first.open()
    row = await lab.campaign_final(campaign_id)
    assert (row["status"], row["error_kind"]) == ("error", "internal")
    assert "see its log" in row["error"]
    assert await results(lab) == ["completed", "cancelled", None, None]
    told = [(event.seq, event.done, event.status) for event in lab.campaign_progress()]
    assert told == [
        (1, 0, "running"),
        (2, 1, "running"),
        (3, 2, "running"),
        (4, 2, "error"),
    ]
    assert (await lab.done("x"))["status"] == "completed"


async def test_a_campaign_that_crashes_once_goes_on(lab: Kit) -> None:
    host = await lab.host()
    queue = lab.lab._queue
    enter, crashes = queue.enter, []

    def crash_once(*args: Any) -> bool:
        if not crashes:
            crashes.append(1)
            raise RuntimeError("a bug")
        return enter(*args)

    queue.enter = crash_once  # type: ignore[method-assign]
    campaign_id = await lab.campaign(*entries("a", "b"))
    assert (await lab.campaign_final(campaign_id))["status"] == "completed"
    assert host.commands() == ["a", "b"]
    assert crashes


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
