"""Executions as handlers know them: submitted, cancelled, waited for."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from vpt.actors import messages as m
from vpt.actors.finals import FinalWaits
from vpt.actors.queue import Queue
from vpt.actors.supervisor import Supervisor
from vpt.errors import ConflictError, NotFoundError
from vpt.model import ExecutionStatus, NewExecution, RequestKey, Submitted
from vpt.store.db import Database
from vpt.store.patience import patiently

log = structlog.get_logger(__name__)

_LOOK_AGAIN = 5.0  # seconds; an event may be lost with a connection, the row is not
_LOOKS = 100  # a second at most, however many wait


class Executions:
    """Starts executions, ends them on request, and waits for their ends."""

    def __init__(
        self,
        db: Database,
        queue: Queue,
        supervisor: Supervisor,
        finals: FinalWaits,
        *,
        queue_timeout: float,
        check_open: Callable[[], None],
    ) -> None:
        self._db = db
        self._queue = queue
        self._supervisor = supervisor
        self._finals = finals
        self._queue_timeout = queue_timeout
        self._check_open = check_open

    async def submit(self, new: NewExecution, key: RequestKey | None = None) -> Submitted:
        """Run it, at once or when a device is free; `key` is stored with it.

        Raises NothingFitsError when no registered host could ever run it, UnavailableError
        when the queue or the disk is full or the server stops.
        """
        self._check_open()
        timeout_s = new.queue_timeout_s or self._queue_timeout
        return await self._queue.submit(new, timeout_s, key)

    async def cancel(self, execution_id: str, user_id: str) -> None:
        """Store the request, then carry it out; NotFoundError, ConflictError when it is final.

        What is stored and not carried out, since the server dies in between, the sweep finds.
        """
        row = await self._db.row("request_cancel", execution_id=execution_id)
        if row is None:
            if await self._db.row("execution_status", execution_id=execution_id) is None:
                raise NotFoundError("There is no such execution.")
            raise ConflictError("The execution is over already.")
        log.info("test_execution_cancel_requested", execution_id=execution_id, user_id=user_id)
        await self._carry_out_cancel(execution_id)

    async def _carry_out_cancel(self, execution_id: str) -> None:
        """End it in the queue, or tell the actor of the host on which it runs."""
        if await self._queue.end(execution_id, ExecutionStatus.CANCELLED, None, None):
            return
        row = await self._db.row("execution_status", execution_id=execution_id)
        if row is not None and row["host_id"] is not None:
            self._supervisor.tell(row["host_id"], m.Cancel(execution_id))

    async def sweep(self) -> None:
        """Carry out the cancellations that were stored and did not take effect."""
        for row in await self._db.rows("cancels_wished"):
            await self._carry_out_cancel(row["id"])

    async def until_final(self, execution_id: str, seconds: float) -> None:
        """Return when the execution is final, after `seconds` at the latest."""
        await self._finals.until(
            execution_id, seconds, "execution_status", execution_id=execution_id
        )

    async def final_status(self, execution_id: str) -> ExecutionStatus:
        """Wait until an execution is final, however long it takes; return its status."""
        status = ExecutionStatus.QUEUED
        while not status.final:
            status = await patiently(None, lambda: self._next_status(execution_id))
        return status

    async def _next_status(self, execution_id: str) -> ExecutionStatus:
        """Return the status when the execution ends or some seconds have passed."""
        await self.until_final(execution_id, _LOOK_AGAIN + len(self._finals) / _LOOKS)
        row = await self._db.row("execution_status", execution_id=execution_id)
        return ExecutionStatus(row["status"]) if row else ExecutionStatus.CANCELLED
