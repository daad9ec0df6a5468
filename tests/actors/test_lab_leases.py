"""Leases: a device is one person's until it is given back, runs out, or was never stored."""

from __future__ import annotations

import pytest

from tests.actors.conftest import Kit
from vpt.errors import ConflictError, DatabaseAwayError, LockedError, NotFoundError
from vpt.model import DeviceStatus

ACTION = {"command": "press_key"}


async def test_a_run_waits_for_a_lease_and_starts_when_it_is_given_back(lab: Kit) -> None:
    host = await lab.host()
    await lab.lab.lease("h:d1", "ann", 600)
    await lab.device_is("h:d1", DeviceStatus.LEASED)
    submitted = await lab.submit("a")
    assert submitted.device_id is None
    with pytest.raises(ConflictError):
        await lab.lab.act("h", "d1", dict(ACTION), None, "bob")
    answer, _ = await lab.lab.act("h", "d1", dict(ACTION), None, "ann")
    assert answer.success
    assert host.done("a") == 0
    with pytest.raises(LockedError):
        await lab.lab.end_lease("h:d1", "bob", anybodys=False)
    await lab.lab.end_lease("h:d1", "ann", anybodys=False)
    row = await lab.final(submitted.execution_id)
    assert row["status"] == "completed"
    with pytest.raises(NotFoundError):
        await lab.lab.end_lease("h:d1", "ann", anybodys=True)


async def test_a_lease_that_runs_out_lets_the_run_begin(lab: Kit) -> None:
    await lab.host()
    await lab.lab.lease("h:d1", "ann", 0.2)
    execution_id = (await lab.submit("a")).execution_id
    assert (await lab.final(execution_id))["status"] == "completed"


async def test_a_lease_outlives_the_server_and_still_runs_out(lab: Kit) -> None:
    await lab.host()
    row = await lab.lab.lease("h:d1", "ann", 600)
    await lab.lab.lease("h:d1", "ann", 1.5)
    await lab.crash()
    await lab.start()
    await lab.device_is("h:d1", DeviceStatus.LEASED)
    with pytest.raises(LockedError):
        await lab.lab.lease("h:d1", "bob", 600)
    execution_id = (await lab.submit("a")).execution_id
    assert (await lab.final(execution_id))["status"] == "completed"
    assert (await lab.lab.lease("h:d1", "bob", 600))["id"] != row["id"]


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
        await lab.lab.lease("h:d1", "ann", 600)
    await lab.fetch("DROP TRIGGER cut ON leases")
    await lab.device_is("h:d1", DeviceStatus.ONLINE)
    assert (await lab.lab.lease("h:d1", "bob", 600))["id"]
