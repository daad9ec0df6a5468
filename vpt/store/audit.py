"""Audit: which user changed what, when and from where."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count

import structlog
from msgspec import Struct, field, json

from vpt.errors import DatabaseAwayError
from vpt.store.batch import BatchWriter
from vpt.store.db import Database

log = structlog.get_logger(__name__)

#: Seconds between two batches.
_PAUSE = 0.2
#: Seconds for the last entries at the stop.
_LAST = 2.0
#: Entries of one statement; entries kept while the database is away, the oldest go first.
_AT_ONCE, _KEPT = 1000, 100_000


#: An entry that is sent twice is stored once, by its id, which need not be secret.
_FIRST, _numbers = secrets.token_hex(8), count(1)


def _new_id() -> str:
    return f"{_FIRST}{next(_numbers):012x}"


def _now() -> datetime:
    return datetime.now(UTC)


class Entry(Struct, frozen=True):
    """One request that was to change something, and its status; `count` such refused ones."""

    user_id: str
    role: str
    token_id: str | None
    method: str
    route: str
    path: str
    status: int
    peer: str
    request_id: str
    count: int = 1
    id: str = field(default_factory=_new_id)
    at: datetime = field(default_factory=_now)


class Audit:
    """Writes the audit: `note` never waits, and what the database does not take yet is kept."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.writer = BatchWriter(
            self._store, name="audit", most=_AT_ONCE, pause=_PAUSE, lost=_log_lost
        )

    def note(self, entry: Entry) -> None:
        """Keep an entry for the next batch; never waits."""
        if len(self.writer.waiting) >= _KEPT:
            lost, _ = self.writer.waiting.popleft()
            log.error("audit_lost", at=lost.at, user_id=lost.user_id, path=lost.path)
        self.writer.note(entry)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write for as long as the context lasts, and the last entries at its end."""
        yield
        await self.writer.close()
        try:
            async with asyncio.timeout(_LAST):
                await self.flush()
        except (DatabaseAwayError, TimeoutError):
            log.error("audit_lost", entries=len(self.writer.waiting))  # noqa: TRY400 (it says it all)

    async def flush(self) -> None:
        """Write what waits now; DatabaseAwayError when it has to wait on."""
        await self.writer.flush()

    async def _store(self, entries: list[Entry]) -> None:
        """Store entries; what is sent again, as its answer was lost, is known by its id."""
        await self._db.row("store_audit", entries=json.encode(entries).decode())


def _log_lost(entries: Sequence[Entry], error: Exception | None) -> None:
    """Log entries that the database refuses: a mistake of ours, and no others wait behind it."""
    log.error("audit_lost", entries=len(entries), exc_info=error)
