"""The queue in the database: executions are queued, expire, are cancelled, are reconciled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any
from uuid import uuid4

import structlog

from vpt.actors import matching
from vpt.actors.dispatcher import Dispatcher
from vpt.actors.ledger import waiting_of
from vpt.actors.resting import backoff
from vpt.actors.state import action_name
from vpt.background import Background
from vpt.device_models import to_columns
from vpt.errors import ConflictError, DatabaseAwayError, NothingFitsError, UnavailableError
from vpt.events import Events
from vpt.model import (
    DeviceRequest,
    ErrorKind,
    ExecutionStatus,
    NewExecution,
    RequestKey,
    Submitted,
    TestProgress,
    Waiting,
)
from vpt.store.db import Database, Session
from vpt.store.patience import patiently

log = structlog.get_logger(__name__)

_NEWS = 2.0  # seconds that `submit` waits to hear whether its run began
_PREPARED = 2  # entries of campaigns whose steps are in memory at once, on their way to a row
_PAGE = 500  # executions that are loaded with one statement
_RECKONING = 12  # sweeps: so often all rows are read, whatever the counts say


class Queue:
    """Executions that wait: every change is in the database first, then in the dispatcher.

    After a crash between the two the sweep finds the row; the other order could lose it.
    """

    def __init__(
        self,
        db: Database,
        events: Events,
        dispatcher: Dispatcher,
        *,
        max_queued: int,
        retry_backoff: float,
        infra_retries: int,
    ) -> None:
        self._db = db
        self._events = events
        self._dispatcher = dispatcher
        self._max_queued = max_queued
        self._retry_backoff = retry_backoff
        self._infra_retries = infra_retries
        self._news: dict[str, asyncio.Future[TestProgress | None]] = {}
        self._background = Background()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0  # by the database's clock, like all moments here
        self._ahead = 0.0  # seconds that the database's clock is ahead of the loop's
        self._coming = 0  # being stored, and not yet in the dispatcher: they count as queued
        self._sweeps = 0
        #: How to end executions when the answer to that was lost: whether they did is not known.
        self._unsure: dict[str, tuple[ExecutionStatus, ErrorKind | None, str | None]] = {}
        #: Campaigns start entries in turns: the steps of one may be many megabytes in memory.
        self.preparing = asyncio.Semaphore(_PREPARED)
        events.subscribe(self._on_event)

    async def load(self) -> None:
        """Load what was waiting when the server stopped; nothing starts before all is in."""
        self._dispatcher.hold()
        await self._read_clock()
        await self._take_up_missed()
        self._dispatcher.release()

    async def _take_up_missed(self) -> None:
        """Queue what the database has queued and the memory has not, page by page."""
        at, after = None, ""
        while True:
            rows = await self._db.rows("queued_page", after_at=at, after_id=after, limit=_PAGE)
            for row in rows:
                if not self._dispatcher.knows(row["id"]):
                    await self._take_up(row)
            if len(rows) < _PAGE:
                return
            at, after = rows[-1]["at"], rows[-1]["id"]

    def check_room(self, more: int = 0) -> None:
        """Raise UnavailableError when the queue is full; `more` are about to come into it."""
        if len(self._dispatcher) + self._coming + more >= self._max_queued:
            raise UnavailableError("The queue is full.", retry_after=10)

    def possible(self, new: NewExecution) -> None:
        """Raise NothingFitsError when no registered host could ever run it."""
        why = self._dispatcher.impossible(request_of(new))
        if why is not None:
            raise NothingFitsError(why)

    async def all_possible(self, entries: Iterable[NewExecution]) -> None:
        """Raise NothingFitsError that names the first entry which no host could ever run.

        Equal requests are looked at once, and others have their turn in between: each look goes
        through all hosts.
        """
        seen = set()
        for number, entry in enumerate(entries, 1):
            request = request_of(entry)
            if request in seen:
                continue
            seen.add(request)
            why = self._dispatcher.impossible(request)
            if why is not None:
                raise NothingFitsError(f"Test {number}, {entry.test_case_name}: {why}")
            await asyncio.sleep(0)

    async def submit(
        self, new: NewExecution, timeout_s: float, key: RequestKey | None = None
    ) -> Submitted:
        """Store and queue it; when a device is free it runs at once. `key` is stored with it."""
        self.check_room()
        self.possible(new)
        execution_id = uuid4().hex
        queued_at = await self._store(execution_id, new, timeout_s, key)
        # Registered before it is sent: its run may begin before `enter` returns.
        news = self._news[execution_id] = asyncio.get_running_loop().create_future()
        try:
            if self.enter(execution_id, new, timeout_s, queued_at):
                async with asyncio.timeout(_NEWS):
                    await news
        except TimeoutError:
            pass
        finally:
            self._news.pop(execution_id, None)
        # No news: it is queued, or its host is slow to begin; the answer says "queued" then.
        event = news.result() if news.done() and not news.cancelled() else None
        if event is None:
            return Submitted(execution_id, ExecutionStatus.QUEUED, None, None)
        return Submitted(execution_id, event.status, event.host_id, event.device_id)

    async def _store(
        self, execution_id: str, new: NewExecution, timeout_s: float, key: RequestKey | None
    ) -> float:
        self._coming += 1
        try:
            if key is None:  # one statement, and one commit
                async with self._db.session() as session:
                    return await insert(session, execution_id, new, timeout_s, None)
            async with self._db.transaction() as session:
                await remember(session, key, execution_id)
                return await insert(session, execution_id, new, timeout_s, None)
        finally:
            self._coming -= 1

    def enter(
        self, execution_id: str, new: NewExecution, timeout_s: float, queued_at: float
    ) -> bool:
        """Pass a stored execution to the dispatcher; return True when it was sent to a host."""
        waiting = Waiting(
            execution_id, request_of(new), new.priority, queued_at, queued_at + timeout_s
        )
        return self._add(waiting)

    def _add(self, waiting: Waiting) -> bool:
        sent = self._dispatcher.add(waiting)
        if not sent:
            self._set_alarm()
        return sent

    # ------------------------------------------------------------ the clock

    async def _read_clock(self) -> None:
        """Read how far the database's clock is ahead of the loop's.

        Rows are stamped by the database, whose clock may differ from this machine's by minutes;
        so the queue counts in the database's time only, and reads it anew in case it is set.
        """
        now = await self._db.value("queue_clock")
        # It is a little later by now: so nothing is ended before its time, only a moment after.
        self._ahead = now - asyncio.get_running_loop().time()

    def now(self) -> float:
        """Return the time by the database's clock, in seconds since the epoch."""
        return asyncio.get_running_loop().time() + self._ahead

    def waited_s(self, waiting: Waiting) -> float:
        """Return for how many seconds an execution has waited."""
        return max(0.0, self.now() - waiting.queued_at)

    @property
    def oldest_s(self) -> float | None:
        """Return for how many seconds the longest waiting execution has waited."""
        oldest = self._dispatcher.oldest
        return None if oldest is None else round(max(0.0, self.now() - oldest), 3)

    # ------------------------------------------------------------ time over

    def _set_alarm(self) -> None:
        """Set a timer for when the next one will have waited too long, or its back-off is over."""
        moments = (self._dispatcher.next_expiry, self._dispatcher.next_rested)
        first = min((moment for moment in moments if moment is not None), default=None)
        if first is None or (self._alarm is not None and self._alarm_at <= first):
            return  # one that is too early is set anew when it fires
        if self._alarm is not None:
            self._alarm.cancel()
        loop = asyncio.get_running_loop()
        self._alarm_at = first
        self._alarm = loop.call_later(max(0.0, first - self.now()), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._end_expired()
        self._dispatcher.rested(self.now())
        self._set_alarm()

    def _end_expired(self) -> None:
        words: dict[DeviceRequest, str] = {}
        for waiting in self._dispatcher.expired(self.now()):
            request = waiting.request
            if request not in words:
                words[request] = matching.expiry_words(request, self._dispatcher.views)
            self._end_later(waiting.execution_id, ErrorKind.QUEUE_TIMEOUT, words[request])

    # ------------------------------------------------------------ ends without a run

    async def end(
        self, execution_id: str, status: ExecutionStatus, kind: ErrorKind | None, error: str | None
    ) -> bool:
        """End an execution that is still queued; return False when it is not queued any more."""
        try:
            row = await self._end_in_database(execution_id, status, kind, error)
        except DatabaseAwayError:
            self._unsure[execution_id] = (status, kind, error)
            raise
        if row is None:
            return False
        # Only now: what the database did not end must still be queued.
        self._dispatcher.withdraw(execution_id)
        status = ExecutionStatus(row["status"])
        said = row["error"]
        log.info("test_execution_left_queue", execution_id=execution_id, status=status, error=said)
        self._events.publish(
            TestProgress(
                execution_id,
                row["attempt"],
                0,
                row["total_steps"],
                status,
                None,
                None,
                row["seq"],
                row["campaign_execution_id"],
            )
        )
        return True

    async def _end_in_database(
        self, execution_id: str, status: ExecutionStatus, kind: ErrorKind | None, error: str | None
    ) -> Any:
        """Return the row that ended, also when the answer to that was lost before; else None."""
        row = await self._db.row(
            "end_queued", execution_id=execution_id, status=status, error_kind=kind, error=error
        )
        if row is None and execution_id in self._unsure:
            ended = await self._db.row("ended_queued", execution_id=execution_id)
            row = ended if execution_id in self._unsure else None  # nobody else published it
        self._unsure.pop(execution_id, None)
        return row

    def not_taken(self, execution_id: str, device_id: str, *, gone: bool) -> None:
        """Queue again what could not begin on its device; its `submit` need not wait any longer."""
        self._dispatcher.not_taken(execution_id, device_id, gone=gone)
        self._set_alarm()
        news = self._news.get(execution_id)
        if news is not None and not news.done() and self._dispatcher.waits(execution_id):
            news.set_result(None)

    def requeue(self, waiting: Waiting) -> None:
        """Queue again what is to have another attempt, after a back-off where it failed."""
        failures = len(waiting.request.failed_on)
        rested = waiting.queued_at + backoff(self._retry_backoff, failures) if failures else 0.0
        waiting = replace(waiting, not_before=rested)
        if failures > self._infra_retries:  # it may only go on where it was not tried
            waiting = _without_tried(waiting)
        # What is to be avoided makes a request narrower: when nothing is left it would wait for
        # ever. Why it ends the database knows from its attempts.
        narrow = waiting.request.refused_by
        if narrow and self._dispatcher.impossible(waiting.request) is not None:
            self._end_later(waiting.execution_id, None, None)
        else:
            self._add(waiting)

    async def close(self) -> None:
        """End what is under way here; the next start goes on from the rows."""
        if self._alarm is not None:
            self._alarm.cancel()
        await self._background.close()

    async def sweep(self) -> None:
        """End what waited too long and queue what the memory has missed.

        An execution may expire while it is on its way to a host, when the timer cannot end it.
        """
        await self._read_clock()
        self._end_expired()
        self._dispatcher.rested(self.now())
        for execution_id, end in tuple(self._unsure.items()):
            await self.end(execution_id, *end)
        self._sweeps += 1
        self._dispatcher.offer_all()  # should a host's announcement have been lost
        queued = await self._db.value("count_queued")
        # Equal counts may hide one that is missing behind one that is over already.
        if queued > self._dispatcher.known or self._sweeps % _RECKONING == 0:
            await self._take_up_missed()

    async def _take_up(self, row: Any) -> None:
        if row["cancelled"]:
            await self.end(row["id"], ExecutionStatus.CANCELLED, None, None)
        else:
            self.requeue(waiting_of(row["id"], row))

    def end_unfit(self, waiting: Waiting, why: str) -> None:
        """End an execution that waits for what no registered device has any more."""
        self._dispatcher.withdraw(waiting.execution_id)
        self._end_later(waiting.execution_id, ErrorKind.NOTHING_FITS, why)

    def _end_later(self, execution_id: str, kind: ErrorKind | None, why: str | None) -> None:
        """End an execution as an error as soon as the database takes it; None: see end_queued."""
        ending = patiently(
            "execution", lambda: self.end(execution_id, ExecutionStatus.ERROR, kind, why)
        )
        self._background.start(ending, f"end of execution: {execution_id}")

    def _on_event(self, event: object) -> None:
        if isinstance(event, TestProgress):
            news = self._news.get(event.execution_id)
            if news is not None and not news.done():
                news.set_result(event)


def _without_tried(waiting: Waiting) -> Waiting:
    """Return the entry with all devices out on which it failed."""
    request = waiting.request
    tried = request.refused_by.union(request.failed_on)
    return replace(waiting, request=replace(request, refused_by=tried))


def request_of(new: NewExecution) -> DeviceRequest:
    """Return what it asks of a device."""
    return DeviceRequest(new.device_model, frozenset(new.requirements), new.device_id, new.host_id)


async def remember(session: Session, key: RequestKey, execution_id: str) -> None:
    """Store what a request started, in the transaction that starts it."""
    if await session.row("remember_request", **asdict(key), execution_id=execution_id) is None:
        raise ConflictError("An equal request was just accepted: send it again to hear of it.")


async def insert(
    session: Session,
    execution_id: str,
    new: NewExecution,
    timeout_s: float,
    campaign_execution_id: str | None,
) -> float:
    """Store a queued execution; return when it was queued, by the database's clock."""
    queued_at: float = await session.value(
        "insert_execution",
        id=execution_id,
        test_case_id=new.test_case_id,
        test_case_name=new.test_case_name,
        test_case_version=new.test_case_version,
        requirements=list(new.requirements),
        steps=list(new.steps),
        actions=[action_name(step) for step in new.steps],
        parameters=new.parameters,
        timeout_s=new.timeout_s,
        test_retries=new.test_retries,
        wanted_device_id=new.device_id,
        wanted_host_id=new.host_id,
        priority=new.priority,
        queue_timeout_s=timeout_s,
        requested_by=new.requested_by,
        campaign_execution_id=campaign_execution_id,
        secret_steps=None if new.secret_steps is None else asdict(new.secret_steps),
        sealed_values=new.sealed_values,
        **to_columns(new.device_model),
    )
    return queued_at
