"""Connections of clients: those that say nothing stay for a while only, and take no one's place."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from ipaddress import ip_network
from typing import Any

import pytest
import uvloop
from aiohttp import web
from structlog.testing import capture_logs

from tests.actors.fake_host import until
from vpt import connections as module
from vpt import listener
from vpt.connections import ConnectionLimits, Connections, peer_of
from vpt.listener import LimitedSite

HALF = b"GET / HTTP/1.1\r\nHost: x\r\n"
WHOLE = HALF + b"\r\n"
SLOW = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nbegun"
BIG = 40_000_000
ASKED = b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n"
SOON = ConnectionLimits(40, 20, silent_s=0.3, proxy_silent_s=60)
PATIENT = ConnectionLimits(40, 20, silent_s=60)


class Site:
    """A small server; `held` requests wait for `gate`."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.gate = asyncio.Event()
        self.port = 0
        self.answered: list[str | None] = []  # the peers, in their order
        self.begun = self.broken = 0  # requests with a body, and those whose client left

    @asynccontextmanager
    async def running(self, address: str = "127.0.0.1") -> AsyncIterator[Site]:
        app = web.Application()
        app.router.add_get("/", self._answer)
        app.router.add_get("/held", self._hold)
        app.router.add_get("/big", self._send_much)
        app.router.add_post("/read", self._read)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await LimitedSite(runner, address, 0, self.connections, access_log=None).start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            self.gate.set()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.answered.append(request.remote)
        return web.Response(text="hello")

    async def _hold(self, _: web.Request) -> web.Response:
        await self.gate.wait()
        return web.Response(text="held")

    async def _read(self, request: web.Request) -> web.Response:
        self.begun += 1
        try:
            return web.Response(text=await request.text())
        except ConnectionError:
            self.broken += 1
            return web.Response(status=400)

    async def _send_much(self, _: web.Request) -> web.Response:
        return web.Response(body=bytes(BIG), headers={"Connection": "close"})

    async def opened(self, said: bytes = b"", *, source: str = "127.0.0.1") -> Client:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(source, 0)
        )
        writer.write(said)
        return Client(reader, writer)

    async def status(self, *, source: str = "127.0.0.1") -> int:
        """Return the status of a new connection's request."""
        async with await self.opened(WHOLE, source=source) as client:
            return await client.status()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def status(self) -> int:
        """Return the status of the next response, and read its body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = next(line for line in head.lower().split("\r\n") if "content-length" in line)
        await self.reader.readexactly(int(length.split(":")[1]))
        return int(head.split()[1])

    async def closed(self) -> bool:
        """Wait until the server closed the connection."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True


@asynccontextmanager
async def site(limits: ConnectionLimits, **options: Any) -> AsyncIterator[Site]:
    async with Site(Connections(limits, **options)).running() as one:
        yield one


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let nothing of this process be opened, as when all its descriptors are in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def drip(client: Client) -> None:
    """Send a header again and again: a head that never ends."""
    while not client.writer.transport.is_closing():
        client.writer.write(b"X: y\r\n")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("said", [b"", b"GET", HALF])
async def test_a_head_that_is_not_sent_in_time_ends_its_connection(said: bytes) -> None:
    async with site(SOON) as one, await one.opened(said) as client:
        assert await client.closed()
        await until(lambda: len(one.connections) == 0)


async def test_a_head_that_drips_in_ends_its_connection() -> None:
    async with site(SOON) as one, await one.opened(HALF) as client:
        dripping = asyncio.create_task(drip(client))
        assert await client.closed()
        dripping.cancel()


async def test_an_idle_connection_is_kept_for_a_while_only() -> None:
    async with site(SOON) as one, await one.opened(WHOLE) as client:
        assert await client.status() == 200
        client.writer.write(WHOLE)
        assert await client.status() == 200
        client.writer.write(HALF)
        assert await client.closed()


