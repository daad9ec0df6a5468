"""What the actors write: each record stands in the database before its fact is told.

While the database is away a record waits here; nothing is dropped. It stays bounded because a
lane has at most one record under way.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from vpt.actors import messages as m
from vpt.db import Database
from vpt.errors import DatabaseAwayError
from vpt.model import (
    ErrorKind,
    ExecutionStatus,
    HostView,
    RunSpec,
    StepStatus,
    Waiting,
    Wish,
)

log = structlog.get_logger(__name__)

_PATIENCE = (0.05, 1.0)  # seconds between tries while the database is away: first, longest


def spec_of(row: Any) -> RunSpec:
    """Make the spec of an attempt from its row."""
    return RunSpec(
        execution_id=row["id"],
        test_case_id=row["test_case_id"],
        attempt=row["attempt"],
        seq=row["seq"],
        steps=tuple(row["steps"]),
        device_model=row["device_model"],
        timeout_s=row["timeout_s"],
        infra_failures=row["infra_failures"],
        test_failures=row["test_failures"],
        test_retries=row["test_retries"],
        requested_by=row["requested_by"],
        campaign_execution_id=row["campaign_execution_id"],
    )


def waiting_of(execution_id: str, row: Any, last_host: str | None) -> Waiting:
    """Make the queue's entry of an execution from its row."""
    wish = Wish(
        row["device_model"],
        frozenset(row["requirements"]),
        row["wanted_device_id"],
        row["wanted_host_id"],
        frozenset(row["refused_by"]),
    )
    return Waiting(
        execution_id,
        wish,
        row["priority"],
        row["queued_at"],
        row["queued_at"] + row["queue_timeout_s"],
        last_host,
    )


class Ledger:
    """One host's writes, each tried until the database has it."""

    def __init__(self, db: Database, host_id: str) -> None:
        self._db = db
        self._host_id = host_id

    async def _row(self, name: str, /, **args: Any) -> Any:
        pause, longest = _PATIENCE
        while True:
            try:
                return await self._db.row(name, **args)
            except DatabaseAwayError:
                log.warning("record_waits_for_database", query=name, host_id=self._host_id)
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def start_attempt(self, effect: m.StoreAttempt) -> m.Fact:
        """Begin the next attempt, unless the execution is not to be had any more."""
        names = {"execution_id": effect.execution_id, "device_id": effect.device_id}
        row = await self._row("start_attempt", **names, host_id=self._host_id)
        if row is None:  # gone, or our own answer was lost when the connection broke
            row = await self._row("begun_attempt", **names)
        if row is None:
            return m.AttemptRefused(effect.device_id, effect.execution_id)
        return m.AttemptStored(effect.device_id, spec_of(row))

    async def finish_step(self, effect: m.StoreStep, screenshot: str | None) -> m.Fact:
        """Store a step's end and the next step's beginning."""
        key, answer = effect.key, effect.answer
        await self._row(
            "finish_step",
            execution_id=key.execution_id,
            attempt=key.attempt,
            step=key.step,
            tries=key.tries,
            status=effect.status,
            duration_ms=effect.duration_ms,
            output=answer.output if answer else None,
            error=effect.error,
            screenshot=screenshot,
            seq=effect.seq,
            next_action=effect.next_action,
        )
        url = f"/screenshots/{key.execution_id}/{key.attempt}/{key.step}.png"
        return m.StepStored(effect.device_id, key, effect.status, url if screenshot else None)

    async def retry_step(self, effect: m.StoreTry) -> m.Fact:
        """Store that a step is tried once more."""
        key = effect.key
        await self._row(
            "retry_step",
            execution_id=key.execution_id,
            attempt=key.attempt,
            step=key.step,
            tries=key.tries,
        )
        return m.StepStored(effect.device_id, key)

    async def end_attempt(self, effect: m.StoreEnd) -> tuple[m.EndStored, Any]:
        """Store an attempt's end; give the fact and the execution's row."""
        spec = effect.spec
        refused = self._host_id if effect.kind is ErrorKind.HOST_REFUSED else None
        row = await self._row(
            "end_attempt",
            execution_id=spec.execution_id,
            attempt=spec.attempt,
            status=effect.status,
            error_kind=effect.kind,
            error=effect.error,
            again=effect.again,
            release=effect.release,
            open_step=effect.step.step if effect.step else None,
            seq=effect.seq,
            refused_by=refused,
        )
        status = ExecutionStatus(row["status"])
        step_status = StepStatus.ERROR if effect.step else None
        end = m.EndStored(effect.device_id, spec.execution_id, spec.attempt, status, step_status)
        return end, row

    async def release(self, effect: m.StoreRelease) -> m.Fact:
        """Store that the device may be given out again."""
        await self._row("release_device", execution_id=effect.execution_id, attempt=effect.attempt)
        return m.ReleaseStored(effect.device_id, effect.execution_id, effect.attempt)

    async def statuses(self, view: HostView) -> None:
        """Store how the host and its devices look."""
        await self._row(
            "store_statuses",
            host_id=self._host_id,
            status=view.status,
            reason=view.reason,
            device_ids=[item.device.id for item in view.devices],
            statuses=[item.status for item in view.devices],
        )
