"""Audit: who wrote what, when and from where; written together a moment after it happened."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from uuid import uuid4

import structlog
from msgspec import Struct

from vpt.db import Database
from vpt.errors import DatabaseAwayError

log = structlog.get_logger(__name__)

#: Seconds that entries wait for company; between tries while the database is away.
_PAUSE, _AWAY = 0.2, 1.0
#: Seconds for the last entries at the stop.
_LAST = 2.0
#: Entries of one statement; entries kept while the database is away, the oldest go first.
_AT_ONCE, _KEPT = 1000, 100_000


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


class Audit:
    """Takes entries at once, and writes them in batches for as long as it runs."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: deque[tuple[str, datetime, Entry]] = deque()
        self._come = asyncio.Event()

    def note(self, entry: Entry) -> None:
        """Keep an entry for the next batch; never waits."""
        if len(self._waiting) >= _KEPT:
            _, at, lost = self._waiting.popleft()
            log.error("audit_lost", at=at, user_id=lost.user_id, path=lost.path)
        self._waiting.append((uuid4().hex, datetime.now(UTC), entry))
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
            await asyncio.sleep(_PAUSE)
            self._come.clear()
            try:
                await self.flush()
            except DatabaseAwayError:
                self._come.set()
                await asyncio.sleep(_AWAY)

    async def flush(self) -> None:
        """Write what waits; raises DatabaseAwayError, and then it waits on.

        An entry whose answer was lost on the way is sent again: its id keeps it one.
        """
        while self._waiting:
            batch = list(islice(self._waiting, _AT_ONCE))
            entries = [entry for _, _, entry in batch]
            await self._db.row(
                "store_audit",
                ids=[one for one, _, _ in batch],
                ats=[at for _, at, _ in batch],
                user_ids=[entry.user_id for entry in entries],
                roles=[entry.role for entry in entries],
                token_ids=[entry.token_id for entry in entries],
                methods=[entry.method for entry in entries],
                routes=[entry.route for entry in entries],
                paths=[entry.path for entry in entries],
                statuses=[entry.status for entry in entries],
                peers=[entry.peer for entry in entries],
                request_ids=[entry.request_id for entry in entries],
            )
            written = {one for one, _, _ in batch}
            while self._waiting and self._waiting[0][0] in written:
                self._waiting.popleft()
