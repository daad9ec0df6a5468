"""What every actor is: an inbox, children that end by leaving a message, askers who get answers."""

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
    """Lives long and takes one message at a time; `receive` decides and never waits.

    As it never waits it needs no task to be woken: a turn of the loop takes what came so far.
    """

    def __init__(self, name: str, *, inbox_limit: int) -> None:
        self.name = name
        self._limit = inbox_limit
        self._inbox: deque[T] = deque()
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._context: Context | None = None  # its own, once it lives
        self._called = False  # a turn of the loop is asked for
        self._taking = False
        self._askers: dict[int, asyncio.Future[Any]] = {}
        self._numbers = count(1)
        self._children: asyncio.TaskGroup
        self._open: set[asyncio.Task[None]] = set()
        self._ended = False

    @property
    def depth(self) -> int:
        """How many messages wait."""
        return len(self._inbox)

    def tell(self, message: T) -> None:
        """Leave a message; it never fails and never waits."""
        self._inbox.append(message)
        self._ask_for_turn()

    def bring(self, message: T) -> None:
        """Leave a message that is taken at once when nothing waits before it.

        For tasks only: whoever is called by an actor or the dispatcher has to `tell`, since what
        an actor does must be whole before the next one begins.
        """
        if self._inbox or self._taking or self._context is None:
            self.tell(message)
        else:
            self._inbox.append(message)
            self._context.run(self._take_turn)

    async def ask(self, make: Callable[[int], T], seconds: float) -> Any:
        """Leave a command and wait for its answer, `seconds` at most.

        Raises the VptError of a refusal, UnavailableError when the inbox is full or the actor
        ends, ActionTimeoutError when the time is over.
        """
        if self._ended or len(self._inbox) >= self._limit:
            raise UnavailableError("The host's actor is busy: try again in a moment.")
        number = next(self._numbers)
        asker = self._askers[number] = self._loop.create_future()
        limit = self._loop.call_later(seconds, self.refuse, number, ActionTimeoutError())
        self.bring(make(number))
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
            self._context = copy_context()
            self.begin()
            self._ask_for_turn()
            await self._over
            for task in tuple(self._open):
                task.cancel()

    def _ask_for_turn(self) -> None:
        """Ask for a turn, unless one is coming or nobody is there to take it."""
        if self._inbox and not self._called and self._context is not None:
            self._called = True
            self._loop.call_soon(self._take_turn, context=self._context)

    def _take_turn(self) -> None:
        """Take what came until now, one message at a time; the rest has another turn."""
        self._called, self._taking = False, True
        try:
            for _ in range(len(self._inbox)):
                if self._over.done():
                    return
                if self.receive(self._inbox.popleft()):
                    self._over.set_result(None)
        except Exception as error:  # noqa: BLE001 (it ends the actor, whose owner deals with it)
            self._over.set_exception(error)
        finally:
            self._taking = False
        self._ask_for_turn()

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
