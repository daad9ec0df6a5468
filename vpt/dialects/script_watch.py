"""Waiting for the end of a script, which its host reports once, and meanwhile asking that host.

The report may never come: the host's process was restarted in the middle, or it reported while no
server was up. So the host is asked, every few seconds, whether the device is at work; a host that
has no such route is at least asked whether it is there.
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Any

from vpt.dialects.base import Call, HostTroubleError, Trouble
from vpt.dialects.device_state import at_work
from vpt.dialects.reasons import CONNECTION_REFUSED
from vpt.dialects.scripts import ScriptEnd, ScriptTasks
from vpt.dialects.serial import SerialClient

_HEALTH = "/host/system/health"
_AWAY = (Trouble.NOT_CONNECTED, Trouble.BROKEN)
#: Looks in a row that find the host away, the device idle, or the port of the host refused. The
#: first two are three: a host may be restarted, or be about to send its report.
_MOST_AWAY, _MOST_IDLE, _MOST_REFUSED = 3, 3, 2
#: Seconds after the start of a script in which a device that was never seen at work is no sign of
#: its end: before the script's process the host writes to a database of its own.
_START = 60.0

NOT_REPORTED = "The host does nothing any more, and did not report the script's end."
RESTARTED = "The host was restarted while its script ran, and did not report the script's end."
UNREACHABLE = "The host cannot be reached while its script runs."


class _Sign(Enum):
    """What a look finds."""

    AT_WORK = auto()
    IDLE = auto()
    THERE = auto()  # whether it is at work it does not say
    REFUSED = auto()  # nothing listens at its port: its process ended
    AWAY = auto()


class ScriptWatch:
    """Watches the script of one call."""

    def __init__(
        self,
        client: SerialClient,
        tasks: ScriptTasks,
        call: Call,
        *,
        pauses: tuple[float, float],
        fresh: bool,
    ) -> None:
        self._client, self._tasks, self._call, self._pauses = client, tasks, call, pauses
        # A script that this very call begins may not have its process yet.
        self._idle_from = asyncio.get_running_loop().time() + _START if fresh else 0.0
        self._in_doubt = not fresh
        self._signs: list[_Sign] = []

    async def end(self, task_id: str, end: asyncio.Future[ScriptEnd]) -> ScriptEnd:
        """Return what the host reports; HostTroubleError when it will not report any more."""
        pause, soon = self._pauses
        while True:
            await asyncio.wait([end], timeout=soon if self._in_doubt else pause)
            if not end.done() and (sign := await self._look(end)) is not None:
                self._note(task_id, sign)
            if end.done():
                return end.result()
            self._give_up(task_id)

    def _note(self, task_id: str, sign: _Sign) -> None:
        if sign is _Sign.AT_WORK:
            self._idle_from = 0.0
        self._in_doubt = sign not in (_Sign.AT_WORK, _Sign.THERE)
        self._signs = [*self._signs[-_MOST_AWAY:], sign]
        if self._last(_MOST_REFUSED, _Sign.REFUSED):
            self._tasks.process_ended(task_id)

    def _last(self, number: int, *signs: _Sign) -> bool:
        """Return whether the last so many looks found one of these."""
        last = self._signs[-number:]
        return len(last) == number and all(sign in signs for sign in last)

    def _give_up(self, task_id: str) -> None:
        """Raise HostTroubleError when there is nothing left to wait for."""
        now = asyncio.get_running_loop().time()
        if self._last(_MOST_IDLE, _Sign.IDLE) and now >= self._idle_from:
            raise HostTroubleError(Trouble.IDLE, NOT_REPORTED)
        if self._last(1, _Sign.THERE) and (self._call.anew or self._tasks.has_ended(task_id)):
            raise HostTroubleError(Trouble.FATE_UNKNOWN, RESTARTED)
        if self._last(_MOST_AWAY, _Sign.AWAY, _Sign.REFUSED):
            raise HostTroubleError(Trouble.BROKEN, UNREACHABLE)

    async def _look(self, end: asyncio.Future[ScriptEnd]) -> _Sign | None:
        """Return what a look finds; None when the end comes first."""
        name = f"look at {self._call.host.id}"
        look = asyncio.create_task(self._found(), name=name)
        try:
            either: tuple[asyncio.Future[Any], ...] = (end, look)
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return look.result() if look.done() else None
        finally:
            look.cancel()

    async def _found(self) -> _Sign:
        call = self._call
        try:
            busy = await at_work(self._client, call.host, call.device)
            if busy is None:
                await self._client.get(call.host, _HEALTH, with_key=False)
        except HostTroubleError as trouble:
            return _sign_of(trouble)
        if busy is None:
            return _Sign.THERE
        return _Sign.AT_WORK if busy else _Sign.IDLE


def _sign_of(trouble: HostTroubleError) -> _Sign:
    if trouble.trouble not in _AWAY:
        return _Sign.THERE
    reason = trouble.reason
    refused = reason is not None and reason.text == CONNECTION_REFUSED
    return _Sign.REFUSED if refused else _Sign.AWAY
