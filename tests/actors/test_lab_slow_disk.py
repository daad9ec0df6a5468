"""A disk that stands still for a while: nothing is written, what is in memory is read."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from tests.actors.conftest import Kit
from tests.actors.fake_host import until
from tests.actors.hooks import at_statement
from vpt.errors import DatabaseAwayError
from vpt.store import db as db_module
from vpt.store import patience

_TRIES = 15  # of a record; with 0.3 s each, in place of 5 s, the disk stands still for 75 s

_STALL = (
    """
    CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_sleep(2);
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER stall BEFORE INSERT ON execution_steps
    FOR EACH ROW WHEN (NEW.status = 'passed') EXECUTE FUNCTION stall()
    """,
)


async def test_a_run_goes_on_when_the_disk_stood_still_for_a_minute(
    lab: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.stop()
    monkeypatch.setattr(db_module, "COMMAND_TIMEOUT", 0.3)
    monkeypatch.setattr(patience, "_LONGEST", 0.05)
    await lab.start()
    await lab.host(idempotency=False)  # it cannot be asked for a result that was lost
    tries = 0

    async def count() -> None:
        nonlocal tries
        tries += 1

    for statement in _STALL:
        await lab.fetch(statement)
    reading = asyncio.create_task(_read(lab))
    with at_statement(lab, "finish_steps", before=count):
        execution_id = await lab.run("a", "b")
        await until(lambda: tries > _TRIES, 60)
    await lab.fetch("DROP FUNCTION stall CASCADE")
    row = await lab.final(execution_id)
    reading.cancel()
    assert (row["status"], row["attempt"]) == ("completed", 1)


async def _read(lab: Kit) -> None:
    while True:
        with suppress(DatabaseAwayError):
            await lab.db.value("database_answers")
        await asyncio.sleep(0.01)
