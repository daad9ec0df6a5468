"""Audit: who wrote what, when and from where; written at once, in a crowd several together."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import count, islice

import structlog
from msgspec import Struct, field, json

from vpt.errors import DatabaseAwayError
from vpt.store.db import Database

log = structlog.get_logger(__name__)

#: Seconds between two batches; between tries while the database is away.
_PAUSE, _AWAY = 0.2, 1.0
#: Seconds for the last entries at the stop.
_LAST = 2.0
#: Entries of one statement; entries kept while the database is away, the oldest go first.
_AT_ONCE, _KEPT = 1000, 100_000


#: What is sent twice is written once by its id, which need not be secret.
_FIRST, _numbers = secrets.token_hex(8), count(1)


def _new_id() -> str:
    return f"{_FIRST}{next(_numbers):012x}"


def _now() -> datetime:
    return datetime.now(UTC)


class Entry(Struct, frozen=True):
    """One request that was to change something, and what it was answered."""

    user_id: str
    role: str
    token_id: str | None
    method: str
    route: str
    path: str
    status: int
    peer: str
    request_id: str
    id: str = field(default_factory=_new_id)
    at: datetime = field(default_factory=_now)


class Audit:
    """Takes entries at once, and writes them in batches for as long as it runs."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: deque[Entry] = deque()
        self._come = asyncio.Event()

    def note(self, entry: Entry) -> None:
        """Keep an entry for the next batch; never waits."""
        if len(self._waiting) >= _KEPT:
            lost = self._waiting.popleft()
            log.error("audit_lost", at=lost.at, user_id=lost.user_id, path=lost.path)
        self._waiting.append(entry)
        self._come.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write for as long as the context lasts, and the last ones at its end."""
        task = asyncio.create_task(self._write_for_ever(), name="audit")
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        try:
            async with asyncio.timeout(_LAST):
                await self.flush()
        except (DatabaseAwayError, TimeoutError):
            log.error("audit_lost", entries=len(self._waiting))  # noqa: TRY400 (it says it all)

    async def _write_for_ever(self) -> None:
        while True:
            await self._come.wait()
            self._come.clear()
            try:
                await self.flush()
            except DatabaseAwayError:
                self._come.set()
                await asyncio.sleep(_AWAY)
            else:
                await asyncio.sleep(_PAUSE)

    async def flush(self) -> None:
        """Write what waits; raises DatabaseAwayError, and then it waits on.

        An entry whose answer was lost on the way is sent again: its id keeps it one.
        """
        for _ in range(0, len(self._waiting), _AT_ONCE):  # what comes meanwhile has its own turn
            batch = list(islice(self._waiting, _AT_ONCE))
            try:
                await self._db.row("store_audit", entries=json.encode(batch).decode())
            except DatabaseAwayError:
                raise
            except Exception:
                # A mistake of ours: the next entries must not wait behind it for ever.
                log.exception("audit_lost", entries=len(batch))
            written = {entry.id for entry in batch}
            while self._waiting and self._waiting[0].id in written:
                self._waiting.popleft()
