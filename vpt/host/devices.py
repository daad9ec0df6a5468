"""The devices of the host, and the guarantee that an Idempotency-Key is executed only once."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from vpt.host.device_worker import DeviceWorker, QueuedAction, StopResponse, error_response
from vpt.host.drivers import Params
from vpt.host.journal import AttemptKey, Journal
from vpt.host.responses import JsonResponse, Refusal, refusal_response

CANCEL_S = 30
CLOSE_S = 8

log = structlog.get_logger()


def cancelled(elapsed: float, output: str | None) -> JsonResponse:
    """Return the response to an action that was cancelled after `elapsed` seconds."""
    return error_response("cancelled", "cancelled", elapsed, output)


def stopping(_elapsed: float, output: str | None) -> JsonResponse:
    """Return the response to an action that is not finished because the host stops."""
    return refusal_response(503, "host_stopping", "the host is stopping", output)


class HostDevices:
    """Accepts actions and cancels for all devices; owned by the HTTP server."""

    def __init__(self, workers: Sequence[DeviceWorker], journal: Journal) -> None:
        """Use one worker per device and record keys and cancels in `journal`."""
        self.workers = {worker.spec.local_id: worker for worker in workers}
        self._journal = journal
        self._working: dict[str, asyncio.Task[JsonResponse]] = {}
        self._manual: set[asyncio.Task[JsonResponse]] = set()
        self._serving: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self) -> None:
        """Start the workers."""
        for name, worker in self.workers.items():
            self._serving.append(asyncio.create_task(worker.serve(), name=f"worker-{name}"))

    async def execute(self, body: Mapping[str, Any], key: str | None) -> JsonResponse:
        """Execute an action and return its response; a repeated key gets the first response again.

        The action continues when the caller is cancelled, so a broken connection does not stop it.
        """
        if key is None:
            manual = asyncio.create_task(self._work(body, None), name="manual-action")
            self._manual.add(manual)
            manual.add_done_callback(self._manual.discard)
            return await asyncio.shield(manual)
        working = self._working.get(key)
        if working is None:
            line = self._journal.find(key)
            if line is not None and line.answered:
                return await self._journal.read(line)
            if line is not None:
                return refusal_response(
                    503, "fate_unknown", "begun before the host restarted; it is not repeated"
                )
            working = asyncio.create_task(self._work(body, key), name=f"key-{key}")
            self._working[key] = working
            working.add_done_callback(lambda _: self._working.pop(key))
        return await asyncio.shield(working)

    async def screenshot(self, device_id: str) -> bytes:
        """Return a PNG of what a device shows; raise Refusal while it is at work or shows none."""
        worker = self._worker(device_id)
        if worker.actions:
            raise Refusal(409, "device_busy", "the device is at work")
        picture = await worker.screenshot()
        if picture is None:
            raise Refusal(404, "no_picture", "the device shows nothing now")
        return picture

    async def cancel(self, attempt: AttemptKey) -> int:
        """Stop the actions of an attempt, refuse later ones, and return how many were stopped.

        Returns when they have ended and the cancel is on the disk; raises Refusal when that fails.
        """
        self._journal.mark_cancelled(attempt)
        found = [action for action in self._actions() if action.attempt == attempt]
        await self._stop(found, cancelled, CANCEL_S)
        # Their callers are answered first: what the actions printed is in those responses.
        answering = {work for key, work in self._working.items() if key in {a.key for a in found}}
        if answering:
            await asyncio.wait(answering, timeout=CLOSE_S)
        try:
            await self._journal.cancel(attempt)
        except OSError as error:
            raise Refusal(
                503, "journal_unavailable", f"the cancel could not be recorded: {error.strerror}"
            ) from error
        log.info(
            "attempt_cancelled",
            execution_id=attempt.execution_id,
            attempt=attempt.attempt,
            stopped=len(found),
        )
        return len(found)

    def refuse(self) -> None:
        """Refuse all further actions."""
        self._stopping = True

    async def close(self) -> None:
        """Stop running actions, answer queued ones, and close the drivers; can be repeated."""
        self.refuse()
        try:
            await self._stop(self._actions(), stopping, CLOSE_S)
        except Refusal as refusal:
            log.warning("host_stop_incomplete", error=str(refusal))
        for serving in self._serving:
            serving.cancel()
        answering = {*self._serving, *self._working.values(), *self._manual}
        if answering:
            await asyncio.wait(answering, timeout=CLOSE_S)
        for worker in self.workers.values():
            await worker.driver.close()

    def _actions(self) -> list[QueuedAction]:
        return [action for worker in self.workers.values() for action in worker.actions]

    async def _stop(
        self, actions: list[QueuedAction], response: StopResponse, limit_s: float
    ) -> None:
        for worker in self.workers.values():
            worker.stop([action for action in worker.actions if action in actions], response)
        if not actions:
            return
        _, running = await asyncio.wait({action.response for action in actions}, timeout=limit_s)
        if running:
            raise Refusal(504, "not_stopped", f"still running after {limit_s} s")

    async def _work(self, body: Mapping[str, Any], key: str | None) -> JsonResponse:
        try:
            worker, action = self._accept(body, key)
        except Refusal as refusal:
            return refusal.response()
        worker.put(action)
        response = await action.response
        if key is not None and action.begun:
            await self._note(key, response)
        return response

    async def _note(self, key: str, response: JsonResponse) -> None:
        try:
            await self._journal.end(key, response)
        except OSError:
            # The caller still gets the response; a repetition of the key is answered fate_unknown.
            log.warning("action_answer_not_kept", key=key)

    def _accept(
        self, body: Mapping[str, Any], key: str | None
    ) -> tuple[DeviceWorker, QueuedAction]:
        """Check an action; raise Refusal when it will not be executed."""
        if self._stopping:
            raise Refusal(503, "host_stopping", "the host is stopping")
        attempt = attempt_of(body)
        if attempt is not None and self._journal.is_cancelled(attempt):
            raise Refusal(409, "cancelled", "this attempt was cancelled")
        worker = self._worker(body.get("device_id"))
        command, params = body.get("command"), body.get("params")
        if not isinstance(command, str):
            raise Refusal(400, "bad_request", "command: must be a string")
        if not isinstance(params or {}, dict):
            raise Refusal(400, "bad_request", "params: must be an object")
        job = worker.driver.prepare(command, Params({**_step_params(body), **(params or {})}))
        owner, limit_s = _owner_of(body, attempt), _limit_of(body)
        return worker, QueuedAction(command, job, key, attempt, owner, limit_s)

    def _worker(self, device_id: object) -> DeviceWorker:
        if device_id is None and len(self.workers) == 1:
            return next(iter(self.workers.values()))
        if device_id is None:
            raise Refusal(
                400, "device_needed", "device_id: missing, and this host has several devices"
            )
        if not isinstance(device_id, str) or device_id not in self.workers:
            raise Refusal(404, "unknown_device", f"this host has no device {device_id!r}")
        return self.workers[device_id]


def attempt_of(body: Mapping[str, Any]) -> AttemptKey | None:
    """Return the attempt that a body names, or None; raise Refusal when it is malformed."""
    execution_id, attempt = body.get("execution_id"), body.get("attempt")
    if execution_id is None:
        return None
    if not isinstance(execution_id, str) or type(attempt) is not int:
        raise Refusal(400, "bad_request", "execution_id must be a string and attempt an integer")
    return AttemptKey(execution_id, attempt)


def _owner_of(body: Mapping[str, Any], attempt: AttemptKey | None) -> str:
    """Return who uses the device: an attempt, a lease, or people who share it without one."""
    if attempt is not None:
        return f"{attempt.execution_id}/{attempt.attempt}"
    lease_id = body.get("lease_id")
    return f"lease {lease_id}" if isinstance(lease_id, str) else "people"


def _step_params(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a step may say beside its `params`, as it says its time limit there."""
    return {name: body[name] for name in ("infra_exit_codes",) if name in body}


def _limit_of(body: Mapping[str, Any]) -> float | None:
    """Return the time limit of the step, in seconds; raise Refusal when it is malformed."""
    limit = body.get("limit_s")
    if limit is None:
        return None
    if type(limit) not in (int, float) or not 0 < limit < float("inf"):
        raise Refusal(400, "bad_request", "limit_s: must be a number of seconds above 0")
    return float(limit)
