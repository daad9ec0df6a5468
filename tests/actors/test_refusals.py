"""The database refuses statements, for whatever reason: that ends no actor and no server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.actors.conftest import Kit
from tests.actors.fake_host import until
from tests.actors.hooks import at_statement
from vpt.store import instance as instance_module
from vpt.store import patience
from vpt.store.db import Database
from vpt.store.instance import Instance

#: An error of a trigger, with the code of each kind that PostgreSQL has of its own.
_TRIGGER = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'refused' USING ERRCODE = '{code}';
    END $$;
    CREATE TRIGGER refuse BEFORE {event} ON {table} FOR EACH ROW WHEN ({when})
    EXECUTE FUNCTION refuse()
"""
_REPAIRED = {
    "a trigger": "P0001",
    "a missing column": "42703",
    "a lost privilege": "42501",
    "a full disk": "53100",
    "no memory": "53200",
    "a broken file": "58030",
    "an error of its own": "XX000",
    "a deadlock": "40P01",
    "serialization": "40001",
    "read-only": "25006",
    "a shutdown": "57P01",
}


@pytest.fixture(autouse=True)
async def whole(dsn: str) -> AsyncIterator[None]:
    """Take the trigger back, since all tests share a database."""
    yield
    connection = await asyncpg.connect(dsn)
    await connection.execute("DROP FUNCTION IF EXISTS refuse CASCADE")
    await connection.close()


async def refuse(dsn: str, code: str, event: str, table: str, when: str = "true") -> None:
    """Let these statements on this table fail with this code."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(_TRIGGER.format(code=code, event=event, table=table, when=when))
    await connection.close()


def crashes(logs: list[dict[str, object]]) -> list[object]:
    return [line["event"] for line in logs if "crashed" in str(line["event"])]


@pytest.mark.parametrize("code", _REPAIRED.values(), ids=_REPAIRED.keys())
async def test_what_can_be_repaired_is_waited_for(
    lab: Kit, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "_LONGEST", 0.02)
    await lab.host()
    await refuse(lab.dsn, code=code, event="UPDATE", table="execution_steps")
    tries = 0

    async def count() -> None:
        nonlocal tries
        tries += 1

    with capture_logs() as logs:
        with at_statement(lab, "finish_steps", before=count):
            execution_id = await lab.run("a", "b")
            await until(lambda: tries > 3)
        await lab.fetch("DROP FUNCTION refuse CASCADE")
        row = await lab.final(execution_id)
    assert (row["status"], row["attempt"]) == ("completed", 1)
    assert crashes(logs) == []


async def test_a_step_whose_values_are_refused_ends_its_run_alone(lab: Kit) -> None:
    host = await lab.host()
    passed = "NEW.status = 'passed' AND NEW.attempt = 1"
    await refuse(lab.dsn, "22021", "UPDATE", "execution_steps", passed)
    with capture_logs() as logs:
        execution_id = await lab.run("a", "b")
        async with asyncio.timeout(20):
            await until(lambda: any(line["event"] == "record_lost" for line in logs))
        await lab.fetch("DROP FUNCTION refuse CASCADE")
        row = await lab.final(execution_id)
        assert (await lab.final(await lab.run("a")))["status"] == "completed"
    assert row["status"] == "completed" and row["attempt"] == 2, "INFRA_RETRIES"
    assert crashes(logs) == []
    assert host.commands()[-1] == "a"


async def test_a_device_that_the_database_holds_already_crashes_nobody(lab: Kit) -> None:
    """Its attempt is another host's, say: it was moved."""
    await lab.host()
    await refuse(lab.dsn, code="23505", event="INSERT", table="execution_attempts")
    with capture_logs() as logs:
        execution_id = await lab.run("a")
        await until(lambda: any(line["event"] == "record_lost" for line in logs))
        await lab.fetch("DROP FUNCTION refuse CASCADE")
        await lab.lab._queue._take_up_missed()  # what the sweep does
        row = await lab.final(execution_id)
    assert (row["status"], row["attempt"]) == ("completed", 1)
    assert crashes(logs) == []


async def test_a_status_that_cannot_be_stored_holds_up_no_run(lab: Kit) -> None:
    await refuse(lab.dsn, code="22021", event="UPDATE", table="hosts")
    with capture_logs() as logs:
        await lab.host()
        row = await lab.final(await lab.run("a"))
        assert row["status"] == "completed"
        await lab.fetch("DROP FUNCTION refuse CASCADE")

        async def shown() -> bool:
            (host,) = await lab.fetch("SELECT status FROM hosts")
            return bool(host["status"] == "available")

        await until(shown)
    assert crashes(logs) == []


async def test_a_claim_that_is_refused_is_not_given_up(
    db: Database, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance_module, "RENEW", 0.01)
    monkeypatch.setattr(instance_module, "AWAY", 0.01)
    instance = Instance(db)
    await instance.claim(alone=False)
    connection = await asyncpg.connect(dsn)
    await refuse(dsn, code="P0001", event="UPDATE", table="server_instance")
    with capture_logs() as logs:
        keeping = asyncio.create_task(instance.keep())
        await until(lambda: any(line["event"] == "upkeep_failed" for line in logs))
        await connection.execute("DROP FUNCTION refuse CASCADE")
        before = instance._until
        await until(lambda: instance._until > before)
    assert not keeping.done()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await connection.close()
