"""Whatever dies, nothing is lost: the server, one actor, the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.actors.conftest import Kit, StartLab, execution
from tests.actors.fake_host import Gate, Wire, fails, passes, replies, until
from tests.actors.hooks import crash_actor
from vpt.dialects.base import Call
from vpt.dialects.document import DocumentDialect
from vpt.errors import DatabaseAwayError, UnavailableError
from vpt.model import Answer, DeviceStatus, Host, HostStatus, Reason

# ---------------------------------------------------------------- the server


async def test_after_a_crash_an_idempotent_host_is_asked_again_and_acts_once(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("b", gate.held(passes("done")))
    execution_id = await lab.run("a", "b", "c")
    await gate.reached()
    await lab.restart()
    await until(lambda: host.commands() == ["a", "b", "b"])
    gate.open()
    row = await lab.final(execution_id)
    assert (row["status"], row["attempt"]) == ("completed", 1)
    assert await lab.statuses(execution_id) == ["passed"] * 3
    assert [host.done(name) for name in ("a", "b", "c")] == [1, 1, 1]
    assert len({call.key for call in host.actions}) == 3


async def test_a_stop_leaves_the_step_in_flight_to_the_next_start(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held())
    execution_id = await lab.run("a", "b")
    await gate.reached()
    await lab.stop(grace=0.1)
    assert (await lab.execution(execution_id))["status"] == "running"
    await lab.start()
    gate.open()
    row = await lab.final(execution_id)
    assert (row["status"], row["attempt"], host.done("a")) == ("completed", 1, 1)


async def test_a_stop_waits_for_the_step_in_flight_and_sends_no_other(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held())
    execution_id = await lab.run("a", "b")
    await gate.reached()
    stopping = asyncio.create_task(lab.stop(grace=20.0))
    await until(lambda: lab.lab._closing)
    with pytest.raises(UnavailableError):
        await lab.run("x")
    with pytest.raises(UnavailableError):
        await lab.join(host)
    with pytest.raises(UnavailableError):
        await lab.campaign(execution("x"))
    gate.open()
    await stopping
    assert await lab.statuses(execution_id) == ["passed", "running"]
    assert host.commands() == ["a"]
    await lab.start()
    assert (await lab.final(execution_id))["status"] == "completed"
    assert host.commands() == ["a", "b"]


@pytest.mark.parametrize("cancel", [True, False])
async def test_after_a_crash_any_other_host_gets_the_run_anew(
    start_lab: StartLab, cancel: bool
) -> None:
    lab = await start_lab(infra_retries=0)
    host, gate = await lab.host(idempotency=False, cancel=cancel), Gate()
    host.may_overlap = not cancel
    host.on("b", gate.held(), passes())
    execution_id = await lab.run("a", "b")
    await gate.reached()
    await lab.restart()
    row = await lab.final(execution_id)
    assert (row["status"], row["infra_failures"]) == ("completed", 0)
    kinds = await lab.kinds(execution_id)
    assert kinds == [("h", "server_restarted"), ("h", None)], "a restart does not count"
    assert [call.body["attempt"] for call in host.cancels] == [1] * cancel
    assert host.commands() == ["a", "b", "a", "b"]


async def test_after_a_crash_a_try_keeps_its_number(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("a", fails(), gate.held())
    execution_id = await lab.run({"command": "a", "retries": 2})
    await gate.reached()
    await lab.restart()
    gate.open()
    assert (await lab.final(execution_id))["status"] == "completed"
    keys = {call.key for call in host.actions}
    assert keys == {f"{execution_id}/1/1/1", f"{execution_id}/1/1/2"}


async def test_what_is_queued_stays_queued_in_its_order(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("hold", gate.held())
    ids = [await lab.run(name) for name in ("hold", "b", "c", "d")]
    await gate.reached()
    await lab.restart()
    assert (await lab.execution(ids[1]))["status"] == "queued"
    gate.open()
    for execution_id in ids:
        assert (await lab.final(execution_id))["status"] == "completed"
    assert host.commands()[-3:] == ["b", "c", "d"]


async def test_a_run_of_which_only_the_verdict_is_missing_gets_it(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held())
    execution_id = await lab.run("a")
    await gate.reached()
    async with _locked(lab, execution_id):
        gate.open()
        await until(lambda: _passed(lab, execution_id))
        await lab.crash()
    await lab.start()
    row = await lab.final(execution_id)
    assert (row["status"], row["attempt"]) == ("completed", 1)
    assert host.commands() == ["a"]


async def _passed(lab: Kit, execution_id: str) -> bool:
    return await lab.statuses(execution_id) == ["passed"]


@asynccontextmanager
async def _locked(lab: Kit, execution_id: str) -> AsyncIterator[None]:
    """Let nobody write to the execution; whoever waits for it then dies with his server."""
    connection = await asyncpg.connect(lab.dsn)
    try:
        async with connection.transaction():
            sql = "SELECT id FROM test_executions WHERE id = $1 FOR UPDATE"
            await connection.fetch(sql, execution_id)
            yield
            await connection.execute(
                """
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()
                """
            )
    finally:
        await connection.close()


async def test_a_cancel_that_was_wished_before_the_crash_is_carried_out(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("hold", gate.held())
    running, queued = await lab.run("hold", "b"), await lab.run("c")
    await gate.reached()
    await lab.crash()
    await lab.fetch("UPDATE test_executions SET cancel_requested_at = now()")
    await lab.start()
    for execution_id in (running, queued):
        assert (await lab.final(execution_id))["status"] == "cancelled"
    await until(lambda: host.cancels)
    assert (await lab.done("d"))["status"] == "completed"
    assert host.commands() == ["hold", "d"]


async def test_a_step_that_was_still_delayed_waits_on_whatever_its_host_can_tell(lab: Kit) -> None:
    """Its row says `running`, but it was never sent: no reason to begin the run anew."""
    host = await lab.host(idempotency=False)
    execution_id = await lab.run("a", {"command": "b", "delay_s": 3600})
    await until(lambda: _is_delayed(lab, execution_id))
    await lab.restart()
    await lab.is_now("h", HostStatus.BUSY)  # up again: what was sent anew would be there now
    assert await _is_delayed(lab, execution_id)
    await lab.lab.executions.cancel(execution_id, "ann")
    assert (await lab.final(execution_id))["status"] == "cancelled"
    assert await lab.kinds(execution_id) == [("h", None)]
    assert await lab.released(execution_id)
    assert host.commands() == ["a"]


async def _is_delayed(lab: Kit, execution_id: str) -> bool:
    return await lab.statuses(execution_id) == ["passed", "running"]


async def test_a_device_that_was_held_back_is_held_after_the_crash_too(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(cancel_grace=60.0)
    host, gate = await lab.host(), Gate()
    acknowledges = Gate()
    host.on("slow", gate.held())
    host.on_cancel = replies(500)
    row = await lab.done({"command": "slow", "timeout_s": 0.1})
    assert row["error_kind"] == "step_timeout"
    await lab.crash()
    host.on_cancel = acknowledges.held(replies(200))
    await lab.start()
    await acknowledges.reached()
    await lab.device_is("h:d1", DeviceStatus.BUSY)
    assert not await lab.released(row["id"])
    acknowledges.open()
    assert (await lab.done("b"))["status"] == "completed"
    assert await lab.released(row["id"])


async def test_a_device_of_a_lost_host_is_held_after_the_crash_too(start_lab: StartLab) -> None:
    lab = await start_lab(infra_retries=0)
    host, gate = await lab.host(), Gate()
    host.on("slow", gate.held())
    execution_id = await lab.run("slow")
    await gate.reached()
    await host.vanish()
    assert (await lab.final(execution_id))["error_kind"] == "host_lost"
    await lab.restart()
    assert not await lab.released(execution_id)
    following = await lab.run("b")
    await host.appear()
    assert (await lab.final(following))["status"] == "completed"
    assert host.cancels[-1].body == {"execution_id": execution_id, "attempt": 1}


async def test_a_host_that_was_lost_during_the_restart_loses_its_run(start_lab: StartLab) -> None:
    lab = await start_lab(infra_retries=0)
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held())
    execution_id = await lab.run("a")
    await gate.reached()
    await lab.crash()
    await host.die()
    await lab.start()
    row = await lab.final(execution_id)
    assert (row["status"], row["error_kind"]) == ("error", "host_lost")


async def test_a_host_stays_what_it_was(lab: Kit) -> None:
    secretive = await lab.host("secretive", "d1", "d2", secret="s" * 40)
    await lab.host("drained")
    await lab.host("gone")
    await lab.lab.registry.drain("drained", on=True)
    await lab.lab.registry.unregister("gone", "join")
    await until(lambda: _stored_status(lab, "gone", "offline"))
    await lab.restart()
    await lab.is_now("secretive", HostStatus.AVAILABLE)
    await lab.is_now("drained", HostStatus.DRAINING)
    assert lab.status("gone") is HostStatus.OFFLINE
    assert (await lab.done("a", host_id="secretive"))["status"] == "completed"
    assert secretive.actions[0].headers["Authorization"] == f"Bearer {'s' * 40}"


async def _stored_status(lab: Kit, host_id: str, status: str) -> bool:
    rows = await lab.fetch("SELECT status FROM hosts WHERE id = $1", host_id)
    return [row["status"] for row in rows] == [status]


async def test_a_campaign_goes_on_where_it_was(lab: Kit) -> None:
    host, gate = await lab.host(), Gate()
    host.on("b", gate.held())
    campaign_id = await lab.campaign(*(execution(name) for name in ("a", "b", "c")))
    await gate.reached()
    await lab.restart()
    gate.open()
    assert (await lab.campaign_final(campaign_id))["status"] == "completed"
    assert [host.done(name) for name in ("a", "b", "c")] == [1, 1, 1]
    rows = await lab.fetch("SELECT status FROM test_executions")
    assert [row["status"] for row in rows] == ["completed"] * 3
    told = [(event.done, event.total, event.status) for event in lab.campaign_progress()]
    assert told[-1] == (3, 3, "completed")
    numbers = [event.seq for event in lab.campaign_progress()]
    assert numbers == sorted(set(numbers))


async def test_what_a_campaign_had_not_told_before_the_crash_it_tells_one_by_one(
    lab: Kit,
) -> None:
    host, gate = await lab.host(), Gate()
    host.on("c", gate.held())
    campaign_id = await lab.campaign(*(execution(name) for name in ("a", "b", "c", "d")))
    await gate.reached()
    await until(lambda: len(lab.campaign_progress()) == 3)
    await lab.crash()
    lab.told.clear()
    await lab.fetch("UPDATE campaign_executions SET seq = 1")
    await lab.start()
    await until(lambda: len(lab.campaign_progress()) == 2)
    gate.open()
    await lab.campaign_final(campaign_id)
    told = [(event.seq, event.done, event.status) for event in lab.campaign_progress()]
    assert told == [
        (2, 1, "running"),
        (3, 2, "running"),
        (4, 3, "running"),
        (5, 4, "completed"),
    ]


async def test_a_campaign_that_was_cancelled_before_the_crash_is_cancelled_after_it(
    lab: Kit,
) -> None:
    host, gate = await lab.host(), Gate()
    host.on("b", gate.held())
    campaign_id = await lab.campaign(*(execution(name) for name in ("a", "b", "c")))
    await gate.reached()
    await lab.crash()
    await lab.fetch("UPDATE campaign_executions SET cancel_requested_at = now()")
    await lab.start()
    assert (await lab.campaign_final(campaign_id))["status"] == "cancelled"
    rows = await lab.fetch("SELECT status FROM test_executions ORDER BY created_at")
    assert [row["status"] for row in rows] == ["completed", "cancelled"]
    assert host.done("c") == 0


async def test_crashes_at_any_moment_lose_nothing(lab: Kit) -> None:
    host = await lab.host("h", "d1", "d2")
    ids = [await lab.run("a", "b", "c") for _ in range(6)]
    for _ in range(6):
        steps = len(host.acted)
        await until(lambda n=steps: len(host.acted) > n or len(host.acted) == 18)
        await lab.restart()
    for execution_id in ids:
        row = await lab.final(execution_id)
        assert (row["status"], row["attempt"]) == ("completed", 1)
        assert await lab.statuses(execution_id) == ["passed"] * 3
    assert len(host.acted) == 18, "each step was acted once"


# ---------------------------------------------------------------- one actor


class Brittle(DocumentDialect):
    """Has a bug that shows when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.probes_break = False
        self.sends_break = False
        self.break_actor: Callable[[], None]

    async def probe(self, host: Host, limit: float) -> None:
        if self.probes_break and host.id == "h":
            self.break_actor()
        await super().probe(host, limit)

    async def send(self, call: Call) -> Answer:
        if self.sends_break and call.host.id == "h":
            self.sends_break = False
            raise RuntimeError("a bug in send")
        return await super().send(call)


