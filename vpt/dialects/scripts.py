"""Tasks that were given to hosts: each end is told once, by the host, whenever it is over."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

import structlog

from vpt.dialects.base import HostTroubleError
from vpt.dialects.results import Verdict, script_verdict
from vpt.model import Json

log = structlog.get_logger(__name__)

_KEPT = 60.0  # seconds: who took an end may have to ask for it again
_STRAYS = 256  # ends of tasks that nobody knows yet: their runs are being taken up again

End = Verdict | HostTroubleError


@dataclass(slots=True)
class _Task:
    host_id: str
    end: asyncio.Future[End]
    expires: float
    taken: bool = False


class Tasks:
    """Who waits for which task; an end that comes while nobody does is kept for a while."""

    def __init__(self) -> None:
        self._known: dict[str, _Task] = {}
        self._strays: OrderedDict[str, tuple[str | None, End]] = OrderedDict()

    def expect(self, task_id: str, host_id: str, seconds: float) -> asyncio.Future[End]:
        """Give the end of a task, to come within `seconds` or there already."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        task = self._known.get(task_id)
        if task is None:
            task = self._known[task_id] = _Task(host_id, loop.create_future(), now)
            self._take_stray(task_id, task)
        task.expires = now + seconds
        self._drop_old(now)
        return task.end

    def taken(self, task_id: str) -> None:
        """Note that an end was taken; it is kept a little longer, since it is told once."""
        task = self._known.get(task_id)
        if task is not None:
            task.taken, task.expires = True, asyncio.get_running_loop().time() + _KEPT

    def forget(self, task_id: str) -> None:
        """Drop a task that was never begun."""
        self._known.pop(task_id, None)

    def complete(self, task_id: str, said: Json, host_id: str | None) -> bool:
        """Take the first word on a task from who may speak for its host; False otherwise."""
        task = self._known.get(task_id)
        if task is None:
            self._keep_stray(task_id, host_id, _end_of(said))
            return False
        if host_id not in (None, task.host_id):
            log.warning("foreign_task_refused", task_id=task_id, host_id=host_id)
            return False
        if task.end.done():
            return False
        task.end.set_result(_end_of(said))
        return True

    def _keep_stray(self, task_id: str, host_id: str | None, end: End) -> None:
        self._strays.setdefault(task_id, (host_id, end))  # the first word counts
        if len(self._strays) > _STRAYS:
            self._strays.popitem(last=False)

    def _take_stray(self, task_id: str, task: _Task) -> None:
        stray = self._strays.get(task_id)
        if stray is not None and stray[0] in (None, task.host_id):
            del self._strays[task_id]
            task.end.set_result(stray[1])

    def _drop_old(self, now: float) -> None:
        """Forget whom nobody waits for; an end that nobody took may be asked for yet."""
        for task_id in [each for each, task in self._known.items() if task.expires < now]:
            task = self._known.pop(task_id)
            if task.end.done() and not task.taken:
                self._keep_stray(task_id, task.host_id, task.end.result())


def _end_of(said: Json) -> End:
    """Read it at once: what is kept is small, whatever the host wrote."""
    try:
        return script_verdict(said)
    except HostTroubleError as trouble:
        return trouble
