"""What the server and the reference host share as HTTP servers: aiohttp leaves it to them."""

from __future__ import annotations

import fcntl
import struct
import termios
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import hdrs, web, web_response

from vpt.upkeep import every

log = structlog.get_logger(__name__)

#: Seconds for which a client may leave an answer unread, and between two looks at all connections.
UNREAD_TIMEOUT, LOOK = 30.0, 5.0
#: Of an answer of which more than `LITTLE` bytes are unread, so many bytes a second have to be read
#: on average; of less, which costs little memory, anything.
SLOWEST, LITTLE = 8 * 1024, 128 * 1024
_EXPECTATION_FAILED = 417


def hide_versions() -> None:
    """Name no versions in `Server`: who looks for servers with a known hole would find them by it.

    The library has no setting, and answers to malformed requests pass no code of ours.
    """
    vars(web_response)["SERVER_SOFTWARE"] = "vpt"


def answer_expectations(
    app: web.Application, refusal: Callable[[web.Request], web.Response]
) -> None:
    """Answer an unknown `Expect` with `refusal`; the library refuses it before any middleware."""

    async def rewrite(request: web.Request, response: web.StreamResponse) -> None:
        ours = response.content_type == "application/json"
        if response.status != _EXPECTATION_FAILED or ours or not isinstance(response, web.Response):
            return
        made = refusal(request)
        response.body = made.body
        response.headers.update(made.headers)
        size = request.writer.length = len(made.body) if isinstance(made.body, bytes) else 0
        response.headers[hdrs.CONTENT_LENGTH] = str(size)

    app.on_response_prepare.append(rewrite)


@dataclass(slots=True)
class _Unread:
    """Bytes that a connection's peer has not read, and how many it has read since when."""

    size: int
    since: float
    read: int = 0

    def note(self, size: int) -> None:
        """Count what was read; more may have been written meanwhile."""
        self.read += max(0, self.size - size)
        self.size = size


class UnreadAnswers:
    """Ends connections whose peers do not read what they asked for, or hardly.

    An answer that is not read stays in memory for as long as the connection is open, which may be
    for ever: closing it would wait for the reader, too, so it is aborted.
    """

    def __init__(self, timeout: float = UNREAD_TIMEOUT, pause: float = LOOK) -> None:
        """Allow `timeout` seconds in which too little is read; look each `pause` seconds."""
        self.ended = 0
        self._timeout = timeout
        self._pause = pause
        self._unread: dict[Any, _Unread] = {}

    async def watch(self, runner: web.BaseRunner) -> None:
        """Look after the connections of `runner` until cancelled."""

        async def look() -> None:
            self.look(runner.server.connections if runner.server else (), time.monotonic())

        await every(self._pause, look)

    def look(self, connections: Iterable[Any], now: float) -> None:
        """Abort those connections of which too little was read for too long."""
        unread: dict[Any, _Unread] = {}
        ended = 0
        for connection in connections:
            transport = connection.transport
            if transport is None or not transport.get_write_buffer_size():
                continue
            size = transport.get_write_buffer_size() + _sent(transport)
            before = self._unread.get(connection) or _Unread(size, now)
            before.note(size)
            if before.read >= (SLOWEST * self._timeout if size > LITTLE else 1):
                before = _Unread(size, now)
            if now - before.since < self._timeout:
                unread[connection] = before
                continue
            transport.abort()
            ended += 1
        self._unread = unread
        if ended:
            self.ended += ended
            log.warning("answers_not_read", count=ended)


def _sent(transport: Any) -> int:
    """Return the bytes that the peer's machine has not acknowledged, 0 where that is not known.

    Without them a slow reader looks as if it read nothing: the system takes more from us only when
    much of its buffer, which may be megabytes, is free again.
    """
    with suppress(OSError, AttributeError):
        answer = fcntl.ioctl(
            transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0" * 4
        )
        (sent,) = struct.unpack("i", answer)
        return int(sent)
    return 0