@pytest.fixture
async def brittle(start_lab: StartLab) -> Kit:
    """Return a lab whose dialect has a bug: it sends the actor a message that no state knows."""
    lab = await start_lab(dialect_type=Brittle)
    unknown: Any = object()
    _dialect(lab).break_actor = lambda: lab.lab._supervisor._actors["h"].tell(unknown)
    return lab


def _dialect(lab: Kit) -> Brittle:
    assert isinstance(lab.dialect, Brittle)
    return lab.dialect


async def test_an_actor_that_crashes_is_started_anew_and_its_run_goes_on(brittle: Kit) -> None:
    lab = brittle
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held())
    execution_id = await lab.run("a", "b")
    await gate.reached()
    first = lab.lab._supervisor._actors["h"]
    _dialect(lab).probes_break = True
    await until(lambda: lab.lab._supervisor._actors.get("h") is not first)
    _dialect(lab).probes_break = False
    gate.open()
    row = await lab.final(execution_id)
    assert (row["status"], row["attempt"], host.done("a")) == ("completed", 1, 1)
    assert lab.lab.tally.restarts >= 1


async def test_who_asks_a_crashing_actor_is_answered_503(brittle: Kit) -> None:
    lab = brittle
    host, gate = await lab.host(), Gate()
    host.on("slow", gate.held())
    action = {"command": "slow"}
    acting = [asyncio.create_task(lab.lab.act("h", None, action, 60, "ann")) for _ in range(3)]
    await gate.reached()
    _dialect(lab).probes_break = True
    for ends in await asyncio.gather(*acting, return_exceptions=True):
        assert isinstance(ends, UnavailableError)
    with pytest.raises(UnavailableError):
        await lab.lab.act("h", None, action, 60, "ann")
    host.may_overlap = True
    submitted = await lab.submit("a")
    assert submitted.status == "queued", "it is registered all the same"
    _dialect(lab).probes_break = False


