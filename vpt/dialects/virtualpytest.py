"""The VirtualPyTest dialect: a step is started, then its end is polled, or reported by a callback.

Such a host answers one request at a time, gives what it starts an id, and cannot cancel. Requests
are built in `start_requests`, and what the host reports is read in `results`.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import structlog

from vpt.dialects import device_state, http, pictures
from vpt.dialects.base import (
    Call,
    HostTroubleError,
    Identity,
    ScreenRequest,
    Trouble,
    check_identity,
    clean,
    not_understood,
    shortened,
)
from vpt.dialects.by_hand import HandRequests
from vpt.dialects.results import StepResult, StillRunning, is_invalid_graph, read_status
from vpt.dialects.script_watch import ScriptWatch
from vpt.dialects.scripts import ScriptEnd, ScriptTasks
from vpt.dialects.serial import SerialClient, SerialResponse
from vpt.dialects.start_requests import StartRequest, StepKind, build_request, local_id
from vpt.model import Answer, Device, Host, Json, Presence

log = structlog.get_logger(__name__)

#: A HostTroubleError: there will be no result.
PollResult = StepResult | StillRunning | HostTroubleError

_HEALTH = "/host/system/health"
_PATHS = {
    StepKind.ACTION: "action",
    StepKind.VERIFICATION: "verification",
    StepKind.GRAPH: "testcase",
}
_ID = re.compile(r"[A-Za-z0-9._:~-]{1,200}")
_AWAY = (Trouble.NOT_CONNECTED, Trouble.BROKEN)
#: Another poll would bring the same.
_FINAL = (Trouble.FATE_UNKNOWN, Trouble.HOST_REFUSED, Trouble.INVALID_STEP)
_NOT_FOUND = 404
_STREAMS = "/var/www/html/stream/"
AT_WORK = "The host works on the device by itself: nothing was sent."


class VirtualPyTestDialect:
    """Calls hosts as labs run them today; `team_id` goes with what they start.

    While `may_act` is false nothing is started, and no device's control is taken or released.
    """

    #: Seconds between polls: the first, by how much more each, the most.
    POLLS = (0.1, 1.5, 1.0)
    #: Seconds between the tries of a poll that got no answer.
    AGAIN = (0.5, 1.0)
    #: Seconds between health checks of a host that runs a script, and after one that failed.
    LOOKS = (5.0, 1.0)

    def __init__(self, team_id: str, may_act: Callable[[], bool] = lambda: True) -> None:
        self._team_query = {"team_id": team_id}
        self._client = SerialClient(may_act)
        self._tasks = ScriptTasks()
        self._by_hand = HandRequests(self._client)
        self._pictures = pictures.Pictures(self._client)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def probe(self, host: Host, limit: float) -> Identity:
        """GET the health: any 2xx of the host itself is alive."""
        try:
            async with asyncio.timeout(limit):
                return await self._identity(host)
        except TimeoutError as error:
            raise http.not_connected(error) from error

    async def _identity(self, host: Host) -> Identity:
        response = await self._client.get(host, _HEALTH, with_key=False)
        http.check_probe(response.status)
        identity = await http.identity_of(response.content)
        check_identity(host, identity)
        return identity

    async def _check_named(self, host: Host) -> None:
        """Raise HostTroubleError when somebody else answers at the host's URL.

        These hosts share one key, so another one would take the step. Other troubles are the
        step's own.
        """
        if not host.named:
            return
        try:
            await self._identity(host)
        except HostTroubleError as trouble:
            if trouble.trouble is Trouble.SOMEBODY_ELSE:
                raise

    async def send(self, call: Call) -> Answer:
        """Start the step, unless the call has a handle, and wait for its end."""
        now = asyncio.get_running_loop().time
        latest = now() + (call.step_limit or call.limit)
        try:
            async with asyncio.timeout(call.limit):
                if call.touch is not None:
                    await self._check_named(call.host)
                    return await self._by_hand.touch(call, call.touch)
                result = await self._end(call)
        except TimeoutError as error:
            raise HostTroubleError(Trouble.TIMEOUT, "The action did not end in time.") from error
        return await self._answer(call, result, min(pictures.LIMIT, (latest - now()) / 2))

    async def show(self, host: Host, device: Device, request: ScreenRequest, limit: float) -> bytes:
        """Return what the host shows of a device; see `by_hand`."""
        return await self._by_hand.show(host, device, request, limit)

    async def cancel(self, host: Host, execution_id: str, attempt: int, limit: float) -> bool:  # noqa: ARG002
        """Return False: these hosts cannot stop what they started."""
        return False

    async def look(self, host: Host, device: Device, limit: float) -> Presence | None:
        """Return whether the device can be used and whether the host works on it by itself."""
        try:
            async with asyncio.timeout(limit):
                return await device_state.look_at(self._client, host, device)
        except TimeoutError as error:
            raise http.not_connected(error) from error

    async def check_key(self, host: Host, limit: float) -> None:
        """Call a route that needs the key, until one was let through."""
        with suppress(TimeoutError):  # its health was answered: it is there
            async with asyncio.timeout(limit):
                await device_state.check_key(self._client, host)

    async def leave(self, host: Host, device: Device, limit: float) -> None:
        """POST /host/releaseControl; failures are ignored."""
        with suppress(HostTroubleError, TimeoutError):
            async with asyncio.timeout(limit):
                body = {"device_id": local_id(host, device)}
                await self._client.post(host, "/host/releaseControl", body)

    def task_complete(self, task_id: str, report: Json, host_id: str | None) -> bool:
        """Deliver the report on a script to the call that waits for it; False when none does."""
        return self._tasks.complete(task_id, report, host_id)

    # ------------------------------------------------------------ start

    async def _end(self, call: Call) -> StepResult:
        if call.handle is not None:
            kind, number = _parse_handle(call.handle)
            if kind is StepKind.SCRIPT:
                return await self._script_end(call, number, None)
            return await self._polled(call, kind, number, pause=0.0)
        await self._check_named(call.host)
        if call.opens:
            await self._take_control(call)
        # A graph may be long, and is looked through for references.
        build = partial(build_request, call)
        request = await asyncio.to_thread(build) if "graph" in call.body else build()
        if request.kind is StepKind.SCRIPT:
            return await self._script_end(call, secrets.token_urlsafe(24), request)
        number = _checked_id((await self._begin(call, request)).get("execution_id"))
        call.on_begun(f"{request.kind}:{number}")
        return await self._polled(call, request.kind, number, pause=self.POLLS[0])

    async def _take_control(self, call: Call) -> None:
        """POST /host/takeControl; the step is not out yet, so BROKEN becomes NOT_CONNECTED."""
        asked = {"device_id": local_id(call.host, call.device)}
        try:
            if await device_state.at_work(self._client, call.host, call.device):
                _raise_at_work()
            response = await self._client.post(call.host, "/host/takeControl", asked)
        except HostTroubleError as trouble:
            if trouble.trouble is Trouble.BROKEN:
                raise _as(Trouble.NOT_CONNECTED, trouble) from trouble
            raise
        body = await response.parsed()
        if not response.good:
            http.raise_for_status(response.status, body or {})
        if body is None:
            raise http.no_object(response.content)
        if body.get("success") is not True:
            _raise_not_started("The host did not give control of the device", body)
        missing = device_state.missing_controllers(call.device, body)
        if missing is not None:
            presence = Presence(available=False, reason=missing)
            raise HostTroubleError(Trouble.HOST_ERROR, missing, presence=presence)

    async def _begin(self, call: Call, request: StartRequest) -> Mapping[str, Any]:
        query = {**self._team_query, **_own_team(request)} if request.by_team else None
        response = await self._client.post(call.host, request.path, request.body, query)
        body = await response.parsed()
        if not response.good:
            http.raise_for_status(response.status, body or {})
        if body is None:
            raise http.no_object(response.content)
        if body.get("success", request.kind is StepKind.SCRIPT) is not True:
            _raise_not_started("The host did not start the step", body)
        return body

    # ------------------------------------------------------------ end by polls

    async def _polled(self, call: Call, kind: StepKind, number: str, *, pause: float) -> StepResult:
        first, more, most = self.POLLS
        last: Json | None = None
        while True:
            await asyncio.sleep(pause)
            status = await self._status(call, kind, number)
            if isinstance(status, HostTroubleError):
                raise status
            if isinstance(status, StepResult):
                return status
            if status.progress != last:
                last = status.progress
                call.on_progress(last)
            pause = min(pause * more, most) if pause else first

    async def _status(self, call: Call, kind: StepKind, number: str) -> PollResult:
        """Poll, with a few more tries when that brings nothing.

        The step was started: without a connection now it is BROKEN, never NOT_CONNECTED.
        """
        pauses = iter(self.AGAIN)
        while True:
            try:
                return await self._poll(call, kind, number)
            except HostTroubleError as trouble:
                pause = next(pauses, None)
                if pause is None and trouble.trouble in _AWAY:
                    raise _as(Trouble.BROKEN, trouble) from trouble
                if pause is None or trouble.trouble in _FINAL:
                    raise
            await asyncio.sleep(pause)

    async def _poll(self, call: Call, kind: StepKind, number: str) -> PollResult:
        path = f"/host/{_PATHS[kind]}/execution/{number}/status"
        query = None if kind is StepKind.GRAPH else {"device_id": local_id(call.host, call.device)}
        response = await self._client.get(call.host, path, query)
        if response.status == _NOT_FOUND:
            raise HostTroubleError(
                Trouble.FATE_UNKNOWN, "The host does not know the step any more."
            )
        return await response.read_as(partial(_read_poll, kind, response))

    # ------------------------------------------------------------ end by a callback

    async def _script_end(
        self, call: Call, task_id: str, request: StartRequest | None
    ) -> StepResult:
        """Wait for the host's callback, which may come before the start is answered."""
        end = self._tasks.expect(task_id, call.host.id, call.limit)
        if request is not None:
            await self._begin_script(call, task_id, request, end)
        fresh = request is not None
        watch = ScriptWatch(self._client, self._tasks, call, pauses=self.LOOKS, fresh=fresh)
        result = await watch.end(task_id, end)
        self._tasks.taken(task_id)
        if isinstance(result, HostTroubleError):
            raise result
        return result

    async def _begin_script(
        self, call: Call, task_id: str, request: StartRequest, end: asyncio.Future[ScriptEnd]
    ) -> None:
        try:
            await self._begin(call, replace(request, body={**request.body, "task_id": task_id}))
        except HostTroubleError:
            if end.done():  # it ran: only the answer to its start was lost
                return
            self._tasks.forget(task_id)
            raise
        call.on_begun(f"{StepKind.SCRIPT}:{task_id}")

    # ------------------------------------------------------------ answer

    async def _answer(self, call: Call, result: StepResult, limit: float) -> Answer:
        raw: Json = {
            "success": result.success,
            "output": result.output,
            "error": result.error,
        }
        fetched = await self._pictures.of(call, result, limit)
        if fetched.screenshot is not None:
            raw["screenshot"] = fetched.screenshot
        return Answer(
            result.success,
            result.output,
            result.error,
            raw=raw,
            notes=fetched.notes,
            pictures=tuple(fetched.others) if fetched.screenshot is not None else (),
        )


