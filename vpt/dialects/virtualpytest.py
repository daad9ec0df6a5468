"""The VirtualPyTest dialect: something is begun, then asked for its end or told of it.

Such a host answers one request at a time, names what it begins, and knows no way back: there is
no cancel. What it begins is written by `start_requests`, what it says is read by `results`.
"""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn

import structlog

from vpt.dialects import http as wire
from vpt.dialects.base import Call, HostTroubleError, Trouble, clean
from vpt.dialects.results import Verdict, meaning_of
from vpt.dialects.scripts import End, Tasks
from vpt.dialects.serial import Line, own_url
from vpt.dialects.start_requests import Kind, Order, local_id, order_of
from vpt.model import Answer, Device, Host, Json

log = structlog.get_logger(__name__)

_HEALTH = "/host/system/health"
_PATHS = {Kind.ACTION: "action", Kind.VERIFICATION: "verification", Kind.GRAPH: "testcase"}
_ID = re.compile(r"[A-Za-z0-9._:~-]{1,200}")
_AWAY = (Trouble.NOT_CONNECTED, Trouble.BROKEN)
_FINAL = (Trouble.FATE_UNKNOWN, Trouble.HOST_REFUSED)
_NOT_FOUND = 404
_MAX_PICTURE = 8 * 2**20
_PICTURE_LIMIT = 5.0  # seconds; a verdict must not wait long for a picture
_BIG = 256 * 1024  # bytes; more are encoded beside the loop


