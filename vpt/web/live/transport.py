"""Transport: all that knows python-socketio and python-engineio, behind an interface of ours.

An event is encoded once (`encode`), and `Connection.send` puts that packet into the engine.io queue
of each client at once, without a task for each: so the order of publishing is the order of arrival.
The libraries have no public call for this, for their private methods that are overridden here, nor
for closing without waiting. setup.cfg names the range of versions that was tested, and
tests/web_hosts/test_transport.py fails when a part that is used here is gone or changed.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import socketio
import structlog
from aiohttp import WSCloseCode, hdrs, web
from engineio.packet import MESSAGE
from engineio.packet import Packet as Packet  # noqa: PLC0414  # others import it from here
from socketio.exceptions import ConnectionRefusedError as RefusedError
from socketio.packet import BINARY_ACK, BINARY_EVENT, CONNECT, EVENT
from socketio.packet import Packet as SocketPacket

from vpt.background import Background, every
from vpt.config import origin_of
from vpt.errors import BadRequestError, TooLargeError, VptError
from vpt.model import Json
from vpt.store.tokens import User
from vpt.web.http.caller import caller_of
from vpt.web.live.strangers import Strangers

log = structlog.get_logger(__name__)

NAMESPACE = "/"
PATH = "/socket.io/"
#: Packets that may wait for one client before it is dropped as too slow.
QUEUE_LIMIT = 2000
#: Bytes of one message; clients send a token and a few ids.
MESSAGE_LIMIT = 100_000
#: Seconds that clients have to close their web socket at shutdown.
GOODBYE = 1.0
#: Seconds that a connection has to present a valid token, and how many may be without one.
STRANGER, STRANGER_LIMIT = 10.0, 1000
#: Seconds for a POST of a client that polls, from its first byte to the end of its handling.
POST_TIMEOUT = 20.0

#: Requests to connect that one connection may make: a page whose token was refused asks again.
MOST_CONNECTS = 10
#: Failures of the libraries that are logged one by one between two sweeps; more are counted.
MOST_LOGGED = 10

#: Characters of an origin and of a host name that are logged.
LONGEST_NAME = 200

CLOSED = "The connection is closed."
_BINARY = (str(BINARY_EVENT), str(BINARY_ACK))
_CONNECT = str(CONNECT)


def _comparable(origin: str) -> str:
    """Return an origin in the form of a browser; a text that is none stays as it is."""
    try:
        return origin_of(origin)
    except ValueError:
        return origin


def encode(name: str, data: Json) -> Packet:
    """Return an event as the packet that every client's queue can hold."""
    return Packet(MESSAGE, SocketPacket(EVENT, [name, data], NAMESPACE).encode())


class Connection:
    """The connection of a client that presented a valid token."""

    __slots__ = ("engine", "sid")

    def __init__(self, sid: str, engine: Any) -> None:
        self.sid = sid
        self.engine = engine  # the same object when the client changes from polling to web socket

    def send(self, packet: Packet) -> bool:
        """Put a packet into the client's queue; return False when the queue is full."""
        engine = self.engine
        if engine.closed:
            return True
        if engine.queue.qsize() >= QUEUE_LIMIT:
            return False
        engine.queue.put_nowait(packet)
        return True

    @property
    def queued(self) -> int:
        """The number of packets that the client has not read."""
        return 0 if self.engine.closed else int(self.engine.queue.qsize())


class Handlers(Protocol):
    """What the transport calls when clients come, ask and go."""

    async def authenticate(self, request: web.Request, auth: Any) -> User:
        """Return who connects; the message of a VptError is sent to a client that is refused."""

    def connected(self, connection: Connection, user: User) -> None:
        """Add a client. It does not wait, so that the client's connect is answered first."""

    def disconnected(self, connection: Connection) -> None:
        """Remove a client; not called for one that was dropped."""

    async def answer(self, connection: Connection, name: str, data: Any) -> Json:
        """Answer a request."""