async def test_an_actor_that_crashes_over_and_over_is_held_back_as_broken(brittle: Kit) -> None:
    lab = brittle
    await lab.host()
    other = await lab.host("other")
    _dialect(lab).probes_break = True
    await until(lambda: _reason(lab) is Reason.BROKEN)
    assert lab.status() is HostStatus.SUSPECT
    sql = "SELECT status, reason FROM hosts WHERE id = 'h'"
    await until(lambda: _is(lab, sql, ("suspect", "broken")))
    _dialect(lab).probes_break = False
    with pytest.raises(UnavailableError):
        await lab.lab.act("h", None, {"command": "a"}, 5, "ann")
    submitted = await lab.submit("a", host_id="h")
    assert submitted.status == "queued"
    assert (await lab.done("b", host_id="other"))["status"] == "completed"
    assert other.commands() == ["b"]
    await lab.join(next(iter(lab.hosts.values())))
    assert (await lab.final(submitted.execution_id))["status"] == "completed"


def _reason(lab: Kit) -> Reason | None:
    return next(view.reason for view in lab.lab.views() if view.host.id == "h")


async def _is(lab: Kit, sql: str, values: tuple[object, ...]) -> bool:
    return [tuple(row) for row in await lab.fetch(sql)] == [values]


async def test_a_bug_in_the_middle_of_a_step_does_not_lose_the_run(brittle: Kit) -> None:
    lab = brittle
    host = await lab.host()
    _dialect(lab).sends_break = True
    row = await lab.done("a", "b")
    assert (row["status"], row["attempt"]) == ("completed", 1)
    assert host.commands() == ["a", "b"]


