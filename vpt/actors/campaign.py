"""A campaign execution: a finite job that starts its entries, some at a time, and sums up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import structlog

from vpt.actors.queue import Queue, insert, remember
from vpt.errors import ConflictError, DatabaseAwayError
from vpt.events import Events
from vpt.model import (
    CampaignProgress,
    ExecutionStatus,
    Json,
    NewCampaign,
    NewExecution,
    RequestKey,
)
from vpt.store.db import Database

log = structlog.get_logger(__name__)

T = TypeVar("T")
_PAUSE = 0.5  # seconds between tries while the database is away
_ORDER = (ExecutionStatus.CANCELLED, ExecutionStatus.FAILED, ExecutionStatus.ERROR)


class Finals(Protocol):
    """Who knows when an execution is final, and what it is then."""

    async def final_status(self, execution_id: str) -> ExecutionStatus:
        """Wait until it is final."""

    async def cancel(self, execution_id: str, user_id: str) -> None:
        """End it; ConflictError when it is final."""


async def store_campaign(db: Database, new: NewCampaign, key: RequestKey | None) -> str:
    """Store a campaign execution with all that it will start, and its key; give its id."""
    campaign_execution_id = uuid4().hex
    async with db.transaction() as session:
        if key is not None:
            await remember(session, key, campaign_execution_id)
        await session.row(
            "insert_campaign_execution",
            id=campaign_execution_id,
            campaign_id=new.campaign_id,
            name=new.name,
            stop_on_failure=new.stop_on_failure,
            parallelism=new.parallelism,
            priority=new.priority,
            requested_by=new.requested_by,
            total=len(new.entries),
        )
        rows = [
            {
                "campaign_execution_id": campaign_execution_id,
                "position": position,
                "test_case_id": entry.test_case_id,
                "request": asdict(entry),
            }
            for position, entry in enumerate(new.entries)
        ]
        await session.many("insert_campaign_result", rows)
    return campaign_execution_id


class CampaignJob:
    """One campaign execution under way; after a restart it goes on where it was."""

    def __init__(
        self,
        campaign_execution_id: str,
        db: Database,
        queue: Queue,
        events: Events,
        finals: Finals,
        queue_timeout: float,
    ) -> None:
        self.id = campaign_execution_id
        self._db = db
        self._queue = queue
        self._events = events
        self._finals = finals
        self._queue_timeout = queue_timeout
        self._pending: deque[Any] = deque()
        self._verdicts: list[ExecutionStatus] = []
        self._told = 0  # so many verdicts have their event
        self._telling = asyncio.Lock()
        self._stopped = False
        self.cancelled = False
        self._total = 0

    @property
    def pending(self) -> int:
        """Count the entries that did not begin: they wait like what stands in line."""
        return len(self._pending)

    async def run(self) -> None:
        """Work through the entries, `parallelism` at a time, then sum up."""
        structlog.contextvars.clear_contextvars()  # it outlives the request that started it
        with structlog.contextvars.bound_contextvars(campaign_execution_id=self.id):
            job = await patiently(lambda: self._db.row("campaign_job", id=self.id))
            if ExecutionStatus(job["status"]).final:  # it ended while it was being started anew
                return
            entries = await patiently(lambda: self._db.rows("campaign_entries_of", id=self.id))
            self._take_up(job, entries)
            log.info("campaign_started", total=self._total, seq=job["seq"])
            await self._tell()
            async with asyncio.TaskGroup() as workers:
                for number in range(min(job["parallelism"], self.pending)):
                    workers.create_task(self._work(job), name=f"campaign {self.id}: {number}")
            await self._sum_up()

    def _take_up(self, job: Any, entries: list[Any]) -> None:
        """Sort the entries: over, begun, still to begin; the begun come first."""
        self._total = job["total"]
        self._told = job["seq"] - 1
        self.cancelled = self.cancelled or job["cancelled"]
        begun, fresh = [], []
        for entry in entries:
            status = ExecutionStatus(entry["status"]) if entry["status"] else None
            if status is not None and status.final:
                self._count(job, status)
            elif status is not None:
                begun.append(entry)
            elif not entry["skipped"]:
                fresh.append(entry)
        self._pending.extend([*begun, *fresh])

    async def _work(self, job: Any) -> None:
        while self._pending:
            entry = self._pending.popleft()
            execution_id = entry["execution_id"]
            if execution_id is None:
                if self._stopped or self.cancelled:
                    continue
                execution_id = await self._start(entry, job["priority"])
            if self.cancelled:  # wished while it was being stored, or just before a crash
                await self._cancel(execution_id, job["requested_by"])
            self._count(job, await self._finals.final_status(execution_id))
            await self._tell()

    async def _cancel(self, execution_id: str, user_id: str) -> None:
        with suppress(ConflictError):  # it is over already
            await patiently(lambda: self._finals.cancel(execution_id, user_id))

    def _count(self, job: Any, status: ExecutionStatus) -> None:
        self._verdicts.append(status)
        bad = status in (ExecutionStatus.FAILED, ExecutionStatus.ERROR)
        self._stopped = self._stopped or (bad and job["stop_on_failure"])

    async def _start(self, entry: Any, priority: int) -> str:
        """Store execution and link in one transaction; an id made before makes it repeatable."""
        new = await patiently(lambda: self._request(entry["position"], priority))
        execution_id = uuid4().hex
        timeout_s = new.queue_timeout_s or self._queue_timeout
        found, queued_at = await patiently(
            lambda: self._insert(entry["position"], execution_id, new, timeout_s)
        )
        if queued_at is not None:
            self._queue.enter(execution_id, new, timeout_s, queued_at)
        return found

    async def _request(self, position: int, priority: int) -> NewExecution:
        """Load it only when it is needed: all of a campaign's steps may be a lot of memory."""
        stored = await self._db.value("campaign_request", id=self.id, position=position)
        return _request(stored, priority)

    async def _insert(
        self, position: int, execution_id: str, new: NewExecution, timeout_s: float
    ) -> tuple[str, float | None]:
        async with self._db.transaction() as session:
            known = await session.value("campaign_entry", id=self.id, position=position)
            if known is not None:  # stored, but our connection broke before we heard of it
                return known, None
            queued_at = await insert(session, execution_id, new, timeout_s, self.id)
            await session.row(
                "link_campaign_result",
                campaign_execution_id=self.id,
                position=position,
                execution_id=execution_id,
            )
        return execution_id, queued_at

    async def _sum_up(self) -> None:
        await patiently(lambda: self._db.row("skip_campaign_rest", id=self.id))
        status = self._verdict()
        seq = self._told + 2
        await patiently(lambda: self._db.row("finish_campaign", id=self.id, status=status, seq=seq))
        log.info("campaign_completed", status=status, done=len(self._verdicts), total=self._total)
        self._publish(status, len(self._verdicts), seq)

    def _verdict(self) -> ExecutionStatus:
        """The worst decides."""
        if self.cancelled:
            return ExecutionStatus.CANCELLED
        worst = (status for status in _ORDER if status in self._verdicts)
        return next(worst, ExecutionStatus.COMPLETED)

    async def _tell(self) -> None:
        """Give each verdict its event, stored first and in order; the last one's is the end.

        So an event's number tells what was done then, and a replay needs no rows of its own.
        """
        async with self._telling:
            while self._told < min(len(self._verdicts), self._total - 1):
                await self._tell_of(self._told + 1)

    async def _tell_of(self, done: int) -> None:
        seq = done + 1
        await patiently(lambda: self._db.row("store_campaign_seq", id=self.id, seq=seq))
        self._told = done
        self._publish(ExecutionStatus.RUNNING, done, seq)

    def _publish(self, status: ExecutionStatus, done: int, seq: int) -> None:
        self._events.publish(CampaignProgress(self.id, done, self._total, status, seq))


async def patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Do it, again and again while the database is away."""
    while True:
        try:
            return await work()
        except DatabaseAwayError:
            await asyncio.sleep(_PAUSE)


def _request(stored: Json, priority: int) -> NewExecution:
    return NewExecution(
        **stored
        | {
            "requirements": tuple(stored["requirements"]),
            "steps": tuple(stored["steps"]),
            "priority": priority,
        }
    )