async def test_a_request_under_way_is_not_silent() -> None:
    async with (
        site(SOON) as one,
        await one.opened(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n") as client,
    ):
        await until(lambda: [c for c in one.connections if c.has_asked])
        async with await one.opened() as silent:
            assert await silent.closed()
        one.gate.set()
        assert await client.status() == 200


async def test_a_trusted_proxy_keeps_its_idle_connections() -> None:
    proxies = (ip_network("127.0.0.2/32"),)
    async with site(SOON, proxies=proxies) as one, await one.opened(source="127.0.0.2") as kept:
        async with await one.opened() as silent:
            assert await silent.closed()
        kept.writer.write(WHOLE)
        assert await kept.status() == 200


async def test_a_head_that_is_too_long_is_refused() -> None:
    limits = ConnectionLimits(40, 20, head_bytes=4000)
    async with site(limits) as one, await one.opened(HALF) as client:
        client.writer.write(b"".join(b"X-%d: %b\r\n" % (each, b"y" * 500) for each in range(8)))
        assert await client.status() == 431


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        (b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"secret" * 2000), 431, "too_large"),
        (HALF + b"X: %s\r\n\r\n" % (b"secret" * 2000), 431, "too_large"),
        (b"\x16\x03 secret\r\n\r\n", 400, "bad_request"),
        (HALF + b"Content-Length: secret\r\n\r\n", 400, "bad_request"),
        (HALF + b"Transfer-Encoding: chunked, secret\r\n\r\n", 400, "bad_request"),
    ],
    ids=["URL", "header", "no HTTP", "length", "encoding"],
)
async def test_a_malformed_head_is_an_error_of_the_api(said: bytes, status: int, code: str) -> None:
    async with site(PATIENT) as one, await one.opened(said) as client:
        answer = await client.reader.read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert json.loads(body)["code"] == code
    assert b"secret" not in answer


async def test_silent_connections_make_room_for_those_who_ask_behind_the_same_address() -> None:
    async with site(PATIENT) as one:
        with capture_logs() as logs:
            silent = [await one.opened(HALF) for _ in range(200)]
            assert [await one.status() for _ in range(40)] == [200] * 40
            assert len(one.connections) <= PATIENT.per_peer
        names = [line["event"] for line in logs]
        assert names == ["connections_closed"], "once a minute"
        assert one.connections.closed >= 200 - PATIENT.per_peer
        assert not one.connections.refused
        for client in silent:
            client.writer.transport.abort()


async def test_a_connection_that_asked_before_goes_after_those_that_never_did() -> None:
    async with site(PATIENT) as one, await one.opened(WHOLE) as client:
        assert await client.status() == 200
        silent = [await one.opened(HALF) for _ in range(60)]
        client.writer.write(WHOLE)
        assert await client.status() == 200
        for other in silent:
            other.writer.transport.abort()


async def test_one_peer_leaves_room_for_others_and_is_refused_with_words() -> None:
    hold = b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n"
    async with site(PATIENT) as one:
        held = [await one.opened(hold) for _ in range(PATIENT.per_peer)]
        await until(lambda: sum(c.has_asked for c in one.connections) == PATIENT.per_peer)
        with capture_logs() as logs:
            assert [await one.status() for _ in range(5)] == [503] * 5
            assert await one.status(source="127.0.0.2") == 200
        assert one.connections.refused == {"peer": 5}
        assert [(line["event"], line["count"]) for line in logs] == [("connections_refused", 1)]
        one.gate.set()
        assert [await client.status() for client in held] == [200] * PATIENT.per_peer
        assert await one.status() == 200
        for client in held:
            client.writer.transport.abort()


async def test_all_peers_together_are_bounded_and_the_biggest_crowd_gives_way() -> None:
    async with site(PATIENT) as one:
        clients = [
            await one.opened(HALF, source=f"127.0.0.{peer}")
            for peer in (2, 3, 4)
            for _ in range(PATIENT.per_peer)
        ]
        assert await one.status() == 200
        assert len(one.connections) <= PATIENT.total
        for client in clients:
            client.writer.transport.abort()


async def test_a_proxy_may_have_all_connections_there_are() -> None:
    proxies = (ip_network("127.0.0.2/32"),)
    hold = b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n"
    async with site(PATIENT, proxies=proxies) as one:
        held = [await one.opened(hold, source="127.0.0.2") for _ in range(PATIENT.total)]
        await until(lambda: sum(c.has_asked for c in one.connections) == PATIENT.total)
        assert await one.status(source="127.0.0.2") == 503
        assert one.connections.refused == {"total": 1}
        for client in held:
            client.writer.transport.abort()