def _raise_at_work() -> NoReturn:
    presence = Presence(None, at_work=True)
    raise HostTroubleError(Trouble.HOST_ERROR, AT_WORK, presence=presence)


def _own_team(request: StartRequest) -> Mapping[str, str]:
    return {} if request.team_id is None else {"team_id": request.team_id}


def _as(trouble: Trouble, error: HostTroubleError) -> HostTroubleError:
    """Return the same error as another trouble."""
    return HostTroubleError(trouble, error.message, reason=error.reason)


def _read_poll(
    kind: StepKind, response: SerialResponse, body: Mapping[str, Any] | None
) -> PollResult:
    """Return what a poll says; a HostTroubleError is raised only when another poll may say more."""
    if not response.good:
        http.raise_for_status(response.status, body or {})
    if body is None:
        raise http.no_object(response.content)
    try:
        return read_status(kind, body)
    except HostTroubleError as trouble:
        return trouble


def _parse_handle(handle: str) -> tuple[StepKind, str]:
    kind, _, number = handle.partition(":")
    try:
        return StepKind(kind), number
    except ValueError as error:
        raise HostTroubleError(Trouble.FATE_UNKNOWN, "The step's handle is unknown.") from error


def _checked_id(number: Any) -> str:
    """Return the id that the host gave the step; it becomes a part of a path."""
    text = str(number) if isinstance(number, (str, int)) else ""
    if not _ID.fullmatch(text):
        raise not_understood("The host gave no id of what it started.")
    return text


def _raise_not_started(what: str, body: Mapping[str, Any]) -> NoReturn:
    reason = clean(body.get("error") or body.get("message"))
    why = f": {shortened(reason, http.LONGEST_WHY)}" if reason else "."
    invalid = reason is not None and is_invalid_graph(reason)
    raise HostTroubleError(Trouble.INVALID_STEP if invalid else Trouble.HOST_ERROR, what + why)
