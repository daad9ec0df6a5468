"""The line to hosts that answer one request at a time: a turn each, in the order of asking.

A request that its asker gave up is still worked on by the host: it keeps the turn until it is
answered. Nothing limits how long an answer takes but the asker's patience, since such a host may
be busy; that its machine is gone is told by the system, from packets that nobody acknowledges.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakValueDictionary

import aiohttp
import orjson
from aiohttp.connector import AddrInfoType
from yarl import URL

from vpt.dialects import http as wire
from vpt.dialects.base import MAX_ANSWER, HostTroubleError, Trouble
from vpt.model import Host, Json
from vpt.urls import CheckedResolver

_GIVEN_UP = 30.0  # seconds that a request keeps the turn after its asker went away
_LIMIT = aiohttp.ClientTimeout(total=None, connect=2 * wire.CONNECT, sock_connect=wire.CONNECT)
#: The connection breaks when the other machine acknowledges nothing for 30 s.
_SIGNS_OF_LIFE = {
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": 30_000,
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    content: bytes

    @property
    def good(self) -> bool:
        """True of a 2xx."""
        return wire.is_good(self.status)

    async def parsed(self) -> Mapping[str, Any] | None:
        """Give the object that it is, or None."""
        return await wire.parsed(self.content)


class Line:
    """Asks hosts over fresh connections: one that is kept and idle would block all others."""

    def __init__(self, ours: Callable[[], bool] = lambda: True) -> None:
        """Take what tells whether hosts may be told to do something: a turn may come late."""
        self._ours = ours
        self._resolver = CheckedResolver()
        self._session = wire.open_session(self._resolver, keep=False, socket_factory=watched_socket)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._open: set[asyncio.Task[Reply]] = set()

    async def close(self) -> None:
        """Close all connections, whatever is asked over them."""
        left = tuple(self._open)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._session.close()
        await self._resolver.close()

    async def get(
        self,
        host: Host,
        path: str | URL,
        query: Mapping[str, str] | None = None,
        *,
        most: int = MAX_ANSWER,
        with_key: bool = True,
    ) -> Reply:
        """GET a path, or a URL of that host; the key goes with all but its health."""
        url = path if isinstance(path, URL) else url_of(host, path, query)
        headers = _headers(host) if with_key else {}
        return await self._in_turn(host, "GET", url, headers, None, most)

    async def post(
        self, host: Host, path: str, body: Json, query: Mapping[str, str] | None = None
    ) -> Reply:
        """POST an object."""
        headers = {**_headers(host), "Content-Type": "application/json"}
        data = orjson.dumps(body)
        return await self._in_turn(
            host, "POST", url_of(host, path, query), headers, data, MAX_ANSWER
        )

    async def _in_turn(self, host: Host, *request: Any) -> Reply:
        """Wait for the turn, then let the request have it to its end, whoever gives it up."""
        turn = self._turn_of(host)
        await turn.acquire()
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._exchange(*request), name=f"request to {host.id}")
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        task.add_done_callback(lambda _: turn.release())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            late = loop.call_later(_GIVEN_UP, task.cancel)
            task.add_done_callback(lambda _: late.cancel())
            raise

    def _turn_of(self, host: Host) -> asyncio.Lock:
        origin = _origin(host.url)
        turn = self._turns.get(origin)
        if turn is None:
            turn = self._turns[origin] = asyncio.Lock()
        return turn

    async def _exchange(
        self, method: str, url: URL, headers: Mapping[str, str], data: bytes | None, most: int
    ) -> Reply:
        if method == "POST" and not self._ours():
            raise HostTroubleError(Trouble.HELD_BACK, "The server's claim on its database ran out.")
        with wire.TROUBLES:
            async with self._session.request(
                method, url, headers=headers, data=data, timeout=_LIMIT, allow_redirects=False
            ) as response:
                return Reply(response.status, await wire.read(response, most))


def url_of(host: Host, path: str, query: Mapping[str, str] | None = None) -> URL:
    """Append a path to the host's URL."""
    url = URL(host.url + path)
    return url.with_query(query) if query else url


def own_url(host: Host, name: str) -> URL | None:
    """Give the URL of something that a host named, None when it is not on that host."""
    try:
        url = URL(name) if "://" in name else URL(f"{host.url}/{name.lstrip('/')}")
        own = url.user is None and str(url.origin()) == _origin(host.url)
    except ValueError:
        return None
    return url if own else None


@lru_cache(maxsize=1000)
def _origin(url: str) -> str:
    return str(URL(url).origin())


def _headers(host: Host) -> dict[str, str]:
    return {} if host.secret is None else {"X-API-Key": host.secret}


def watched_socket(address: AddrInfoType) -> socket.socket:
    """Make a socket that notices when the machine at its other end is gone."""
    sock = socket.socket(*address[:3])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _SIGNS_OF_LIFE.items():
        option = getattr(socket, name, None)  # not every system has all of them
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock
