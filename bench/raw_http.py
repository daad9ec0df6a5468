"""A small HTTP/1.1 client on a raw socket: fixed request bytes out, a status and a body back.

It costs the load generator far less CPU than a real client: what it costs is taken from the
server under test, which shares the machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

Answered = Callable[[int, bytes], None]


class BadAnswerError(Exception):
    """An unexpected response, which invalidates the measurement."""


def request(method: str, path: str, token: str, body: bytes = b"") -> bytes:
    """Return the bytes of a request on a kept-alive connection."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {token}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class RawConnection(asyncio.Protocol):
    """One connection; calls `answered` with each response, `lost` when it breaks."""

    def __init__(self, answered: Answered, lost: Callable[[], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self.kept = True
        self._answered = answered
        self._lost = lost
        self._data = b""
        self._total = 0
        self._body_at = 0
        self._status = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Notify the owner."""
        self.transport = None
        self._lost()

    def send(self, data: bytes) -> None:
        """Send a request; one at a time."""
        if self.transport is None:
            raise BadAnswerError("the connection is gone")
        self.transport.write(data)

    def close(self) -> None:
        """Close the connection."""
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Collect a response until its Content-Length is reached."""
        self._data = self._data + data if self._data else data
        if not self._total and not self._head():
            return
        if len(self._data) < self._total:
            return
        body = self._data[self._body_at : self._total]
        self._data, self._total = b"", 0
        self._answered(self._status, body)

    def _head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._data[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            raise BadAnswerError(f"no Content-Length: {head!r}")
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        self.kept = b"\r\nconnection: close" not in head
        self._status = int(head[9:12])
        self._body_at = end + 4
        self._total = self._body_at + length
        return True


class RawClient:
    """Sends requests on kept-alive connections, one at a time on each."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token
        self._free: list[RawConnection] = []
        self._waiting: dict[RawConnection, asyncio.Future[tuple[int, bytes]]] = {}

    async def call(self, method: str, path: str, body: Callable[[], bytes]) -> tuple[int, bytes]:
        """Send a request whose body is built when a connection is free; return status and body."""
        connection = self._free.pop() if self._free else await self._connect()
        answer = asyncio.get_running_loop().create_future()
        self._waiting[connection] = answer
        connection.send(request(method, path, self._token, body()))
        result: tuple[int, bytes] = await asyncio.wait_for(answer, 30)
        self._free.append(connection)
        return result

    def close(self) -> None:
        """Close all connections."""
        for connection in self._free:
            connection.close()

    async def _connect(self) -> RawConnection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(self._make, "127.0.0.1", self._port)
        return connection

    def _make(self) -> RawConnection:
        connection = RawConnection(
            lambda status, body: self._waiting.pop(connection).set_result((status, body)),
            lambda: self._gone(connection),
        )
        return connection

    def _gone(self, connection: RawConnection) -> None:
        if connection in self._free:
            self._free.remove(connection)
        if waiting := self._waiting.pop(connection, None):
            waiting.set_exception(BadAnswerError("the server closed the connection"))