@pytest.mark.parametrize("proxies", [[], [ip_network("127.0.0.0/8")]])
async def test_answers_that_are_not_read_are_bounded_for_a_peer_and_for_all(
    monkeypatch: pytest.MonkeyPatch, proxies: list[Any]
) -> None:
    monkeypatch.setattr(module, "MOST_UNREAD", 2 * BIG)
    async with site(PATIENT, proxies=proxies) as one, AsyncExitStack() as stack:
        for source in ("127.0.0.1", "127.0.0.1" if proxies else "127.0.0.2"):
            await stack.enter_async_context(await one.opened(ASKED, source=source))
        await until(lambda: one.connections.unread.total() == 2 * BIG)
        client = await stack.enter_async_context(await one.opened(ASKED))
        assert await client.status() == 503
        assert one.connections.refused["unread"] == 1
        assert await one.status() == 200, "a short answer"
    await until(lambda: not one.connections.unread)


async def test_an_answer_that_is_read_leaves_room_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_UNREAD", 2 * BIG)
    async with site(PATIENT) as one:
        for _ in range(3):
            async with await one.opened(ASKED) as client:
                assert await client.status() == 200
    assert not one.connections.refused


async def test_what_nobody_reads_is_cut_some_time_after_its_connection_was_closed() -> None:
    async with site(PATIENT) as one, await one.opened(WHOLE.replace(b"/", b"/big", 1)) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: any(c.link and c.link.get_write_buffer_size() for c in one.connections))
        (server_side,) = one.connections
        server_side.force_close()
        for _ in range(module._STUCK):
            await one.connections.sweep()
        assert len(one.connections) == 1
        await one.connections.sweep()
        await until(lambda: len(one.connections) == 0)


async def test_a_connection_waits_behind_those_of_its_own_peer_only() -> None:
    async with site(ConnectionLimits(4000, 2000)) as one:
        with ExitStack() as opened:
            for source in ["127.0.0.2"] * 200 + ["127.0.0.1"]:
                to = ("127.0.0.1", one.port)
                client = opened.enter_context(socket.create_connection(to, 5, (source, 0)))
                client.send(WHOLE)  # into the kernel's queue: the loop has no turn meanwhile
            await until(lambda: len(one.answered) == 201, 30)
        assert one.answered.index("127.0.0.1") < 100


async def test_connections_that_break_at_once_end_a_few_in_each_turn_of_the_loop() -> None:
    async with site(ConnectionLimits(300, 300)) as one:
        clients = [await one.opened(SLOW) for _ in range(200)]
        await until(lambda: one.begun == len(clients), 30)
        for client in clients:
            client.writer.transport.abort()
        ended, most = one.broken, 0
        while ended < len(clients):
            await asyncio.sleep(0)
            most, ended = max(most, one.broken - ended), one.broken
        assert most <= 32, f"{most} requests ended in one turn"


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])  # each has its own ways to accept
def test_an_accept_that_fails_is_logged_once_and_tried_again(
    run: Callable[[Coroutine[Any, Any, None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_PAUSE", 0.02)
    run(accept_without_descriptors())


async def accept_without_descriptors() -> None:
    loop = asyncio.get_running_loop()
    async with site(PATIENT) as one:
        with socket.socket() as waiting:
            with capture_logs() as logs, no_descriptors():
                waiting.connect(("127.0.0.1", one.port))  # as far as the kernel's queue
                await until(lambda: one.connections.refused["failed"] >= 3)
            waiting.setblocking(False)
            waiting.send(WHOLE)
            assert b"hello" in await loop.sock_recv(waiting, 1000)
        assert [line["event"] for line in logs] == ["accept_failed"]
        assert one.connections.refused["failed"] < 1000, "a busy loop"


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        (("10.0.0.1", 1), "10.0.0.1"),
        (("::ffff:10.0.0.1", 1, 0, 0), "10.0.0.1"),
        (("2001:db8:1:2:3::4", 1, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
    ],
)
def test_a_peer_is_an_address_or_the_network_of_one_machine(
    address: tuple[Any, ...], peer: str
) -> None:
    assert peer_of(address) == peer