class Transport:
    """The Socket.IO server of one application."""

    def __init__(
        self,
        origins: tuple[str, ...],
        handlers: Handlers,
        requests: tuple[str, ...],
        background: Background,
    ) -> None:
        """Accept pages of our own origin and of `origins`, and the named requests of clients."""
        self._origins = frozenset(map(_comparable, origins))
        self._refused_origins = 0
        self._handlers = handlers
        self._background = background
        self._connections: dict[str, Connection] = {}
        self._web_sockets: weakref.WeakKeyDictionary[web.WebSocketResponse, _WebSocketLink] = (
            weakref.WeakKeyDictionary()
        )
        logger = _QuietLogger()
        self._server = _Server(
            requests,
            self._cut,
            logger,
            async_mode="aiohttp",
            cors_allowed_origins=self._allows,
            max_http_buffer_size=MESSAGE_LIMIT,
            engineio_logger=logger,
        )
        self._server.on("connect", self._connect)
        self._server.on("disconnect", self._disconnect)
        for name in requests:
            self._server.on(name, partial(self._answer, name))

    def attach(self, app: web.Application) -> None:
        """Serve PATH on `app`, and close all connections when it shuts down."""
        for method in (hdrs.METH_GET, hdrs.METH_POST, hdrs.METH_OPTIONS):
            app.router.add_route(method, PATH, self._serve)
        app.on_response_prepare.append(self._note_web_socket)
        app.on_shutdown.append(self._say_goodbye)

    def start(self) -> None:
        """Start to close connections that present no valid token."""
        self._background.start(every(STRANGER, self._sweep), "socket-strangers")

    def disconnect(self, connection: Connection) -> None:
        """Notify the client that its session is over: it will not reconnect by itself."""
        self._background.start(self._server.disconnect(connection.sid), "socket-disconnect")

    def drop(self, connection: Connection) -> None:
        """Cut a client that does not read; it reconnects by itself when it can."""
        self._connections.pop(connection.sid, None)
        self._cut(connection.engine)

    def _cut(self, engine: Any) -> None:
        """End an engine.io connection at once, without a goodbye."""
        for link in self._web_sockets.values():
            if link.belongs_to(engine.sid, self._server.environ):
                link.transport.abort()
        self._background.start(_close(engine, abort=True), "socket-close")

    # --- called by the library

    async def _connect(self, sid: str, environ: Json, auth: Any = None) -> None:
        try:
            user = await self._handlers.authenticate(environ["aiohttp.request"], auth)
        except VptError as error:
            raise RefusedError(error.message) from error
        engine_sid = self._server.manager.eio_sid_from_sid(sid, NAMESPACE)
        engine = self._server.eio.sockets.get(engine_sid)
        # Its disconnect came before this connect was over, and is not reported again.
        if engine is None or engine.closed:
            raise RefusedError(CLOSED)
        self._server.admit(engine)
        connection = self._connections[sid] = Connection(sid, engine)
        self._handlers.connected(connection, user)

    async def _disconnect(self, sid: str, reason: str) -> None:  # noqa: ARG002
        connection = self._connections.pop(sid, None)
        if connection is None:
            return
        self._handlers.disconnected(connection)
        # The library leaves the engine.io connection open for other namespaces, of which we have
        # none: without this an open poll of a client that left would wait for its timeout.
        self._background.start(_close(connection.engine, abort=False), "socket-close")

    async def _answer(self, name: str, sid: str, data: Any = None, *_: Any) -> Json:
        connection = self._connections.get(sid)
        if connection is None:
            return {"ok": False, "error": CLOSED}
        return await self._handlers.answer(connection, name, data)

    def _allows(self, origin: str | None, environ: Json) -> bool:
        """Return whether a page of that origin may connect: one that is set, or one of our own.

        Our own is the host that the page was asked for, also by way of a trusted proxy. Its scheme
        is not compared: a proxy that ends TLS need not tell it.
        """
        if origin is None or "*" in self._origins or _comparable(origin) in self._origins:
            return True
        host = caller_of(environ["aiohttp.request"]).host
        if _comparable(origin) == _comparable(f"{origin.partition('://')[0]}://{host}"):
            return True
        self._refused_origins += 1
        if self._refused_origins == 1:
            log.warning("origin_refused", origin=origin[:LONGEST_NAME], host=host[:LONGEST_NAME])
        return False

    async def _sweep(self) -> None:
        self._refused_origins = 0
        await self._server.sweep()

    # --- the web server around it

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        """Let the library answer, except where it fails (seen with python-engineio 4.15)."""
        if request.method == hdrs.METH_POST:
            return await self._serve_post(request)
        try:
            response: web.StreamResponse = await self._server.handle_request(request)
        except ValueError:
            # Text that is no packet ends the library's loop over a web socket by an exception.
            # The response is then the web socket itself, which aiohttp closes.
            for web_socket, link in self._web_sockets.items():
                if link.request() is request:
                    return web_socket
            raise
        return response

    async def _serve_post(self, request: web.Request) -> web.StreamResponse:
        """Pass a POST on when its body is complete: the library takes a first part for all of it.

        The time is limited, as the library hangs up on a client by waiting until its queue is
        read, by a poll that may never come.
        """
        if (request.content_length or 0) > MESSAGE_LIMIT:
            raise TooLargeError
        try:
            async with asyncio.timeout(POST_TIMEOUT):
                await request.content.wait_eof()
                response: web.StreamResponse = await self._server.handle_request(request)
        except TimeoutError as error:
            raise BadRequestError(
                "The body is not made of Engine.IO packets, or did not arrive in time."
            ) from error
        return response

    async def _note_web_socket(self, request: web.Request, response: web.StreamResponse) -> None:
        if isinstance(response, web.WebSocketResponse) and request.transport is not None:
            self._web_sockets[response] = _WebSocketLink(
                request.query.get("sid"), weakref.ref(request), request.transport
            )

    async def _say_goodbye(self, _: web.Application) -> None:
        """Close all so that clients reconnect by themselves, and aiohttp need not wait for them."""
        upgraded = tuple(self._web_sockets.items())
        for engine in tuple(self._server.eio.sockets.values()):
            if not engine.upgraded:
                await engine.close(wait=False)
        closing = [
            asyncio.create_task(ws.close(code=WSCloseCode.GOING_AWAY), name="socket-goodbye")
            for ws, _link in upgraded
        ]
        if closing:
            _done, late = await asyncio.wait(closing, timeout=GOODBYE)
            for task in late:
                task.cancel()
        for _ws, link in upgraded:
            link.transport.abort()
        await self._server.shutdown()