class VirtualPyTestDialect:
    """Speaks to hosts as labs run them today; `team_id` goes with what they begin.

    While `ours` is false nothing is begun, nor is a device taken or given back.
    """

    #: Seconds between polls: the first, by how much more each, the most.
    POLLS = (0.1, 1.5, 1.0)
    #: Seconds between the tries of a poll that got no answer.
    AGAIN = (0.5, 1.0)
    #: Seconds between looks at a host that runs a script, and after one that found nobody.
    LOOKS = (5.0, 1.0)

    def __init__(self, team_id: str, ours: Callable[[], bool] = lambda: True) -> None:
        self._by_team = {"team_id": team_id}
        self._line = Line(ours)
        self._tasks = Tasks()

    async def close(self) -> None:
        """Close all connections."""
        await self._line.close()

    async def probe(self, host: Host, limit: float) -> None:
        """GET the health: any 2xx is alive."""
        try:
            async with asyncio.timeout(limit):
                reply = await self._line.get(host, _HEALTH, with_key=False)
        except TimeoutError as error:
            raise HostTroubleError(Trouble.NOT_CONNECTED, "The probe got no answer.") from error
        if not reply.good:
            raise HostTroubleError(Trouble.HOST_ERROR, f"The probe got {reply.status}.")

    async def send(self, call: Call) -> Answer:
        """Begin the step, unless it has a handle, and wait for its end."""
        now = asyncio.get_running_loop().time
        latest = now() + call.limit
        try:
            async with asyncio.timeout(call.limit):
                verdict = await self._end(call)
        except TimeoutError as error:
            raise HostTroubleError(Trouble.TIMEOUT, "The action did not end in time.") from error
        return await self._answer(call.host, verdict, min(_PICTURE_LIMIT, latest - now()))

    async def cancel(self, host: Host, execution_id: str, attempt: int, limit: float) -> bool:  # noqa: ARG002
        """Do nothing: these hosts cannot stop what they began."""
        return False

    async def leave(self, host: Host, device: Device, limit: float) -> None:
        """POST /host/releaseControl; nobody needs to hear it."""
        with suppress(HostTroubleError, TimeoutError):
            async with asyncio.timeout(limit):
                body = {"device_id": local_id(host, device)}
                await self._line.post(host, "/host/releaseControl", body)

    def task_complete(self, task_id: str, said: Json, host_id: str | None) -> bool:
        """Hand a host's word on a script to who waits for it; False when nobody does."""
        return self._tasks.complete(task_id, said, host_id)

    # ------------------------------------------------------------ beginning

    async def _end(self, call: Call) -> Verdict:
        if call.handle is not None:
            kind, number = _taken_apart(call.handle)
            if kind is Kind.SCRIPT:
                return await self._script_end(call, number, None)
            return await self._polled(call, kind, number, pause=0.0)
        if call.opens:
            await self._take_control(call)
        order = order_of(call)
        if order.kind is Kind.SCRIPT:
            return await self._script_end(call, secrets.token_urlsafe(24), order)
        number = _checked((await self._begin(call, order)).get("execution_id"))
        call.on_begun(f"{order.kind}:{number}")
        return await self._polled(call, order.kind, number, pause=self.POLLS[0])

    async def _take_control(self, call: Call) -> None:
        """Nothing of the step goes out before: whatever breaks here can be done again."""
        body = {"device_id": local_id(call.host, call.device)}
        try:
            reply = await self._line.post(call.host, "/host/takeControl", body)
        except HostTroubleError as trouble:
            if trouble.trouble is Trouble.BROKEN:
                raise HostTroubleError(Trouble.NOT_CONNECTED, trouble.message) from trouble
            raise
        raw = await reply.parsed() or {}
        if not reply.good:
            wire.refuse(reply.status, raw)
        if raw.get("success") is not True:
            _not_begun("The host did not give the device", raw)

    async def _begin(self, call: Call, order: Order) -> Mapping[str, Any]:
        query = self._by_team if order.by_team else None
        reply = await self._line.post(call.host, order.path, order.body, query)
        raw = await reply.parsed()
        if not reply.good:
            wire.refuse(reply.status, raw or {})
        said = None if raw is None else raw.get("success", order.kind is Kind.SCRIPT)
        if raw is None or said is not True:
            _not_begun("The host did not begin it", raw or {})
        return raw

    # ------------------------------------------------------------ asked for its end

    async def _polled(self, call: Call, kind: Kind, number: str, *, pause: float) -> Verdict:
        first, more, most = self.POLLS
        told: Json | None = None
        while True:
            await asyncio.sleep(pause)
            meaning = meaning_of(kind, await self._status(call, kind, number))
            if isinstance(meaning, Verdict):
                return meaning
            if meaning.at != told:
                told = meaning.at
                call.on_progress(told)
            pause = min(pause * more, most) if pause else first

    async def _status(self, call: Call, kind: Kind, number: str) -> Mapping[str, Any]:
        """Poll, with a few more tries when that brings nothing."""
        pauses = iter(self.AGAIN)
        while True:
            try:
                return await self._poll(call, kind, number)
            except HostTroubleError as trouble:
                pause = next(pauses, None)
                if pause is None and trouble.trouble in _AWAY:
                    raise HostTroubleError(Trouble.BROKEN, trouble.message) from trouble
                if pause is None or trouble.trouble in _FINAL:
                    raise
            await asyncio.sleep(pause)

    async def _poll(self, call: Call, kind: Kind, number: str) -> Mapping[str, Any]:
        path = f"/host/{_PATHS[kind]}/execution/{number}/status"
        query = None if kind is Kind.GRAPH else {"device_id": local_id(call.host, call.device)}
        reply = await self._line.get(call.host, path, query)
        if reply.status == _NOT_FOUND:
            raise HostTroubleError(Trouble.FATE_UNKNOWN, "The host forgot what it began.")
        raw = await reply.parsed()
        if not reply.good:
            wire.refuse(reply.status, raw or {})
        if raw is None:
            raise HostTroubleError(Trouble.HOST_ERROR, "The host's answer is no JSON object.")
        return raw

    # ------------------------------------------------------------ told of its end

    async def _script_end(self, call: Call, task_id: str, order: Order | None) -> Verdict:
        """Wait for the host's word, which may come before the start of the script is answered."""
        end = self._tasks.expect(task_id, call.host.id, call.limit)
        if order is not None:
            await self._begin_script(call, task_id, order, end)
        verdict = await self._told(call.host, end)
        self._tasks.taken(task_id)
        if isinstance(verdict, HostTroubleError):
            raise verdict
        return verdict

    async def _begin_script(
        self, call: Call, task_id: str, order: Order, end: asyncio.Future[End]
    ) -> None:
        try:
            await self._begin(call, replace(order, body={**order.body, "task_id": task_id}))
        except HostTroubleError:
            if end.done():  # it ran: only the answer to its start was lost
                return
            self._tasks.forget(task_id)
            raise
        call.on_begun(f"{Kind.SCRIPT}:{task_id}")

    async def _told(self, host: Host, end: asyncio.Future[End]) -> End:
        """Wait; a host that cannot be reached again and again is given up, a slow one is not."""
        pause, soon = self.LOOKS
        missed = 0
        while True:
            await asyncio.wait([end], timeout=soon if missed else pause)
            if not end.done():
                missed = missed + 1 if await self._away(host, end) else 0
            if end.done():
                return end.result()
            if missed > len(self.AGAIN):
                raise HostTroubleError(
                    Trouble.BROKEN, "The host cannot be reached while its script runs."
                )

    async def _away(self, host: Host, end: asyncio.Future[End]) -> bool:
        """Look at the host, unless the end comes first; True when it cannot be reached."""
        look = asyncio.create_task(self._unreachable(host), name=f"look at {host.id}")
        try:
            either: tuple[asyncio.Future[Any], ...] = (end, look)
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return look.done() and look.result()
        finally:
            look.cancel()

    async def _unreachable(self, host: Host) -> bool:
        try:
            await self._line.get(host, _HEALTH, with_key=False)
        except HostTroubleError as trouble:
            return trouble.trouble in _AWAY
        return False

    # ------------------------------------------------------------ answering

    async def _answer(self, host: Host, verdict: Verdict, limit: float) -> Answer:
        raw: Json = {
            "success": verdict.success,
            "output": verdict.output,
            "error": verdict.error,
        }
        if verdict.pictures:
            raw["screenshot"] = await self._picture(host, verdict.pictures[-1], limit)
        return Answer(verdict.success, verdict.output, verdict.error, raw=raw)

    async def _picture(self, host: Host, name: str, limit: float) -> str | None:
        """Fetch a screenshot (base64) from the host itself; what cannot be had is no failure."""
        url = own_url(host, name)
        if url is None:
            log.info("screenshot_not_fetched", host_id=host.id, why="It is not on the host.")
            return None
        try:
            async with asyncio.timeout(limit):
                reply = await self._line.get(host, url, most=_MAX_PICTURE)
        except (HostTroubleError, TimeoutError) as error:
            log.info("screenshot_not_fetched", host_id=host.id, why=str(error) or "It took long.")
            return None
        if not reply.good:
            log.info("screenshot_not_fetched", host_id=host.id, why=f"It got {reply.status}.")
            return None
        if len(reply.content) > _BIG:
            return await asyncio.to_thread(_encoded, reply.content)
        return _encoded(reply.content)


def _encoded(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def _taken_apart(handle: str) -> tuple[Kind, str]:
    kind, _, number = handle.partition(":")
    try:
        return Kind(kind), number
    except ValueError as error:
        raise HostTroubleError(Trouble.FATE_UNKNOWN, "Nobody knows what was begun.") from error


def _checked(number: Any) -> str:
    """Give the id of what was begun; it becomes a part of a path."""
    text = str(number) if isinstance(number, (str, int)) else ""
    if not _ID.fullmatch(text):
        raise HostTroubleError(Trouble.HOST_ERROR, "The host does not name what it began.")
    return text


def _not_begun(what: str, raw: Mapping[str, Any]) -> NoReturn:
    said = clean(raw.get("error") or raw.get("message"))
    raise HostTroubleError(Trouble.HOST_ERROR, what + (f": {said[:500]}" if said else "."))
