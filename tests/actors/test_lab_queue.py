"""The queue's life: what waits outlives the server, ends in time, and is never more than it may."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.actors.conftest import Kit, StartLab, execution
from tests.actors.fake_host import Gate, hangs, passes, until
from tests.held import looks
from vpt.actors import queue as queue_module
from vpt.errors import DatabaseAwayError, UnavailableError
from vpt.model import DeviceStatus, QueueChanged

_MANY = """
    INSERT INTO test_executions (
        id, test_case_id, test_case_name, test_case_version, device_model, steps, actions,
        priority, queue_timeout_s, requested_by, queued_at, cancel_requested_at
    )
    SELECT 'e' || n, 't', 't', 1, 'tv', '[{"command": "a"}]', ARRAY['a'], n % 101, 36000, 'ann',
        now() - make_interval(secs => (n % 997) * 0.001 + n % 7), CASE WHEN n = 13 THEN now() END
    FROM generate_series(1, $1::int) AS n
"""


async def busy(lab: Kit) -> Gate:
    """Occupy the only device until the gate opens."""
    host, gate = await lab.host(), Gate()
    host.on("hold", gate.held())
    await lab.run("hold")
    await gate.reached()
    return gate


async def test_a_long_line_is_loaded_in_pages_and_starts_with_who_is_first(lab: Kit) -> None:
    await lab.host()
    await lab.stop()
    many = 3 * queue_module._PAGE + 1
    await lab.fetch(_MANY, many)
    await lab.start()
    await until(lambda: lab.lab.measures()["queue_length"] < many - 1)
    sql = "SELECT id FROM test_executions WHERE attempt > 0 ORDER BY started_at LIMIT 1"
    [first] = await until(lambda: lab.fetch(sql))
    points = "SELECT id, priority FROM test_executions WHERE priority = 100 AND id = $1"
    assert await lab.fetch(points, first["id"]), "who is first is known when all are in line"
    row = await lab.execution("e13")
    assert row["status"] == "cancelled", "what was cancelled before does not wait again"


@pytest.mark.alone
@pytest.mark.timeout(600)  # also on a loaded machine
async def test_a_hundred_thousand_are_loaded_soon_and_hold_nobody_up(lab: Kit) -> None:
    await lab.host()
    await lab.lab.registry.drain("h", on=True)
    await lab.stop()
    await lab.fetch(_MANY, 100_000)
    await lab.fetch("ANALYZE test_executions")
    async with looks() as found:
        await lab.start()
        await lab.lab._queue.sweep()
        await lab.lab._queue._take_up_missed()
    assert lab.lab.measures()["queue_length"] > 90_000
    assert found[-1] < 1, "all at once took seconds"
    await lab.fetch("DELETE FROM test_executions WHERE status = 'queued'")


async def test_the_sweep_finds_what_the_memory_missed_even_behind_a_ghost(lab: Kit) -> None:
    gate = await busy(lab)
    ghost = await lab.run("a")
    await lab.fetch(
        "UPDATE test_executions SET status = 'cancelled', completed_at = now() WHERE id = $1", ghost
    )
    await lab.fetch(_MANY, 1)
    queue = lab.lab._queue
    for _ in range(queue_module._RECKONING):
        await queue.sweep()
    assert lab.lab._dispatcher.knows("e1")
    gate.open()
    assert (await lab.final("e1"))["status"] == "completed"
    await lab.fetch("DELETE FROM test_executions WHERE id = $1", ghost)


async def test_an_end_in_line_whose_answer_was_lost_is_told_once(lab: Kit) -> None:
    """The row stands, the connection broke, and who cancelled was told to try again."""
    gate = await busy(lab)
    execution_id = (await lab.submit("a")).execution_id
    row_of = lab.db.row

    async def break_after_commit(name: str, /, **args: Any) -> Any:
        row = await row_of(name, **args)
        if name == "end_queued":
            raise DatabaseAwayError
        return row

    lab.db.row = break_after_commit  # type: ignore[method-assign]
    with pytest.raises(DatabaseAwayError):
        await lab.lab.executions.cancel(execution_id, "ann")
    lab.db.row = row_of  # type: ignore[method-assign]
    assert lab.progress(execution_id) == []
    for _ in range(2):
        await lab.lab._queue.sweep()
    assert [event.status for event in lab.progress(execution_id)] == ["cancelled"]
    assert not lab.lab._dispatcher.knows(execution_id)
    gate.open()


async def test_a_server_whose_clock_is_ahead_ends_nobody_early(
    lab: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = await busy(lab)
    real = time.time
    monkeypatch.setattr("time.time", lambda: real() + 90)
    execution_id = await lab.run("a", queue_timeout_s=60)
    await lab.lab._queue.sweep()
    assert (await lab.execution(execution_id))["status"] == "queued"
    assert 0 <= lab.lab.measures()["queue_oldest_s"] < 60
    gate.open()
    assert (await lab.final(execution_id))["status"] == "completed"


async def test_a_server_whose_clock_is_behind_ends_who_waited_too_long(
    lab: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = await busy(lab)
    real = time.time
    monkeypatch.setattr("time.time", lambda: real() - 3600)
    execution_id = await lab.run("a", queue_timeout_s=0.2)
    row = await lab.final(execution_id)
    assert (row["status"], row["error_kind"]) == ("error", "queue_timeout")
    gate.open()


async def test_waiting_starts_anew_with_each_attempt(start_lab: StartLab) -> None:
    lab = await start_lab(queue_timeout=2.0)
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held(hangs()))
    execution_id = await lab.run("a", queue_timeout_s=1.5)
    await gate.reached()
    queued_at = (await lab.execution(execution_id))["queued_at"]
    await asyncio.sleep(1.6)  # a run that began waits no more
    await host.die()
    host.on("a", passes())
    row = await until(lambda: lab.execution(execution_id))
    await until(lambda: _queued_again(lab, execution_id))
    row = await lab.final(execution_id)
    assert (row["status"], row["error_kind"], row["attempt"]) == ("error", "queue_timeout", 1)
    waited = (row["completed_at"] - row["queued_at"]).total_seconds()
    assert row["queued_at"] > queued_at
    assert waited >= 1.5


async def _queued_again(lab: Kit, execution_id: str) -> bool:
    row = await lab.execution(execution_id)
    return row["attempt"] == 1 and row["status"] != "running"


async def test_the_servers_settings_say_how_long_runs_and_campaigns_wait(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(queue_timeout=0.2, campaign_queue_timeout=0.3)
    gate = await busy(lab)
    campaign_id = await lab.campaign(execution("a"), execution("b"))
    single = await lab.done("c")
    await lab.campaign_final(campaign_id)
    rows = await lab.fetch(
        "SELECT * FROM test_executions WHERE campaign_execution_id = $1", campaign_id
    )
    assert len(rows) == 2
    for row, limit in ((single, 0.2), *((row, 0.3) for row in rows)):
        assert (row["status"], row["error_kind"]) == ("error", "queue_timeout")
        assert (row["completed_at"] - row["queued_at"]).total_seconds() >= limit
    gate.open()


async def test_a_full_line_takes_nobody_however_many_come_at_once(start_lab: StartLab) -> None:
    lab = await start_lab(max_queued=5)
    gate = await busy(lab)
    outcomes = await asyncio.gather(*(lab.run("a") for _ in range(40)), return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, UnavailableError)]
    assert {error.retry_after for error in refused} == {10}
    assert lab.lab.measures()["queue_length"] == 5 == 40 - len(refused)
    with pytest.raises(UnavailableError):
        await lab.campaign(execution("a"))
    assert len(await lab.fetch("SELECT id FROM test_executions")) == 6
    assert await lab.fetch("SELECT id FROM campaign_executions") == []
    gate.open()
    for one in outcomes:
        if isinstance(one, str):
            await lab.final(one)
    assert (await lab.done("a"))["status"] == "completed"


async def test_what_campaigns_are_still_to_start_counts_as_waiting(start_lab: StartLab) -> None:
    lab = await start_lab(max_queued=5)
    gate = await busy(lab)
    first = await lab.campaign(*(execution("a") for _ in range(6)))
    await until(lambda: lab.lab.measures()["queue_length"] == 1)
    with pytest.raises(UnavailableError):
        await lab.campaign(execution("a"))
    second = await lab.run("a")  # there is room in line
    gate.open()
    assert (await lab.campaign_final(first))["status"] == "completed"
    await lab.final(second)
    await lab.campaign_final(await lab.campaign(execution("a")))


async def test_the_reason_is_told_when_it_changes(lab: Kit) -> None:
    gate = await busy(lab)
    execution_id = await lab.run("a")
    await _told(lab, execution_id, "all_busy")
    await lab.lab.registry.drain("h", on=True)
    await _told(lab, execution_id, "all_busy", "draining")
    gate.open()
    await lab.device_is("h:d1", DeviceStatus.ONLINE)
    await lab.lab.leases.take("h:d1", "ann", 600)
    await lab.lab.registry.drain("h", on=False)
    await _told(lab, execution_id, "all_busy", "draining", "leased")
    await lab.lab.leases.end("h:d1", "ann", anybodys=False)
    await lab.final(execution_id)


async def _told(lab: Kit, execution_id: str, *reasons: str) -> None:
    def told() -> list[str]:
        events = [event for event in lab.told if isinstance(event, QueueChanged)]
        return [event.reason.value for event in events if event.execution_id == execution_id]

    await until(lambda: told() == list(reasons))
