"""A campaign execution: a finite job that starts its entries, some at a time, and sums up."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import structlog

from vpt.actors.queue import Queue, insert, remember
from vpt.device_models import any_of
from vpt.errors import ConflictError, DatabaseAwayError, NotFoundError, SlowStatementError
from vpt.events import Events
from vpt.model import (
    CampaignProgress,
    ErrorKind,
    ExecutionStatus,
    Json,
    NewCampaign,
    NewExecution,
    RequestKey,
)
from vpt.store.db import Database, Session
from vpt.store.patience import patiently
from vpt.submission import TestCaseChangedError, filled_steps

log = structlog.get_logger(__name__)

T = TypeVar("T")
_PAUSE = 0.5  # seconds between tries while the database is away, and after a crash
_WORST_FIRST = (ExecutionStatus.CANCELLED, ExecutionStatus.FAILED, ExecutionStatus.ERROR)
_BROKEN = "The campaign could not go on, by a mistake of the server: see its log."
#: What a result's request has not: the steps stand once for all, the priority is the campaign's.
_REQUESTED = tuple(
    field.name
    for field in fields(NewExecution)
    if field.name not in ("steps", "priority", "secret_steps", "sealed_values")
)


class Finals(Protocol):
    """Knows when an execution is final, and what its status is then."""

    async def final_status(self, execution_id: str) -> ExecutionStatus:
        """Wait until it is final."""

    async def cancel(self, execution_id: str, user_id: str) -> None:
        """End it; ConflictError when it is final."""


async def store_campaign(db: Database, new: NewCampaign, key: RequestKey | None) -> str:
    """Store a campaign execution with all that it will start, and its key; return its id.

    Raises TestCaseChangedError when a test case is not the one any more that was checked.
    """
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
        await _copy_steps(session, campaign_execution_id, new)
        rows = [
            {
                "campaign_execution_id": campaign_execution_id,
                "position": position,
                "test_case_id": entry.test_case_id,
                "request": {name: getattr(entry, name) for name in _REQUESTED},
            }
            for position, entry in enumerate(new.entries)
        ]
        await session.many("insert_campaign_result", rows)
    return campaign_execution_id


async def _copy_steps(session: Session, campaign_execution_id: str, new: NewCampaign) -> None:
    """Copy the steps of each test case within the database: together they may be gigabytes."""
    versions = {entry.test_case_id: entry.test_case_version for entry in new.entries}
    copied = await session.value(
        "copy_campaign_steps",
        campaign_execution_id=campaign_execution_id,
        test_case_ids=list(versions),
        versions=list(versions.values()),
    )
    if copied != len(versions):
        raise TestCaseChangedError


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
        self._published = 0  # so many verdicts have their event
        self._publishing = asyncio.Lock()
        self._stopped = False
        self.cancelled = False
        self._total = 0

    @property
    def pending(self) -> int:
        """Count the entries that did not begin: they wait like what is queued."""
        return len(self._pending)

    async def run(self) -> None:
        """Run it to its end; a crash is tried once more, a second one without progress ends it.

        Without that end a campaign that cannot go on, by a stored value or a bug, would be started
        again by each sweep for ever.
        """
        structlog.contextvars.clear_contextvars()  # it outlives the request that started it
        with structlog.contextvars.bound_contextvars(campaign_execution_id=self.id):
            over_before = -1
            while True:
                try:
                    return await self._run()
                except Exception as error:  # whatever it is: the campaign must come to an end
                    log.exception("campaign_crashed")
                    if not _is_away(error):
                        if len(self._verdicts) <= over_before:
                            return await self._give_up()
                        over_before = len(self._verdicts)
                await asyncio.sleep(_PAUSE)

    async def _run(self) -> None:
        """Work through the entries, `parallelism` at a time, then sum up."""
        job = await self._load()
        if job is None:
            return
        log.info("campaign_started", total=self._total, seq=job["seq"])
        await self._publish_verdicts()
        async with asyncio.TaskGroup() as workers:
            for number in range(min(job["parallelism"], self.pending)):
                workers.create_task(self._work(job), name=f"campaign {self.id}: {number}")
        await self._finish(self._verdict())

    async def _give_up(self) -> None:
        """End it as an error of the server: nothing more starts, what is under way is cancelled."""
        await patiently("campaign", lambda: self._db.row("skip_campaign_rest", id=self.id))
        job = await self._load()
        if job is None:
            return
        # The rest is skipped, so all that is pending has begun. A campaign must not be over while
        # an execution of it is not, so each is cancelled and then awaited.
        under_way = [entry["execution_id"] for entry in self._pending]
        self._pending.clear()
        for execution_id in under_way:
            await self._cancel(execution_id, job["requested_by"])
        for execution_id in under_way:
            self._count(job, await self._finals.final_status(execution_id))
        await self._publish_verdicts()
        await self._finish(ExecutionStatus.ERROR, ErrorKind.INTERNAL, _BROKEN)

    async def _load(self) -> Any:
        """Read the campaign execution and where its entries are; None when it is over.

        It may be: the sweep starts a job for each row that it saw running.
        """
        job = await patiently("campaign", lambda: self._db.row("campaign_job", id=self.id))
        if ExecutionStatus(job["status"]).final:
            return None
        entries = await patiently(
            "campaign", lambda: self._db.rows("campaign_entries_of", id=self.id)
        )
        self._sort(job, entries)
        return job

    def _sort(self, job: Any, entries: list[Any]) -> None:
        """Sort the entries: over, begun, still to begin; the begun come first."""
        self._total = job["total"]
        self._published = job["seq"] - 1
        self.cancelled = self.cancelled or job["cancelled"]
        self._verdicts.clear()  # after a crash the rows say it all anew
        begun, fresh = [], []
        for entry in entries:
            status = ExecutionStatus(entry["status"]) if entry["status"] else None
            if status is not None and status.final:
                self._count(job, status)
            elif status is not None:  # nobody waits for it since the crash
                begun.append(entry)
            elif not entry["skipped"]:
                fresh.append(entry)
        # The begun first: they hold places of `parallelism` already.
        self._pending = deque([*begun, *fresh])

    async def _work(self, job: Any) -> None:
        while self._pending:
            entry = self._pending.popleft()
            execution_id = entry["execution_id"]
            if execution_id is None:
                if self._stopped or self.cancelled:  # what began is still awaited
                    continue
                execution_id = await self._start(entry, job["priority"])
                if execution_id is None:
                    continue
            if self.cancelled:  # while it was being stored, or just before a crash
                await self._cancel(execution_id, job["requested_by"])
            self._count(job, await self._finals.final_status(execution_id))
            await self._publish_verdicts()

    async def _cancel(self, execution_id: str, user_id: str) -> None:
        with suppress(ConflictError, NotFoundError):  # it is over already
            await patiently("campaign", lambda: self._finals.cancel(execution_id, user_id))

    def _count(self, job: Any, status: ExecutionStatus) -> None:
        self._verdicts.append(status)
        bad = status in (ExecutionStatus.FAILED, ExecutionStatus.ERROR)
        self._stopped = self._stopped or (bad and job["stop_on_failure"])

    async def _start(self, entry: Any, priority: int) -> str | None:
        """Start an entry; return its execution's id, None when it was skipped meanwhile.

        Execution and link are stored in one transaction; an id made before makes it repeatable.
        """
        position, execution_id = entry["position"], uuid4().hex
        async with self._queue.preparing:  # the steps of few entries are in memory at a time
            new = await patiently("campaign", lambda: self._request(position, priority))
            timeout_s = new.queue_timeout_s or self._queue_timeout
            queued_at = None
            with suppress(_AlreadyTakenError):
                queued_at = await patiently(
                    "campaign", lambda: self._insert(position, execution_id, new, timeout_s)
                )
        if queued_at is None:  # whatever took the entry, its row says which execution it has
            row = await patiently(
                "campaign", lambda: self._db.row("campaign_entry", id=self.id, position=position)
            )
            return row["execution_id"] if row else None
        # If the server dies here, the queue's sweep finds the row.
        self._queue.enter(execution_id, new, timeout_s, queued_at)
        return execution_id

    async def _request(self, position: int, priority: int) -> NewExecution:
        row = await self._db.row("campaign_request", id=self.id, position=position)
        new = _new_execution(row["request"], priority)
        if new.steps:  # an older vpt stored it, with the steps filled in
            return new
        filled = await filled_steps(row["steps"], new.parameters)
        return replace(new, steps=filled.steps, secret_steps=filled.secret)

    async def _insert(
        self, position: int, execution_id: str, new: NewExecution, timeout_s: float
    ) -> float:
        """Store the execution and link it to its entry; return when it was queued.

        Raises _AlreadyTakenError when the entry has an execution or is skipped: our own connection
        may have broken after COMMIT. Between the look and the link another one may be faster, so
        the link decides; without the rollback the entry would then run twice.
        """
        async with self._db.transaction() as session:
            entry = await session.row("campaign_entry", id=self.id, position=position)
            if entry is None or entry["execution_id"] is not None or entry["skipped"]:
                raise _AlreadyTakenError
            queued_at = await insert(session, execution_id, new, timeout_s, self.id)
            linked = await session.row(
                "link_campaign_result",
                campaign_execution_id=self.id,
                position=position,
                execution_id=execution_id,
            )
            if linked is None:
                raise _AlreadyTakenError
        return queued_at

    async def _finish(
        self, status: ExecutionStatus, kind: ErrorKind | None = None, error: str | None = None
    ) -> None:
        await patiently("campaign", lambda: self._db.row("skip_campaign_rest", id=self.id))
        # The numbers 1 (it began) to `_published` + 1 are taken; the end has one of its own.
        done, seq = len(self._verdicts), self._published + 2
        await patiently(
            "campaign",
            lambda: self._db.row(
                "finish_campaign", id=self.id, status=status, seq=seq, error_kind=kind, error=error
            ),
        )
        log.info("campaign_completed", status=status, done=done, total=self._total)
        self._publish(status, done, seq)

    def _verdict(self) -> ExecutionStatus:
        """Return the worst status of all, which is the campaign's."""
        if self.cancelled:
            return ExecutionStatus.CANCELLED
        worst = (status for status in _WORST_FIRST if status in self._verdicts)
        return next(worst, ExecutionStatus.COMPLETED)

    async def _publish_verdicts(self) -> None:
        """Publish an event for each verdict, stored first and in order; the last one's is the end.

        So an event's number says how many were over then, and a replay needs no rows of its own.
        """
        # One at a time: two workers could store the same number.
        async with self._publishing:
            while self._published < min(len(self._verdicts), self._total - 1):
                done = self._published + 1
                await self._store_seq(done + 1)
                self._published = done
                self._publish(ExecutionStatus.RUNNING, done, done + 1)

    async def _store_seq(self, seq: int) -> None:
        await patiently("campaign", lambda: self._db.row("store_campaign_seq", id=self.id, seq=seq))

    def _publish(self, status: ExecutionStatus, done: int, seq: int) -> None:
        self._events.publish(CampaignProgress(self.id, done, self._total, status, seq))


class _AlreadyTakenError(Exception):
    """The entry has an execution already, or was skipped."""


def _is_away(error: Exception) -> bool:
    """Return True when nothing but an absent database is the reason: that passes.

    A statement that stays too slow while others are not does not pass: `patiently` has tried it.
    """
    if isinstance(error, ExceptionGroup):
        return all(map(_is_away, error.exceptions))
    return isinstance(error, DatabaseAwayError) and not isinstance(error, SlowStatementError)


def _new_execution(stored: Json, priority: int) -> NewExecution:
    asked = stored["device_model"]
    return NewExecution(
        **stored
        | {
            "device_model": asked if isinstance(asked, str) else any_of(asked),
            "requirements": tuple(stored["requirements"]),
            "steps": tuple(stored.get("steps", ())),
            "priority": priority,
        }
    )