# ---------------------------------------------------------------- the database


@pytest.fixture
async def wire(tmp_path: Path, dsn: str) -> AsyncIterator[Wire]:
    """Return a way to the database that the test may cut."""
    wire = Wire(tmp_path, dsn)
    await wire.mend()
    yield wire
    await wire.cut()


async def test_while_the_database_is_away_results_are_held_and_nothing_goes_out(
    wire: Wire, start_lab: StartLab
) -> None:
    lab = await start_lab(lab_dsn=wire.dsn)
    host, gate = await lab.host("h", "d1", "d2"), Gate()
    host.on("a", gate.held(passes("kept")))
    ids = [await lab.run("a", "b") for _ in range(2)]
    await gate.reached(2)
    await wire.cut()
    gate.open()
    with pytest.raises(DatabaseAwayError):
        await lab.run("c")
    probes = len(host.probes)
    await until(lambda: len(host.probes) > probes + 5)
    assert lab.status() is HostStatus.BUSY
    assert host.commands() == ["a", "a"]
    await wire.mend()
    for execution_id in ids:
        row = await lab.final(execution_id)
        assert (row["status"], row["attempt"]) == ("completed", 1)
        assert (await lab.steps(execution_id))[0]["output"] == "kept"
    assert host.commands() == ["a", "a", "b", "b"]


