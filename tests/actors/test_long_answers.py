"""Answers of hosts that are long: they are counted as they come."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest

from vpt.dialects import http
from vpt.dialects.base import HostTroubleError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer with an array that never ends."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD + b'{"a":[')
    with contextlib.suppress(OSError):
        while True:
            writer.write(b"[]," * 10_000)
            await writer.drain()
    writer.close()


async def test_an_answer_with_too_many_values_is_given_up_while_it_comes() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, aiohttp.ClientSession(url) as session, session.get("/") as response:
        with pytest.raises(HostTroubleError, match="more than 100000 values"):
            await http.read_text(response)
