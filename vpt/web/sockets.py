"""Socket.IO: tells pages what happens, in order, and lets no slow reader hold anybody up.

An event is encoded once and laid into the outgoing queue of every engine.io socket that is to have
it, at once and without a task each: so the order of publishing is the order of arrival.
"""

from __future__ import annotations

import asyncio
import sys
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, assert_never
from urllib.parse import urlsplit

import socketio
import structlog
from aiohttp import WSCloseCode, hdrs, web
from engineio.packet import MESSAGE
from engineio.packet import Packet as EnginePacket
from socketio.exceptions import ConnectionRefusedError as RefusedError
from socketio.packet import EVENT
from socketio.packet import Packet as SocketPacket

from vpt.db import Database
from vpt.errors import (
    BadRequestError,
    InvalidTokenError,
    NotFoundError,
    NoTokenError,
    VptError,
)
from vpt.model import (
    CampaignProgress,
    DeviceChanged,
    Event,
    HostChanged,
    Json,
    QueueChanged,
    Role,
    StepProgress,
    TestProgress,
)
from vpt.web.auth import allowed, bearer, read_token, secret_of
from vpt.web.keys import CONFIG, DB, EVENTS, User
from vpt.web.requests import LONGEST_ID

log = structlog.get_logger(__name__)

NAMESPACE = "/"
PATH = "/socket.io/"
#: Packets that may wait for one client before it is dropped as too slow.
QUEUE_LIMIT = 2000
#: What a client may subscribe to at once.
TOPIC_LIMIT = 1000
#: Bytes; clients send a token and a few ids.
MESSAGE_LIMIT = 100_000
#: Seconds: clients have this long to say goodbye at shutdown, and strangers to present a token.
GOODBYE, STRANGER = 1.0, 10.0

#: Rooms: every client; those that have not narrowed. A topic's room bears the topic's name.
_ALL, _WIDE = "all", "wide"


@dataclass(frozen=True, slots=True)
class _Topic:
    """What a client can narrow to."""

    noun: str
    id: str
    query: str  # gives its present seq

    @property
    def room(self) -> str:
        return f"{self.noun} {self.id}"


@dataclass(eq=False, slots=True)
class _Client:
    """A connected page: who it is, what it narrowed to, and the timer that ends it at `exp`."""

    sid: str
    engine_sid: str
    user_id: str
    rooms: set[str] = field(default_factory=set)
    expiry: asyncio.TimerHandle | None = None


@dataclass(frozen=True, slots=True)
class _Line:
    """An open web socket: the engine.io id of its query, its first request, its connection."""

    engine_sid: str | None
    request: weakref.ref[web.Request]
    transport: asyncio.Transport

    def belongs_to(self, engine_sid: str, environs: Mapping[str, Json]) -> bool:
        """Tell whether it carries that engine.io socket, from its start or since an upgrade."""
        if self.engine_sid is not None:
            return self.engine_sid == engine_sid
        environ = environs.get(engine_sid, {})
        return environ.get("aiohttp.request") is self.request()


class Sockets:
    """The Socket.IO server of one application."""

    def __init__(self, origins: tuple[str, ...], secret: str, db: Database) -> None:
        """Take the origins allowed beside our own, and the key that signs tokens."""
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)
        self._secret = secret
        self._db = db
        self.clients: dict[str, _Client] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._web_sockets: weakref.WeakKeyDictionary[web.WebSocketResponse, _Line] = (
            weakref.WeakKeyDictionary()
        )
        self._server = socketio.AsyncServer(
            async_mode="aiohttp",
            cors_allowed_origins=self._allows,
            max_http_buffer_size=MESSAGE_LIMIT,
            logger=_Quiet(),
            engineio_logger=_Quiet(),
        )
        self._server.on("connect", self._connected)
        self._server.on("disconnect", self._disconnected)
        self._server.on("subscribe", self._subscribe)
        self._server.on("unsubscribe", self._unsubscribe)

    def attach(self, app: web.Application) -> None:
        """Serve PATH on `app` and tell its clients what its events say."""
        self._server.attach(app, PATH)
        app.on_response_prepare.append(self._note_web_socket)
        app.on_shutdown.append(self._say_goodbye)
        app.cleanup_ctx.append(self._listen)

    async def _listen(self, app: web.Application) -> AsyncIterator[None]:
        end = app[EVENTS].subscribe(self.publish)
        self._spawn(self._sweep())
        yield
        end()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def publish(self, event: Event) -> None:
        """Give `event` to all who are to have it; never waits, never raises."""
        if not self.clients:
            return
        name, payload, rooms = _told(event)
        packet = EnginePacket(MESSAGE, SocketPacket(EVENT, [name, payload], NAMESPACE).encode())
        for sid, engine_sid in self._server.manager.get_participants(NAMESPACE, rooms):
            engine = self._server.eio.sockets.get(engine_sid)
            if engine is None or engine.closed:
                continue
            if engine.queue.qsize() < QUEUE_LIMIT:
                engine.queue.put_nowait(packet)
            else:
                self._drop(sid)

    # --- clients come and go

    async def _connected(self, sid: str, environ: Json, auth: Any = None) -> None:
        user = self._user(environ, auth)
        engine_sid = self._server.manager.eio_sid_from_sid(sid, NAMESPACE)
        client = _Client(sid, engine_sid, user.user_id)
        if user.expires_at is not None:
            client.expiry = asyncio.get_running_loop().call_later(
                max(0.0, user.expires_at - time.time()), self._expire, client
            )
        self.clients[sid] = client
        # Nothing may wait from here on: the answer to connect goes out before any event.
        await self._server.enter_room(sid, _ALL)
        await self._server.enter_room(sid, _WIDE)

    def _user(self, environ: Json, auth: Any) -> User:
        """Give who connects; RefusedError in the words of the REST API."""
        request: web.Request = environ["aiohttp.request"]
        given = auth.get("token") if isinstance(auth, dict) else None
        header = given if isinstance(given, str) else request.headers.get(hdrs.AUTHORIZATION)
        try:
            token = bearer(header)
            if token is None:
                raise NoTokenError
            user = read_token(self._secret, token)
            if not allowed(user, Role.VIEWER):
                raise InvalidTokenError
        except VptError as error:
            raise RefusedError(error.message) from error
        return user

    async def _disconnected(self, sid: str, reason: str) -> None:  # noqa: ARG002
        client = self.clients.pop(sid, None)
        if client is None:
            return
        if client.expiry:
            client.expiry.cancel()
        # There is but one namespace; without this a poll of a client that left stays open.
        self._spawn(self._close(client.engine_sid, abort=False))

    def _expire(self, client: _Client) -> None:
        """Tell the client that it is over; it will not come back by itself."""
        self._spawn(self._server.disconnect(client.sid))

    def _drop(self, sid: str) -> None:
        """Cut a client that does not read; it comes back by itself when it can."""
        client = self.clients.get(sid)
        if client is None:
            return
        log.warning("socket_dropped", user_id=client.user_id, reason="reads too slowly")
        for room in (_ALL, _WIDE, *client.rooms):
            self._server.manager.basic_leave_room(sid, NAMESPACE, room)
        for line in self._web_sockets.values():
            if line.belongs_to(client.engine_sid, self._server.environ):
                line.transport.abort()
        self._spawn(self._close(client.engine_sid, abort=True))

    async def _close(self, engine_sid: str, *, abort: bool) -> None:
        """Close an engine.io socket without waiting for its reader; `abort` says no goodbye."""
        engine = self._server.eio.sockets.get(engine_sid)
        if engine is None:
            return
        if not engine.closed:
            await engine.close(wait=False, abort=abort)
        engine.queue.put_nowait(None)  # lets an open poll return, and the writer

    async def _sweep(self) -> None:
        """Close what stays connected without ever having presented a valid token."""
        strangers: set[str] = set()
        while True:
            await asyncio.sleep(STRANGER)
            known = {client.engine_sid for client in self.clients.values()}
            now = set(self._server.eio.sockets) - known
            for engine_sid in now & strangers:
                await self._close(engine_sid, abort=False)
            strangers = now

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="sockets-close")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- narrowing

    async def _subscribe(self, sid: str, data: Any = None, *_: Any) -> Json:
        """Narrow to one more topic; nothing after the `seq` of the answer is missed."""
        return await self._answer(self._narrow, sid, data)

    async def _unsubscribe(self, sid: str, data: Any = None, *_: Any) -> Json:
        """Widen by one topic; after the last one everything arrives again."""
        return await self._answer(self._widen, sid, data)

    async def _answer(
        self, change: Callable[[_Client, _Topic], Coroutine[Any, Any, Json]], sid: str, data: Any
    ) -> Json:
        client = self.clients.get(sid)
        if client is None:
            return {"ok": False, "error": "The connection is over."}
        try:
            return {"ok": True, **await change(client, _topic_of(data))}
        except VptError as error:
            return {"ok": False, "error": error.message}

    async def _narrow(self, client: _Client, topic: _Topic) -> Json:
        if len(client.rooms) >= TOPIC_LIMIT:
            raise BadRequestError(f"At most {TOPIC_LIMIT} subscriptions at once.")
        if await self._db.value(topic.query, id=topic.id) is None:
            raise NotFoundError(f"There is no such {topic.noun}.")
        self._enter(client, topic.room)
        # A replay from `after_seq` belongs here: whoever is in the room already is told all that
        # happens from now on, so what is published meanwhile has to wait for the replay's end.
        return {"seq": await self._db.value(topic.query, id=topic.id)}

    async def _widen(self, client: _Client, topic: _Topic) -> Json:
        self._leave(client, topic.room)
        return {}

    def _enter(self, client: _Client, room: str) -> None:
        if client.sid not in self.clients:  # it went while the database was asked
            return
        client.rooms.add(room)
        self._server.manager.basic_enter_room(client.sid, NAMESPACE, room)
        self._server.manager.basic_leave_room(client.sid, NAMESPACE, _WIDE)

    def _leave(self, client: _Client, room: str) -> None:
        if room not in client.rooms:
            return
        client.rooms.discard(room)
        self._server.manager.basic_leave_room(client.sid, NAMESPACE, room)
        if not client.rooms:
            self._server.manager.basic_enter_room(client.sid, NAMESPACE, _WIDE)

    # --- the web server around it

    def _allows(self, origin: str | None, environ: Json) -> bool:
        """Allow what CORS_ORIGINS names, and the pages that this server itself gave out."""
        if origin is None or "*" in self._origins or origin.lower() in self._origins:
            return True
        request: web.Request = environ["aiohttp.request"]
        return urlsplit(origin).netloc.lower() == request.host.lower()

    async def _note_web_socket(self, request: web.Request, response: web.StreamResponse) -> None:
        if isinstance(response, web.WebSocketResponse) and request.transport is not None:
            self._web_sockets[response] = _Line(
                request.query.get("sid"), weakref.ref(request), request.transport
            )

    async def _say_goodbye(self, _: web.Application) -> None:
        """Close all so that clients come back by themselves, and the server need not wait."""
        upgraded = tuple(self._web_sockets.items())
        for engine in tuple(self._server.eio.sockets.values()):
            if not engine.upgraded:
                await engine.close(wait=False)
        closing = [
            asyncio.create_task(ws.close(code=WSCloseCode.GOING_AWAY), name="sockets-goodbye")
            for ws, _line in upgraded
        ]
        if closing:
            _done, late = await asyncio.wait(closing, timeout=GOODBYE)
            for task in late:
                task.cancel()
        for _ws, line in upgraded:
            line.transport.abort()
        await self._server.shutdown()


