"""Which databases a start refuses, why it has no connection, and for whom a migration waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.conftest import Postgres, other_database
from tests.faults.kit import Way
from tests.system.kit import free_port, process
from vpt.errors import DatabaseAwayError, DatabaseBusyError
from vpt.store import connect as connect_module
from vpt.store import migrations as migrations_module
from vpt.store.connect import connect
from vpt.store.migrations import apply, migrate, migrations
from vpt.store.requirements import UnsuitableDatabaseError, _wrong

FUTURE = "0099_of_the_future"
ABOUT = {
    "major": 15,
    "version": "15.9",
    "name": "lab",
    "account": "vpt",
    "encoding": "UTF8",
    "standby": False,
    "read_only": False,
    "migrated": False,
    "may_create": True,
}


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({}, None),
        ({"major": 14, "version": "14.2"}, "PostgreSQL 14.2, and vpt needs 15 or newer"),
        ({"encoding": "SQL_ASCII"}, "the encoding SQL_ASCII, and vpt needs UTF8"),
        ({"standby": True, "read_only": True}, "a standby"),
        ({"read_only": True}, "default_transaction_read_only"),
        ({"may_create": False}, "may not create tables"),
        ({"may_create": False, "migrated": True}, None),
    ],
)
def test_what_vpt_needs(about: dict[str, Any], words: str | None) -> None:
    wrong = _wrong(ABOUT | about)
    assert wrong is None if words is None else (wrong and words in wrong)


async def _refused(dsn: str, *words: str) -> None:
    with pytest.raises(UnsuitableDatabaseError) as error:
        await migrate(dsn)
    text = str(error.value)
    assert text.startswith("DATABASE_URL: ") and "\n" not in text
    assert all(word in text for word in words), text


async def test_a_schema_that_is_newer_is_refused(empty_dsn: str) -> None:
    await migrate(empty_dsn)
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute("INSERT INTO schema_migrations VALUES ($1)", FUTURE)
    await connection.close()
    await _refused(empty_dsn, "newer vpt", FUTURE)


async def test_another_encoding_is_refused(postgres: Postgres) -> None:
    await postgres.statement(
        "CREATE DATABASE vpt_latin ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'"
        " TEMPLATE template0"
    )
    await _refused(other_database(postgres.dsn, "vpt_latin"), "LATIN1", "UTF8")
    await postgres.statement("DROP DATABASE vpt_latin")


async def test_what_cannot_be_written_to_is_refused(postgres: Postgres, empty_dsn: str) -> None:
    name = urlsplit(empty_dsn).path.strip("/")
    await postgres.statement(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await _refused(empty_dsn, "read-only", name)


async def test_a_start_that_is_refused_says_it_in_one_line_and_ends_with_2(
    empty_dsn: str, tmp_path: Path
) -> None:
    await migrate(empty_dsn)
    connection = await asyncpg.connect(empty_dsn)
    await connection.execute("INSERT INTO schema_migrations VALUES ($1)", FUTURE)
    await connection.close()
    nobody = f"postgresql://vpt:secret-word@127.0.0.1:{free_port()}/vpt"
    for dsn, words in ((empty_dsn, FUTURE), (nobody, "nothing listens")):
        settings = {"DATABASE_URL": dsn, "VPT_DATA_DIR": tmp_path}
        async with process(tmp_path, "-m", "vpt", "serve", **settings) as one:
            assert await one.ended() == 2
            (line,) = one.said().splitlines()
            assert line.startswith("Error: DATABASE_URL: ") and words in line
            assert "secret-word" not in line and "try again" not in line


# ---------------------------------------------------------------- no connection


@pytest.fixture
async def tcp(postgres: Postgres) -> AsyncIterator[str]:
    """Return the DSN of the server over TCP, as a server without TLS."""
    async with Way(postgres.dsn) as way:
        yield way.dsn


@pytest.fixture
async def few(postgres: Postgres, tcp: str) -> AsyncIterator[str]:
    """Return the DSN of a role that may have one connection, and has it."""
    await postgres.statement("CREATE ROLE few LOGIN PASSWORD 'few' CONNECTION LIMIT 1")
    dsn = f"postgresql://few:few@{urlsplit(tcp).netloc.rpartition('@')[2]}/vpt"
    connection = await asyncpg.connect(dsn)
    yield dsn
    await connection.close()
    await postgres.statement("DROP ROLE few")


async def _why(dsn: str) -> str:
    with pytest.raises(DatabaseAwayError) as error:
        await connect(dsn)
    text = str(error.value)
    assert text.startswith("DATABASE_URL: the database at ") and "\n" not in text, text
    assert "try again" not in text
    return text


async def test_why_there_is_no_connection(tcp: str, few: str) -> None:
    parts = urlsplit(tcp)
    server = parts.netloc.rpartition("@")[2]
    port = server.rpartition(":")[2]
    for dsn, words in (
        (f"postgresql://vpt:wrong@{server}/vpt", "refuses the account"),
        (f"{tcp.rpartition('/')[0]}/nowhere", "lacks the database"),
        (f"{tcp}?sslmode=require", "offers no TLS"),
        (f"{tcp}?sslmode=perhaps", "cannot be used by this URL"),
        (f"{tcp}?connection_limit=1", "refuses the session"),
        (few, "has no connection left"),
    ):
        why = await _why(dsn)
        assert f"127.0.0.1, port {port}," in why and words in why, why
    why = await _why("postgresql://vpt:x@no-such-host.invalid/vpt")
    assert "no-such-host.invalid, port 5432, is not found" in why
    assert "no such socket" in await _why("postgresql://vpt:x@/vpt?host=/nowhere")


async def test_why_what_listens_gives_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect_module, "CONNECT_TIMEOUT", 0.3)

    ended = asyncio.Semaphore(0)

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()
        ended.release()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client gives up
        await hang_up(reader, writer)

    for serve, words in (
        (hang_up, "closed the connection at once"),
        (say_nothing, "does not answer within"),
    ):
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        with closing(server):
            port = server.sockets[0].getsockname()[1]
            assert words in await _why(f"postgresql://vpt:x@127.0.0.1:{port}/vpt")
            await ended.acquire()


# ---------------------------------------------------------------- locks of migrations


@pytest.fixture
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations_module, "_LOCK_TIMEOUT", "300ms")
    monkeypatch.setattr(migrations_module, "_PAUSE", 0.1)


@asynccontextmanager
async def holding(dsn: str, sql: str) -> AsyncIterator[asyncpg.Connection]:
    """Hold a lock as a report does, in an open transaction."""
    connection = await asyncpg.connect(dsn, server_settings={"application_name": "a report"})
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(sql)
    yield connection
    await transaction.rollback()
    await connection.close()


@pytest.fixture
def one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a migration that changes a table."""
    more = tmp_path / "9000_more.sql"
    more.write_text("ALTER TABLE hosts ADD COLUMN more int")
    known = migrations()
    monkeypatch.setattr(migrations_module, "migrations", lambda: [*known, more])


