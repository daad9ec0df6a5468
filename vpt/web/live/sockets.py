"""Socket.IO: tells pages what happens, in order, and lets no slow reader hold anybody up.

An event is encoded once and laid into the outgoing queue of every engine.io socket that is to have
it, at once and without a task each: so the order of publishing is the order of arrival. Who
subscribed to a topic has a reader of his own there; all others of its listeners share one.
"""

from __future__ import annotations

import asyncio
import sys
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, assert_never
from urllib.parse import urlsplit

import socketio
import structlog
from aiohttp import WSCloseCode, hdrs, web
from engineio.packet import MESSAGE
from engineio.packet import Packet as EnginePacket
from socketio.exceptions import ConnectionRefusedError as RefusedError
from socketio.packet import BINARY_ACK, BINARY_EVENT, EVENT
from socketio.packet import Packet as SocketPacket

from vpt.background import every
from vpt.errors import (
    BadRequestError,
    ConflictError,
    InvalidTokenError,
    NotFoundError,
    NoTokenError,
    TooLargeError,
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
from vpt.store.db import Database
from vpt.web.http.auth import allowed, bearer, user_of_token
from vpt.web.http.keys import CONFIG, DB, EVENTS, TOKENS, User
from vpt.web.http.requests import LONGEST_ID
from vpt.web.live.delivery import PAGE, Reader, Readers
from vpt.web.live.replay import Kind, Present, Progress, Topic, presents, topic_of

log = structlog.get_logger(__name__)

NAMESPACE = "/"
PATH = "/socket.io/"
#: Packets that may wait for one client before it is dropped as too slow.
QUEUE_LIMIT = 2000
#: What a client may subscribe to at once, and how many of its requests may wait.
TOPIC_LIMIT, ASK_LIMIT = 1000, 2000
#: Bytes; clients send a token and a few ids.
MESSAGE_LIMIT = 100_000
#: Seconds: clients have this long to say goodbye at shutdown, and strangers to present a token.
GOODBYE, STRANGER = 1.0, 10.0
#: Seconds for a POST of a client that polls: its body comes, and what it says is done.
POST_TIMEOUT = 20.0
#: Seconds that events wait for a new client: it may be about to say what it knows of them.
SETTLE = 0.5
#: Seconds that a client has to read a page of a replay; between looks whether it has.
PATIENCE, _LOOK = 30.0, 0.02
#: Seconds between looks for events that were stored and never published; topics of one look.
RECHECK, _AT_ONCE = 5.0, 500


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a client asks for: a topic, and after which event."""

    topic: Topic
    after_seq: int | None


@dataclass(eq=False, slots=True)
class _Client:
    """A connected page: who it is, what it narrowed to, and the timer that ends it at `exp`."""

    sid: str
    engine_sid: str
    user_id: str
    token_id: str | None = None
    readers: dict[Topic, Reader] = field(default_factory=dict)
    expiry: asyncio.TimerHandle | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # it asks one thing after another
    asking: int = 0
    #: What waits until it is clear whether it narrows; each with whether it is for everybody.
    held: list[tuple[EnginePacket, bool]] | None = field(default_factory=list)


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

    def __init__(
        self,
        origins: tuple[str, ...],
        db: Database,
        user_of: Callable[[str], Awaitable[User]],
        lives: Callable[[str], Awaitable[bool]],
    ) -> None:
        """Take the origins allowed beside our own, and who knows tokens and their ids."""
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)
        self._db = db
        self._user_of, self._lives = user_of, lives
        self.clients: dict[str, _Client] = {}
        self._wide: dict[str, _Client] = {}  # those that have not narrowed
        self._readers = Readers(db, self._tell, self._has_room, self._spawn)
        self._narrowed: dict[Topic, dict[str, Reader]] = {}
        self._crowds: dict[Topic, Reader] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._web_sockets: weakref.WeakKeyDictionary[web.WebSocketResponse, _Line] = (
            weakref.WeakKeyDictionary()
        )
        self._server = _Server(
            async_mode="aiohttp",
            cors_allowed_origins=self._allows,
            max_http_buffer_size=MESSAGE_LIMIT,
            logger=_Quiet(),
            engineio_logger=_Quiet(),
        )
        self._server.on("connect", self._connected)
        self._server.on("disconnect", self._disconnected)
        for name, handler in zip(ASKS, (self._subscribe, self._unsubscribe), strict=True):
            self._server.on(name, handler)

    def attach(self, app: web.Application) -> None:
        """Serve PATH on `app` and tell its clients what its events say."""
        for method in (hdrs.METH_GET, hdrs.METH_POST, hdrs.METH_OPTIONS):
            app.router.add_route(method, PATH, self._serve)
        app.on_response_prepare.append(self._note_web_socket)
        app.on_shutdown.append(self._say_goodbye)
        app.cleanup_ctx.append(self._listen)

    async def _listen(self, app: web.Application) -> AsyncIterator[None]:
        end = app[EVENTS].subscribe(self.publish)
        self._spawn(self._sweep())
        self._spawn(every(RECHECK, self._recheck))
        self._spawn(every(RECHECK, self._end_revoked))
        yield
        end()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def publish(self, event: Event) -> None:
        """Give `event` to all who are to have it; never waits, never raises."""
        if not self.clients:
            self._forget_crowds()
            return
        packet = _packet(event)
        match event:
            case TestProgress() | CampaignProgress():
                self._publish_progress(event, packet)
            case QueueChanged():
                topic = Topic(Kind.EXECUTION, event.execution_id)
                self._give(packet, (self._wide | self._narrowers(topic)).values())
            case StepProgress():
                self._give(packet, self._watchers(event).values())
            case DeviceChanged() | HostChanged():
                self._give(packet, self.clients.values(), everybody=True)
            case _:
                assert_never(event)

    def _publish_progress(self, event: Progress, packet: EnginePacket) -> None:
        topic = topic_of(event)
        for reader in tuple(self._narrowed.get(topic, {}).values()):
            self._readers.hear(reader, event, packet)
        crowd = self._crowds.get(topic)
        if not self._crowd_of(event):  # whoever comes later begins with what happens then
            self._end_crowd(topic)
            return
        if crowd is None:
            crowd = self._crowds[topic] = Reader(topic, event.seq - 1, None)
        self._readers.hear(crowd, event, packet)

    def _crowd_of(self, event: Progress) -> list[_Client]:
        """Give who is to have it without having asked for just this topic."""
        crowd = self._wide
        if isinstance(event, TestProgress) and event.campaign_execution_id is not None:
            crowd = crowd | self._narrowers(Topic(Kind.CAMPAIGN, event.campaign_execution_id))
        own = self._narrowed.get(topic_of(event), {})
        return [client for sid, client in crowd.items() if sid not in own]

    def _watchers(self, event: StepProgress) -> dict[str, _Client]:
        watchers = self._wide | self._narrowers(Topic(Kind.EXECUTION, event.execution_id))
        if event.campaign_execution_id is not None:
            watchers |= self._narrowers(Topic(Kind.CAMPAIGN, event.campaign_execution_id))
        return watchers

    def _narrowers(self, topic: Topic) -> dict[str, _Client]:
        return {sid: self.clients[sid] for sid in self._narrowed.get(topic, {})}

    def _tell(self, reader: Reader, event: Progress, packet: EnginePacket | None = None) -> None:
        """Tell a reader, or all for whom he stands."""
        packet = packet or _packet(event)
        if reader.owner is not None:
            self._put(self.clients[reader.owner], packet)
            return
        self._give(packet, self._crowd_of(event))
        if reader.over:
            self._end_crowd(reader.topic)

    def _give(
        self, packet: EnginePacket, clients: Iterable[_Client], *, everybody: bool = False
    ) -> None:
        for client in tuple(clients):
            if client.held is None:
                self._put(client, packet)
            elif len(client.held) < QUEUE_LIMIT:
                client.held.append((packet, everybody))
            else:
                self._drop(client)

    def _put(self, client: _Client, packet: EnginePacket) -> None:
        """Lay it into the client's queue; who has too much there is dropped."""
        engine = self._server.eio.sockets.get(client.engine_sid)
        if engine is None or engine.closed:
            return
        if engine.queue.qsize() < QUEUE_LIMIT:
            engine.queue.put_nowait(packet)
        else:
            self._drop(client)

    def _settle(self, client: _Client) -> None:
        """Give a new client what waited, once it does not seem about to narrow."""
        if client.asking:
            asyncio.get_running_loop().call_later(SETTLE, self._settle, client)
        else:
            self._release(client, narrowed=False)

    def _release(self, client: _Client, *, narrowed: bool) -> None:
        held, client.held = client.held, None
        for packet, everybody in held or ():
            if everybody or not narrowed:
                self._put(client, packet)

    def _end_crowd(self, topic: Topic) -> None:
        crowd = self._crowds.pop(topic, None)
        if crowd is not None:
            crowd.gone = True

    def _forget_crowds(self) -> None:
        for topic in tuple(self._crowds):
            self._end_crowd(topic)

    async def _has_room(self, reader: Reader) -> None:
        """Wait until the client has read most of what it was told; drop it when it does not."""
        client = self.clients.get(reader.owner or "")
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE
        while client is not None and not reader.gone and self._waiting_for(client) > PAGE:
            if loop.time() > until:
                self._drop(client)
            await asyncio.sleep(_LOOK)

    def _waiting_for(self, client: _Client) -> int:
        engine = self._server.eio.sockets.get(client.engine_sid)
        return 0 if engine is None or engine.closed else engine.queue.qsize()

    async def _recheck(self) -> None:
        """Find what was stored and, since something crashed just then, never published."""
        for kind in Kind:
            await self._recheck_all(kind)

    async def _recheck_all(self, kind: Kind) -> None:
        ids = [*{one.topic.id for one in self._open_readers() if one.topic.kind is kind}]
        for start in range(0, len(ids), _AT_ONCE):
            found = await presents(self._db, kind, ids[start : start + _AT_ONCE])
            for reader in self._open_readers():
                present = found.get(reader.topic)
                if present is not None:
                    self._compare(reader, present)

    def _open_readers(self) -> list[Reader]:
        narrowed = [one for readers in self._narrowed.values() for one in readers.values()]
        return [one for one in (*narrowed, *self._crowds.values()) if not one.over]

    def _compare(self, reader: Reader, present: Present) -> None:
        reader.over = reader.over or (present.over and reader.seq >= present.seq)
        self._readers.missed(reader, present.seq)

    def end(self, token_id: str) -> None:
        """Say goodbye to whoever came with that token: it was just revoked."""
        for client in self.clients.values():
            if client.token_id == token_id:
                self._expire(client)

    # --- clients come and go

    async def _connected(self, sid: str, environ: Json, auth: Any = None) -> None:
        user = await self._user(environ, auth)
        engine_sid = self._server.manager.eio_sid_from_sid(sid, NAMESPACE)
        engine = self._server.eio.sockets.get(engine_sid)
        if engine is None or engine.closed:  # it went meanwhile, and nobody would say so again
            raise RefusedError(_OVER)
        client = _Client(sid, engine_sid, user.user_id, user.token_id)
        if user.expires_at is not None:
            client.expiry = asyncio.get_running_loop().call_later(
                max(0.0, user.expires_at - time.time()), self._expire, client
            )
        # Nothing may wait from here on: the answer to connect goes out before any event.
        self.clients[sid] = self._wide[sid] = client
        asyncio.get_running_loop().call_later(SETTLE, self._settle, client)

    async def _user(self, environ: Json, auth: Any) -> User:
        """Give who connects; RefusedError in the words of the REST API."""
        request: web.Request = environ["aiohttp.request"]
        given = auth.get("token") if isinstance(auth, dict) else None
        header = given if isinstance(given, str) else request.headers.get(hdrs.AUTHORIZATION)
        try:
            token = bearer(header)
            if token is None:
                raise NoTokenError
            user = await self._user_of(token)
            if not allowed(user, Role.VIEWER):
                raise InvalidTokenError
        except VptError as error:
            raise RefusedError(error.message) from error
        return user

    async def _disconnected(self, sid: str, reason: str) -> None:  # noqa: ARG002
        client = self.clients.get(sid)
        if client is None:
            return
        self._forget(client)
        # There is but one namespace; without this a poll of a client that left stays open.
        self._spawn(self._close(client.engine_sid, abort=False))

    def _expire(self, client: _Client) -> None:
        """Tell the client that it is over; it will not come back by itself."""
        self._spawn(self._server.disconnect(client.sid))

    def _drop(self, client: _Client) -> None:
        """Cut a client that does not read; it comes back by itself when it can."""
        if client.sid not in self.clients:
            return
        log.warning("socket_dropped", user_id=client.user_id, reason="reads too slowly")
        self._forget(client)
        for line in self._web_sockets.values():
            if line.belongs_to(client.engine_sid, self._server.environ):
                line.transport.abort()
        self._spawn(self._close(client.engine_sid, abort=True))

    def _forget(self, client: _Client) -> None:
        for topic in tuple(client.readers):
            self._leave(client, topic)
        self.clients.pop(client.sid, None)
        self._wide.pop(client.sid, None)
        if client.expiry:
            client.expiry.cancel()

    async def _close(self, engine_sid: str, *, abort: bool) -> None:
        """Close an engine.io socket without waiting for its reader; `abort` says no goodbye."""
        engine = self._server.eio.sockets.get(engine_sid)
        if engine is None:
            return
        if not engine.closed:
            await engine.close(wait=False, abort=abort)
        engine.queue.put_nowait(None)  # lets an open poll return, and the writer

    async def _end_revoked(self) -> None:
        """Say goodbye to those whose token was revoked since they came."""
        for client in tuple(self.clients.values()):
            if client.token_id is not None and not await self._lives(client.token_id):
                self._expire(client)

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
        """Narrow to one more topic; what is replayed goes out first, then the answer."""
        return await self._answer(self._narrow, sid, data)

    async def _unsubscribe(self, sid: str, data: Any = None, *_: Any) -> Json:
        """Widen by one topic; after the last one everything arrives again."""
        client = self.clients.get(sid)
        with suppress(VptError):  # a replay under way ends at once
            if client is not None:
                self._leave(client, _wish_of(data).topic)
        return await self._answer(self._widen, sid, data)

    async def _answer(
        self, change: Callable[[_Client, _Wish], Coroutine[Any, Any, Json]], sid: str, data: Any
    ) -> Json:
        client = self.clients.get(sid)
        if client and (client.asking >= ASK_LIMIT or self._waiting_for(client) >= QUEUE_LIMIT):
            self._drop(client)
        if client is None or client.sid not in self.clients:
            return {"ok": False, "error": _OVER}
        client.asking += 1
        try:
            async with client.turn:
                return {"ok": True, **await change(client, _wish_of(data))}
        except VptError as error:
            return {"ok": False, "error": error.message}
        finally:
            client.asking -= 1

    async def _narrow(self, client: _Client, wish: _Wish) -> Json:
        topic, known = wish.topic, client.readers.get(wish.topic)
        present = (await presents(self._db, topic.kind, [topic.id])).get(topic)
        if present is None:
            raise NotFoundError(f"There is no such {topic.kind.value}.")
        if known is not None and wish.after_seq is None and not known.gone:
            return {"seq": known.seq}
        after_seq = present.seq if wish.after_seq is None else min(wish.after_seq, present.seq)
        reader = self._enter(client, topic, after_seq)
        try:
            await self._readers.catch_up(reader)
        except BaseException:
            self._give_up(client, reader, known)
            raise
        if reader.gone:
            raise ConflictError("The subscription is over.")
        return {"seq": reader.seq}

    def _enter(self, client: _Client, topic: Topic, after_seq: int) -> Reader:
        """Let the client read from there on, in the place of where it was."""
        if client.sid not in self.clients:  # it went while the database was asked
            raise ConflictError(_OVER)
        if topic not in client.readers and len(client.readers) >= TOPIC_LIMIT:
            raise BadRequestError(f"At most {TOPIC_LIMIT} subscriptions at once.")
        known = client.readers.get(topic)
        if known is not None:
            known.gone = True
        # Behind until it has read: what is published meanwhile it finds in the database.
        reader = Reader(topic, after_seq, client.sid, behind=True)
        client.readers[topic] = reader
        self._narrowed.setdefault(topic, {})[client.sid] = reader
        self._wide.pop(client.sid, None)
        self._release(client, narrowed=True)
        return reader

    def _give_up(self, client: _Client, reader: Reader, known: Reader | None) -> None:
        """Let all be as before `reader` came: no half subscription, and no lost one."""
        if reader.gone:
            return
        if known is None:
            self._leave(client, reader.topic)
            return
        reader.seq = max(reader.seq, known.seq)
        self._readers.follow(reader)

    async def _widen(self, client: _Client, wish: _Wish) -> Json:
        self._leave(client, wish.topic)
        return {}

    def _leave(self, client: _Client, topic: Topic) -> None:
        reader = client.readers.pop(topic, None)
        if reader is None:
            return
        reader.gone = True
        readers = self._narrowed[topic]
        del readers[client.sid]
        if not readers:
            del self._narrowed[topic]
        if not client.readers:
            self._wide[client.sid] = client

    # --- the web server around it

    def _allows(self, origin: str | None, environ: Json) -> bool:
        """Allow what CORS_ORIGINS names, and the pages that this server itself gave out."""
        if origin is None or "*" in self._origins or origin.lower() in self._origins:
            return True
        request: web.Request = environ["aiohttp.request"]
        try:
            return urlsplit(origin).netloc.lower() == request.host.lower()
        except ValueError:
            return False

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        """Let the library answer, and keep from it what it trips over."""
        if request.method == hdrs.METH_POST:
            return await self._take_post(request)
        try:
            answer: web.StreamResponse = await self._server.handle_request(request)
        except ValueError:  # a packet that is none, after which the library has no socket
            for web_socket, line in self._web_sockets.items():
                if line.request() is request:
                    return web_socket  # which says goodbye
            raise
        return answer

    async def _take_post(self, request: web.Request) -> web.StreamResponse:
        """Let the library have a body that is whole: it takes what there is for all of it.

        To hang up, it waits for a poll that may never come.
        """
        if (request.content_length or 0) > MESSAGE_LIMIT:
            raise TooLargeError
        try:
            async with asyncio.timeout(POST_TIMEOUT):
                await request.content.wait_eof()
                answer: web.StreamResponse = await self._server.handle_request(request)
        except TimeoutError as error:
            raise BadRequestError("The packets are broken, or did not arrive in time.") from error
        return answer

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


#: What clients may ask for.
ASKS = ("subscribe", "unsubscribe")


class _Server(socketio.AsyncServer):  # type: ignore[misc]  # it has no types
    """The library's server, to which clients may say what is meant for them to say.

    By itself it lets them call the handlers of connect and disconnect, too, and collects as many
    binary attachments as a packet announces.
    """

    async def _handle_eio_message(self, eio_sid: str, data: str | bytes) -> None:
        if isinstance(data, str) and data[:1] not in _BINARY:
            await super()._handle_eio_message(eio_sid, data)

    async def _handle_event(self, eio_sid: str, namespace: str, id: Any, data: Any) -> None:  # noqa: A002
        if isinstance(data, list) and data and data[0] in ASKS:
            await super()._handle_event(eio_sid, namespace, id, data)


_BINARY = (str(BINARY_EVENT), str(BINARY_ACK))


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


_OVER = "The connection is over."


def _wish_of(data: Any) -> _Wish:
    """Read what a client asks for: one of execution_id and campaign_execution_id, and after_seq."""
    asked = data if isinstance(data, dict) else {}
    execution, campaign = asked.get("execution_id"), asked.get("campaign_execution_id")
    topic_id = execution if campaign is None else campaign
    if not isinstance(topic_id, str) or (execution is not None and campaign is not None):
        raise BadRequestError("Give an execution_id or a campaign_execution_id.")
    after_seq = asked.get("after_seq")
    if after_seq is not None and (type(after_seq) is not int or after_seq < 0):
        raise BadRequestError("after_seq is the number of an event, or 0.")
    if not topic_id.isprintable() or len(topic_id) > LONGEST_ID:
        raise NotFoundError
    return _Wish(Topic(Kind.EXECUTION if campaign is None else Kind.CAMPAIGN, topic_id), after_seq)


#: How clients know the events.
NAMES: Mapping[type[Event], str] = {
    TestProgress: "test_progress",
    CampaignProgress: "campaign_progress",
    QueueChanged: "queue_changed",
    StepProgress: "step_progress",
    DeviceChanged: "device_status",
    HostChanged: "host_status",
}


def _packet(event: Event) -> EnginePacket:
    """Make an event ready for the wire, once for all who get it."""
    told = SocketPacket(EVENT, [NAMES[type(event)], asdict(event)], NAMESPACE)
    return EnginePacket(MESSAGE, told.encode())


SOCKETS = web.AppKey("sockets", Sockets)


def attach(app: web.Application) -> None:
    """Serve Socket.IO on `app`, whose CONFIG, DB and EVENTS are set."""
    app[SOCKETS] = Sockets(
        app[CONFIG].cors_origins, app[DB], partial(user_of_token, app), app[TOKENS].lives
    )
    app[SOCKETS].attach(app)
