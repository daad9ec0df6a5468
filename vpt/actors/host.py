"""HostActor: performs the effects that the machine decides for each message."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable
from contextlib import suppress
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, assert_never

import asyncpg
import structlog
from msgspec import structs

from vpt.actors import effects as fx
from vpt.actors import machine, matching
from vpt.actors import messages as m
from vpt.actors.actor import Actor
from vpt.actors.calls import STOP_S, acted, answered, call_of_step, looked, sent, watched
from vpt.actors.changes import publish_changes
from vpt.actors.ledger import Ledger, waiting_of
from vpt.actors.saved_pictures import saved_pictures
from vpt.actors.secrets import masked
from vpt.actors.services import HostServices
from vpt.actors.slim import slim
from vpt.actors.state import HostState, RunState
from vpt.dialects.base import HostTroubleError, Trouble
from vpt.model import (
    ErrorKind,
    ExecutionStatus,
    Host,
    HostView,
)
from vpt.upkeep import note_failure

log = structlog.get_logger(__name__)

_JITTER = 0.2  # of the probe interval, so that hosts are not all probed at one moment
_CALL_LIMIT = 10.0  # seconds for one POST /host/cancel or /host/releaseControl
_VIEW_AGAIN = 1.0  # seconds until a status that could not be stored is tried again


class HostActor(Actor[m.Message]):
    """One host: its state, its open calls, its alarms and its records.

    Effects are performed in their order, and none of them awaits here: calls, probes and records
    are child tasks, which send a fact when they are done.
    """

    def __init__(
        self,
        state: HostState,
        resumed: list[tuple[RunState, float]],
        services: HostServices,
        last_seen: datetime | None,
    ) -> None:
        super().__init__(state.host.id, inbox_limit=state.limits.inbox_limit)
        self._state = state
        self._resumed = resumed
        self._services = services
        self.ledger = Ledger(services.shared, state.host.id)
        self._alarms: dict[str, asyncio.TimerHandle] = {}
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._records: deque[fx.Effect] = deque()  # in order, the first one is being stored
        self._recorded = asyncio.Event()
        self._unstored_view: HostView | None = None
        self._last_view: HostView | None = None
        self._last_seen = last_seen
        self._stopping = False

    @property
    def state(self) -> HostState:
        """Return the present state."""
        return self._state

    @property
    def quiet(self) -> bool:
        """Return whether no call is open, no record waits, and the inbox is empty."""
        return not self._calls and not self._records and not self.depth

    # ------------------------------------------------------------ lifetime

    def begin(self) -> None:
        """Start the writer, the probes, and what the restored state needs."""
        self.spawn(self._write_records(), "writer")
        self._state, effects = machine.wake(self._state, self._resumed)
        self._resumed = []
        self._perform(effects)
        self._next_probe()

    def receive(self, message: m.Message) -> bool:
        """Let the machine decide, then perform the effects."""
        # The new state stands before its effects: what they call may look at it.
        self._state, effects = machine.transition(self._state, message)
        self._perform(effects)
        return self._stopping

    def ended(self) -> None:
        """Cancel all alarms: nobody would receive them."""
        super().ended()
        for handle in self._alarms.values():
            handle.cancel()

    def _perform(self, effects: fx.Effects) -> None:
        for effect in effects:
            self._do(effect)

    def _do(self, effect: fx.Effect) -> None:  # noqa: C901, PLR0912 (a table)
        match effect:
            case fx.SendAction():
                self._call(effect.device.id, self._send_action(effect))
            case fx.SendStep():
                self._call(effect.device.id, self._send_step(effect))
            case fx.WatchStep():
                self._call(effect.device.id, self._deliver(watched(self._services, effect)))
            case fx.Look():
                self.spawn(self._deliver(looked(self._services, effect, _CALL_LIMIT)), "look")
            case fx.Resolve(ask, value):
                self.resolve(ask, value)
            case fx.Reject(ask, error):
                self.reject(ask, error)
            case (
                fx.StoreAttempt()
                | fx.StoreStep()
                | fx.StoreTry()
                | fx.StoreHandle()
                | fx.StoreEnd()
                | fx.StoreRelease()
            ):
                self._record(effect)
            case fx.Publish(event):
                self._services.events.publish(event)
            case fx.Announce(view):
                self._announce(view)
            case fx.Alarm():
                self._alarm(effect)
            case fx.Probe():
                self.spawn(self._probe(effect), "probe")
            case fx.CancelOnHost():
                self.spawn(self._cancel_on_host(effect), "cancel")
            case fx.Leave(host, device):
                self.spawn(self._services.dialect.leave(host, device, _CALL_LIMIT), "leave")
            case fx.AbortCall(device_id):
                self._abort_call(device_id)
            case fx.ReturnRun(execution_id, device_id, gone):
                self._services.not_taken(execution_id, device_id, gone=gone)
            case fx.Log(event_name, fields, warning):
                level = log.warning if warning else log.info
                level(event_name, host_id=self.name, **fields)
            case fx.Stop():
                self._stopping = True
            case _:
                assert_never(effect)

    # ------------------------------------------------------------ alarms and probes

    def _alarm(self, alarm: fx.Alarm) -> None:
        handle = self._alarms.pop(alarm.name, None)
        if handle is not None:
            handle.cancel()
        if alarm.fact is not None:
            loop = asyncio.get_running_loop()
            self._alarms[alarm.name] = loop.call_later(alarm.seconds, self._ring, alarm)

    def _ring(self, alarm: fx.Alarm) -> None:
        self._alarms.pop(alarm.name, None)
        if alarm.fact is not None:
            self.tell(alarm.fact)

    def _next_probe(self) -> None:
        pause = self._state.limits.probe_interval * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 (no secret)
        self._alarms["probe"] = asyncio.get_running_loop().call_later(pause, self._probe_due)

    def _probe_due(self) -> None:
        self.tell(m.ProbeDue())
        self._next_probe()

    async def _probe(self, effect: fx.Probe) -> None:
        try:
            seconds = await answered(self._services, effect, self._state.limits.probe_interval)
        except HostTroubleError as trouble:
            if _is_called_otherwise(effect.host, self._state.host):
                await self._probe(fx.Probe(self._state.host))
            else:
                self._probe_missed(m.ProbeMissed(trouble.message, trouble.reason))
            return
        except Exception as error:  # noqa: BLE001 (logged: a host must not lose its actor by it)
            note_failure(error, "probe")
            self._probe_missed(m.ProbeMissed("The probe failed by a fault of the server."))
            return
        self._services.tally.probes.add(seconds)
        # A missed probe leaves this as it was: it is when the host was last seen, not looked at.
        self._last_seen = datetime.now(UTC)
        self._services.probed(self.name, seconds * 1000)
        self.tell(m.ProbeAnswered())

    def _probe_missed(self, missed: m.ProbeMissed) -> None:
        self._services.tally.probes_missed += 1
        self._services.probed(self.name, None)
        self.tell(missed)

    # ------------------------------------------------------------ calls to the host

    def _call(self, device_id: str, work: Any) -> None:
        """Open the device's call; a lane has one at most, so a late one is aborted."""
        self._abort_call(device_id)
        self._calls[device_id] = task = self.spawn(work, f"call {device_id}")
        task.add_done_callback(lambda done: self._call_done(device_id, done))

    def _call_done(self, device_id: str, task: asyncio.Task[None]) -> None:
        if self._calls.get(device_id) is task:
            del self._calls[device_id]

    def _abort_call(self, device_id: str) -> None:
        task = self._calls.pop(device_id, None)
        if task is not None:
            task.cancel()

    async def _send_step(self, effect: fx.SendStep) -> None:
        asked = perf_counter()
        try:
            revealed = await self._services.secrets.reveal(effect)
        except HostTroubleError as trouble:
            self.deliver(m.StepAnswered(effect.device.id, effect.key, m.NoAnswer.of(trouble), 0.0))
            return
        began = perf_counter()
        self._postpone(effect, began - asked)
        outcome = await sent(self._services, call_of_step(effect, revealed, self.tell))
        duration_ms = (perf_counter() - began) * 1000
        outcome = await masked(slim(outcome), revealed.masker)
        self.deliver(m.StepAnswered(effect.device.id, effect.key, outcome, duration_ms))

    def _postpone(self, effect: fx.SendStep, seconds: float) -> None:
        """Let the step's time begin when it is sent: its secrets may have come late."""
        name = f"step:{effect.device.id}"
        if effect.secret_steps is not None and name in self._alarms:
            left = self._alarms[name].when() - asyncio.get_running_loop().time()
            timed_out = m.StepTimedOut(effect.device.id, effect.key)
            self._alarm(fx.Alarm(name, left + seconds, timed_out))

    async def _deliver(self, work: Awaitable[m.Fact]) -> None:
        self.deliver(await work)

    async def _send_action(self, effect: fx.SendAction) -> None:
        command, began = effect.command, perf_counter()
        # It may have waited behind others for longer than its asker did: then it is not sent.
        outcome: m.Outcome = m.NoAnswer(Trouble.TIMEOUT, "Nobody waits for it any more.")
        if self.is_pending(command.ask):
            outcome = await acted(self._services, effect)
        duration_ms = (perf_counter() - began) * 1000
        self.deliver(m.ActionAnswered(effect.device.id, command.ask, outcome, duration_ms))

    async def _cancel_on_host(self, effect: fx.CancelOnHost) -> None:
        acknowledged = self._services.may_act() and await self._services.dialect.cancel(
            effect.host, effect.execution_id, effect.attempt, _CALL_LIMIT
        )
        call = self._calls.get(effect.device_id)
        if acknowledged and call is not None:
            # The step has ended, and what it printed is in its answer: that counts first.
            await asyncio.wait({call}, timeout=STOP_S)
        self.tell(
            m.CancelAnswered(effect.device_id, effect.execution_id, effect.attempt, acknowledged)
        )

    # ------------------------------------------------------------ records

    def _record(self, effect: fx.Effect) -> None:
        self._records.append(effect)
        self._recorded.set()

    async def _write_records(self) -> None:
        """Store records in order, one at a time, and the host's view when no record waits."""
        # Of views only the newest is stored: a host that changes fast must not hold up its runs.
        while True:
            if self._records:
                await self._store_or_refuse(self._records[0])
                self._records.popleft()
            elif self._unstored_view is not None:
                await self._store_view()
            else:
                self._recorded.clear()
                await self._recorded.wait()

    async def _store_view(self) -> None:
        """Store the host's view; it is only shown, so records go before another try."""
        view, self._unstored_view = self._unstored_view, None
        if view is None:
            return
        try:
            await self.ledger.statuses(view)
        except Exception as error:  # noqa: BLE001 (whatever it is: a newer view may be stored)
            fields = {"record": "store_statuses", "host_id": self.name, "error": str(error)}
            log.warning("record_waits_for_database", **fields)
            self._unstored_view = self._unstored_view or view
            self._recorded.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_VIEW_AGAIN):
                    await self._recorded.wait()

    async def _store_or_refuse(self, effect: fx.Effect) -> None:
        """Store a record; one that the database refuses for good ends its run, not the actor."""
        try:
            await self._store(effect)
        except asyncpg.PostgresError as error:
            log.exception(
                "record_lost",
                record=type(effect).__name__,
                host_id=self.name,
                error=str(error),
            )
            match effect:
                case fx.StoreAttempt(execution_id, device_id):  # the sweep queues it again
                    self.tell(m.AttemptRefused(device_id, execution_id))
                case fx.StoreStep() | fx.StoreTry():
                    numbered = isinstance(effect, fx.StoreStep)
                    self.tell(m.RecordRefused(effect.device_id, effect.key, numbered))
                case fx.StoreHandle():
                    pass  # after a restart the host is asked for the end by the key alone
                case _:  # the next actor reads from the database what the device waits for
                    raise

    async def _store(self, effect: fx.Effect) -> None:
        match effect:
            case fx.StoreAttempt():
                fact = await self.ledger.start_attempt(effect)
                if isinstance(fact, m.AttemptStored):
                    self._begun(effect.execution_id)
                self.tell(fact)
            case fx.StoreStep():
                shots = await saved_pictures(self._services.artifacts, effect.key, effect.answer)
                self.tell(await self.ledger.finish_step(effect, shots))
                if effect.duration_ms is not None:
                    self._services.tally.steps.add((effect.status,), effect.duration_ms / 1000)
            case fx.StoreTry():
                self.tell(await self.ledger.retry_step(effect))
            case fx.StoreHandle():
                await self.ledger.store_handle(effect)
            case fx.StoreEnd():
                await self._store_end(effect)
            case fx.StoreRelease():
                self.tell(await self.ledger.release(effect))
            case _:
                raise AssertionError(effect)

    def _begun(self, execution_id: str) -> None:
        waiting = self._services.dispatcher.begun(execution_id)
        if waiting is not None:
            self._services.tally.dispatched.add(self._services.waited_s(waiting))

    async def _store_end(self, effect: fx.StoreEnd) -> None:
        if effect.elsewhere and not effect.again:
            request = await self.ledger.request_after(effect)
            again = matching.has_untried(request, self._services.dispatcher.views)
            effect = structs.replace(effect, again=again)
        shots = await saved_pictures(self._services.artifacts, effect.step, effect.answer)
        fact, row = await self.ledger.end_attempt(effect, shots.screenshot, shots.notes)
        _log_end(self.name, effect, fact.status, row["duration_s"])
        self.tell(fact)
        if fact.status is ExecutionStatus.QUEUED:
            # The row was read before this attempt ended; a restart of the server is no failure.
            failed = effect.kind not in (None, ErrorKind.SERVER_RESTARTED)
            failures = ((self.name, effect.device_id),) if failed else ()
            self._services.requeue(waiting_of(effect.spec.execution_id, row, failures))

    # ------------------------------------------------------------ the view

    def _announce(self, view: HostView) -> None:
        self._unstored_view = view
        self._recorded.set()
        publish_changes(self._services.events, self._last_view, view, self._last_seen)
        self._last_view = view
        self._services.dispatcher.announce(view)


def _is_called_otherwise(probed: Host, present: Host) -> bool:
    """Return whether a host registered anew while it was probed: a miss says nothing of it now."""
    return probed is not present and (probed.url, probed.secret, probed.instance_id) != (
        present.url,
        present.secret,
        present.instance_id,
    )


def _log_end(
    host_id: str, effect: fx.StoreEnd, status: ExecutionStatus, duration_s: float | None
) -> None:
    spec = effect.spec
    fields = {
        "execution_id": spec.execution_id,
        "test_case_id": spec.test_case_id,
        "user_id": spec.requested_by,
        "host_id": host_id,
        "device_id": effect.device_id,
        "attempt": spec.attempt,
        "status": effect.status,
    }
    if effect.kind is not None:
        fields |= {"error_kind": effect.kind, "error": effect.error}
    if status is ExecutionStatus.QUEUED:
        log.warning("test_execution_tried_again", **fields)
    elif status is ExecutionStatus.ERROR:
        log.error("test_execution_failed", **fields, duration=duration_s)
    else:
        log.info("test_execution_completed", **fields, duration=duration_s)
