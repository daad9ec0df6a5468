"""Hooks into a lab under test: at a statement, after rows were read, into an actor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.actors.conftest import Kit
from vpt.errors import DatabaseAwayError
from vpt.store.db import Database, Session


class HasDatabase(Protocol):
    """What has the database that the lab under test uses."""

    db: Database


@dataclass
class Pause:
    """A place where somebody waits until the test goes on."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def here(self) -> None:
        self.reached.set()
        await self.go.wait()


@contextmanager
def at_statement(
    lab: HasDatabase, name: str, *, before: Any = None, after: Any = None
) -> Iterator[None]:
    """Do something just before or after the database carries a statement out."""
    row_of = lab.db.row

    async def row(asked: str, /, **args: Any) -> Any:
        if asked == name and before is not None:
            await before()
        found = await row_of(asked, **args)
        if asked == name and after is not None:
            await after()
        return found

    lab.db.row = row  # type: ignore[method-assign]
    try:
        yield
    finally:
        lab.db.row = row_of  # type: ignore[method-assign]


@contextmanager
def after_reading(lab: Kit, what: str, work: Callable[[], Any], *, skip: int = 0) -> Iterator[None]:
    """Do something whenever a "session" or "transaction" has ended and its reader not gone on.

    The first `skip` of them are left alone.
    """
    begin: Callable[[], AbstractAsyncContextManager[Session]] = getattr(lab.db, what)
    left = [skip]

    @asynccontextmanager
    async def watched() -> AsyncIterator[Session]:
        async with begin() as session:
            yield session
        if left[0] == 0:
            await work()
        left[0] = max(0, left[0] - 1)

    setattr(lab.db, what, watched)
    try:
        yield
    finally:
        setattr(lab.db, what, begin)


async def away() -> None:
    raise DatabaseAwayError


def crash_actor(lab: Kit) -> None:
    """Let the host's actor meet a message that nobody knows."""
    lab.lab._supervisor._actors["h"].tell(object())
