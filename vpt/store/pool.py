"""The pool of connections: turns in order, fewer where the server allows fewer, poolers noticed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import asyncpg
import orjson
import structlog

from vpt.background import Background
from vpt.store.connect import driver_dsn, is_pooler

log = structlog.get_logger(__name__)

#: What a pooler brings about between two statements: another session has the prepared ones.
NO_STATEMENT = (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError)
_STATEMENTS = 500  # prepared ones of a connection: more than sql/ has
_GROW = 10.0  # seconds until a connection that the server refused is tried again
_AGAIN = 0.1  # seconds between tries to get the only connection
_TOLD = 10.0  # seconds between two lines of the log that say that the pool is full
_PROCESS, _numbers = secrets.token_hex(6), count(1)


class PoolFullError(TimeoutError):
    """No connection became free in time."""


@dataclass(frozen=True, slots=True)
class Load:
    """How full a pool is: who waits now, and how many waited in vain since the start."""

    full: bool
    waiting: int
    refused: int


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection whose prepared statements have names that no other process uses.

    asyncpg counts from 1 in each process. Behind a pooler a statement of another process could then
    run under the name of ours; so it is not there, which is an error that harms nobody.
    """

    def _get_unique_id(self, prefix: str) -> str:
        return f"__vpt_{prefix}_{_PROCESS}_{next(_numbers):x}"


