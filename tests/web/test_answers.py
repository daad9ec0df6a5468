"""What every answer has, and what becomes of one that nobody reads."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import closing

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from tests.conftest import Client
from tests.host.kit import until
from vpt.http_server import LITTLE, SLOWEST, UnreadAnswers
from vpt.web.api.screenshots import _signature as signature_of

MIB = 2**20
ANSWER = b"x" * (16 * MIB)
UNREAD = 30.0


async def asked(port: int) -> socket.socket:
    """Return a connection over which the answer was asked for, and nothing of it read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return client


async def read(client: socket.socket, size: int) -> int:
    """Read at least so many bytes; return how many came, fewer when the connection was ended."""
    loop, seen = asyncio.get_running_loop(), 0
    while seen < size:
        try:
            part = await loop.sock_recv(client, min(size - seen, 64 * 1024))
        except ConnectionResetError:
            return seen
        if not part:
            return seen
        seen += len(part)
    return seen


@pytest.fixture
async def runner() -> AsyncIterator[web.AppRunner]:
    """Return a server on a free port whose only answer is a long one."""

    async def long(_: web.Request) -> web.Response:
        return web.Response(body=ANSWER)

    app = web.Application()
    app.router.add_get("/", long)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner
    await runner.cleanup()


async def test_an_answer_that_is_not_read_for_30_s_is_ended_and_others_are_not(
    runner: web.AppRunner,
) -> None:
    server, port = runner.server, runner.addresses[0][1]
    assert server is not None
    watch = UnreadAnswers(UNREAD)
    with closing(await asked(port)) as silent, closing(await asked(port)) as slow:
        await until(lambda: sum(map(held, server.connections)) > 2 * MIB)
        watch.look(server.connections, now=0.0)
        watch.look(server.connections, now=UNREAD - 1)
        assert watch.ended == 0
        # Too little for the system to take more from the server: the peer acknowledges it, though.
        first = await read(slow, MIB)
        watch.look(server.connections, now=UNREAD + 1)
        assert watch.ended == 1
        await until(lambda: len(server.connections) == 1)
        assert await read(silent, len(ANSWER)) < len(ANSWER)
        assert first + await read(slow, len(ANSWER) - first) >= len(ANSWER)
        watch.look(server.connections, now=3 * UNREAD)
    assert watch.ended == 1


async def test_an_answer_that_is_read_drop_by_drop_is_ended_and_a_slow_one_is_not(
    runner: web.AppRunner,
) -> None:
    server, port = runner.server, runner.addresses[0][1]
    assert server is not None
    watch = UnreadAnswers(UNREAD)
    with closing(await asked(port)) as dripping, closing(await asked(port)) as slow:
        await until(lambda: sum(map(held, server.connections)) > 2 * MIB)
        seen = 0
        # A tenth of the time each; what the system of a reader takes by itself counts in the first.
        for turn in range(25):
            watch.look(server.connections, now=turn * UNREAD / 10)
            await read(dripping, 12 * 1024)
            seen += await read(slow, SLOWEST * int(UNREAD) // 4)
        assert watch.ended == 1
        await until(lambda: len(server.connections) == 1)
        assert seen + await read(slow, len(ANSWER) - seen) >= len(ANSWER)
        assert await read(dripping, len(ANSWER)) < len(ANSWER)


class Link:
    """A connection, and its transport, of which so much is unread."""

    unread = 0

    @property
    def transport(self) -> Link:
        return self

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.unread = 0


async def test_of_a_short_rest_anything_is_enough() -> None:
    """As of live events: a client that reads them all may have some unread at each look."""
    link, watch = Link(), UnreadAnswers(UNREAD)
    for turn in range(60):
        link.unread = LITTLE - turn % 2
        watch.look([link], now=turn * 10.0)
    assert watch.ended == 0
    for turn in range(5):
        watch.look([link], now=600 + turn * 10.0)
    assert watch.ended == 1


def held(connection: web.RequestHandler) -> int:
    """Return the bytes of answers that the server keeps for a connection."""
    return 0 if connection.transport is None else connection.transport.get_write_buffer_size()


async def test_the_watch_goes_on_after_an_error(runner: web.AppRunner) -> None:
    class Fails(UnreadAnswers):
        looks = 0

        def look(self, connections: object, now: float) -> None:
            del connections, now
            self.looks += 1
            raise OSError

    watch = Fails(pause=0.001)
    task = asyncio.create_task(watch.watch(runner))
    await until(lambda: watch.looks > 2)
    assert not task.done()
    task.cancel()


@pytest.mark.parametrize(
    "path", ["/api/health/live", "/api/executions", "/api/none", "/api/docs", "/", "/metrics"]
)
async def test_no_answer_is_taken_for_a_page_of_another_or_names_versions(
    nobody: Client, path: str
) -> None:
    async with nobody.get(path) as response:
        headers = response.headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Server"] == "vpt"


async def test_an_answer_to_garbage_names_no_versions(nobody: Client) -> None:
    reader, writer = await asyncio.open_connection(nobody.host, nobody.port)
    writer.write(b"\x16\x03 no HTTP\r\n\r\n")
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.")
    assert b"aiohttp" not in answer.split(b"\r\n\r\n")[0]


@pytest.mark.parametrize("path", ["/api/testcases", "/api/none", "/"])
async def test_an_unknown_expectation_is_refused_in_the_form_of_the_api(
    nobody: Client, path: str
) -> None:
    headers = {"Expect": "a miracle", "X-Request-ID": "mine"}
    for method in ("GET", "POST"):
        async with nobody.request(method, path, headers=headers) as response:
            assert response.status == 417
            assert response.headers["X-Request-ID"] == "mine"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.content_type == "application/json"
            assert await response.json() == {
                "error": "Only `Expect: 100-continue` is supported.",
                "code": "expectation_failed",
            }


async def test_a_link_that_we_signed_with_no_time_has_expired(nobody: Client) -> None:
    path = "/screenshots/ex_1/1/1.png"
    request = make_mocked_request("GET", path, app=nobody.server.app)  # type: ignore[attr-defined]
    for expires in ("abc", "", "-1", "1e9", "9" * 5000):
        params = {"expires": expires, "signature": signature_of(request, expires)}
        async with nobody.get(path, params=params) as response:
            assert response.status == 401, expires
