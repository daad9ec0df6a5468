"""Delivery: sends each subscriber of a topic its events once each, in order and without a gap.

A subscriber that is behind needs no buffer: what is published has its row already, so rows are read
until it was sent all that it missed, and from then on it is sent events as they are published. That
is how a replay begins, and how a gap closes that a crash left between a row and its event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from vpt.background import Background
from vpt.store.db import Database
from vpt.store.patience import patiently
from vpt.web.live.replay import Progress, Topic, events_after
from vpt.web.live.transport import Packet

log = structlog.get_logger(__name__)

#: Events that are read at once; a client with more than that unread is waited for.
PAGE = 100
#: Pages that are read at the same time: the actors' own writes never wait behind replays.
_PAGES_AT_ONCE = 3


@dataclass(eq=False, slots=True)
class Subscriber:
    """A subscriber of one topic and the last event sent to it."""

    topic: Topic
    seq: int  # of the last event sent to it
    sid: str | None  # the client's; None for the shared subscriber, see Publisher
    newest_missed: int = 0  # the `seq` of the newest event published while it was behind
    behind: bool = False
    over: bool = False  # the last event sent to it was the final one
    ended: bool = False  # it is sent nothing more

    def advance(self, event: Progress) -> None:
        """Note that an event is being sent to it."""
        self.seq, self.over = event.seq, event.status.final


class Send(Protocol):
    """Sends an event to a subscriber."""

    def __call__(
        self, subscriber: Subscriber, event: Progress, packet: Packet | None = None
    ) -> None:
        """Send it at once; `packet` is the event encoded, where that was done already."""


class Delivery:
    """Keeps subscribers in order; publishing never waits for it."""

    def __init__(
        self,
        db: Database,
        send: Send,
        has_room: Callable[[Subscriber], Awaitable[None]],
        background: Background,
    ) -> None:
        """Deliver by `send`; `has_room` waits until a subscriber can be sent another page."""
        self._db = db
        self._send = send
        self._has_room = has_room
        self._background = background
        self._page_slots = asyncio.Semaphore(_PAGES_AT_ONCE)

    def offer(self, subscriber: Subscriber, event: Progress, packet: Packet) -> None:
        """Send a published event, unless it was sent already or others must be sent before it."""
        if event.seq <= subscriber.seq:
            return
        if subscriber.behind or event.seq > subscriber.seq + 1:
            self.note_missed(subscriber, event.seq)
            return
        subscriber.advance(event)
        self._send(subscriber, event, packet)

    def note_missed(self, subscriber: Subscriber, seq: int) -> None:
        """Note that there are events up to `seq`; those not yet sent are read and sent."""
        subscriber.newest_missed = max(subscriber.newest_missed, seq)
        if not subscriber.behind and subscriber.newest_missed > subscriber.seq:
            self.start_catching_up(subscriber)

    def start_catching_up(self, subscriber: Subscriber) -> None:
        """Start to send what the subscriber missed, as soon as the database can be read."""
        subscriber.behind = True
        self._background.start(self._patiently(subscriber), "subscriber-catches-up")

    async def _patiently(self, subscriber: Subscriber) -> None:
        try:
            await patiently(None, lambda: self.catch_up(subscriber))
        finally:  # after any other error the next event, or the next look for gaps, tries again
            subscriber.behind = False

    async def catch_up(self, subscriber: Subscriber) -> None:
        """Send all events that are stored; DatabaseAwayError leaves the subscriber behind."""
        subscriber.behind = True
        while not subscriber.ended and await self._send_page(subscriber):
            await self._has_room(subscriber)
        # Nothing was published since the last look at newest_missed: nothing waits in between.
        subscriber.behind = False

    async def _send_page(self, subscriber: Subscriber) -> bool:
        """Send one page; return whether there is more to send."""
        # What is published while the page is read may be too new to be in it.
        newest = subscriber.newest_missed
        async with self._page_slots:
            events = await events_after(self._db, subscriber.topic, subscriber.seq, PAGE)
        for event in events:
            if not subscriber.ended:
                subscriber.advance(event)
                self._send(subscriber, event)
        if not events and newest > subscriber.seq:  # a fault of ours, which no waiting cures
            log.error("event_missing", topic=subscriber.topic.id, seq=newest)
            subscriber.seq = newest
        return len(events) == PAGE or subscriber.newest_missed > subscriber.seq