@dataclass(frozen=True, slots=True)
class _WebSocketLink:
    """An open web socket: the engine.io id in its query, its first request, its TCP connection."""

    engine_sid: str | None
    request: weakref.ref[web.Request]
    transport: asyncio.Transport

    def belongs_to(self, engine_sid: str, environs: Mapping[str, Json]) -> bool:
        """Return whether it carries that engine.io connection, from its start or by an upgrade."""
        if self.engine_sid is not None:
            return self.engine_sid == engine_sid
        environ = environs.get(engine_sid, {})
        return environ.get("aiohttp.request") is self.request()


class _Server(socketio.AsyncServer):  # type: ignore[misc]  # it has no types
    """The library's server, with bounds on what a client can send it.

    The overridden methods are private: an upgrade can rename them, and the server would work on
    without these bounds. tests/web_hosts/test_transport.py would fail.
    """

    def __init__(
        self,
        requests: tuple[str, ...],
        cut: Callable[[Any], None],
        logger: _QuietLogger,
        **options: Any,
    ) -> None:
        """Accept the named requests; `cut` ends the connection of a client that misbehaves."""
        super().__init__(logger=logger, **options)
        self._requests, self._cut, self._failures = requests, cut, logger
        self.strangers = Strangers()
        self._connects: Counter[str] = Counter()
        self._too_many = self._misbehaved = 0

    async def _handle_eio_message(self, eio_sid: str, data: str | bytes) -> None:
        """Ignore binary packets: the library collects as many attachments as one announces.

        Who sends what is no message, or asks to connect again and again, is cut: each is a task, an
        answer and a line of the log, and a client sends thousands a second.
        """
        engine = self.eio.sockets.get(eio_sid)
        if engine is None or engine.closed or not isinstance(data, str) or data[:1] in _BINARY:
            return
        if data[:1] == _CONNECT:
            self._connects[eio_sid] += 1
        if self._connects[eio_sid] > MOST_CONNECTS:
            self._end(engine, "It asked to connect too often.")
            return
        try:
            await super()._handle_eio_message(eio_sid, data)
        except (ValueError, RecursionError) as error:  # what the library raises for no packet
            self._end(engine, repr(error))

    def _end(self, engine: Any, reason: str) -> None:
        log.debug("socketio", message=reason)
        self._misbehaved += 1
        self._cut(engine)

    async def _handle_event(self, eio_sid: str, namespace: str, id: Any, data: Any) -> None:  # noqa: A002
        """Pass on requests only: the library lets clients call the handler of connect, too."""
        if isinstance(data, list) and data and data[0] in self._requests:
            await super()._handle_event(eio_sid, namespace, id, data)

    async def _handle_eio_connect(self, eio_sid: str, environ: Json) -> None:
        """Note a new connection; when too many are without a token, close one of them."""
        await super()._handle_eio_connect(eio_sid, environ)
        # The library's task for pings lives 25 s, also when its connection was closed at once.
        self.eio.sockets[eio_sid].schedule_ping = _no_ping
        address = caller_of(environ["aiohttp.request"]).address
        self.strangers.add(eio_sid, address, asyncio.get_running_loop().time())
        while len(self.strangers) > STRANGER_LIMIT:
            self._too_many += 1
            await self._close_stranger(self.strangers.one_too_many(), abort=True)

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        self.strangers.remove(eio_sid)
        self._connects.pop(eio_sid, None)
        await super()._handle_eio_disconnect(eio_sid, reason)

    def admit(self, engine: Any) -> None:
        """Keep a connection that presented a valid token, and begin to ping it."""
        self.strangers.remove(engine.sid)
        if vars(engine).pop("schedule_ping", None):
            engine.schedule_ping()

    async def sweep(self) -> None:
        """Close the connections that have been without a valid token for too long."""
        if self._too_many:
            log.warning("strangers_dropped", count=self._too_many)
            self._too_many = 0
        if self._misbehaved:
            log.warning("socket_clients_cut", count=self._misbehaved)
            self._misbehaved = 0
        self._failures.tell()
        until = asyncio.get_running_loop().time() - STRANGER
        for engine_sid in self.strangers.late(until):
            await self._close_stranger(engine_sid, abort=False)

    async def _close_stranger(self, engine_sid: str, *, abort: bool) -> None:
        if not self.strangers.remove(engine_sid):  # it went, or presented its token
            return
        # The library would find it closed and remove it only some 20 s later.
        engine = self.eio.sockets.pop(engine_sid, None)
        if engine is None:
            return
        request: web.Request = self.environ[engine_sid]["aiohttp.request"]
        await _close(engine, abort=abort)
        if abort and request.query.get("transport") == "websocket" and request.transport:
            request.transport.abort()


