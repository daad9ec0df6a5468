"""In-process publish and subscribe: in order, and a subscriber never holds a publisher up."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from vpt.model import Event

log = structlog.get_logger(__name__)

Subscriber = Callable[[Event], None]


class Events:
    """What happens, told to who wants to know; subscribers return at once and never raise."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` with every event from now on; give the function that ends it."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def publish(self, event: Event) -> None:
        """Tell all subscribers, in the order in which they came."""
        for subscriber in tuple(self._subscribers):
            subscriber(event)
