"""PostgreSQL: the pool, the named queries of sql/, migrations, and errors as VptErrors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import orjson
import structlog

from vpt.errors import (
    ConflictError,
    DatabaseAwayError,
    SlowStatementError,
    UnprocessableError,
    VptError,
)

log = structlog.get_logger(__name__)

#: In a checkout sql/ stands beside the package, in a wheel inside it.
SQL = next(
    path
    for path in (Path(__file__).parents[1] / "sql", Path(__file__).parents[2] / "sql")
    if path.is_dir()
)
POOL_SIZE = 10
COMMAND_TIMEOUT = 5.0
ACQUIRE_TIMEOUT = 5.0
#: Below COMMAND_TIMEOUT: a statement that waits for another's lock is not slow by itself.
LOCK_TIMEOUT = "4s"
MIGRATION_LOCK = 0x767074  # "vpt"

#: Settings of each connection. It keeps the plan of a query for minutes: while a table is empty
#: the cheapest plan reads it whole, and that plan would stay in use while the table fills. Each
#: query has an index (tests/sql/test_plans.py). `jit`: a plan that cannot avoid a scan has so high
#: a cost that PostgreSQL would compile it first.
SETTINGS: Mapping[str, str] = {"enable_seqscan": "off", "jit": "off"}

#: The error of a violated constraint; of one that is not here, vpt itself is at fault.
CONSTRAINTS: Mapping[str, VptError] = {
    "campaign_entries_test_case": ConflictError(
        "A campaign uses this test case: take it out of the campaign first."
    ),
    "devices_host": UnprocessableError("There is no such host."),
    "devices_local_id_once": ConflictError("The host has a device with this local_id already."),
    "devices_pkey": ConflictError("There is a device with this id already."),
}

#: The database is not there, or went away under us: worth another try.
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.SerializationError,
)

_HEADER = re.compile(r"^-- (\w+)\(([^)]*)\)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Query:
    """A named query and the order of its arguments."""

    name: str
    args: tuple[str, ...]
    sql: str

    def bind(self, values: Mapping[str, Any]) -> list[Any]:
        """Return `values` in the order of $1, $2, ...; TypeError when names differ."""
        if len(values) != len(self.args):
            raise TypeError(f"{self.name} takes {self.args}, got {tuple(values)}")
        return [values[arg] for arg in self.args]


def read_queries(folder: Path = SQL) -> dict[str, Query]:
    """Read every `-- name(arg, arg)` of sql/*.sql."""
    queries: dict[str, Query] = {}
    for path in sorted(folder.glob("*.sql")):
        parts = _HEADER.split(path.read_text(encoding="utf-8"))[1:]
        for name, args, sql in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            if name in queries:
                raise ValueError(f"{path.name}: {name} is defined twice")
            names = tuple(arg.strip() for arg in args.split(",") if arg.strip())
            queries[name] = Query(name, names, sql.strip().rstrip(";"))
    return queries


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Raise VptErrors instead of the driver's errors."""
    try:
        yield
    except _OURS as error:
        raise in_our_words(error) from error


_OURS = (asyncpg.IntegrityConstraintViolationError, *AWAY)
#: What ends a statement that takes longer than COMMAND_TIMEOUT.
_TOO_LONG = (TimeoutError, asyncpg.QueryCanceledError)


def in_our_words(error: BaseException) -> BaseException:
    """Return the VptError of the driver's error; itself when vpt is at fault."""
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        known = CONSTRAINTS.get(error.constraint_name or "")
        return error if known is None else type(known)(known.message)
    return DatabaseAwayError()


class Session:
    """Named queries on one connection, within a transaction."""

    def __init__(self, connection: Any, queries: Mapping[str, Query]) -> None:
        self._connection = connection
        self._queries = queries

    async def row(self, name: str, /, **args: Any) -> Any:
        """Return the first row, or None."""
        query = self._queries[name]
        return await self._connection.fetchrow(query.sql, *query.bind(args))

    async def rows(self, name: str, /, **args: Any) -> list[Any]:
        """Return all rows."""
        query = self._queries[name]
        return list(await self._connection.fetch(query.sql, *query.bind(args)))

    async def value(self, name: str, /, **args: Any) -> Any:
        """Return the first column of the first row, or None."""
        query = self._queries[name]
        return await self._connection.fetchval(query.sql, *query.bind(args))

    async def many(self, name: str, /, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run the query once for each of `rows`."""
        query = self._queries[name]
        await self._connection.executemany(query.sql, [query.bind(row) for row in rows])


class Database:
    """A pool of connections; every method raises DatabaseAwayError when it does not answer.

    So it does while `ours` returns False: the database may be another server's by now. A statement
    that takes too long while others are answered raises SlowStatementError, which is one.
    """

    def __init__(
        self,
        dsn: str,
        *,
        size: int = POOL_SIZE,
        ours: Callable[[], bool] = lambda: True,
        name: str = "vpt",
    ) -> None:
        """Set up a pool of `size` connections; `name` is the application_name of its sessions."""
        self._dsn = dsn
        self._size = size
        self._ours = ours
        self._name = name
        self._answered = 0.0  # of the loop's clock: when a statement was last answered
        self._pool: Any = None
        self._turns = asyncio.Semaphore(size)  # asyncpg's own queue is not fair
        self.queries = read_queries()

    @property
    def use(self) -> tuple[int, int, int]:
        """How many connections are at work, how many are idle, and how many there may be."""
        if self._pool is None:
            return 0, 0, self._size
        idle = self._pool.get_idle_size()
        return self._pool.get_size() - idle, idle, self._size

    async def open(self) -> None:
        """Connect; DatabaseAwayError when nobody answers."""
        self._loop = asyncio.get_running_loop()
        async with translated():
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=0,  # it would log a traceback for each try to restore a higher one
                max_size=self._size,
                command_timeout=COMMAND_TIMEOUT,
                timeout=ACQUIRE_TIMEOUT,
                init=_init,
                reset=_keep,
                statement_cache_size=0 if is_pooler(self._dsn) else 500,
                server_settings=self._server_settings(),
            )
        async with self.session():
            pass

    def _server_settings(self) -> dict[str, str]:
        if is_pooler(self._dsn):  # it knows few settings, and refuses connections for others
            return {"application_name": self._name}
        return {"application_name": self._name, "lock_timeout": LOCK_TIMEOUT, **SETTINGS}

    def _too_long(self, error: Exception) -> Exception:
        """Return SlowStatementError where others were answered meanwhile, else `error` itself."""
        lately = self._loop.time() - self._answered < COMMAND_TIMEOUT / 2
        return SlowStatementError() if lately else error

    async def close(self) -> None:
        """Close all connections; statements under way have 2 s."""
        if self._pool is None:
            return
        try:
            await asyncio.wait_for(self._pool.close(), 2)
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Yield a connection for single statements, each its own transaction."""
        async with translated():
            connection = await self._acquire()
            try:
                yield Session(connection, self.queries)
            except asyncpg.InternalClientError:
                connection.terminate()
                raise
            except _TOO_LONG as error:
                raise self._too_long(error) from error
            finally:
                await self._release(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """Yield a connection within one transaction."""
        async with self.session() as session, session._connection.transaction():  # noqa: SLF001
            yield session

    async def row(self, name: str, /, **args: Any) -> Any:
        """Return the first row of the named query, or None."""
        return await self._run("fetchrow", name, args)

    async def rows(self, name: str, /, **args: Any) -> list[Any]:
        """Return all rows of the named query."""
        return list(await self._run("fetch", name, args))

    async def value(self, name: str, /, **args: Any) -> Any:
        """Return the first column of the first row of the named query, or None."""
        return await self._run("fetchval", name, args)

    async def _run(self, method: str, name: str, args: Mapping[str, Any]) -> Any:
        """Run one query without the cost of a session: this is on every request's path."""
        query = self.queries[name]
        try:
            connection = await self._acquire()
            try:
                result = await getattr(connection, method)(query.sql, *query.bind(args))
            except asyncpg.InternalClientError:  # it was just cut, and the driver lost its thread
                connection.terminate()
                raise
            except _TOO_LONG as error:
                raise self._too_long(error) from error
            finally:
                await self._release(connection)
        except _OURS as error:
            raise in_our_words(error) from error
        self._answered = self._loop.time()
        return result

    async def _acquire(self) -> Any:
        """Return a connection; the semaphore before the pool keeps the order of the callers."""
        if self._pool is None or not self._ours():
            raise DatabaseAwayError
        async with asyncio.timeout(ACQUIRE_TIMEOUT):  # wait_for may lose a cancel before 3.12
            await self._turns.acquire()
        try:
            connection = await self._pool.acquire()
        except BaseException:
            self._turns.release()
            raise
        if self._ours():  # it may have taken long to connect
            return connection
        await self._release(connection)
        raise DatabaseAwayError

    async def _release(self, connection: Any) -> None:
        try:
            await self._pool.release(connection)
        finally:
            self._turns.release()


async def _keep(_: Any) -> None:
    """Skip the driver's reset, a second round trip: no query changes its session's state."""


async def _init(connection: Any) -> None:
    for kind in ("json", "jsonb"):
        await connection.set_type_codec(
            kind,
            schema="pg_catalog",
            encoder=lambda value: orjson.dumps(value).decode(),
            decoder=orjson.loads,
        )


def is_pooler(dsn: str) -> bool:
    """Return whether it is Supabase's transaction pooler, which keeps no prepared statements."""
    parts = urlsplit(dsn)
    return parts.port == 6543 or "pgbouncer" in parse_qs(parts.query)  # noqa: PLR2004


def migrations() -> list[Path]:
    """Return the files of sql/migrations in their order."""
    return sorted((SQL / "migrations").glob("*.sql"))


async def migrate(dsn: str) -> list[str]:
    """Apply new migrations, one process at a time; return the names applied."""
    async with translated():
        connection = await asyncpg.connect(dsn, timeout=ACQUIRE_TIMEOUT, statement_cache_size=0)
    try:
        return await apply(connection, migrations())
    finally:
        await connection.close(timeout=2)


async def apply(connection: Any, files: Sequence[Path]) -> list[str]:
    """Apply those of `files` that the database does not have; return their names."""
    applied: list[str] = []
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations ("
            " name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        rows = await connection.fetch("SELECT name FROM schema_migrations")
        known = {row["name"] for row in rows}
        for path in files:
            if path.stem in known:
                continue
            await connection.execute(path.read_text(encoding="utf-8"))
            await connection.execute("INSERT INTO schema_migrations VALUES ($1)", path.stem)
            applied.append(path.stem)
            log.info("migration_applied", migration=path.stem)
    return applied
