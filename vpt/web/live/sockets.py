"""Live events for pages by Socket.IO: who may connect, what a client can ask for, and upkeep.

`transport.py` has the connections, `audience.py` who is sent what, `publisher.py` sends it,
`delivery.py` keeps it in order, and `replay.py` reads from the database what was missed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import hdrs, web

from vpt.background import Background, every
from vpt.bounds import LONGEST_ID
from vpt.errors import (
    BadRequestError,
    ConflictError,
    InvalidTokenError,
    NotFoundError,
    NoTokenError,
    VptError,
)
from vpt.model import Json, Role
from vpt.store.db import Database
from vpt.store.tokens import User
from vpt.web.http.auth import allowed, bearer, user_of_token
from vpt.web.http.keys import CONFIG, DB, EVENTS, TOKENS
from vpt.web.live.audience import Audience, Client
from vpt.web.live.delivery import Subscriber
from vpt.web.live.publisher import Publisher
from vpt.web.live.replay import Topic, TopicKind, topic_states
from vpt.web.live.transport import CLOSED, QUEUE_LIMIT, Connection, Transport

#: What a client may subscribe to at once, and how many of its requests may wait.
TOPIC_LIMIT, ASK_LIMIT = 1000, 2000
#: Seconds between looks for events that were stored and never published, and for revoked tokens.
RECHECK = 5.0


@dataclass(frozen=True, slots=True)
class _SubscribeRequest:
    """A request to subscribe to a topic, or to unsubscribe: the topic, and after which event."""

    topic: Topic
    after_seq: int | None


class Sockets:
    """The live events of one application."""

    def __init__(
        self,
        origins: tuple[str, ...],
        db: Database,
        user_of: Callable[[str], Awaitable[User]],
        lives: Callable[[str], Awaitable[bool]],
    ) -> None:
        """Serve pages of our own origin and of `origins`.

        `user_of` returns whose token it is; `lives` whether the token of an id is not revoked.
        """
        self._db = db
        self._user_of, self._lives = user_of, lives
        self._background = Background()
        self._requests = {"subscribe": self._subscribe, "unsubscribe": self._unsubscribe}
        self._transport = Transport(origins, self, tuple(self._requests), self._background)
        self._audience = Audience()
        self._publisher = Publisher(db, self._audience, self._transport, self._background)

    @property
    def clients(self) -> dict[str, Client]:
        """Return the connected clients by their sid."""
        return self._audience.clients

    def attach(self, app: web.Application) -> None:
        """Serve Socket.IO on `app` and send its events to the clients."""
        self._transport.attach(app)
        app.cleanup_ctx.append(self._listen)

    async def _listen(self, app: web.Application) -> AsyncIterator[None]:
        stop = app[EVENTS].subscribe(self._publisher.publish)
        self._transport.start()
        self._background.start(every(RECHECK, self._publisher.recheck), "socket-recheck")
        self._background.start(every(RECHECK, self._end_revoked), "socket-revoked-tokens")
        yield
        stop()
        await self._background.close()

    # --- clients come and go

    async def authenticate(self, request: web.Request, auth: Any) -> User:
        """Return who connects with the token in `auth`, or else in the header Authorization."""
        given = auth.get("token") if isinstance(auth, dict) else None
        header = given if isinstance(given, str) else request.headers.get(hdrs.AUTHORIZATION)
        token = bearer(header)
        if token is None:
            raise NoTokenError
        user = await self._user_of(token)
        if not allowed(user, Role.VIEWER):
            raise InvalidTokenError
        return user

    def connected(self, connection: Connection, user: User) -> None:
        """Add a client, until its token expires."""
        client = Client(connection, user.user_id, user.token_id)
        if user.expires_at is not None:
            client.expiry = asyncio.get_running_loop().call_later(
                max(0.0, user.expires_at - time.time()), self._transport.disconnect, connection
            )
        self._publisher.welcome(client)

    def disconnected(self, connection: Connection) -> None:
        """Remove a client."""
        client = self.clients.get(connection.sid)
        if client is not None:
            self._publisher.forget(client)

    def end(self, token_id: str) -> None:
        """Disconnect the clients that came with that token: it was just revoked."""
        for client in self.clients.values():
            if client.token_id == token_id:
                self._transport.disconnect(client.connection)

    async def _end_revoked(self) -> None:
        """Disconnect the clients whose token was revoked since, by another process."""
        for client in tuple(self.clients.values()):
            if client.token_id is not None and not await self._lives(client.token_id):
                self._transport.disconnect(client.connection)

    # --- requests

    async def answer(self, connection: Connection, name: str, data: Any) -> Json:
        """Answer a request; drop a client that sends requests and does not read the answers."""
        client = self.clients.get(connection.sid)
        if client and (client.requests >= ASK_LIMIT or connection.queued >= QUEUE_LIMIT):
            self._publisher.drop(client)
        if client is None or client.sid not in self.clients:
            return {"ok": False, "error": CLOSED}
        client.requests += 1
        try:
            return {"ok": True, **await self._requests[name](client, data)}
        except VptError as error:
            return {"ok": False, "error": error.message}
        finally:
            client.requests -= 1

    async def _subscribe(self, client: Client, data: Any) -> Json:
        """Subscribe to one more topic; what is replayed is sent first, then the answer."""
        async with client.lock:
            return await self._start_subscription(client, _parse(data))

    async def _unsubscribe(self, client: Client, data: Any) -> Json:
        """Remove a subscription; after the last one the client is sent every event again."""
        with suppress(VptError):  # at once, so that a replay under way ends
            self._audience.unsubscribe(client, _parse(data).topic)
        async with client.lock:  # and again, as a subscribe may have waited before it
            self._audience.unsubscribe(client, _parse(data).topic)
        return {}

    async def _start_subscription(self, client: Client, request: _SubscribeRequest) -> Json:
        topic, known = request.topic, client.subscriptions.get(request.topic)
        state = (await topic_states(self._db, topic.kind, [topic.id])).get(topic)
        if state is None:
            raise NotFoundError(f"There is no such {topic.kind.value}.")
        if known is not None and request.after_seq is None and not known.ended:
            return {"seq": known.seq}
        after_seq = state.seq if request.after_seq is None else min(request.after_seq, state.seq)
        subscriber = self._add_subscriber(client, topic, after_seq)
        try:
            await self._publisher.delivery.catch_up(subscriber)
        except BaseException:
            self._undo(client, subscriber, known)
            raise
        if subscriber.ended:
            raise ConflictError("The subscription was ended by a later request.")
        return {"seq": subscriber.seq}

    def _add_subscriber(self, client: Client, topic: Topic, after_seq: int) -> Subscriber:
        """Add a subscriber that begins after an event, in place of an older one of the topic."""
        if client.sid not in self.clients:  # it went while the database was asked
            raise ConflictError(CLOSED)
        if topic not in client.subscriptions and len(client.subscriptions) >= TOPIC_LIMIT:
            raise BadRequestError(
                f"At most {TOPIC_LIMIT} subscriptions at once: unsubscribe from another first."
            )
        # Behind until it has read: what is published meanwhile is read from the database.
        subscriber = Subscriber(topic, after_seq, client.sid, behind=True)
        self._publisher.subscribe(client, subscriber)
        return subscriber

    def _undo(self, client: Client, subscriber: Subscriber, known: Subscriber | None) -> None:
        """Leave all as before `subscriber` was added: none half subscribed, and none lost."""
        if subscriber.ended:
            return
        if known is None:
            self._audience.unsubscribe(client, subscriber.topic)
            return
        subscriber.seq = max(subscriber.seq, known.seq)
        self._publisher.delivery.start_catching_up(subscriber)


def _parse(data: Any) -> _SubscribeRequest:
    """Return the request of `data`: execution_id or campaign_execution_id, and after_seq."""
    fields = data if isinstance(data, dict) else {}
    execution, campaign = fields.get("execution_id"), fields.get("campaign_execution_id")
    topic_id = execution if campaign is None else campaign
    if not isinstance(topic_id, str) or (execution is not None and campaign is not None):
        raise BadRequestError("Send either execution_id or campaign_execution_id, as a string.")
    after_seq = fields.get("after_seq")
    if after_seq is not None and (type(after_seq) is not int or after_seq < 0):
        raise BadRequestError("after_seq must be the seq of an event, or 0.")
    if not topic_id.isprintable() or len(topic_id) > LONGEST_ID:
        raise NotFoundError
    kind = TopicKind.EXECUTION if campaign is None else TopicKind.CAMPAIGN
    return _SubscribeRequest(Topic(kind, topic_id), after_seq)


SOCKETS = web.AppKey("sockets", Sockets)


def attach(app: web.Application) -> None:
    """Serve Socket.IO on `app`, whose CONFIG, DB and EVENTS are set."""
    app[SOCKETS] = Sockets(
        app[CONFIG].origins, app[DB], partial(user_of_token, app), app[TOKENS].lives
    )
    app[SOCKETS].attach(app)
