"""Why executions wait: published whenever the reason changes."""

from __future__ import annotations

import asyncio
from time import perf_counter

from vpt.actors.dispatcher import Dispatcher, position
from vpt.actors.groups import QueueGroup
from vpt.events import Events
from vpt.model import QueueChanged, Wait, Waiting

_SLICE = 0.004  # seconds of work before others have their turn
_REST = 5  # times as long as the work: a sixth of the processor at most
_MOST = 1000  # executions published in one call, shared by the groups that are behind
_LEAST = 10  # of one group


class Waits:
    """Publishes why each execution waits: when it is queued, and when the reason changes."""

    def __init__(self, dispatcher: Dispatcher, events: Events) -> None:
        self._dispatcher = dispatcher
        self._events = events
        self._seen = -1
        self._began = 0.0

    async def tell(self) -> None:
        """Publish what changed since the last call; nothing when nothing happened.

        A long group is done piece by piece, its first ones first: one call does not do it all, so
        that others have their turn.
        """
        self._began = perf_counter()
        if self._dispatcher.changes != self._seen:  # looking through all groups is the costly part
            self._seen = self._dispatcher.changes
            await self._look()
        await self._greet()
        behind = [group for group in self._dispatcher.groups if group.behind]
        for group in behind:
            await self._go_on(group, max(_LEAST, _MOST // len(behind)))

    async def _look(self) -> None:
        """Find the groups whose reason changed: they are published from the head on."""
        for group in self._dispatcher.groups:
            reason = self._dispatcher.why(group).reason
            if reason is not group.reason:
                group.tell_anew(reason)
            await self._rest()

    async def _greet(self) -> None:
        """Publish the reasons of those that are new in the queue."""
        for waiting in self._dispatcher.newcomers(_MOST):
            group = self._dispatcher.group_of(waiting)
            if group is not None:
                self._publish(
                    waiting, self._dispatcher.why(group), group.rivals(self._dispatcher.groups)
                )
            await self._rest()

    async def _go_on(self, group: QueueGroup, most: int) -> None:
        """Publish the reason for the next ones of a group."""
        some = group.next_to_tell(most)
        rivals = group.rivals(self._dispatcher.groups)
        wait = self._dispatcher.why(group)
        for waiting in some:
            # It may have left, or come back as another entry, while others had their turn.
            if self._dispatcher.group_of(waiting) is group:
                self._publish(waiting, wait, rivals)
            await self._rest()

    def _publish(self, waiting: Waiting, wait: Wait, rivals: list[QueueGroup]) -> None:
        execution_id = waiting.execution_id
        # A new one may have been published with its group already, or a reason may be back.
        if self._dispatcher.told.get(execution_id) is wait.reason:
            return
        self._dispatcher.told[execution_id] = wait.reason
        place = position(waiting, rivals)
        self._events.publish(QueueChanged(execution_id, wait.reason, wait.names, place))

    async def _rest(self) -> None:
        """Yield to others after a slice of work: with long queues this is never urgent."""
        spent = perf_counter() - self._began
        if spent >= _SLICE:
            await asyncio.sleep(spent * _REST)
            self._began = perf_counter()
