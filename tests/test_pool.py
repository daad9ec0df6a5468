"""The pool of connections: who waits, for how long, and what it does where it gets few."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.conftest import Client, ClientFactory, Postgres
from tests.system.kit import client as user_of
from tests.system.kit import server
from vpt.errors import DatabaseAwayError
from vpt.store import db as db_module
from vpt.store import pool as pool_module
from vpt.store.db import Database, Query

SLEEP = Query("sleep", (), "SELECT pg_sleep(0.02)")


@pytest.fixture
async def few(postgres: Postgres, empty_dsn: str) -> AsyncIterator[str]:
    """Return the DSN of a role that may have four connections, and owns its database."""
    parts = urlsplit(empty_dsn)
    await postgres.statement("CREATE ROLE four LOGIN PASSWORD 'four' CONNECTION LIMIT 4")
    await postgres.statement(f"ALTER DATABASE {parts.path.strip('/')} OWNER TO four")
    server = parts.netloc.rpartition("@")[2]
    yield parts._replace(netloc=f"four:four@{server}").geturl()
    await postgres.statement(f"ALTER DATABASE {parts.path.strip('/')} OWNER TO vpt")
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute("REASSIGN OWNED BY four TO vpt; DROP OWNED BY four CASCADE")
    await connection.close()
    await postgres.statement("DROP ROLE four")


async def test_a_role_that_may_have_few_connections_answers_many_requests(
    few: str, tmp_path: Path
) -> None:
    async with server(tmp_path, DATABASE_URL=few) as one, user_of(one) as session:

        async def get() -> int:
            async with session.get("/api/testcases") as response:
                return response.status

        assert await asyncio.gather(*(get() for _ in range(200))) == [200] * 200
        assert await one.stop() == 0
    assert "database_connections_refused" in one.said()


async def test_the_pool_grows_again_when_the_server_gives_more(
    few: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_GROW", 0.05)
    db, others = Database(few), [await asyncpg.connect(few) for _ in range(3)]
    db.queries |= {"sleep": SLEEP}
    await db.open()
    await asyncio.gather(*(db.value("sleep") for _ in range(20)))
    assert db.use[:2] == (0, 1)
    for other in others:
        await other.close()
    async with asyncio.timeout(10):
        while db.use[1] < 4:
            await asyncio.gather(*(db.value("sleep") for _ in range(20)))
    await db.close()


async def test_a_pool_without_any_connection_waits_for_one(
    few: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, others = Database(few), [await asyncpg.connect(few) for _ in range(4)]
    opening = asyncio.create_task(db.open())
    await asyncio.wait([opening], timeout=0.3)
    assert not opening.done()
    await others.pop().close()
    await opening
    assert await db.value("database_answers")
    monkeypatch.setattr(db_module, "ACQUIRE_TIMEOUT", 0.2)
    late = Database(few)
    with pytest.raises(DatabaseAwayError, match="refuses more connections"):
        await late.open()
    for one in (db, late, *others):
        await one.close()


async def test_a_full_pool_is_told_by_the_error_the_log_readiness_and_metrics(
    client: ClientFactory, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db._pool, "_timeout", 0.1)
    viewer: Client = await client()
    held = [await db._pool.acquire() for _ in range(db.use[2])]
    with capture_logs() as logs:
        async with viewer.get("/api/testcases") as response:
            assert (response.status, (await response.json())["code"]) == (503, "database_away")
            assert "DATABASE_POOL" in (await response.json())["error"]
        async with viewer.get("/api/health/ready") as response:
            assert response.status == 503
            assert "connections" in (await response.json())["reason"]
    line = next(line for line in logs if line["event"] == "database_pool_full")
    assert (line["connections"], line["refused"]) == (10, 1)
    for connection in held:
        await db._pool.release(connection)
    async with viewer.get("/metrics") as response:
        text = await response.text()
    assert "vpt_database_waiting 0.0" in text
    assert f"vpt_database_pool_full_total {db.load.refused}.0" in text
    assert await db.value("database_answers")


async def test_the_setting_sets_its_size(dsn: str, tmp_path: Path) -> None:
    async with server(tmp_path, DATABASE_URL=dsn, DATABASE_POOL=3) as one, user_of(one) as session:
        async with session.get("/metrics") as response:
            assert "vpt_database_connections_limit 3.0" in await response.text()
        assert await one.stop() == 0
