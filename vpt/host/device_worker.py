"""The worker of one device: executes one action at a time, in the order in which they came."""

import asyncio
import base64
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
import structlog

from vpt.host.drivers import ActionFailed, Driver, DriverError, DriverHealth, Job, Outcome
from vpt.host.journal import AttemptKey, Journal
from vpt.host.responses import JsonResponse, Refusal, refusal_response
from vpt.host.settings import DeviceSpec
from vpt.upkeep import attempt, note_failure

EVIDENCE_S = 10
LATE_EVIDENCE_S = 2  # after a time limit, when the server waits STOP_GRACE only
HEALTH_S = 15
OVERSLEPT_S = 0.5  # a busy event loop wakes up late by less than this

log = structlog.get_logger()

#: Makes the response to a stopped action from the seconds it ran and from what it printed.
StopResponse = Callable[[float, str | None], JsonResponse]


def _future() -> "asyncio.Future[Any]":
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class QueuedAction:
    """An accepted action: what to execute, for which attempt, and its response once known.

    `owner` is who uses the device: the attempt, a lease, or people without one. `limit_s` is the
    time limit of the step, from its acceptance.
    """

    command: str
    job: Job
    key: str | None
    attempt: AttemptKey | None
    owner: str
    limit_s: float | None = None
    accepted: float = field(default_factory=time.monotonic)
    begun: bool = False
    stopped: "asyncio.Future[StopResponse]" = field(default_factory=_future)
    response: "asyncio.Future[JsonResponse]" = field(default_factory=_future)

    def limit(self) -> tuple[float | None, bool]:
        """Return the seconds until its first time limit, if any, and whether that is the step's."""
        own = self.job.limit_s
        if self.limit_s is None:
            return own, False
        left = max(0.0, self.accepted + self.limit_s - time.monotonic())
        return (left, True) if own is None or left <= own else (own, False)

    def stop(self, response: StopResponse) -> None:
        """Request its stop; `response` makes its response. Only the first request counts."""
        if not self.stopped.done():
            self.stopped.set_result(response)


class DeviceWorker:
    """Executes the actions of one device."""

    def __init__(self, spec: DeviceSpec, driver: Driver, journal: Journal) -> None:
        """Use `driver`; an action with a key is recorded in `journal` before it begins."""
        self.spec = spec
        self.driver = driver
        self._journal = journal
        self._waiting: deque[QueuedAction] = deque()
        self._came = asyncio.Event()
        self._current: QueuedAction | None = None
        self._owner = journal.owner(spec.local_id)

    @property
    def actions(self) -> list[QueuedAction]:
        """The running action, if any, and the queued ones."""
        return [*([self._current] if self._current else []), *self._waiting]

    async def health(self) -> DriverHealth:
        """Return whether the device can be used; a driver that cannot tell makes it unusable."""
        try:
            async with asyncio.timeout(HEALTH_S):
                return await self.driver.health()
        except TimeoutError:
            return DriverHealth(False, f"the driver did not tell its health within {HEALTH_S} s")
        except Exception as error:  # noqa: BLE001 (logged; the server must hear of the others)
            note_failure(error, "health")
            return DriverHealth(False, f"the driver failed: {error}")

    def put(self, action: QueuedAction) -> None:
        """Queue an action."""
        self._waiting.append(action)
        self._came.set()

    def stop(self, actions: list[QueuedAction], response: StopResponse) -> None:
        """Stop these: a queued one is answered at once, the running one when it has stopped."""
        for action in actions:
            action.stop(response)
            if action in self._waiting:
                self._waiting.remove(action)
                action.response.set_result(response(0, None))

    async def serve(self) -> None:
        """Execute queued actions until cancelled."""
        while True:
            while not self._waiting:
                self._came.clear()
                await self._came.wait()
            self._current = self._waiting.popleft()
            await attempt(partial(self._execute, self._current))
            self._current = None

    async def _execute(self, action: QueuedAction) -> None:
        """Execute one action; an exception of the driver is answered by 500 and ends no worker."""
        acting = asyncio.create_task(self._act(action), name=f"action-{self.spec.local_id}")
        try:
            await asyncio.wait({acting})
        finally:
            acting.cancel()
        if not action.response.done():
            action.response.set_result(self._response_of(acting))

    def _response_of(self, acting: "asyncio.Task[JsonResponse]") -> JsonResponse:
        # A library that was interrupted may cancel the task that uses it: that is its failure.
        error = asyncio.CancelledError() if acting.cancelled() else acting.exception()
        if error is None:
            return acting.result()
        log.error("action_broke", device_id=self.spec.local_id, exc_info=error)
        return refusal_response(500, "driver_error", "the driver failed; see the log of the host")

    async def _act(self, action: QueuedAction) -> JsonResponse:
        if action.key is not None:
            try:
                await self._journal.begin(action.key, self.spec.local_id, action.owner)
            except OSError as error:
                return refusal_response(
                    503, "journal_unavailable", f"nothing was done: {error.strerror}"
                )
            action.begun = True
        started = time.monotonic()
        names = {"device_id": self.spec.local_id, "command": action.command}
        log.info("action_started", **names, **_attempt(action.attempt))
        response = await self._do(action, started)
        duration_ms = round((time.monotonic() - started) * 1000)
        log.info("action_finished", **names, duration_ms=duration_ms, status=response.status)
        return response

    async def _do(self, action: QueuedAction, started: float) -> JsonResponse:
        """Run the job until it ends, is stopped or reaches a time limit."""
        if action.stopped.done():
            return action.stopped.result()(0, None)
        limit, of_step = action.limit()
        doing = asyncio.ensure_future(self._run(action))
        await _first_of(doing, action.stopped, limit)
        in_time, picture = action.stopped.done(), None
        if not doing.done():
            doing.cancel()
            await asyncio.wait({doing})
            if not in_time:
                picture = await self._evidence(LATE_EVIDENCE_S)
            await self.driver.stop()
        elapsed = time.monotonic() - started
        if not doing.cancelled():
            return await self._reply(doing, elapsed)
        if in_time:
            return action.stopped.result()(elapsed, action.job.printed())
        return _too_late(action, elapsed, picture, of_step=of_step)

    async def _run(self, action: QueuedAction) -> Outcome:
        """Run the job, on a device without anything of whoever used it before."""
        if action.owner != self._owner:
            self._owner = None  # until it is done: it may fail, or be stopped
            await self.driver.fresh()
            self._owner = action.owner
        return await action.job.run()

    async def _reply(self, doing: "asyncio.Future[Outcome]", elapsed: float) -> JsonResponse:
        error = doing.exception()
        if error is None:
            outcome = doing.result()
            return action_response(
                {"success": True, **_shown(outcome.output, outcome.screenshot)}, elapsed
            )
        if isinstance(error, Refusal):
            return error.response()
        if isinstance(error, ActionFailed):
            return await self._failed(error, elapsed)
        await self.driver.stop()
        if isinstance(error, DriverError):
            device = (await self.health()).described()
            return error_response("host_error", str(error), elapsed, error.output, device=device)
        raise error

    async def _failed(self, error: ActionFailed, elapsed: float) -> JsonResponse:
        shown = _shown(error.output, await self._evidence())
        fields = {"success": False, "error": _encodable(str(error)), **shown}
        return action_response({**fields, "device": (await self.health()).described()}, elapsed)

    async def _evidence(self, limit_s: float = EVIDENCE_S) -> bytes | None:
        try:
            async with asyncio.timeout(limit_s):
                return await self.driver.evidence()
        except TimeoutError:
            return None


