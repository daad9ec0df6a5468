"""Accepts connections of clients, those of each peer in turn, within limits (`connections.py`)."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from contextlib import ExitStack, suppress
from itertools import chain
from typing import Any

from aiohttp import web

from vpt.connections import BUSY, Connections, HttpConnection, peer_of
from vpt.upkeep import every

_BACKLOG = 1024  # connections that wait in the kernel while the loop is busy
_ACCEPTED_AT_ONCE = 64  # then others have their turn
_BEGUN_AT_ONCE = 8  # of those that were accepted, the peers in turn: each may bring a request
_PART_WAITING = 8  # this part of all connections may be accepted and not begun
_PAUSE = 0.5  # seconds without accepting after that failed, or it would fail in a busy loop
_SWEEP = 10.0  # seconds between sweeps
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # localhost is ::1, too, but not everywhere
_SEEN = 64 * 1024  # bytes of a refused request that are read, so that its sender reads the refusal


class LimitedSite(web.BaseSite):
    """Like aiohttp's TCPSite, within the limits of `connections`.

    It accepts by itself: uvloop closes connections that come while there is no descriptor, and
    says so to nobody.
    """

    def __init__(
        self,
        runner: web.BaseRunner,
        host: str,
        port: int,
        connections: Connections,
        **options: Any,
    ) -> None:
        """Listen at `host` and `port`; `options` are those of aiohttp's RequestHandler."""
        super().__init__(runner)
        self._address = (host, port)
        self._connections = connections
        self._options = options

    @property
    def name(self) -> str:
        """Return where it listens."""
        host, port = self._address
        return f"http://{host}:{port}"

    async def start(self) -> None:
        """Listen; raise OSError when the address is not free or not of this machine."""
        await super().start()
        sockets = await _bound(*self._address)
        server = self._runner.server
        assert server is not None  # noqa: S101 (checked by BaseSite)
        # It has what BaseSite and BaseRunner use of a server.
        self._server = _Listener(  # type: ignore[assignment]
            sockets, self._connections, server, self._options
        )


async def _bound(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for each address of `host`; all of this machine when it is ''."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets, missing = [], None
    with ExitStack() as opened:
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                listener = socket.create_server(address, family=family, backlog=_BACKLOG)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
            else:
                listener.setblocking(False)
                sockets.append(opened.enter_context(listener))
        if missing is not None and not sockets:
            raise missing
        opened.pop_all()
    return sockets


class _Listener:
    """Accepts the connections of some sockets, and sweeps them."""

    def __init__(
        self,
        sockets: list[socket.socket],
        connections: Connections,
        server: web.Server,
        options: dict[str, Any],
    ) -> None:
        self.sockets = sockets
        self._connections = connections
        self._server = server
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, deque[socket.socket]] = {}  # accepted and not begun, by peer
        self._room = max(1, connections.limits.total // _PART_WAITING)  # for more of these
        self._coming: set[asyncio.Task[None]] = set()
        self._sweep = asyncio.create_task(every(_SWEEP, connections.sweep), name="connections")
        for listener in sockets:
            self._resume(listener)

    def close(self) -> None:
        """Accept no more."""
        self._sweep.cancel()
        for listener in self.sockets:
            self._loop.remove_reader(listener)
            listener.close()
        for accepted in chain.from_iterable(self._waiting.values()):
            accepted.close()
        self._waiting.clear()
        for task in self._coming:
            task.cancel()
        self.sockets = []

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:  # it may have been closed meanwhile
            self._loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        """Accept what waits, some at once."""
        for _ in range(min(_ACCEPTED_AT_ONCE, self._room)):
            try:
                accepted, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._loop.remove_reader(listener)
                self._loop.call_later(_PAUSE, self._resume, listener)
                self._connections.accept_failed(error)
                return
            accepted.setblocking(False)
            self._wait(accepted, peer_of(address))

    def _wait(self, accepted: socket.socket, peer: str) -> None:
        """Let a connection wait behind those of its own peer only."""
        if not self._waiting:
            self._loop.call_soon(self._begin_some)
        self._waiting.setdefault(peer, deque()).append(accepted)
        self._room -= 1

    def _begin_some(self) -> None:
        """Begin with some connections, one of each peer in turn, and let others have theirs."""
        for _ in range(_BEGUN_AT_ONCE):
            if not self._waiting:
                return
            peer, own = next(iter(self._waiting.items()))
            accepted = own.popleft()
            del self._waiting[peer]
            if own:
                self._waiting[peer] = own  # at the end
            self._room += 1
            self._serve(accepted, peer)
        if self._waiting:
            self._loop.call_soon(self._begin_some)

    def _serve(self, accepted: socket.socket, peer: str) -> None:
        connection = self._connections.open(peer, self._server, **self._options)
        if connection is None:
            _refuse(accepted)
            return
        task = self._loop.create_task(self._connect(connection, accepted), name="accepted")
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _connect(self, connection: HttpConnection, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, accepted)
        except BaseException as error:
            self._connections.remove(connection)
            accepted.close()
            if not isinstance(error, Exception):
                raise
            self._connections.accept_failed(error)


def _refuse(accepted: socket.socket) -> None:
    """Answer 503 as far as the socket takes it at once, and close it."""
    with suppress(OSError):
        accepted.send(BUSY)
        accepted.shutdown(socket.SHUT_WR)
        accepted.recv(_SEEN)
    accepted.close()
