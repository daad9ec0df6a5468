"""Why executions wait: told to those who watch, whenever the reason changes."""

from __future__ import annotations

import asyncio

from vpt.actors.dispatcher import Dispatcher
from vpt.events import Events
from vpt.model import QueueChanged, WaitReason, Wish

_SLICE = 50  # executions that are looked at before others have their turn


class Waits:
    """Remembers what was told of each execution in line."""

    def __init__(self, dispatcher: Dispatcher, events: Events) -> None:
        self._dispatcher = dispatcher
        self._events = events
        self._seen = 0
        self._told: dict[str, WaitReason] = {}

    async def tell(self) -> None:
        """Publish the reasons that changed since the last call; nothing when nothing happened."""
        if self._dispatcher.changes == self._seen:
            return
        self._seen = self._dispatcher.changes
        for wish in self._dispatcher.wishes:
            await self._tell_all(wish)
        for execution_id in [one for one in self._told if not self._dispatcher.waits(one)]:
            del self._told[execution_id]

    async def _tell_all(self, wish: Wish) -> None:
        """Tell of all who wait for the same, the first in line first."""
        wait = self._dispatcher.why(wish)
        if wait is None:  # a device is free: they are about to leave
            return
        for number, (execution_id, position) in enumerate(self._dispatcher.in_line(wish), 1):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            if self._told.get(execution_id) is not wait.reason:
                self._told[execution_id] = wait.reason
                event = QueueChanged(execution_id, wait.reason, wait.names, position)
                self._events.publish(event)
