"""The records of host actors: each is stored before its fact goes back to the actor.

While the database is away a record is tried again; none is dropped. What waits is bounded, since
a device has at most one record under way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.saved_pictures import SavedPictures
from vpt.device_models import from_columns
from vpt.model import (
    DeviceRequest,
    ExecutionStatus,
    HostView,
    Json,
    RunSpec,
    SecretSteps,
    StepStatus,
    Waiting,
)
from vpt.store.artifacts import screenshot_url
from vpt.store.batch import BatchWriter
from vpt.store.db import Database
from vpt.store.patience import patiently

log = structlog.get_logger(__name__)

T = TypeVar("T")


def spec_of(row: Any) -> RunSpec:
    """Build the spec of an attempt from its row."""
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
        **secrets_of(row),
    )


def secrets_of(row: Any) -> Json:
    """Return what an execution's row has of secrets, as a spec has it."""
    steps = row["secret_steps"]
    return {
        "secret_steps": None if steps is None else SecretSteps(**steps),
        "sealed_values": row["sealed_values"],
    }


def waiting_of(execution_id: str, row: Any, failures: Iterable[tuple[str, str]] = ()) -> Waiting:
    """Build the queue's entry of an execution from its row.

    `failures` are the host and the device of each failed attempt that the row does not have yet.
    """
    failed = [*zip(row["failed_hosts"], row["failed_on"], strict=True), *failures]
    request = DeviceRequest(
        from_columns(row["device_model"], row["device_models"]),
        frozenset(row["requirements"]),
        row["wanted_device_id"],
        row["wanted_host_id"],
        frozenset(row["refused_by"]),
        tuple(device_id for _, device_id in failed),
        frozenset(host_id for host_id, _ in failed),
    )
    return Waiting(
        execution_id,
        request,
        row["priority"],
        row["queued_at"],
        row["queued_at"] + row["queue_timeout_s"],
    )


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The end of a step, ready to be stored."""

    effect: fx.StoreStep
    pictures: SavedPictures

    @property
    def weight(self) -> int:
        """Its size in a statement, roughly, in bytes."""
        answer = self.effect.answer
        return len(answer.output or "") if answer else 0


class Shared:
    """The writers of all hosts together: their most frequent records share statements."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.steps = BatchWriter(
            self._store_steps, name="steps", weigh=lambda record: record.weight
        )
        self.looks = BatchWriter(self._store_looks, name="statuses")

    async def close(self) -> None:
        """End the writing, once no actor writes any more."""
        await self.steps.close()
        await self.looks.close()

    async def _store_steps(self, records: list[StepRecord]) -> None:
        effects = [record.effect for record in records]
        keys = [effect.key for effect in effects]
        answers = [effect.answer for effect in effects]
        await self.db.row(
            "finish_steps",
            execution_ids=[key.execution_id for key in keys],
            attempts=[key.attempt for key in keys],
            steps=[key.step for key in keys],
            tries=[key.tries for key in keys],
            statuses=[effect.status for effect in effects],
            durations_ms=[effect.duration_ms for effect in effects],
            outputs=[answer.output if answer else None for answer in answers],
            errors=[effect.error for effect in effects],
            screenshots=[record.pictures.screenshot for record in records],
            seqs=[effect.seq for effect in effects],
            next_actions=[effect.next_action for effect in effects],
            notes=[record.pictures.notes for record in records],
            pictures=[record.pictures.others_json for record in records],
        )

    async def _store_looks(self, views: list[HostView]) -> None:
        # In the order in which registrations lock them, or the two could deadlock.
        newest = sorted({view.host.id: view for view in views}.values(), key=lambda v: v.host.id)
        devices = [item for view in newest for item in view.devices]
        await self.db.row(
            "store_statuses",
            host_ids=[view.host.id for view in newest],
            host_statuses=[view.status for view in newest],
            reasons=[view.reason for view in newest],
            pauses_s=[view.pause_s for view in newest],
            host_texts=[view.reason_text for view in newest],
            trouble_kinds=[view.trouble and view.trouble.kind for view in newest],
            trouble_texts=[view.trouble and view.trouble.text for view in newest],
            device_ids=[item.device.id for item in devices],
            statuses=[item.status for item in devices],
            device_reasons=[item.reason for item in devices],
            device_texts=[item.reason_text for item in devices],
            device_pauses_s=[item.pause_s for item in devices],
        )


