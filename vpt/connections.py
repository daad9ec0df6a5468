"""Connections of clients: how many there may be, how long one may be silent, and how they come in.

A connection that sends nothing, or half a request, costs its sender nothing and the server a file
descriptor; when those run out the server reaches neither its database nor its hosts. So:

- a client has `silent_s` for the head of a request, from its connection or its last response on,
  however slowly it drips in, and `head_bytes` for its size;
- there are at most `total` connections, and `per_peer` of one address. Beyond that the silent ones
  of whoever has the most make room for new ones: a client that asks something is served, also
  behind the same address (a proxy, a building) as one that holds silent connections;
- only where all of a peer's connections are at work a new one is refused, by a 503;
- long answers stay in memory until they are read: those of all peers together, and of one, are
  bounded, and one that is too much is answered 503 in place of it.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import chain, islice
from typing import Any, cast

import structlog
from aiohttp import hdrs, web
from aiohttp.http_exceptions import LineTooLong

log = structlog.get_logger(__name__)

Network = IPv4Network | IPv6Network

#: Most connections of clients, however many descriptors there are: each costs 6 KB, and while its
#: head comes in `HEAD_BYTES` more.
MOST_CONNECTIONS = 5000
#: The head of a request: its URL may have 32 KiB, and a header 8 KiB.
HEAD_BYTES = 64 * 1024
#: Seconds for the head of a request, which is also how long an idle connection is kept.
SILENT_S = 30.0
#: A trusted proxy keeps idle connections itself (nginx 60 s, Traefik 90 s, Caddy 120 s): closing
#: them before it does would break the request that it just sends.
PROXY_SILENT_S = 130.0

#: Bytes of answers that are not read yet, of all peers; one of them may have half of it. Answers of
#: fewer bytes than `_SHORT_ANSWER` are always sent.
MOST_UNREAD = 256 * 2**20
_SHORT_ANSWER = 64 * 1024

#: Why a connection, or an answer, is refused: its peer has too many, all have, it could not be
#: accepted, or too much of what was answered is not read yet.
REFUSALS = ("peer", "total", "failed", "unread")

#: Descriptors that are left to hosts, the database and files: this many, or a quarter of all.
_RESERVE, _RESERVED_PART = 128, 4
_FEWEST = 16  # connections of clients, and descriptors beyond which the limit is not raised:
_MOST_DESCRIPTORS = 2**20  # some programs close each number up to it when they start
_PART_OF_PEER = 2  # one address may have half of all connections, and of what is not read
_CLOSED_AT_ONCE = 16  # this part of a peer's limit is made room for at once, so looks are few
_LOST_AT_ONCE = 16  # connections that break at once: each may end a request, which takes a while
_STUCK = 3  # sweeps in which a closed connection may send its rest
_NOTICE = 60.0  # seconds between two log lines of a kind
_IPV6_PREFIX = 64  # bits: one machine has as many addresses as it wants below them


def _closing_response(status: str, code: str, sentence: str, more: str = "") -> bytes:
    """Return a response, after which the connection is closed, as aiohttp would send it."""
    body = f'{{"error":"{sentence}","code":"{code}"}}'
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json; charset=utf-8\r\n{more}"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


BUSY = _closing_response(
    "503 Service Unavailable",
    "unavailable",
    "Too many connections are open: close some, or try again in a moment.",
    "Retry-After: 5\r\n",
)
_TOO_LONG = _closing_response(
    "431 Request Header Fields Too Large", "too_large", "The head of the request is too long."
)
_BAD_REQUEST = 400
_LINE_TOO_LONG = (
    431,
    {"error": "The URL or a header of the request is too long.", "code": "too_large"},
)
_UNREAD = {
    "error": "Too many long answers are not read yet: read them, or try again in a moment.",
    "code": "unavailable",
}
#: Headers that say something of one body.
_OF_BODY = (hdrs.CONTENT_TYPE, hdrs.CONTENT_LENGTH, hdrs.CONTENT_ENCODING, hdrs.ETAG)
_MALFORMED = (_BAD_REQUEST, {"error": "The request is no valid HTTP.", "code": "bad_request"})


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections of clients there may be, and for how long (s) one may be silent."""

    total: int
    per_peer: int
    silent_s: float = SILENT_S
    proxy_silent_s: float = PROXY_SILENT_S
    head_bytes: int = HEAD_BYTES

    @classmethod
    def of_process(cls) -> ConnectionLimits:
        """Return what the descriptors of this process allow."""
        descriptors = _finite(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        reserve = max(_RESERVE, descriptors // _RESERVED_PART)
        total = max(_FEWEST, min(MOST_CONNECTIONS, descriptors - reserve))
        return cls(total, total // _PART_OF_PEER)


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard one: the usual 1024 suits small programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(_finite(hard), _MOST_DESCRIPTORS)
    if _finite(soft) < wanted:
        with suppress(OSError, ValueError):  # macOS has another limit beside it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _finite(limit: int) -> int:
    return _MOST_DESCRIPTORS if limit == resource.RLIM_INFINITY else limit


class HttpConnection(web.RequestHandler):
    """One connection of a client: aiohttp's, which also says whether it is silent.

    aiohttp has no public name for that: tests/test_connections.py fails when `_waiter` or
    `_request_count` are gone.
    """

    __slots__ = ("_connections", "_head", "link", "peer", "stuck")

    def __init__(self, connections: Connections, peer: str, server: web.Server, **options: Any):
        """Serve `server` to `peer`; `options` are those of aiohttp's RequestHandler."""
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._connections = connections
        self._head = 0  # bytes of a head that is not complete
        self.link: asyncio.Transport | None = None  # `transport` is None once it is closed
        self.peer = peer
        self.stuck = 0  # sweeps that found it closed, and its last bytes not read

    @property
    def silent(self) -> bool:
        """Return whether no request is being answered: it waits for the head of the next one."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def has_asked(self) -> bool:
        """Return whether it ever sent a whole request."""
        return self._request_count > 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to serve."""
        self.link = cast("asyncio.Transport", transport)  # uvloop's is of another class
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Read more of a request; hang up when its head is too long."""
        super().data_received(data)
        waiter = self._waiter  # as in `silent`: this is on every request's path
        if waiter is None or waiter.done():
            self._head = 0
            return
        self._head += len(data)
        if self._head > self._connections.limits.head_bytes and self.link is not None:
            self.link.write(_TOO_LONG)
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Log the error; answer a malformed request as the API does, and repeat nothing of it."""
        response = super().handle_error(request, status, exc, message)
        if status != _BAD_REQUEST:
            return response
        refused = _LINE_TOO_LONG if isinstance(exc, LineTooLong) else _MALFORMED
        refusal = web.json_response(refused[1], status=refused[0])
        refusal.headers["X-Content-Type-Options"] = "nosniff"
        refusal.force_close()
        return refusal

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer, a long one only where the unread ones leave room for it."""
        size = _size_of(resp)
        if size < _SHORT_ANSWER:
            return await super().finish_response(request, resp, start_time)
        unread = self._connections.unread
        if not self._connections.has_room(self.peer, size):
            resp, size = _refusal_for(resp), 0
        unread[self.peer] += size
        try:
            # One in two turns of the loop: to write megabytes takes some milliseconds.
            async with self._connections.writing:
                await asyncio.sleep(0)
            return await super().finish_response(request, resp, start_time)
        finally:
            unread[self.peer] -= size
            if not unread[self.peer]:
                del unread[self.peer]

    def connection_lost(self, exc: BaseException | None) -> None:
        """Free the place of this connection."""
        self._connections.remove(self)
        self._connections.after_loss(partial(super().connection_lost, exc))

    def abort(self) -> None:
        """Close it at once; nothing that it was still to be sent is sent."""
        if self.link is not None:
            self.link.abort()


def _size_of(response: web.StreamResponse) -> int:
    """Return the bytes of an answer that is in memory; files are sent piece by piece."""
    body = response.body if isinstance(response, web.Response) else None
    return len(body) if isinstance(body, bytes | bytearray) else 0


def _refusal_for(response: web.StreamResponse) -> web.Response:
    """Return a 503 with what else the answer's head says: the id of the request, for one."""
    headers = {name: value for name, value in response.headers.items() if name not in _OF_BODY}
    return web.json_response(_UNREAD, status=503, headers={**headers, "Retry-After": "5"})


class _Notice:
    """Counts what happens, and logs it at most once a minute, with how often it happened."""

    def __init__(self, write: Callable[[int, str], None]) -> None:
        self._write = write
        self._count = 0
        self._detail = ""
        self._logged_at = float("-inf")

    def add(self, detail: str, count: int = 1) -> None:
        """Count it; `detail` of the last one is logged."""
        self._count += count
        self._detail = detail
        self.flush()

    def flush(self) -> None:
        """Log what was counted, unless it is too soon."""
        now = time.monotonic()
        if self._count and now - self._logged_at >= _NOTICE:
            self._logged_at, count, self._count = now, self._count, 0
            self._write(count, self._detail)


class Connections:
    """The open connections of a server, by peer, within their limits."""

    def __init__(
        self, limits: ConnectionLimits | None = None, *, proxies: Sequence[Network] = ()
    ) -> None:
        """Use `limits`, or what this process allows; of `proxies` come many peers' requests."""
        self.limits = limits or ConnectionLimits.of_process()
        self.refused: Counter[str] = Counter()  # by the limit that was reached, since the start
        self.closed = 0  # silent ones, to make room for others
        self.unread: Counter[str] = Counter()  # bytes of long answers, by peer
        self.writing = asyncio.Lock()
        self._proxies = tuple(proxies)
        self._by_peer: dict[str, dict[HttpConnection, None]] = {}  # the oldest of each first
        self._open = 0
        self._lost: deque[Callable[[], None]] = deque()
        self._notices = (
            _Notice(lambda count, peer: log.warning("connections_refused", count=count, peer=peer)),
            _Notice(lambda count, peer: log.warning("connections_closed", count=count, peer=peer)),
            _Notice(lambda count, error: log.error("accept_failed", count=count, error=error)),
        )

    def __len__(self) -> int:
        return self._open

    def __iter__(self) -> Iterator[HttpConnection]:
        return chain.from_iterable(tuple(self._by_peer.values()))

    def open(self, peer: str, server: web.Server, **options: Any) -> HttpConnection | None:
        """Return a new connection of `peer`, None when it has to be refused."""
        proxy = self._is_proxy(peer)
        if self._full(peer, proxy=proxy):
            return None
        limits = self.limits
        silent_s = limits.proxy_silent_s if proxy else limits.silent_s
        one = HttpConnection(self, peer, server, keepalive_timeout=silent_s, **options)
        self._by_peer.setdefault(peer, {})[one] = None
        self._open += 1
        return one

    def remove(self, connection: HttpConnection) -> None:
        """Forget a connection that is gone; does nothing when it was forgotten already."""
        own = self._by_peer.get(connection.peer, {})
        if connection in own:
            del own[connection]
            self._open -= 1
            if not own:
                del self._by_peer[connection.peer]

    def has_room(self, peer: str, size: int) -> bool:
        """Return whether so long an answer may be kept for `peer` until it is read."""
        most = MOST_UNREAD if self._is_proxy(peer) else MOST_UNREAD // _PART_OF_PEER
        if self.unread[peer] + size <= most and self.unread.total() + size <= MOST_UNREAD:
            return True
        self._refuse("unread", peer)
        return False

    def after_loss(self, end: Callable[[], None]) -> None:
        """End what a lost connection was doing, behind those that were lost before it."""
        self._lost.append(end)
        if len(self._lost) == 1:
            asyncio.get_running_loop().call_soon(self._end_some)

    def _end_some(self) -> None:
        try:
            for _ in range(min(len(self._lost), _LOST_AT_ONCE)):
                self._lost.popleft()()
        finally:
            if self._lost:
                asyncio.get_running_loop().call_soon(self._end_some)

    def accept_failed(self, error: Exception) -> None:
        """Count a connection that could not be accepted, and make room, which may have lacked."""
        self.refused["failed"] += 1
        self._notices[2].add(str(error))
        self._close_silent(self._crowds())

    async def sweep(self) -> None:
        """Cut those that were closed and do not read the rest; log what was counted."""
        for one in tuple(self):
            if one.link is not None and one.link.is_closing():
                one.stuck += 1
                if one.stuck > _STUCK:
                    one.abort()
        for notice in self._notices:
            notice.flush()

    def _full(self, peer: str, *, proxy: bool) -> bool:
        """Return whether there is no room for one more of `peer`; silent ones make room."""
        own = self._by_peer.get(peer, {})
        if not proxy and len(own) >= self.limits.per_peer and not self._close_silent([own]):
            self._refuse("peer", peer)
            return True
        if self._open >= self.limits.total and not self._close_silent(self._crowds()):
            self._refuse("total", peer)
            return True
        return False

    def _refuse(self, limit: str, peer: str) -> None:
        self.refused[limit] += 1
        self._notices[0].add(peer)

    def _is_proxy(self, peer: str) -> bool:
        if not self._proxies:
            return False
        address = ip_address(peer.partition("/")[0])
        return any(address in network for network in self._proxies)

    def _crowds(self) -> list[dict[HttpConnection, None]]:
        return sorted(self._by_peer.values(), key=len, reverse=True)

    def _close_silent(self, crowds: Iterable[dict[HttpConnection, None]]) -> int:
        """Close silent connections of the first of `crowds` that has any; return how many.

        Those that never sent a request go first, then the oldest.
        """
        for own in crowds:
            silent = sorted((one for one in own if one.silent), key=lambda one: one.has_asked)
            some = max(1, min(len(own), self.limits.per_peer) // _CLOSED_AT_ONCE)
            for one in islice(silent, some):
                self.remove(one)  # at once: its place is given away before it is gone
                one.abort()
            if silent:
                self.closed += min(some, len(silent))
                self._notices[1].add(silent[0].peer, min(some, len(silent)))
                return min(some, len(silent))
        return 0


def peer_of(address: tuple[Any, ...]) -> str:
    """Return the peer of a socket's address: an IPv4 address, or the /64 network of an IPv6 one."""
    text = str(address[0]).partition("%")[0]
    if ":" not in text:
        return text
    number = IPv6Address(text)
    if number.ipv4_mapped is not None:
        return str(number.ipv4_mapped)
    return str(IPv6Network((number, _IPV6_PREFIX), strict=False))
