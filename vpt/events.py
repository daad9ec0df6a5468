"""In-process publish and subscribe: in order, and no subscriber delays or stops a publisher."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from vpt.model import Event

log = structlog.get_logger(__name__)

Subscriber = Callable[[Event], None]


class Events:
    """The events of one server, delivered to its subscribers, which must return at once."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call `subscriber` with every event from now on; return the function that ends it."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    def publish(self, event: Event) -> None:
        """Deliver `event` to all subscribers, in the order in which they subscribed.

        A subscriber that raises is logged: the publisher is mostly a host's actor, and neither
        its host nor the other subscribers may suffer from a fault elsewhere.
        """
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(event)
            except Exception:
                log.exception("subscriber_failed", event_type=type(event).__name__)
