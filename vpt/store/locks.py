"""Who holds a lock: the sessions of others that somebody waits for, in words."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import asyncpg

from vpt.background import Background
from vpt.errors import DatabaseAwayError
from vpt.store.connect import connect

_FIRST_LOOK, _LOOK = 0.1, 0.5  # seconds from the begin of a wait to a look, and between two
_COLUMNS = (
    "a.pid, a.application_name, a.usename, a.client_addr, coalesce(a.xact_start, a.backend_start)"
)
_BLOCKING = (
    f"SELECT {_COLUMNS} FROM unnest(pg_blocking_pids($1)) AS b (pid)"  # noqa: S608 (constants)
    " JOIN pg_stat_activity a USING (pid) ORDER BY a.pid"
)
_ADVISORY = (
    f"SELECT {_COLUMNS} FROM pg_locks l JOIN pg_stat_activity a USING (pid)"  # noqa: S608
    " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
    " AND (l.classid::int8 << 32 | l.objid::int8) = $1 AND l.pid <> pg_backend_pid()"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " ORDER BY a.pid"
)


@dataclass(frozen=True, slots=True)
class Holder:
    """A session of the database; `since` is the begin of its transaction, else of the session.

    What the account may not see of others is None.
    """

    pid: int
    application: str
    user: str | None
    address: str | None
    since: datetime | None

    def __str__(self) -> str:
        """Return it as a part of a sentence."""
        what = f"process {self.pid} of PostgreSQL ({self.application or 'without a name'}"
        since = f", since {self.since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if self.since else ""
        return f"{what}, user {self.user}, from {self.address or 'a local socket'}{since})"


async def holders_of_advisory_lock(connection: Any, key: int) -> list[Holder]:
    """Return the sessions that hold this advisory lock."""
    return holders_of(await connection.fetch(_ADVISORY, key))


def in_words(holders: Sequence[Holder]) -> str:
    """Return these sessions as a part of a sentence."""
    return "; ".join(map(str, holders)) or "a session that could not be found any more"


def holders_of(rows: Sequence[Any]) -> list[Holder]:
    """Build them of rows: pid, application_name, user, address, since when."""
    return [
        Holder(pid, name or "", user, str(address) if address else None, since)
        for pid, name, user, address, since in rows
    ]


class LockWatch:
    """Looks, over a connection of its own, for whom another connection waits."""

    def __init__(self, dsn: str, connection: Any) -> None:
        """Watch what `connection` waits for; it must not be in use yet."""
        self._dsn = dsn
        self._connection = connection
        self._holders: list[Holder] = []
        self._background = Background()

    def words(self) -> str:
        """Return whom it waited for last, as a part of a sentence."""
        return in_words(self._holders)

    async def __aenter__(self) -> LockWatch:
        """Start to look."""
        pid = await self._connection.fetchval("SELECT pg_backend_pid()")
        self._background.start(self._look(pid), "lock watch")
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Stop to look."""
        await self._background.close()

    async def _look(self, pid: int) -> None:
        await asyncio.sleep(_FIRST_LOOK)  # most locks are free, and no second connection is made
        with suppress(DatabaseAwayError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection = await connect(self._dsn, name="vpt lock watch")
            try:
                while True:
                    found = holders_of(await connection.fetch(_BLOCKING, pid))
                    self._holders = found or self._holders
                    await asyncio.sleep(_LOOK)
            finally:
                await connection.close(timeout=2)
