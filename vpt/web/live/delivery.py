"""Readers: who follows a topic, and is told its events once each, in order and without a gap.

A reader that is behind needs no buffer: what is published has its row already, so it reads rows
until it has all that it heard of, and from then on it is told directly. That is how a replay
begins, and how a gap closes that a crash left between a row and its event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from vpt.errors import DatabaseAwayError
from vpt.store.db import Database
from vpt.web.live.replay import Progress, Topic, events_after

log = structlog.get_logger(__name__)

#: Events that are read at once; a reader has room for so many more, or the reading waits for him.
PAGE = 100
#: Pages that are read at the same time: the actors' own writes never wait behind replays.
_TURNS = 3
#: Seconds between tries while the database is away.
_AWAY = 0.5


@dataclass(eq=False, slots=True)
class Reader:
    """Somebody who follows a topic, and how far he is."""

    topic: Topic
    seq: int  # of the last event that he was told
    owner: str | None  # the client's id; None stands for all who did not ask for this topic
    heard: int = 0  # the newest event that he missed because he was behind
    behind: bool = False
    over: bool = False  # the last one was the final one
    gone: bool = False

    def takes(self, event: Progress) -> None:
        """Note that he is told of it."""
        self.seq, self.over = event.seq, event.status.final


class Tell(Protocol):
    """How a reader is told."""

    def __call__(self, reader: Reader, event: Progress, packet: Any = None) -> None:
        """Tell him, now; `packet` is the event made ready, where that was done already."""


class Readers:
    """Keeps readers in order; never waits when something is published."""

    def __init__(
        self,
        db: Database,
        tell: Tell,
        has_room: Callable[[Reader], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """Take how to tell a reader, how to wait until he can take more, and who owns tasks."""
        self._db = db
        self._tell = tell
        self._has_room = has_room
        self._spawn = spawn
        self._turns = asyncio.Semaphore(_TURNS)

    def hear(self, reader: Reader, event: Progress, packet: Any) -> None:
        """Tell him what is published, unless he knows it or has to read something before it."""
        if event.seq <= reader.seq:
            return
        if reader.behind or event.seq > reader.seq + 1:
            self.missed(reader, event.seq)
            return
        reader.takes(event)
        self._tell(reader, event, packet)

    def missed(self, reader: Reader, seq: int) -> None:
        """Note that there are events up to `seq`; he reads what he has not been told."""
        reader.heard = max(reader.heard, seq)
        if not reader.behind and reader.heard > reader.seq:
            self.follow(reader)

    def follow(self, reader: Reader) -> None:
        """Let him read on as soon as the database is there."""
        reader.behind = True
        self._spawn(self._patiently(reader))

    async def _patiently(self, reader: Reader) -> None:
        while not reader.gone:
            try:
                await self.catch_up(reader)
                return
            except DatabaseAwayError:
                await asyncio.sleep(_AWAY)

    async def catch_up(self, reader: Reader) -> None:
        """Tell him all there is; DatabaseAwayError leaves him behind, where he is."""
        reader.behind = True
        while not reader.gone and await self._page(reader):
            await self._has_room(reader)
        reader.behind = False  # nothing was published since the last look: that does not wait

    async def _page(self, reader: Reader) -> bool:
        """Tell him one page; False when that was all, and he heard of nothing more."""
        heard = reader.heard  # what is published while we read may be too young for this page
        async with self._turns:
            events = await events_after(self._db, reader.topic, reader.seq, PAGE)
        for event in events:
            if not reader.gone:
                reader.takes(event)
                self._tell(reader, event)
        if not events and heard > reader.seq:  # our mistake; waiting would not mend it
            log.error("event_missing", topic=reader.topic.id, seq=heard)
            reader.seq = heard
        return len(events) == PAGE or reader.heard > reader.seq