async def test_connections_that_break_at_any_moment_lose_nothing(
    wire: Wire, start_lab: StartLab
) -> None:
    lab = await start_lab(lab_dsn=wire.dsn)
    host = await lab.host("h", "d1", "d2")
    campaign_id = await lab.campaign(*(execution("a", "b") for _ in range(12)), parallelism=2)
    for _ in range(6):
        steps = len(host.acted)
        await until(lambda n=steps: len(host.acted) > n or len(host.acted) == 24)
        await wire.cut()
        await wire.mend()
    assert (await lab.campaign_final(campaign_id))["status"] == "completed"
    rows = await lab.fetch("SELECT status, attempt FROM test_executions")
    assert [tuple(row) for row in rows] == [("completed", 1)] * 12
    assert len(host.acted) == 24, "each step was acted once"


async def test_an_actor_that_is_started_again_while_the_server_stops_sends_nothing(
    lab: Kit,
) -> None:
    host, gate = await lab.host(), Gate()
    host.on("a", gate.held())
    execution_id = await lab.run("a", "b")
    await gate.reached()
    stopping = asyncio.create_task(lab.lab.settle(20.0))
    actors = lab.lab._supervisor._actors
    await until(lambda: actors["h"].state.halted)
    crashed = actors["h"]
    crash_actor(lab)
    await until(lambda: actors.get("h", crashed) is not crashed)
    assert actors["h"].state.halted
    probes = len(host.probes)
    await until(lambda: len(host.probes) > probes + 2)
    assert host.commands() == ["a"]
    gate.open()
    await stopping
    await lab.lab.stop()
    await lab._close()
    await lab.start()
    assert (await lab.final(execution_id))["status"] == "completed"


async def test_a_run_that_is_cancelled_in_its_delay_while_the_server_is_down_is_not_held(
    start_lab: StartLab,
) -> None:
    lab = await start_lab(cancel_grace=60.0)
    await lab.host()
    execution_id = await lab.run({"command": "a", "delay_s": 600})
    await until(lambda: lab.device() is DeviceStatus.BUSY)
    await until(lambda: lab.progress(execution_id))
    await lab.crash()
    await lab.fetch("UPDATE test_executions SET cancel_requested_at = now()")
    await lab.start()
    assert (await lab.final(execution_id))["status"] == "cancelled"
    assert await lab.released(execution_id)
    await lab.device_is("h:d1", DeviceStatus.ONLINE)
