"""One server a database: who has it, who may take it, and who must go."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.actors.fake_host import until
from tests.system.kit import answers, open_folder, server
from vpt.errors import DatabaseAwayError
from vpt.store import db as db_module
from vpt.store.db import Database
from vpt.store.instance import RENEW, TTL, WAIT, Instance


async def _take(dsn: str, seconds: float) -> None:
    """Let another server have the database for so long."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("DELETE FROM server_instance")
    sql = (
        "INSERT INTO server_instance (id, expires_at) VALUES ('other', now() + $1 * interval '1s')"
    )
    await connection.execute(sql, seconds)
    await connection.close()


async def test_a_free_database_is_taken_and_given_back(db: Database) -> None:
    one, two = Instance(db), Instance(db)
    await one.claim(alone=False)
    waiting = asyncio.create_task(two.claim(alone=False))
    await asyncio.sleep(0)
    await one.drop()
    await asyncio.wait_for(waiting, 5)


async def test_the_row_of_a_killed_server_is_free_when_it_runs_out(db: Database, dsn: str) -> None:
    assert 2 * RENEW < TTL < WAIT, "it survives a late renewal, and a new start waits it out"
    await _take(dsn, 0.5)
    began = time.monotonic()
    await Instance(db).claim(alone=False)
    assert 0.3 < time.monotonic() - began < 5


async def test_a_claim_is_held_while_nobody_can_have_taken_it_and_is_not_renewed_when_gone(
    db: Database, dsn: str
) -> None:
    instance = Instance(db)
    other = Database(dsn, ours=instance.held)
    assert not instance.held()
    with pytest.raises(DatabaseAwayError):
        await other.open()
    await instance.claim(alone=False)
    assert instance.held()
    assert await other.value("database_answers")
    await other.close()
    assert await instance._ask("renew_instance")
    await db.row("clear_instance")  # another server was here, and went
    assert not await instance._ask("renew_instance")


async def test_who_is_alone_need_not_wait(db: Database, dsn: str) -> None:
    await _take(dsn, 3600)
    began = time.monotonic()
    await Instance(db).claim(alone=True)
    assert time.monotonic() - began < 2


async def test_a_server_whose_database_was_taken_over_ends(tmp_path: Path, dsn: str) -> None:
    async with server(tmp_path, DATABASE_URL=dsn) as one:
        await _take(dsn, 3600)
        assert await one.ended(RENEW + 8) == 2
        assert "Traceback" not in one.said()
        assert one.said().splitlines()[-1].startswith("Error: Another vpt server")
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT id FROM server_instance") == "other"
    await connection.close()


async def test_a_claim_runs_out_while_the_machine_is_suspended(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, real = Instance(db), time.clock_gettime
    await instance.claim(alone=False)
    assert instance.held()
    suspended = {time.CLOCK_BOOTTIME: TTL}  # the clock that others read stood still meanwhile
    monkeypatch.setattr(time, "clock_gettime", lambda clock: real(clock) + suspended.get(clock, 0))
    assert not instance.held()


async def test_what_a_server_sent_before_another_took_over_does_not_arrive_later(
    db: Database, dsn: str
) -> None:
    old = Instance(db)
    await old.claim(alone=False)
    theirs = Database(dsn, ours=old.held, name=old.session_name)
    await theirs.open()
    other, lock = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    await other.execute(
        "INSERT INTO hosts (id, host_url, dialect, credential) VALUES "
        "('h1', 'http://h1', 'document', 'join')"
    )
    late = lock.transaction()
    await late.start()
    await lock.execute("SELECT FROM hosts FOR UPDATE")  # so it is in flight for as long as we like
    in_flight = asyncio.create_task(theirs.row("store_draining", host_id="h1", draining=True))
    await _until_one_waits(other)
    await other.execute("UPDATE server_instance SET expires_at = now() - interval '1 s'")
    await Instance(db).claim(alone=False)
    await late.commit()
    with pytest.raises(DatabaseAwayError):
        await in_flight
    assert await other.fetchval("SELECT draining FROM hosts") is False
    for connection in (other, lock):
        await connection.close()
    await theirs.close()


async def test_a_server_waits_until_the_sessions_of_the_one_before_have_ended(
    db: Database, dsn: str
) -> None:
    theirs = await asyncpg.connect(dsn, server_settings={"application_name": "vpt server other"})
    pid = theirs.get_server_pid()
    os.kill(pid, signal.SIGSTOP)  # as one that waits for the disk: it ends, but not at once
    claiming = asyncio.create_task(Instance(db).claim(alone=False))
    try:
        done, _ = await asyncio.wait([claiming], timeout=1)
        assert not done
    finally:
        os.kill(pid, signal.SIGCONT)
    await claiming
    other = await asyncpg.connect(dsn)
    assert not await other.fetch("SELECT FROM pg_stat_activity WHERE pid = $1", pid)
    await other.close()
    theirs.terminate()


async def _until_one_waits(connection: asyncpg.Connection) -> None:
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    while not await connection.fetchval(waits):  # noqa: ASYNC110 (another process)
        await asyncio.sleep(0.01)


async def test_a_server_that_waits_while_the_one_before_stops_with_its_postgresql_takes_over() -> (
    None
):
    """The second one attaches to the first one's PostgreSQL, which goes away with it."""
    with open_folder() as folder:
        async with server(folder) as first, server(folder, wait=False) as second:
            async with asyncio.timeout(30):
                while "claim_waits" not in second.said():  # noqa: ASYNC110 (a file)
                    await asyncio.sleep(0.02)
            (line,) = (line for line in second.said().splitlines() if "claim_waits" in line)
            assert "vpt server " in json.loads(line)["held_by"]
            assert await first.stop() == 0
            await answers(second)
            assert await second.stop() == 0
            assert "Traceback" not in second.said()


async def test_a_claim_outlives_a_database_that_does_not_answer_for_a_while(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db_module, "LOCK_TIMEOUT", "100ms")
    db, other = Database(dsn), await asyncpg.connect(dsn)
    await db.open()
    instance = Instance(db)
    with capture_logs() as logs:
        async with other.transaction():
            await other.execute("LOCK TABLE server_instance")
            claiming = asyncio.create_task(instance.claim(alone=False))
            await until(lambda: any(line["event"] == "database_away" for line in logs))
        await claiming
    assert instance.held()
    await other.close()
    await db.close()
