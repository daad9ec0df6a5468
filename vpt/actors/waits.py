"""Why executions wait: told to those who watch, whenever the reason changes."""

from __future__ import annotations

import asyncio
from time import perf_counter

from vpt.actors.dispatcher import Dispatcher, position
from vpt.actors.groups import Line
from vpt.events import Events
from vpt.model import QueueChanged, Wait, Waiting

_SLICE = 0.004  # seconds of work before others have their turn
_REST = 5  # times as long as the work: a sixth of the processor at most
_MOST = 1000  # executions looked at in one call, shared by the lines that have to be told
_LEAST = 10  # of one line


class Waits:
    """Tells each execution in line why it waits: when it comes, and when the reason changes."""

    def __init__(self, dispatcher: Dispatcher, events: Events) -> None:
        self._dispatcher = dispatcher
        self._events = events
        self._seen = -1
        self._began = 0.0

    async def tell(self) -> None:
        """Publish what changed since the last call; nothing when nothing happened.

        A long line is told piece by piece, the first in line first: one call does not do it all.
        """
        self._began = perf_counter()
        if self._dispatcher.changes != self._seen:
            self._seen = self._dispatcher.changes
            await self._look()
        await self._greet()
        behind = [line for line in self._dispatcher.lines if line.behind]
        for line in behind:
            await self._go_on(line, max(_LEAST, _MOST // len(behind)))

    async def _look(self) -> None:
        """Find the lines whose reason changed: they are told from the head on."""
        for line in self._dispatcher.lines:
            reason = self._dispatcher.why(line).reason
            if reason is not line.reason:
                line.tell_anew(reason)
            await self._rest()

    async def _greet(self) -> None:
        """Tell the newcomers."""
        for waiting in self._dispatcher.newcomers(_MOST):
            line = self._dispatcher.line_of(waiting)
            if line is not None:
                self._publish(
                    waiting, self._dispatcher.why(line), line.rivals(self._dispatcher.lines)
                )
            await self._rest()

    async def _go_on(self, line: Line, most: int) -> None:
        """Tell the next of a line that are to be told."""
        some = line.next_to_tell(most)
        rivals = line.rivals(self._dispatcher.lines)
        wait = self._dispatcher.why(line)
        for waiting in some:
            if self._dispatcher.line_of(waiting) is line:
                self._publish(waiting, wait, rivals)
            await self._rest()

    def _publish(self, waiting: Waiting, wait: Wait, rivals: list[Line]) -> None:
        execution_id = waiting.execution_id
        if self._dispatcher.told.get(execution_id) is wait.reason:
            return
        self._dispatcher.told[execution_id] = wait.reason
        place = position(waiting, rivals)
        self._events.publish(QueueChanged(execution_id, wait.reason, wait.names, place))

    async def _rest(self) -> None:
        """Let others have their turn when this one took long enough."""
        spent = perf_counter() - self._began
        if spent >= _SLICE:
            await asyncio.sleep(spent * _REST)
            self._began = perf_counter()