class _Quiet:
    """A logger for the libraries below: a client's mistake is one line, not a traceback."""

    level = 0

    def info(self, *_: Any) -> None:
        """Say nothing."""

    debug = info

    def warning(self, message: str, *args: Any, **_: Any) -> None:
        """Note it where somebody looks for it."""
        log.debug("socketio", message=message % args if args else message)

    error = warning

    def exception(self, message: str, *args: Any) -> None:
        """Name the exception in one line."""
        log.warning("socketio_failed", message=message % args, error=repr(sys.exception()))


def _topic_of(data: Any) -> _Topic:
    """Read what a client narrows to: one of execution_id and campaign_execution_id."""
    asked = data if isinstance(data, dict) else {}
    execution, campaign = asked.get("execution_id"), asked.get("campaign_execution_id")
    topic_id = execution if campaign is None else campaign
    if not isinstance(topic_id, str) or (execution is not None and campaign is not None):
        raise BadRequestError("Give an execution_id or a campaign_execution_id.")
    if not topic_id.isprintable() or len(topic_id) > LONGEST_ID:
        raise NotFoundError
    if campaign is None:
        return _Topic("execution", topic_id, "execution_seq")
    return _Topic("campaign execution", topic_id, "campaign_execution_seq")


def _told(event: Event) -> tuple[str, Json, list[str]]:
    """Give the event's name, its payload, and the rooms that are to have it."""
    match event:
        case TestProgress():
            rooms = [_WIDE, f"execution {event.execution_id}"]
            if event.campaign_execution_id is not None:
                rooms.append(f"campaign execution {event.campaign_execution_id}")
            return "test_progress", asdict(event), rooms
        case CampaignProgress():
            rooms = [_WIDE, f"campaign execution {event.campaign_execution_id}"]
            return "campaign_progress", asdict(event), rooms
        case QueueChanged():
            return "queue_changed", asdict(event), [_WIDE, f"execution {event.execution_id}"]
        case StepProgress():
            rooms = [_WIDE, f"execution {event.execution_id}"]
            if event.campaign_execution_id is not None:
                rooms.append(f"campaign execution {event.campaign_execution_id}")
            return "step_progress", asdict(event), rooms
        case DeviceChanged():
            return "device_status", asdict(event), [_ALL]
        case HostChanged():
            return "host_status", asdict(event), [_ALL]
        case _:
            assert_never(event)


SOCKETS = web.AppKey("sockets", Sockets)


def attach(app: web.Application) -> None:
    """Serve Socket.IO on `app`, whose CONFIG, DB and EVENTS are set."""
    app[SOCKETS] = Sockets(app[CONFIG].cors_origins, secret_of(app), app[DB])
    app[SOCKETS].attach(app)