class Pool:
    """Connections to one database, given out in the order of the callers.

    All methods raise the driver's errors, and PoolFullError.
    """

    def __init__(
        self,
        dsn: str,
        size: int,
        *,
        name: str,
        settings: Mapping[str, str],
        timeout: float,
        command_timeout: float,
    ) -> None:
        """Set up `size` connections with these `settings`; both limits are in seconds.

        `name` is the application_name of their sessions.
        """
        self.size = size
        self.pooler = is_pooler(dsn)
        self._dsn = driver_dsn(dsn)
        self._name = name
        self._settings = settings
        self._timeout = timeout
        self._command_timeout = command_timeout
        self._pool: Any = None
        self._turns = asyncio.Semaphore(size)  # asyncpg's own queue is not fair
        self._allowed = size  # turns that exist: fewer while the server refuses connections
        self._growing: set[asyncio.TimerHandle] = set()
        self._switching = asyncio.Lock()
        self._background = Background()
        self._waiting = self._refused = 0
        self._told = float("-inf")

    @property
    def use(self) -> tuple[int, int, int]:
        """How many connections are at work, how many are idle, and how many there may be."""
        if self._pool is None:
            return 0, 0, self.size
        idle = self._pool.get_idle_size()
        return self._pool.get_size() - idle, idle, self.size

    @property
    def load(self) -> Load:
        """How full it is."""
        return Load(self._turns.locked(), self._waiting, self._refused)

    # ------------------------------------------------------------ life

    async def open(self) -> None:
        """Get ready; nothing is connected yet."""
        self._loop = asyncio.get_running_loop()
        self._pool = await self._make()

    async def connect(self) -> None:
        """Connect once, and look whether a transaction pooler stands in front of the database."""
        try:
            suspect = not self.pooler and await self._is_behind_pooler()
        except NO_STATEMENT as error:
            await self.drop_statements(error)
        except asyncpg.ProtocolViolationError as error:
            if "startup parameter" not in str(error):  # PgBouncer's words for our settings
                raise
            await self.drop_statements(error)
        else:
            if suspect:
                await self.drop_statements(None)
        await self.release(await self.acquire())

    async def _make(self) -> Any:
        # A pooler knows few settings, and refuses connections for others.
        settings = {} if self.pooler else self._settings
        return await asyncpg.create_pool(
            self._dsn,
            min_size=0,  # it would log a traceback for each try to restore a higher one
            max_size=self.size,
            command_timeout=self._command_timeout,
            timeout=self._timeout,
            init=_init,
            reset=_keep,
            connection_class=_Connection,
            statement_cache_size=0 if self.pooler else _STATEMENTS,
            server_settings={"application_name": self._name, **settings},
        )

    async def close(self) -> None:
        """Close all connections; statements under way have 2 s."""
        for timer in self._growing:
            timer.cancel()
        await self._background.close()
        if self._pool is not None:
            await _close(self._pool)

    def terminate(self) -> None:
        """Cut all connections at once."""
        if self._pool is not None:
            self._pool.terminate()

    # ------------------------------------------------------------ poolers

    async def _is_behind_pooler(self) -> bool:
        """Return whether statements of one connection reach sessions that others use, too.

        PostgreSQL tells each connection the process that serves it; a pooler invents a number.
        Where it keeps a session for each connection, prepared statements are of use all the same.
        """
        first = await self.acquire()
        try:
            process = await first.fetchval("SELECT pg_backend_pid()")
            if process == first.get_server_pid():
                return False
            return self.size == 1 or await self._is_shared(process)
        finally:
            await self.release(first)

    async def _is_shared(self, process: int) -> bool:
        """Return whether a second connection is served by the process of the first, too."""
        second = await self.acquire()
        try:
            return bool(await second.fetchval("SELECT pg_backend_pid()") == process)
        finally:
            await self.release(second)

    async def drop_statements(self, error: Exception | None) -> bool:
        """Go on without prepared statements; return False when there are none already."""
        async with self._switching:
            if self.pooler:
                return False
            self.pooler = True
            log.warning("database_pooler_detected", error=error and str(error))
            old, self._pool = self._pool, await self._make()
            self._background.start(_close(old), "pool with prepared statements")
            return True

    # ------------------------------------------------------------ giving out

    async def acquire(self) -> Any:
        """Return a connection; the turns before asyncpg's pool keep the order of the callers."""
        deadline = self._loop.time() + self._timeout
        await self._take_turn(deadline)
        while True:
            try:
                return await self._pool.acquire()
            except asyncpg.TooManyConnectionsError as error:
                if self._loop.time() >= deadline:
                    self._turns.release()
                    raise
                await self._give_way(deadline, error)
            except BaseException:
                self._turns.release()
                raise

    async def release(self, connection: Any) -> None:
        """Return a connection to its pool, which may have been replaced meanwhile."""
        try:
            await connection._holder._pool.release(connection)  # noqa: SLF001
        finally:
            self._turns.release()

    async def _take_turn(self, deadline: float) -> None:
        if not self._turns.locked():
            await self._turns.acquire()
            return
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):  # wait_for may lose a cancel before 3.12
                await self._turns.acquire()
        except TimeoutError as error:
            self._refuse()
            raise PoolFullError from error
        finally:
            self._waiting -= 1

    async def _give_way(self, deadline: float, error: Exception) -> None:
        """Wait for a turn with fewer of them: the server refuses to open one more connection.

        The turn that is held is lost. The last one never is: others may have all connections.
        """
        if self._allowed > 1:
            self._shrink(error)
        else:
            self._turns.release()
            await asyncio.sleep(_AGAIN)
        await self._take_turn(deadline)

    def _shrink(self, error: Exception) -> None:
        self._allowed -= 1
        log.warning("database_connections_refused", allowed=self._allowed, error=str(error))

        def grow() -> None:
            self._growing.discard(timer)
            self._allowed += 1
            self._turns.release()

        timer = self._loop.call_later(_GROW, grow)
        self._growing.add(timer)

    def _refuse(self) -> None:
        """Count one that got no connection, and log it now and then."""
        self._refused += 1
        now = self._loop.time()
        if now - self._told >= _TOLD:
            self._told = now
            log.warning(
                "database_pool_full",
                connections=self._allowed,
                waiting=self._waiting,
                refused=self._refused,
            )


async def _close(pool: Any) -> None:
    try:
        await asyncio.wait_for(pool.close(), 2)
    except TimeoutError:
        pool.terminate()


async def _keep(_: Any) -> None:
    """Skip the driver's reset, a second round trip: no query changes its session's state."""


async def _init(connection: Any) -> None:
    # In binary, which for JSON is its text and for JSONB a byte and its text: so no text is made of
    # it on the way, which would be up to four times as large.
    for kind, first in (("json", b""), ("jsonb", b"\x01")):
        await connection.set_type_codec(
            kind,
            schema="pg_catalog",
            encoder=partial(_encoded, first),
            decoder=partial(_decoded, len(first)),
            format="binary",
        )


def _encoded(first: bytes, value: Any) -> bytes:
    return first + orjson.dumps(value)


def _decoded(start: int, value: bytes) -> Any:
    return orjson.loads(memoryview(value)[start:])