class Ledger:
    """The records of one host, each tried until it is stored."""

    def __init__(self, shared: Shared, host_id: str) -> None:
        self._shared = shared
        self._host_id = host_id

    async def _patiently(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        return await patiently(what, work, host_id=self._host_id)

    async def _row(self, name: str, /, **args: Any) -> Any:
        return await self._patiently(name, lambda: self._shared.db.row(name, **args))

    async def start_attempt(self, effect: fx.StoreAttempt) -> m.Fact:
        """Store the next attempt; AttemptRefused when the execution is not queued any more."""
        names = {"execution_id": effect.execution_id, "device_id": effect.device_id}
        row = await self._row("start_attempt", **names, host_id=self._host_id)
        if row is None:  # not queued, or stored before the connection broke
            row = await self._row("begun_attempt", **names)
        if row is None:
            return m.AttemptRefused(effect.device_id, effect.execution_id)
        return m.AttemptStored(effect.device_id, spec_of(row))

    async def finish_step(self, effect: fx.StoreStep, pictures: SavedPictures) -> m.Fact:
        """Store the end of a step and the beginning of the next one."""
        record, key = StepRecord(effect, pictures), effect.key
        await self._patiently("finish_steps", lambda: self._shared.steps.put(record))
        url = screenshot_url(key.execution_id, key.attempt, key.step)
        return m.StepStored(
            effect.device_id, key, effect.status, url if pictures.screenshot else None
        )

    async def retry_step(self, effect: fx.StoreTry) -> m.Fact:
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

    async def store_handle(self, effect: fx.StoreHandle) -> None:
        """Store the host's own id of the try: after a restart the host is asked for its result."""
        key = effect.key
        await self._row(
            "store_handle",
            execution_id=key.execution_id,
            attempt=key.attempt,
            step=key.step,
            tries=key.tries,
            handle=effect.handle,
        )

    async def end_attempt(
        self, effect: fx.StoreEnd, screenshot: str | None, notes: str | None
    ) -> tuple[m.EndStored, Any]:
        """Store the end of an attempt; return its fact and the execution's row."""
        spec = effect.spec
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
            refused_by=effect.avoid,
            last_step=effect.at,
            output=effect.answer.output if effect.answer else None,
            infra_errors=effect.health.errors,
            last_error=effect.health.error,
            pause_s=effect.health.pause,
            screenshot=screenshot,
            notes=notes,
        )
        status = ExecutionStatus(row["status"])
        step_status = StepStatus.ERROR if effect.step else None
        end = m.EndStored(effect.device_id, spec.execution_id, spec.attempt, status, step_status)
        return end, row

    async def request_after(self, effect: fx.StoreEnd) -> DeviceRequest:
        """Return what the execution asks of a device, when its attempt will have ended so."""
        execution_id = effect.spec.execution_id
        row = await self._row("request_of", execution_id=execution_id)
        request = waiting_of(execution_id, row, [(self._host_id, effect.device_id)]).request
        avoided = {effect.avoid} if effect.avoid is not None else set()
        return replace(request, refused_by=request.refused_by | avoided)

    async def release(self, effect: fx.StoreRelease) -> m.Fact:
        """Store that the device may be given out again."""
        await self._row("release_device", execution_id=effect.execution_id, attempt=effect.attempt)
        return m.ReleaseStored(effect.device_id, effect.execution_id, effect.attempt)

    async def statuses(self, view: HostView) -> None:
        """Store the status of the host and of its devices, in one try: a newer one may follow."""
        await self._shared.looks.put(view)
