"""The database: the named queries of sql/ on a pool of connections, and errors as VptErrors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from vpt.errors import (
    ConflictError,
    DatabaseAwayError,
    DatabaseBusyError,
    SlowStatementError,
    UnprocessableError,
    VptError,
)
from vpt.store.connect import AWAY
from vpt.store.pool import NO_STATEMENT, Load, Pool, PoolFullError

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


_OURS = (asyncpg.IntegrityConstraintViolationError, *AWAY, *NO_STATEMENT)
_BUSY: tuple[tuple[type[BaseException], str], ...] = (
    (
        PoolFullError,
        "All connections to the database are in use, and none became free in time: try again in a"
        " moment, or raise DATABASE_POOL.",
    ),
    (
        asyncpg.TooManyConnectionsError,
        "The database refuses more connections: try again in a moment, or raise its limit.",
    ),
    (
        asyncpg.LockNotAvailableError,
        "Another session of the database holds what this needs: try again in a moment.",
    ),
    (
        asyncpg.ReadOnlySQLTransactionError,
        "The database takes no writes now: make it writable again.",
    ),
    (
        asyncpg.InsufficientResourcesError,
        "The database lacks disk space or memory: make room, then try again.",
    ),
)
#: What ends a statement that takes longer than COMMAND_TIMEOUT.
_TOO_LONG = (TimeoutError, asyncpg.QueryCanceledError)


def in_our_words(error: BaseException) -> BaseException:
    """Return the VptError of the driver's error; itself when vpt is at fault."""
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        known = CONSTRAINTS.get(error.constraint_name or "")
        return error if known is None else type(known)(known.message)
    words = next((words for kind, words in _BUSY if isinstance(error, kind)), None)
    return DatabaseAwayError() if words is None else DatabaseBusyError(words)


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
        self._ours = ours
        self.name = name
        self._answered = 0.0  # of the loop's clock: when a statement was last answered
        self._opened = False
        self._pool = Pool(
            dsn,
            size,
            name=name,
            settings={"lock_timeout": LOCK_TIMEOUT, **SETTINGS},
            timeout=ACQUIRE_TIMEOUT,
            command_timeout=COMMAND_TIMEOUT,
        )
        self.queries = read_queries()

    @property
    def use(self) -> tuple[int, int, int]:
        """How many connections are at work, how many are idle, and how many there may be."""
        return self._pool.use

    @property
    def load(self) -> Load:
        """How full the pool is."""
        return self._pool.load

    async def open(self) -> None:
        """Connect; DatabaseAwayError when nobody answers."""
        self._loop = asyncio.get_running_loop()
        async with translated():
            await self._pool.open()
            self._opened = True
            if not self._ours():
                raise DatabaseAwayError
            await self._pool.connect()

    def _too_long(self, error: Exception) -> Exception:
        """Return SlowStatementError where others were answered meanwhile, else `error` itself."""
        if self._pool.pooler:  # without lock_timeout: it may wait for another's lock
            return error
        lately = self._loop.time() - self._answered < COMMAND_TIMEOUT / 2
        return SlowStatementError() if lately else error

    async def close(self) -> None:
        """Close all connections; statements under way have 2 s."""
        self._opened = False
        await self._pool.close()

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
            except NO_STATEMENT as error:  # the caller's next try goes without them
                await self._pool.drop_statements(error)
                raise
            except _TOO_LONG as error:
                raise self._too_long(error) from error
            finally:
                await self._pool.release(connection)

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
            try:
                result = await self._run_once(method, query, args)
            except NO_STATEMENT as error:  # a pooler is in between, and nothing was run
                await self._pool.drop_statements(error)
                result = await self._run_once(method, query, args)
        except _OURS as error:
            raise in_our_words(error) from error
        self._answered = self._loop.time()
        return result

    async def _run_once(self, method: str, query: Query, args: Mapping[str, Any]) -> Any:
        connection = await self._acquire()
        try:
            return await getattr(connection, method)(query.sql, *query.bind(args))
        except asyncpg.InternalClientError:  # it was just cut, and the driver lost its thread
            connection.terminate()
            raise
        except _TOO_LONG as error:
            raise self._too_long(error) from error
        finally:
            await self._pool.release(connection)

    async def _acquire(self) -> Any:
        """Return a connection, unless the database may be another server's by now."""
        if not self._opened or not self._ours():
            raise DatabaseAwayError
        connection = await self._pool.acquire()
        if self._ours():  # it may have taken long to connect
            return connection
        await self._pool.release(connection)
        raise DatabaseAwayError
