"""Scripts that run on hosts: a host reports each end once, by a callback, whenever it is over."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

import structlog

from vpt.dialects.base import HostTroubleError
from vpt.dialects.results import StepResult, script_result
from vpt.model import Json

log = structlog.get_logger(__name__)

_KEPT = 60.0  # seconds: a call that got an end may break off before that is stored
_MAX_UNCLAIMED = 256  # ends of unknown tasks: after a restart their runs may be resumed yet

ScriptEnd = StepResult | HostTroubleError


@dataclass(slots=True)
class _ScriptTask:
    host_id: str
    end: asyncio.Future[ScriptEnd]
    expires: float
    taken: bool = False
    process_ended: bool = False  # the port of its host was refused meanwhile


class ScriptTasks:
    """The scripts under way; an end that comes while no call waits for it is kept for a while."""

    def __init__(self) -> None:
        self._known: dict[str, _ScriptTask] = {}
        self._unclaimed: OrderedDict[str, tuple[str | None, ScriptEnd]] = OrderedDict()

    def expect(self, task_id: str, host_id: str, seconds: float) -> asyncio.Future[ScriptEnd]:
        """Return the end of a task, to come within `seconds` or there already."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        task = self._known.get(task_id)
        if task is None:
            task = self._known[task_id] = _ScriptTask(host_id, loop.create_future(), now)
            self._claim(task_id, task)
        task.expires = now + seconds
        self._drop_old(now)
        return task.end

    def taken(self, task_id: str) -> None:
        """Note that a call got the end; it is kept for a while, since it is reported only once."""
        task = self._known.get(task_id)
        if task is not None:
            task.taken, task.expires = True, asyncio.get_running_loop().time() + _KEPT

    def process_ended(self, task_id: str) -> None:
        """Note that the host's process ended while the script ran, and the script with it."""
        task = self._known.get(task_id)
        if task is not None:
            task.process_ended = True

    def has_ended(self, task_id: str) -> bool:
        """Return whether the host's process ended while the script ran."""
        task = self._known.get(task_id)
        return task is not None and task.process_ended

    def forget(self, task_id: str) -> None:
        """Remove a task that was never started."""
        self._known.pop(task_id, None)

    def complete(self, task_id: str, report: Json, host_id: str | None) -> bool:
        """Accept the first report on a task from its own host; return False for any other.

        `host_id` is the host that the report's credential belongs to, None when it is good for any.
        """
        task = self._known.get(task_id)
        if task is None:
            self._keep_unclaimed(task_id, host_id, _read_report(report))
            return False
        if host_id not in (None, task.host_id):
            log.warning("foreign_task_refused", task_id=task_id, host_id=host_id)
            return False
        if task.end.done():
            return False
        task.end.set_result(_read_report(report))
        return True

    def _keep_unclaimed(self, task_id: str, host_id: str | None, end: ScriptEnd) -> None:
        self._unclaimed.setdefault(task_id, (host_id, end))  # the first report counts
        if len(self._unclaimed) > _MAX_UNCLAIMED:
            self._unclaimed.popitem(last=False)

    def _claim(self, task_id: str, task: _ScriptTask) -> None:
        unclaimed = self._unclaimed.get(task_id)
        if unclaimed is not None and unclaimed[0] in (None, task.host_id):
            del self._unclaimed[task_id]
            task.end.set_result(unclaimed[1])

    def _drop_old(self, now: float) -> None:
        """Remove tasks that expired; an end that no call got yet stays among the unclaimed."""
        for task_id in [each for each, task in self._known.items() if task.expires < now]:
            task = self._known.pop(task_id)
            if task.end.done() and not task.taken:
                self._keep_unclaimed(task_id, task.host_id, task.end.result())


def _read_report(report: Json) -> ScriptEnd:
    """Return the end in a report; it is read at once, so that what is kept is small."""
    try:
        return script_result(report)
    except HostTroubleError as trouble:
        return trouble
