"""Leases: a device is one person's until it is given back, runs out, or was never stored."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import pytest

from tests.actors.conftest import Kit
from tests.actors.fake_host import until
from tests.actors.hooks import Pause, after_reading, at_statement, crash_actor
from vpt.errors import ConflictError, DatabaseAwayError, LockedError, NotFoundError
from vpt.model import DeviceStatus, HostStatus

ACTION = {"command": "press_key"}


async def test_a_run_waits_for_a_lease_and_starts_when_it_is_given_back(lab: Kit) -> None:
    host = await lab.host()
    await lab.lab.leases.take("h:d1", "ann", 600)
    await lab.device_is("h:d1", DeviceStatus.LEASED)
    submitted = await lab.submit("a")
    assert submitted.device_id is None
    with pytest.raises(ConflictError):
        await lab.lab.act("h", "d1", dict(ACTION), None, "bob")
    answer, _ = await lab.lab.act("h", "d1", dict(ACTION), None, "ann")
    assert answer.success
    assert host.done("a") == 0
    with pytest.raises(LockedError):
        await lab.lab.leases.end("h:d1", "bob", anybodys=False)
    await lab.lab.leases.end("h:d1", "ann", anybodys=False)
    row = await lab.final(submitted.execution_id)
    assert row["status"] == "completed"
    with pytest.raises(NotFoundError):
        await lab.lab.leases.end("h:d1", "ann", anybodys=True)


async def test_a_lease_that_runs_out_lets_the_run_begin(lab: Kit) -> None:
    await lab.host()
    await lab.lab.leases.take("h:d1", "ann", 0.2)
    execution_id = (await lab.submit("a")).execution_id
    assert (await lab.final(execution_id))["status"] == "completed"


async def test_a_lease_outlives_the_server_and_still_runs_out(lab: Kit) -> None:
    await lab.host()
    row = await lab.lab.leases.take("h:d1", "ann", 600)
    await lab.lab.leases.take("h:d1", "ann", 1.5)
    await lab.crash()
    await lab.start()
    await lab.device_is("h:d1", DeviceStatus.LEASED)
    with pytest.raises(LockedError):
        await lab.lab.leases.take("h:d1", "bob", 600)
    execution_id = (await lab.submit("a")).execution_id
    assert (await lab.final(execution_id))["status"] == "completed"
    assert (await lab.lab.leases.take("h:d1", "bob", 600))["id"] != row["id"]


async def test_a_lease_that_could_not_be_stored_holds_nothing(lab: Kit) -> None:
    await lab.host()
    await lab.fetch(
        "CREATE FUNCTION cut_the_connection() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$"
    )
    await lab.fetch(
        "CREATE TRIGGER cut BEFORE INSERT ON leases "
        "FOR EACH ROW EXECUTE FUNCTION cut_the_connection()"
    )
    with pytest.raises(DatabaseAwayError):
        await lab.lab.leases.take("h:d1", "ann", 600)
    await lab.fetch("DROP FUNCTION cut_the_connection CASCADE")  # all tests share the database
    await lab.device_is("h:d1", DeviceStatus.ONLINE)
    assert (await lab.lab.leases.take("h:d1", "bob", 600))["id"]


async def test_a_lease_whose_answer_was_lost_is_taken_back_in_the_database_too(lab: Kit) -> None:
    """The row stands, the connection broke, and who asked was told that he has nothing."""
    await lab.host()
    row_of = lab.db.row

    async def break_after_commit(name: str, /, **args: Any) -> Any:
        row = await row_of(name, **args)
        if name == "store_lease":
            raise DatabaseAwayError
        return row

    lab.db.row = break_after_commit  # type: ignore[method-assign]
    with pytest.raises(DatabaseAwayError):
        await lab.lab.leases.take("h:d1", "ann", 600)
    lab.db.row = row_of  # type: ignore[method-assign]
    assert len(await lab.fetch("SELECT id FROM leases")) == 1
    await lab.lab._sweep()
    assert await lab.fetch("SELECT id FROM leases") == []
    assert (await lab.lab.leases.take("h:d1", "bob", 600))["id"]


async def test_a_lease_whose_renewal_was_not_stored_ends_when_it_was_to_end(lab: Kit) -> None:
    await lab.host()
    await lab.lab.leases.take("h:d1", "ann", 1.5)
    row_of = lab.db.row

    async def away(name: str, /, **args: Any) -> Any:
        if name == "store_lease":
            raise DatabaseAwayError
        return await row_of(name, **args)

    lab.db.row = away  # type: ignore[method-assign]
    with pytest.raises(DatabaseAwayError):
        await lab.lab.leases.take("h:d1", "ann", 600)
    lab.db.row = row_of  # type: ignore[method-assign]
    await lab.lab._sweep()
    with pytest.raises(LockedError):
        await lab.lab.leases.take("h:d1", "bob", 600)
    await lab.device_is("h:d1", DeviceStatus.ONLINE)
    assert (await lab.lab.leases.take("h:d1", "bob", 600))["id"]


async def test_a_lease_whose_end_was_stored_and_not_answered_holds_nothing(lab: Kit) -> None:
    """The row is gone, so nobody could give the device back once more."""
    await lab.host()
    await lab.lab.leases.take("h:d1", "ann", 600)
    row_of = lab.db.row

    async def break_after_commit(name: str, /, **args: Any) -> Any:
        row = await row_of(name, **args)
        if name == "end_lease":
            raise DatabaseAwayError
        return row

    lab.db.row = break_after_commit  # type: ignore[method-assign]
    with pytest.raises(DatabaseAwayError):
        await lab.lab.leases.end("h:d1", "ann", anybodys=False)
    lab.db.row = row_of  # type: ignore[method-assign]
    await lab.device_is("h:d1", DeviceStatus.ONLINE)
    assert (await lab.lab.leases.take("h:d1", "bob", 600))["id"]


async def test_a_lease_that_is_stored_while_its_actor_is_started_again_holds_the_device(
    lab: Kit,
) -> None:
    """The actor that gave the device is dead, and the next one must not miss the row."""
    await lab.host()

    async def crash() -> None:
        crash_actor(lab)
        await until(lambda: lab.lab.measures()["actors"] == 0)
        with suppress(TimeoutError):  # it has to wait for the lease: nothing may come of this
            await until(lambda: lab.lab.measures()["actors"] == 1, 0.5)

    with at_statement(lab, "store_lease", before=crash):
        await lab.lab.leases.take("h:d1", "ann", 600)
    await lab.is_now("h", HostStatus.AVAILABLE, HostStatus.BUSY)
    assert lab.device() is DeviceStatus.LEASED
    assert (await lab.submit("a")).device_id is None
    await lab.lab.leases.end("h:d1", "ann", anybodys=False)


async def test_a_lease_that_is_ended_while_its_actor_is_started_again_holds_nothing(
    lab: Kit,
) -> None:
    """The next actor has read the lease before its row was deleted."""
    await lab.host()
    await lab.lab.leases.take("h:d1", "ann", 600)
    pause = Pause()
    with after_reading(lab, "transaction", pause.here):
        crash_actor(lab)
        await pause.reached.wait()
        ending = asyncio.create_task(lab.lab.leases.end("h:d1", "ann", anybodys=False))
        await asyncio.wait([ending], timeout=0.3)
        pause.go.set()
        await ending
    await lab.device_is("h:d1", DeviceStatus.ONLINE)


async def test_a_lease_outlives_a_registration_and_a_restart_without_its_device(lab: Kit) -> None:
    host = await lab.host("h", "d1", "d2")
    row = await lab.lab.leases.take("h:d2", "ann", 600)
    host.devices = ("d1",)
    await lab.join(host)
    await lab.restart()
    host.devices = ("d1", "d2")
    await lab.join(host)
    await lab.device_is("h:d2", DeviceStatus.LEASED)
    assert (await lab.lab.leases.take("h:d2", "ann", 600))["id"] == row["id"]
    with pytest.raises(LockedError):
        await lab.lab.leases.take("h:d2", "bob", 600)


async def _soon(work: Awaitable[Any]) -> Any:
    """Begin it so much later that either may win, however slow the machine is."""
    await asyncio.sleep(random.choice((0, 0, 0.002, 0.005, 0.03)))
    return await work


async def test_of_a_lease_and_a_run_at_the_same_moment_one_gets_the_device(lab: Kit) -> None:
    """Two hundred rounds: nothing is given twice, nobody waits for ever."""
    host = await lab.host()
    got = {"lease": 0, "run first": 0}
    for _ in range(200):
        ask = lab.lab.leases.take("h:d1", "ann", 600)
        run = lab.run("a")
        first, second = (ask, run) if random.random() < 0.5 else (run, ask)
        outcomes = await asyncio.gather(first, _soon(second), return_exceptions=True)
        execution_id = next(one for one in outcomes if isinstance(one, str))
        if any(isinstance(one, ConflictError) for one in outcomes):
            got["run first"] += 1
        else:
            got["lease"] += 1
            await lab.lab.leases.end("h:d1", "ann", anybodys=False)
        row = await lab.final(execution_id)
        assert (row["status"], row["attempt"]) == ("completed", 1)
    assert host.done("a") == 200
    assert min(got.values()) > 0, f"one side always wins: {got}"
    assert await lab.fetch("SELECT id FROM leases") == []
