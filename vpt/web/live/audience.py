"""Audience: the connected clients, what each subscribed to, and so who is sent which event.

A client without a subscription is sent every event; one with subscriptions is sent the events of
those topics, and those of hosts and devices, which are for all.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from vpt.model import StepProgress, TestProgress
from vpt.web.live.delivery import Subscriber
from vpt.web.live.replay import Progress, Topic, TopicKind, topic_of
from vpt.web.live.transport import Connection, Packet


@dataclass(frozen=True, slots=True)
class HeldPacket:
    """A packet that is held back for a new client; `for_all` when no subscription filters it."""

    packet: Packet
    for_all: bool


@dataclass(eq=False, slots=True)
class Client:
    """A connected page: its user, its subscriptions, and the timer that ends it at `exp`."""

    connection: Connection
    user_id: str
    token_id: str | None = None
    subscriptions: dict[Topic, Subscriber] = field(default_factory=dict)
    expiry: asyncio.TimerHandle | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # one request is answered at a time
    requests: int = 0  # that are not answered yet
    #: Events of its first half second, until it is clear whether it subscribes; then None.
    held: list[HeldPacket] | None = field(default_factory=list)

    @property
    def sid(self) -> str:
        """Return the id of its Socket.IO session."""
        return self.connection.sid


class Audience:
    """The clients by their sid, and the subscribers by topic."""

    def __init__(self) -> None:
        self.clients: dict[str, Client] = {}
        self._unfiltered: dict[str, Client] = {}  # those without a subscription
        self._subscribers: dict[Topic, dict[str, Subscriber]] = {}

    def add(self, client: Client) -> None:
        """Add a client, which has no subscription yet."""
        self.clients[client.sid] = self._unfiltered[client.sid] = client

    def remove(self, client: Client) -> None:
        """Remove a client with its subscriptions; no-op when it is not there."""
        for topic in tuple(client.subscriptions):
            self.unsubscribe(client, topic)
        self.clients.pop(client.sid, None)
        self._unfiltered.pop(client.sid, None)

    def subscribe(self, client: Client, subscriber: Subscriber) -> None:
        """Add a subscription of the client, in place of an older one of the same topic."""
        known = client.subscriptions.get(subscriber.topic)
        if known is not None:
            known.ended = True
        client.subscriptions[subscriber.topic] = subscriber
        self._subscribers.setdefault(subscriber.topic, {})[client.sid] = subscriber
        self._unfiltered.pop(client.sid, None)

    def unsubscribe(self, client: Client, topic: Topic) -> None:
        """Remove a subscription; no-op when there is none."""
        subscriber = client.subscriptions.pop(topic, None)
        if subscriber is None:
            return
        subscriber.ended = True
        subscribers = self._subscribers[topic]
        del subscribers[client.sid]
        if not subscribers:
            del self._subscribers[topic]
        if not client.subscriptions:
            self._unfiltered[client.sid] = client

    def subscribers(self, topic: Topic) -> list[Subscriber]:
        """Return the clients' subscribers of a topic."""
        return list(self._subscribers.get(topic, {}).values())

    def all_subscribers(self) -> list[Subscriber]:
        """Return the clients' subscribers of all topics."""
        return [one for by_sid in self._subscribers.values() for one in by_sid.values()]

    def of_topic(self, topic: Topic) -> dict[str, Client]:
        """Return who is sent an event of that topic, with and without a subscription."""
        return self._unfiltered | self._subscribed(topic)

    def of_step(self, event: StepProgress) -> dict[str, Client]:
        """Return who is sent what a running step reports."""
        clients = self.of_topic(Topic(TopicKind.EXECUTION, event.execution_id))
        if event.campaign_execution_id is not None:
            clients |= self._subscribed(Topic(TopicKind.CAMPAIGN, event.campaign_execution_id))
        return clients

    def without_own_subscriber(self, event: Progress) -> list[Client]:
        """Return who is sent the event without having subscribed to just its topic."""
        clients = self._unfiltered
        if isinstance(event, TestProgress) and event.campaign_execution_id is not None:
            campaign = Topic(TopicKind.CAMPAIGN, event.campaign_execution_id)
            clients = clients | self._subscribed(campaign)
        own = self._subscribers.get(topic_of(event), {})
        return [client for sid, client in clients.items() if sid not in own]

    def _subscribed(self, topic: Topic) -> dict[str, Client]:
        return {sid: self.clients[sid] for sid in self._subscribers.get(topic, {})}