async def _first_of(
    doing: "asyncio.Future[Any]", stopped: "asyncio.Future[Any]", limit: float | None
) -> None:
    """Return when one of them is done, after `limit` seconds at the latest if there is a limit.

    A process that was frozen (a suspended machine, SIGSTOP) wakes up long after the limit, with
    the result of the action still unread. The limit then starts again: frozen time does not count.
    """
    late = True
    while late:
        began, first = time.monotonic(), asyncio.FIRST_COMPLETED
        done, _ = await asyncio.wait({doing, stopped}, timeout=limit, return_when=first)
        late = not done and time.monotonic() - began > (limit or 0) + OVERSLEPT_S


def _too_late(
    action: QueuedAction, elapsed: float, picture: bytes | None, *, of_step: bool
) -> JsonResponse:
    """Return the response to an action that was stopped by a time limit."""
    shown = _shown(action.job.printed(), picture)
    if of_step:
        error = f"the step did not end within {action.limit_s:g} s; stopped"
        return error_response("step_timeout", error, elapsed, **shown)
    error = f"no result within {action.job.limit_s:g} s; stopped"
    return action_response({"success": False, "error": error, **shown}, elapsed)


def action_response(fields: dict[str, Any], elapsed: float) -> JsonResponse:
    """Return the response to an executed action; `elapsed` in seconds."""
    times = {
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "duration_ms": round(elapsed * 1000),
    }
    return JsonResponse(200, orjson.dumps({**fields, **times}))


def error_response(
    kind: str, error: str, elapsed: float, output: str | None = None, **more: Any
) -> JsonResponse:
    """Return the response to an action without a verdict: it neither passed nor failed.

    `kind` is for programs: `host_error`, `step_timeout` or `cancelled`.
    """
    fields = {
        "success": False,
        "outcome": "error",
        "kind": kind,
        "error": _encodable(error),
        **more,
    }
    return action_response({**fields, **_shown(output, None)}, elapsed)


def _shown(output: str | None, screenshot: bytes | None) -> dict[str, str]:
    shown = {} if output is None else {"output": _encodable(output)}
    if screenshot is not None:
        shown["screenshot"] = base64.b64encode(screenshot).decode()
    return shown


def _encodable(text: str) -> str:
    """Replace lone surrogates, which a web page may contain and UTF-8 cannot encode."""
    return text.encode(errors="replace").decode()


def _attempt(attempt: AttemptKey | None) -> dict[str, Any]:
    return (
        {}
        if attempt is None
        else {"execution_id": attempt.execution_id, "attempt": attempt.attempt}
    )
