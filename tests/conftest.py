"""Fixtures: a real PostgreSQL for the session, a fresh database, lab and server for each test."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tests.clusters import copy_cluster, share, unshare
from vpt import embedded
from vpt.actors.lab import Lab
from vpt.config import Config
from vpt.dialects.document import DocumentDialect
from vpt.events import Events
from vpt.model import Role
from vpt.store.db import Database
from vpt.store.tokens import issue_token
from vpt.web.app import make_app

SECRET = "a secret of the tests that is long enough"
JOIN_TOKEN = "the tests' join token"
TEMPLATE = "vpt_template"
_numbers = itertools.count(1)

# Nothing that is collected is garbage: see pytest_collection_finish.
gc.disable()

# Rich tracebacks, structlog's default, take 70 ms each: a third of what tests of actors cost.
_PLAIN = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], _PLAIN])

Client = TestClient[web.Request, web.Application]
ClientFactory = Callable[[Role | None], Awaitable[Client]]


_ALONE = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_EMPTY = """
    SET LOCAL session_replication_role = replica;
    DO $$
    DECLARE name text;
    BEGIN
        FOR name IN SELECT tablename FROM pg_tables
            WHERE schemaname = 'public' AND tablename <> 'schema_migrations'
        LOOP
            EXECUTE format('DELETE FROM %I', name);
        END LOOP;
    END $$
"""


def pytest_configure(config: pytest.Config) -> None:
    """Make room for what all workers share."""
    if (folder := share()) is not None:
        config.add_cleanup(lambda: unshare(folder))


def pytest_collection_finish() -> None:
    """Keep what was collected out of each later search for garbage: it took 5 % of all time."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the long tests over the places where workers start: each worker has a part."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    if workers > 1:
        part = len(others) // workers
        ends = [*range(part, part * workers, part), len(others)]
        items[:] = []
        for number, end in enumerate(ends):
            items += long[number::workers]
            items += others[ends[number - 1] if number else 0 : end]


def other_database(dsn: str, name: str) -> str:
    """Give the DSN of another database of the same server."""
    return dsn.replace("@/vpt?", f"@/{name}?")


@dataclass(frozen=True)
class Postgres:
    """A server and the database that is copied for each test."""

    dsn: str

    async def statement(self, sql: str) -> None:
        """Run one statement on the server's own database."""
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()


async def _hurry(postgres: Postgres) -> None:
    """Tests that make hundreds of databases need none of them after a power cut."""
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        await postgres.statement(f"ALTER SYSTEM SET {setting} = off")
    await postgres.statement("SELECT pg_reload_conf()")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One real PostgreSQL; only DSNs are handed out, since a pool does not outlive its loop."""
    # Not below pytest's own folder, which is closed to the user that PostgreSQL runs as.
    folder = Path(tempfile.mkdtemp(prefix="vpt-tests-"))
    copy_cluster(folder)
    with asyncio.Runner() as runner:
        server = runner.run(embedded.start(folder))
        postgres = Postgres(server.dsn)
        # A database is copied while nobody is connected to it.
        beside = Postgres(other_database(server.dsn, "postgres"))
        runner.run(beside.statement(f"CREATE DATABASE {TEMPLATE} TEMPLATE vpt"))
        runner.run(_hurry(postgres))
        yield postgres
        runner.run(server.stop())
    shutil.rmtree(folder)


@pytest.fixture
async def empty_dsn(postgres: Postgres) -> AsyncIterator[str]:
    """Give a database without any table."""
    name = f"vpt_test_{next(_numbers)}"
    await postgres.statement(f"CREATE DATABASE {name}")
    yield other_database(postgres.dsn, name)
    await postgres.statement(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def shared_dsn(postgres: Postgres) -> str:
    """Give one migrated database for all: emptying it takes a tenth of copying one."""
    asyncio.run(postgres.statement(f"CREATE DATABASE vpt_shared TEMPLATE {TEMPLATE}"))
    return other_database(postgres.dsn, "vpt_shared")


@pytest.fixture
async def dsn(shared_dsn: str) -> str:
    """Give an empty database, to which nobody else is connected."""
    connection = await asyncpg.connect(shared_dsn)
    try:
        await connection.execute(_ALONE)
        await connection.execute(_EMPTY)
    finally:
        await connection.close()
    return shared_dsn


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    """Give an open pool on the test's own database."""
    db = Database(dsn)
    await db.open()
    yield db
    await db.close()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Give settings of a server in a hurry."""
    return Config(
        vpt_data_dir=tmp_path,
        secret_key=SECRET,
        host_join_token=JOIN_TOKEN,
        host_probe_interval=0.2,
        host_probe_timeout=0.5,
        run_grace=0.5,
        cancel_grace=0.5,
        min_free_disk=0,  # whatever the machine of the tests has
        cors_origins=("https://pages.example",),
    )


@pytest.fixture
def events() -> Events:
    """Give the bus of events."""
    return Events()


@pytest.fixture
async def lab(config: Config, db: Database, events: Events) -> AsyncIterator[Lab]:
    """Give the real actors, started."""
    dialect = DocumentDialect()
    lab = Lab(config, db, events, dialect)
    await lab.start()
    yield lab
    await lab.stop()
    await dialect.close()


@pytest.fixture
async def server(
    config: Config, db: Database, lab: Lab, events: Events
) -> AsyncIterator[TestServer]:
    """Give the whole server on a free port of loopback."""
    server = TestServer(make_app(config, db, lab, events))
    await server.start_server()
    yield server
    await server.close()


def token(role: Role = Role.OPERATOR, user: str = "", days: float = 1) -> str:
    """Sign a token; the user's name is the role's where none is given."""
    return issue_token(SECRET, user or role.value, role, days)


@pytest.fixture
async def client(server: TestServer) -> AsyncIterator[ClientFactory]:
    """Give a maker of HTTP clients: `await client(Role.VIEWER)`, None for one without token."""
    clients: list[Client] = []

    async def make(role: Role | None = Role.OPERATOR) -> Client:
        headers = {} if role is None else {"Authorization": f"Bearer {token(role)}"}
        clients.append(TestClient(server, headers=headers))
        await clients[-1].start_server()
        return clients[-1]

    yield make
    for one in clients:  # with the answers that nobody read to their end
        await one.close()