@pytest.mark.usefixtures("in_a_hurry", "one_more")
async def test_readers_do_not_queue_behind_a_migration_that_waits_for_a_report(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await apply_known(empty_dsn)
    with capture_logs() as logs:
        async with holding(empty_dsn, "SELECT count(*) FROM hosts") as report:
            migrating = asyncio.create_task(migrate(empty_dsn))
            reader = await asyncpg.connect(empty_dsn)
            while not any(line["event"] == "migration_waits" for line in logs):
                await reader.fetch("SELECT id FROM hosts")  # at most one lock timeout each time
                await asyncio.sleep(0.01)
            await reader.close()
            pid = await report.fetchval("SELECT pg_backend_pid()")
        assert await migrating == ["9000_more"]
    line = next(line for line in logs if line["event"] == "migration_waits")
    for words in (f"process {pid} ", "a report", "user vpt", "local socket", "since 2"):
        assert words in line["held_by"], line


async def apply_known(dsn: str) -> None:
    """Bring the schema up to date, but for the last migration."""
    connection = await asyncpg.connect(dsn)
    await apply(connection, migrations_module.migrations()[:-1])
    await connection.close()


@pytest.mark.usefixtures("in_a_hurry", "one_more")
async def test_a_migration_gives_up_and_says_for_whom_it_waited(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations_module, "PATIENCE", 0.0)
    await apply_known(empty_dsn)
    advisory = "SELECT pg_advisory_xact_lock(7762036)"  # an older vpt migrates
    for lock in ("SELECT FROM hosts", "LOCK TABLE schema_migrations", advisory):
        async with holding(empty_dsn, lock):
            with pytest.raises(DatabaseBusyError, match=r"held by process .*a report"):
                await migrate(empty_dsn)
    assert await migrate(empty_dsn) == ["9000_more"]


async def test_two_that_start_at_once_migrate_once(empty_dsn: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_dsn) for _ in range(4)))
    assert sorted(map(len, applied)) == [0, 0, 0, len(migrations())]


async def test_a_role_without_its_database_is_told_so(postgres: Postgres, tcp: str) -> None:
    """Since PostgreSQL 15 nobody but the owner may create tables in public."""
    await postgres.statement("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    await postgres.statement("CREATE DATABASE vpt_closed")
    try:
        server = urlsplit(tcp).netloc.rpartition("@")[2]
        await _refused(f"postgresql://guest:guest@{server}/vpt_closed", "guest may not create")
    finally:
        await postgres.statement("DROP DATABASE vpt_closed WITH (FORCE)")
        await postgres.statement("DROP ROLE guest")
