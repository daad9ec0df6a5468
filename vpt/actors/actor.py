"""What every actor is: an inbox, children that end by leaving a message, askers who get answers."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, Generic, TypeVar

from vpt.errors import ActionTimeoutError, UnavailableError, VptError

T = TypeVar("T")


class Actor(ABC, Generic[T]):
    """A long-lived task that takes one message at a time; `receive` decides and never waits."""

    def __init__(self, name: str, *, inbox_limit: int) -> None:
        self.name = name
        self._limit = inbox_limit
        self._inbox: asyncio.Queue[T] = asyncio.Queue()
        self._askers: dict[int, asyncio.Future[Any]] = {}
        self._numbers = count(1)
        self._children: asyncio.TaskGroup
        self._open: set[asyncio.Task[None]] = set()
        self._ended = False

    @property
    def depth(self) -> int:
        """How many messages wait."""
        return self._inbox.qsize()

    def tell(self, message: T) -> None:
        """Leave a message; it never fails and never waits."""
        self._inbox.put_nowait(message)

    async def ask(self, make: Callable[[int], T], seconds: float) -> Any:
        """Leave a command and wait for its answer, `seconds` at most.

        Raises the VptError of a refusal, UnavailableError when the inbox is full or the actor
        ends, ActionTimeoutError when the time is over.
        """
        if self._ended or self._inbox.qsize() >= self._limit:
            raise UnavailableError("The host's actor is busy: try again in a moment.")
        number = next(self._numbers)
        loop = asyncio.get_running_loop()
        asker = self._askers[number] = loop.create_future()
        limit = loop.call_later(seconds, self.refuse, number, ActionTimeoutError())
        self._inbox.put_nowait(make(number))
        try:
            return await asker
        finally:
            limit.cancel()
            del self._askers[number]

    def asked(self, number: int) -> bool:
        """True while somebody waits for that answer."""
        return number in self._askers

    def answer(self, number: int, value: object) -> None:
        """Give an asker his answer; nobody waiting is fine."""
        asker = self._askers.get(number)
        if asker is not None and not asker.done():
            asker.set_result(value)

    def refuse(self, number: int, error: VptError) -> None:
        """Give an asker a refusal."""
        asker = self._askers.get(number)
        if asker is not None and not asker.done():
            asker.set_exception(error)

    async def run(self) -> None:
        """Live: take messages until `receive` says that it is over (True) or raises."""
        async with asyncio.TaskGroup() as self._children:
            self.begin()
            while not self.receive(await self._inbox.get()):
                pass
            for task in tuple(self._open):
                task.cancel()

    def ended(self) -> None:
        """Answer those who wait; called by the owner when the task is done, however it ended."""
        self._ended = True
        for asker in self._askers.values():
            if not asker.done():
                asker.set_exception(UnavailableError("The host's actor ended: try again."))

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a child; an exception of it ends the actor."""
        task = self._children.create_task(work, name=f"{self.name}: {name}")
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        return task

    def begin(self) -> None:
        """Do what is due at the start."""

    @abstractmethod
    def receive(self, message: T) -> bool:
        """Decide and act; True ends the actor."""