def _no_ping() -> None:
    """Stand in for `schedule_ping` of a connection without a valid token."""


async def _close(engine: Any, *, abort: bool) -> None:
    """Close an engine.io connection without waiting for its reader; `abort` says no goodbye."""
    if not engine.closed:
        await engine.close(wait=False, abort=abort)
    engine.queue.put_nowait(None)  # lets an open poll return, and ends the writer of a web socket


class _QuietLogger:
    """A logger for both libraries: a client's mistake is one line, not a traceback."""

    level = 0

    def __init__(self) -> None:
        self._failed = 0

    def info(self, *_: Any) -> None:
        """Log nothing: the libraries log every packet here."""

    debug = info

    def warning(self, message: str, *args: Any, **_: Any) -> None:
        """Log what a client did wrong for whoever looks for it."""
        log.debug("socketio", message=message % args if args else message)

    error = warning

    def exception(self, message: str, *args: Any) -> None:
        """Log the exception in one line, as long as there are few."""
        self._failed += 1
        if self._failed <= MOST_LOGGED:
            log.warning("socketio_failed", message=message % args, error=repr(sys.exception()))

    def tell(self) -> None:
        """Log how many exceptions were not logged since the last call."""
        if self._failed > MOST_LOGGED:
            left_out = self._failed - MOST_LOGGED
            log.warning("socketio_failed", message="more of the kind", count=left_out)
        self._failed = 0
