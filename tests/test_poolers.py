"""A transaction pooler between vpt and its database: noticed by itself, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.actors.fake_host import FakeHost
from tests.conftest import TEMPLATE, Postgres, other_database
from tests.pgbouncer import OUR_SETTINGS, needed, pgbouncer
from tests.system.kit import client, execute, final, joined, make, server
from vpt.store.connect import driver_dsn, is_pooler
from vpt.store.db import Database, Query
from vpt.store.migrations import migrate
from vpt.store.patience import patiently
from vpt.store.pool import Pool

pytestmark = needed
SQL = {
    f"q{number}": Query(f"q{number}", ("n",), f"SELECT $1::int + {number}") for number in range(40)
}


@pytest.fixture(scope="module")
def dsn_of_it(postgres: Postgres) -> Iterator[str]:
    """Return the DSN of a database of these tests."""
    asyncio.run(postgres.statement(f"CREATE DATABASE vpt_pooled TEMPLATE {TEMPLATE}"))
    yield other_database(postgres.dsn, "vpt_pooled")
    asyncio.run(postgres.statement("DROP DATABASE vpt_pooled WITH (FORCE)"))


@pytest.fixture(scope="module")
def pooled(dsn_of_it: str) -> Iterator[str]:
    """Return the DSN of a PgBouncer that lets our settings through, and drops them."""
    with pgbouncer(dsn_of_it, ignored=OUR_SETTINGS) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def strict(dsn_of_it: str) -> Iterator[str]:
    """Return the DSN of a PgBouncer that refuses our settings."""
    with pgbouncer(dsn_of_it, round_robin=1) as dsn:
        yield dsn


async def _ask_much(db: Database) -> None:
    """Let many statements share few sessions; each answer must be that of its own statement."""

    async def ask(number: int) -> None:
        name = f"q{number % 40}"
        assert await db.value(name, n=number) == number + number % 40

        async def transaction() -> None:
            async with db.transaction() as session:
                assert await session.value(name, n=1) == 1 + number % 40

        await patiently(None, transaction)

    await asyncio.gather(*(ask(number) for number in range(200)))


async def _two_of(dsn: str) -> list[Database]:
    two = [Database(dsn), Database(dsn, name="vpt other")]
    for db in two:
        db.queries |= SQL
        await db.open()
    return two


@pytest.mark.parametrize("kind", ["pooled", "strict", "declared"])
async def test_it_is_noticed_at_the_start(
    kind: str, pooled: str, strict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = {"pooled": pooled, "strict": strict, "declared": f"{strict}?pgbouncer=true"}[kind]
    with capture_logs() as logs:
        two = await _two_of(dsn)
        await asyncio.gather(*map(_ask_much, two))
        for db in two:
            await db.close()
    noticed = [line for line in logs if line["event"] == "database_pooler_detected"]
    assert len(noticed) == (0 if kind == "declared" else 2)


async def test_it_is_noticed_by_the_first_statement_that_is_not_there(
    pooled: str, dsn_of_it: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_noticed(_: Pool) -> bool:
        return False

    monkeypatch.setattr(Pool, "_is_behind_pooler", not_noticed)
    two = await _two_of(pooled)
    with capture_logs() as logs:
        await asyncio.gather(*map(_ask_much, two))
    assert [db._pool.pooler for db in two] == [True, True]
    events = [line["event"] for line in logs]
    assert events.count("database_pooler_detected") == 2
    for db in two:
        await db.close()


async def test_no_two_processes_give_their_statements_one_name(db: Database) -> None:
    """Else, behind a pooler, a statement of another process could run under the name of ours."""
    async with db.session() as session:
        await session.value("database_answers")
        rows = await session._connection.fetch("SELECT name FROM pg_prepared_statements")
    assert rows
    assert all(row[0].startswith("__vpt_") for row in rows)


async def test_waiting_for_a_lock_is_not_being_slow_where_no_lock_timeout_holds(
    pooled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpt.store.db.COMMAND_TIMEOUT", 0.3)
    (db, other) = await _two_of(pooled)
    await db.value("q1", n=1)
    error = TimeoutError()
    assert db._too_long(error) is error
    await db.close()
    await other.close()


async def test_a_server_behind_it_runs_executions(pooled: str, tmp_path: Path) -> None:
    settings = {"DATABASE_URL": pooled, "HOST_PROBE_INTERVAL": 0.2}
    assert await migrate(pooled) == []
    async with (
        server(tmp_path, **settings) as one,
        client(one) as session,
        joined(session, FakeHost()) as host,
    ):
        case = await make(session, "a", "b", model="tv")
        ids = [await execute(session, case) for _ in range(4)]
        assert {(await final(session, name))["status"] for name in ids} == {"completed"}
        assert len(host.commands()) == 8
        assert await one.stop() == 0
        assert "Traceback" not in one.said()


def test_what_names_a_pooler() -> None:
    assert is_pooler("postgresql://a:b@c:6543/d")
    assert is_pooler("postgresql://a:b@c:7000/d?sslmode=require&pgbouncer=true")
    assert not is_pooler("postgresql://a:b@c:6543/d?pgbouncer=false")
    assert not is_pooler("postgresql://a:b@c/d")
    dsn = "postgresql://a:b@c/d?sslmode=require&pgbouncer=true"
    assert driver_dsn(dsn) == "postgresql://a:b@c/d?sslmode=require"
    assert (
        driver_dsn("postgresql:///d?host=/tmp/a b&port=1") == "postgresql:///d?host=/tmp/a b&port=1"
    )


async def test_the_parameter_is_not_passed_on(dsn: str) -> None:
    db = Database(f"{dsn}&pgbouncer=true")
    await db.open()
    assert await db.value("database_answers")
    await db.close()
    with pytest.raises(asyncpg.PostgresError):
        await asyncpg.connect(f"{dsn}&pgbouncer=true")
