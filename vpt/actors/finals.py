"""Waiting until an execution, or a campaign execution, is final."""

from __future__ import annotations

import asyncio
from typing import Any

from vpt.events import Events
from vpt.model import CampaignProgress, Event, ExecutionStatus, TestProgress
from vpt.store.db import Database


class FinalWaits:
    """Wakes requests and jobs that wait for a final status, by the id of what they wait for."""

    def __init__(self, db: Database, events: Events) -> None:
        self._db = db
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        events.subscribe(self._on_event)

    def __len__(self) -> int:
        return len(self._waiters)

    async def until(self, subject: str, seconds: float, query: str, **args: Any) -> None:
        """Return when the status that `query` reads is final, after `seconds` at the latest."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(subject, set())
        waiters.add(future)  # before the row is read, so that an end in between is not missed
        try:
            row = await self._db.row(query, **args)
            if row is not None and not ExecutionStatus(row["status"]).final:
                await asyncio.wait([future], timeout=seconds)
        finally:
            waiters.discard(future)
            if not waiters and self._waiters.get(subject) is waiters:
                del self._waiters[subject]

    def _on_event(self, event: Event) -> None:
        match event:
            case TestProgress():
                subject = event.execution_id
            case CampaignProgress():
                subject = event.campaign_execution_id
            case _:
                return
        for future in self._waiters.pop(subject, ()) if event.status.final else ():
            if not future.done():
                future.set_result(None)
