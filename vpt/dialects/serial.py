"""Requests to hosts that answer one at a time: they hold a lock, in the order in which they came.

A request that its caller gave up is still worked on by the host: it keeps the lock until it is
answered, or the next one would wait in the host's socket with its own time limit running. No
request has a time limit but its caller's, since such a host may be busy for long. That its machine
is gone is noticed by the operating system, from packets that nobody acknowledges.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import aiohttp
from aiohttp.connector import AddrInfoType
from yarl import URL

from vpt import bodies
from vpt.dialects import http
from vpt.dialects.base import MAX_ANSWER, HostTroubleError, Trouble
from vpt.dialects.reasons import CREDENTIAL_STATUSES, reason_of_key
from vpt.model import Host, Json
from vpt.urls import CheckedResolver, checked_socket

_GIVEN_UP = 30.0  # seconds that a request keeps the lock after its caller went away
_LIMIT = aiohttp.ClientTimeout(total=None, connect=2 * http.CONNECT, sock_connect=http.CONNECT)
#: The connection breaks when the other machine acknowledges nothing for 30 s.
_SIGNS_OF_LIFE = {
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": 30_000,
}

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class SerialResponse:
    """A response, read to its end."""

    status: int
    content: bytes

    @property
    def good(self) -> bool:
        """Return whether the status is a 2xx."""
        return http.is_good(self.status)

    async def parsed(self) -> Mapping[str, Any] | None:
        """Return its JSON object, None when there is none."""
        return await self.read_as(lambda body: body)

    async def read_as(self, make: Callable[[Mapping[str, Any] | None], Made]) -> Made:
        """Return what `make` builds from its JSON object, or from None when there is none."""
        return await http.read_as(self.content, make)


class SerialClient:
    """Sends requests over fresh connections: one kept open and idle would block all others."""

    def __init__(self, may_act: Callable[[], bool] = lambda: True) -> None:
        """Accept a check that is made just before each POST: the lock may have come late."""
        self._may_act = may_act
        self._resolver = CheckedResolver()
        self._session = http.open_session(self._resolver, keep=False, socket_factory=watched_socket)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._open: set[asyncio.Task[SerialResponse]] = set()
        self._accepted: dict[str, tuple[str, str | None]] = {}  # by host: URL and key

    async def close(self) -> None:
        """Close all connections, with requests under way or not."""
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
        max_bytes: int = MAX_ANSWER,
        with_key: bool = True,
    ) -> SerialResponse:
        """GET a path, or a URL of that host; `with_key` sends the API key with it."""
        url = path if isinstance(path, URL) else url_of(host, path, query)
        headers = _headers(host) if with_key else {}
        response = await self._request(host, "GET", url, headers, None, max_bytes)
        if with_key:
            self._check_key(host, response.status)
        return response

    async def get_beside(self, url: URL, max_bytes: int) -> SerialResponse:
        """GET a URL of another server on a host's machine: without the host's lock, and its key."""
        return await self._exchange("GET", url, {}, None, max_bytes)

    async def post(
        self, host: Host, path: str, body: Json, query: Mapping[str, str] | None = None
    ) -> SerialResponse:
        """POST an object."""
        headers = {**_headers(host), "Content-Type": "application/json"}
        data = await bodies.written(body)
        response = await self._request(
            host, "POST", url_of(host, path, query), headers, data, MAX_ANSWER
        )
        self._check_key(host, response.status)
        return response

    def is_accepted(self, host: Host) -> bool:
        """Return whether the host took the key with the last call that had it."""
        return self._accepted.get(host.id) == (host.url, host.secret)

    def _check_key(self, host: Host, status: int) -> None:
        """Raise HostTroubleError when a call was refused for its key."""
        if status not in CREDENTIAL_STATUSES:
            self._accepted[host.id] = (host.url, host.secret)
            return
        self._accepted.pop(host.id, None)
        reason = reason_of_key(status, is_sent=host.secret is not None)
        raise HostTroubleError(Trouble.HOST_REFUSED, f"The host {reason.text}.", reason=reason)

    async def _request(self, host: Host, *request: Any) -> SerialResponse:
        """Wait for the lock; the request holds it to its end, even when its caller goes away."""
        lock = self._lock_of(host)
        await lock.acquire()
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._exchange(*request), name=f"request to {host.id}")
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        task.add_done_callback(lambda _: lock.release())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            late = loop.call_later(_GIVEN_UP, task.cancel)
            task.add_done_callback(lambda _: late.cancel())
            raise

    def _lock_of(self, host: Host) -> asyncio.Lock:
        origin = _origin(host.url)
        lock = self._locks.get(origin)
        if lock is None:
            lock = self._locks[origin] = asyncio.Lock()
        return lock

    async def _exchange(
        self, method: str, url: URL, headers: Mapping[str, str], data: bytes | None, max_bytes: int
    ) -> SerialResponse:
        if method == "POST" and not self._may_act():
            raise HostTroubleError(Trouble.HELD_BACK, "The server's claim on its database ran out.")
        with http.ERRORS_AS_TROUBLE:
            async with self._session.request(
                method, url, headers=headers, data=data, timeout=_LIMIT, allow_redirects=False
            ) as response:
                return SerialResponse(response.status, await http.read(response, max_bytes))


def url_of(host: Host, path: str, query: Mapping[str, str] | None = None) -> URL:
    """Return the host's URL with a path and a query."""
    url = URL(host.url + path)
    return url.with_query(query) if query else url


def own_url(host: Host, name: str) -> URL | None:
    """Return the URL of something that a host named, None when it is not on that host.

    Else a host could make the server fetch from any address, and get its API key there.
    """
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
    """Return a socket that notices when the machine at its other end is gone."""
    sock = checked_socket(address)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _SIGNS_OF_LIFE.items():
        option = getattr(socket, name, None)  # not every system has all of them
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock
