"""A host that answers as badly as one can, in its own process; it prints its URL when it listens.

The path says how it answers: `/BEHAVIOUR/host/…` actions, `/probes/BEHAVIOUR/host/…` probes, too.
A behaviour is a name of BAD, or `SHAPE-MIB`: a JSON answer of that shape and size.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import sys
from collections.abc import Awaitable, Callable
from urllib.parse import unquote

import uvloop
from shapes import MIB, SHAPES, body

GOOD = b'{"success": true}'
HEAD = b'{"success": true, "output": "o", "error": null, "x": '
_PAUSE = 0.2  # seconds between two drops
_FOR_EVER = 64 * 1024  # bytes of each piece of an answer that does not end
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)

Writer = asyncio.StreamWriter


def head(length: int, more: str = "", status: str = "200 OK") -> bytes:
    """Return the head of an answer in JSON."""
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n{more}\r\n"
    ).encode()


def _whole(data: bytes) -> Callable[[Writer], Awaitable[None]]:
    async def answer(writer: Writer) -> None:
        writer.write(data)
        await writer.drain()

    return answer


async def _close(writer: Writer) -> None:
    writer.transport.abort()


async def _huge_head(writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(2000):
        writer.write(b"X-%d: %b\r\n" % (number, b"x" * 8000))
        await writer.drain()
    writer.write(b"\r\n")


async def _drip(writer: Writer) -> None:
    writer.write(head(len(GOOD) + 1000))
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(_PAUSE)


async def _never_ending(writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    piece = b"[]," * (_FOR_EVER // 3)
    while True:
        writer.write(piece)
        await writer.drain()


async def _silence(_: Writer) -> None:
    await asyncio.Event().wait()


#: How a host answers badly, apart from its size and shape.
BAD: dict[str, Callable[[Writer], Awaitable[None]]] = {
    "status 500": _whole(head(len(GOOD), status="500 Internal Server Error") + GOOD),
    "status 401": _whole(head(len(GOOD), status="401 Unauthorized") + GOOD),
    "garbage": _whole(bytes(range(256)) * 1000),
    "no JSON": _whole(head(100_000) + b"\xff" * 100_000),
    "closed connection": _close,
    "huge head": _huge_head,
    "drip": _drip,
    "wrong encoding": _whole(head(len(GOOD), "Content-Encoding: gzip\r\n") + GOOD),
    "too short": _whole(head(10 * MIB) + GOOD),
    "never ending": _never_ending,
    "silence": _silence,
    "redirect": _whole(head(0, "Location: /host/health\r\n", "302 Found")),
}


@functools.lru_cache(1)
def _shaped(shape: str, size: int) -> bytes:
    text = body(shape, size, HEAD, b"}")
    return head(len(text)) + text


async def _answer(behaviour: str, writer: Writer) -> None:
    shape, _, size = behaviour.partition("-")
    if shape in SHAPES:
        await _whole(_shaped(shape, int(float(size) * MIB) - 100))(writer)
        return
    await BAD.get(behaviour, _whole(head(len(GOOD)) + GOOD))(writer)


async def _serve(reader: asyncio.StreamReader, writer: Writer) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(request)
            await reader.readexactly(int(length[1]) if length else 0)
            await _answer(_behaviour(unquote(request.split(b" ", 2)[1].decode())), writer)
    writer.close()


def _behaviour(path: str) -> str:
    """Return how a request is answered: a probe well, unless the host's URL says otherwise."""
    first, _, rest = path.removeprefix("/").partition("/")
    if first == "probes":
        return rest.partition("/")[0]
    return "good" if rest == "host/health" else first


async def _main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        uvloop.run(_main())
    except KeyboardInterrupt:
        sys.exit(130)
