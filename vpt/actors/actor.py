"""The base of actors: an inbox, child tasks that send messages to it, and pending asks."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from itertools import count
from typing import Any, Generic, TypeVar

from vpt.errors import ActionTimeoutError, UnavailableError, VptError

T = TypeVar("T")


class Actor(ABC, Generic[T]):
    """Receives one message at a time; `receive` decides and never awaits.

    As it never awaits, it needs no task that waits for messages: a callback of the event loop
    processes what came so far, which saves the wake-up of a task for each message. Whatever has to
    wait (calls, records, probes) is a child task, which sends a message when it is done.
    """

    def __init__(self, name: str, *, inbox_limit: int) -> None:
        self.name = name
        self._limit = inbox_limit
        self._inbox: deque[T] = deque()
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._context: Context | None = (
            None  # of `run`: messages are processed in it, whoever sent them
        )
        self._scheduled = False  # the callback is on its way
        self._processing = False
        self._asks: dict[int, asyncio.Future[Any]] = {}
        self._numbers = count(1)
        self._children: asyncio.TaskGroup
        self._open: set[asyncio.Task[None]] = set()
        self._ended = False

    @property
    def depth(self) -> int:
        """Return how many messages wait."""
        return len(self._inbox)

    def tell(self, message: T) -> None:
        """Put a message into the inbox; this never fails and never waits."""
        self._inbox.append(message)
        self._schedule()

    def deliver(self, message: T) -> None:
        """Put a message into the inbox, and process it at once when no other waits."""
        # For tasks only: code that an actor or the dispatcher calls has to `tell`. Else one actor
        # would begin in the middle of what another one does.
        if self._inbox or self._processing or self._context is None:
            self.tell(message)
        else:
            self._inbox.append(message)
            self._context.run(self._process_inbox)

    async def ask(self, make: Callable[[int], T], seconds: float) -> Any:
        """Send a command and wait for its answer, `seconds` at most.

        Raise the VptError that it was rejected with, UnavailableError when the inbox is full or the
        actor ends, ActionTimeoutError when the time is over. Only commands are bounded by the
        inbox's limit: facts are few, and losing one would leave a run stuck.
        """
        if self._ended or len(self._inbox) >= self._limit:
            raise UnavailableError("The host's actor is busy: try again in a moment.")
        number = next(self._numbers)
        pending = self._asks[number] = self._loop.create_future()
        limit = self._loop.call_later(seconds, self.reject, number, ActionTimeoutError())
        self.deliver(make(number))
        try:
            return await pending
        finally:
            limit.cancel()
            del self._asks[number]

    def is_pending(self, number: int) -> bool:
        """Return whether somebody still waits for that answer."""
        return number in self._asks

    def resolve(self, number: int, value: object) -> None:
        """Resolve a pending ask; no-op when it is gone."""
        pending = self._asks.get(number)
        if pending is not None and not pending.done():
            pending.set_result(value)

    def reject(self, number: int, error: VptError) -> None:
        """Reject a pending ask; no-op when it is gone."""
        pending = self._asks.get(number)
        if pending is not None and not pending.done():
            pending.set_exception(error)

    async def run(self) -> None:
        """Process messages until `receive` returns True or raises; then cancel all children."""
        async with asyncio.TaskGroup() as self._children:
            self._context = copy_context()
            self.begin()
            self._schedule()
            await self._over
            # The group waits for its tasks, and none of them would end by itself.
            for task in tuple(self._open):
                task.cancel()

    def _schedule(self) -> None:
        """Schedule `_process_inbox`, unless it is scheduled or the actor does not run."""
        if self._inbox and not self._scheduled and self._context is not None:
            self._scheduled = True
            self._loop.call_soon(self._process_inbox, context=self._context)

    def _process_inbox(self) -> None:
        """Process what came until now; what comes meanwhile waits, so that others are served."""
        self._scheduled, self._processing = False, True
        try:
            # An actor that tells itself something would otherwise never let the loop go on.
            for _ in range(len(self._inbox)):
                if self._over.done():
                    return
                if self.receive(self._inbox.popleft()):
                    self._over.set_result(None)
        except Exception as error:  # noqa: BLE001 (it ends the actor, whose supervisor handles it)
            self._over.set_exception(error)
        finally:
            self._processing = False
        self._schedule()

    def ended(self) -> None:
        """Reject what is pending; called by the owner when `run` is over, however it ended."""
        self._ended = True
        for pending in self._asks.values():
            if not pending.done():
                pending.set_exception(UnavailableError("The host's actor ended: try again."))

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a child task; an exception of it ends the actor."""
        task = self._children.create_task(work, name=f"{self.name}: {name}")
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        return task

    def begin(self) -> None:
        """Do what is due at the start; called by `run`."""

    @abstractmethod
    def receive(self, message: T) -> bool:
        """Handle a message; return True to end the actor."""
