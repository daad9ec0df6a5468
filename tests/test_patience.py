"""What waits for the database, for how long, and what gives up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from structlog.testing import capture_logs

from vpt.errors import DatabaseAwayError, SlowStatementError
from vpt.store import db as db_module
from vpt.store import patience
from vpt.store.db import Database, Query
from vpt.store.patience import patiently


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST", 0.0)


async def test_work_is_repeated_for_as_long_as_the_database_is_away() -> None:
    tries = 0

    async def work() -> int:
        nonlocal tries
        tries += 1
        if tries <= 3 * patience._SLOW_TRIES:
            raise DatabaseAwayError
        return tries

    with capture_logs() as logs:
        assert await patiently("thing", work, host_id="h1") == 3 * patience._SLOW_TRIES + 1
    assert {(line["record"], line["host_id"]) for line in logs} == {("thing", "h1")}


@pytest.mark.parametrize(
    ("error", "expected"), [(ValueError("wrong"), 1), (SlowStatementError(), patience._SLOW_TRIES)]
)
async def test_work_that_no_repeat_can_cure_is_given_up(error: Exception, expected: int) -> None:
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        raise error

    with capture_logs(), pytest.raises(type(error)):
        await patiently("thing", work)
    assert tries == expected


async def test_only_tries_in_a_row_that_were_too_slow_make_it_give_up() -> None:
    """A database that comes and goes makes any statement look slow now and then."""
    tries = 0

    async def work() -> int:
        nonlocal tries
        tries += 1
        if tries <= 4 * patience._SLOW_TRIES:
            raise DatabaseAwayError if tries % 2 else SlowStatementError
        return tries

    with capture_logs():
        assert await patiently("thing", work) == 4 * patience._SLOW_TRIES + 1


@pytest.fixture
async def quick(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """A database whose statements have half a second, and no longer for a lock."""
    monkeypatch.setattr(db_module, "COMMAND_TIMEOUT", 0.5)
    monkeypatch.setattr(db_module, "LOCK_TIMEOUT", "200ms")
    db = Database(dsn)
    db.queries |= {
        "sleep": Query("sleep", (), "SELECT pg_sleep(5)"),
        "lock": Query("lock", (), "LOCK TABLE hosts"),
    }
    await db.open()
    yield db
    await db.close()


async def test_a_statement_that_is_slow_alone_is_told_from_a_database_that_is_away(
    quick: Database,
) -> None:
    async def others() -> None:
        while True:
            await quick.value("database_answers")
            await asyncio.sleep(0.01)

    busy = asyncio.create_task(others())
    with pytest.raises(SlowStatementError):
        await quick.value("sleep")
    with pytest.raises(SlowStatementError):
        async with quick.session() as session:
            await session.value("sleep")
    busy.cancel()
    await asyncio.gather(busy, return_exceptions=True)
    with pytest.raises(DatabaseAwayError) as away:
        await asyncio.gather(*(quick.value("sleep") for _ in range(3)))
    assert not isinstance(away.value, SlowStatementError)


async def test_waiting_for_a_lock_is_not_being_slow(quick: Database, dsn: str) -> None:
    other = await asyncpg.connect(dsn)
    async with other.transaction():
        await other.execute("LOCK TABLE hosts")
        await quick.value("database_answers")
        with pytest.raises(DatabaseAwayError) as away:
            async with quick.transaction() as session:
                await session.row("lock")
    assert not isinstance(away.value, SlowStatementError)
    await other.close()
