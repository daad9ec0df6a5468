"""Publisher: sends each event to those who are to have it, and drops a client that does not read.

Publishing never waits. A client that subscribed to a topic has a subscriber of its own there. All
other clients that are sent the topic's events share one subscriber (`sid` None): they are sent
events from the first one on that is published while any of them is connected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import assert_never

import structlog

from vpt.background import Background
from vpt.model import (
    CampaignProgress,
    DeviceChanged,
    Event,
    HostChanged,
    QueueChanged,
    StepProgress,
    TestProgress,
)
from vpt.store.db import Database
from vpt.web.live.audience import Audience, Client, HeldPacket
from vpt.web.live.delivery import PAGE, Delivery, Subscriber
from vpt.web.live.replay import Progress, Topic, TopicKind, TopicState, topic_of, topic_states
from vpt.web.live.transport import QUEUE_LIMIT, Packet, Transport, encode

log = structlog.get_logger(__name__)

#: Seconds that events are held back for a new client: it may be about to subscribe with the last
#: `seq` it knows, and is to be sent what follows that in order.
SETTLE = 0.5
#: Seconds that a client has to read a page of a replay, and between looks at whether it has.
PATIENCE, _LOOK = 30.0, 0.02
#: Topics whose state is read by one query.
_TOPICS_AT_ONCE = 500

#: The names by which clients know the events.
NAMES: Mapping[type[Event], str] = {
    TestProgress: "test_progress",
    CampaignProgress: "campaign_progress",
    QueueChanged: "queue_changed",
    StepProgress: "step_progress",
    DeviceChanged: "device_status",
    HostChanged: "host_status",
}


class Publisher:
    """Sends events to the audience."""

    def __init__(
        self, db: Database, audience: Audience, transport: Transport, background: Background
    ) -> None:
        self._db = db
        self._audience = audience
        self._transport = transport
        self.delivery = Delivery(db, self._send_to_subscriber, self._has_room, background)
        self._shared: dict[Topic, Subscriber] = {}

    def publish(self, event: Event) -> None:
        """Send an event to all who are to have it; never waits."""
        if not self._audience.clients:
            self._end_all_shared()
            return
        packet = _encode(event)
        match event:
            case TestProgress() | CampaignProgress():
                self._publish_progress(event, packet)
            case QueueChanged():
                topic = Topic(TopicKind.EXECUTION, event.execution_id)
                self._send(packet, self._audience.of_topic(topic).values())
            case StepProgress():
                self._send(packet, self._audience.of_step(event).values())
            case DeviceChanged() | HostChanged():
                self._send(packet, self._audience.clients.values(), for_all=True)
            case _:
                assert_never(event)

    def _publish_progress(self, event: Progress, packet: Packet) -> None:
        topic = topic_of(event)
        for subscriber in self._audience.subscribers(topic):
            self.delivery.offer(subscriber, event, packet)
        if not self._audience.without_own_subscriber(event):
            self._end_shared(topic)  # a client that connects later begins with what comes then
            return
        shared = self._shared.get(topic)
        if shared is None:
            shared = self._shared[topic] = Subscriber(topic, event.seq - 1, None)
        self.delivery.offer(shared, event, packet)

    def _send_to_subscriber(
        self, subscriber: Subscriber, event: Progress, packet: Packet | None = None
    ) -> None:
        packet = packet or _encode(event)
        if subscriber.sid is not None:
            client = self._audience.clients[subscriber.sid]
            if not client.connection.send(packet):
                self.drop(client)
            return
        self._send(packet, self._audience.without_own_subscriber(event))
        if subscriber.over:
            self._end_shared(subscriber.topic)

    def _send(self, packet: Packet, clients: Iterable[Client], *, for_all: bool = False) -> None:
        for client in tuple(clients):  # a drop changes the audience
            if client.held is None:
                if not client.connection.send(packet):
                    self.drop(client)
            elif len(client.held) < QUEUE_LIMIT:
                client.held.append(HeldPacket(packet, for_all))
            else:
                self.drop(client)

    def drop(self, client: Client) -> None:
        """Cut a client that does not read; it reconnects by itself when it can."""
        if client.sid not in self._audience.clients:
            return
        log.warning("socket_dropped", user_id=client.user_id, reason="reads too slowly")
        self.forget(client)
        self._transport.drop(client.connection)

    def forget(self, client: Client) -> None:
        """Remove a client from the audience."""
        self._audience.remove(client)
        if client.expiry:
            client.expiry.cancel()

    # --- a new client

    def welcome(self, client: Client) -> None:
        """Add a client, and send it what happens meanwhile when it has had time to subscribe."""
        self._audience.add(client)
        asyncio.get_running_loop().call_later(SETTLE, self._settle, client)

    def _settle(self, client: Client) -> None:
        if client.requests:
            asyncio.get_running_loop().call_later(SETTLE, self._settle, client)
        else:
            self._release(client)

    def subscribe(self, client: Client, subscriber: Subscriber) -> None:
        """Add a subscription; what was held back is sent first, as far as it is for all."""
        self._audience.subscribe(client, subscriber)
        self._release(client)

    def _release(self, client: Client) -> None:
        """Send what was held back; a client that subscribed is replayed the rest."""
        held, client.held = client.held, None
        for one in held or ():
            if one.for_all or not client.subscriptions:
                self._send(one.packet, (client,))

    # --- replays and gaps

    async def _has_room(self, subscriber: Subscriber) -> None:
        """Wait until the client has read most of what it was sent; drop it when it does not."""
        client = self._audience.clients.get(subscriber.sid or "")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while client is not None and not subscriber.ended and client.connection.queued > PAGE:
            if loop.time() > deadline:
                self.drop(client)
            await asyncio.sleep(_LOOK)

    async def recheck(self) -> None:
        """Send what was stored and never published, as the server crashed in between."""
        for kind in TopicKind:
            await self._recheck_all(kind)

    async def _recheck_all(self, kind: TopicKind) -> None:
        ids = [*{one.topic.id for one in self._unfinished() if one.topic.kind is kind}]
        for start in range(0, len(ids), _TOPICS_AT_ONCE):
            found = await topic_states(self._db, kind, ids[start : start + _TOPICS_AT_ONCE])
            for subscriber in self._unfinished():
                state = found.get(subscriber.topic)
                if state is not None:
                    self._compare(subscriber, state)

    def _unfinished(self) -> list[Subscriber]:
        everyone = (*self._audience.all_subscribers(), *self._shared.values())
        return [one for one in everyone if not one.over]

    def _compare(self, subscriber: Subscriber, state: TopicState) -> None:
        subscriber.over = subscriber.over or (state.over and subscriber.seq >= state.seq)
        self.delivery.note_missed(subscriber, state.seq)

    def _end_shared(self, topic: Topic) -> None:
        shared = self._shared.pop(topic, None)
        if shared is not None:
            shared.ended = True

    def _end_all_shared(self) -> None:
        for topic in tuple(self._shared):
            self._end_shared(topic)


def _encode(event: Event) -> Packet:
    return encode(NAMES[type(event)], asdict(event))
