"""What is used of python-socketio and python-engineio is there, and bounds what clients send.

The transport overrides private methods and uses private attributes of both libraries. An upgrade
that renames one would not fail by itself: the server would work on without the bound. So the first
tests look at names and signatures, and the others at what a client can reach.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
from typing import Any

import aiohttp
import engineio
import pytest
import socketio
from aiohttp import ClientWebSocketResponse, WSMsgType
from engineio.async_socket import AsyncSocket
from socketio.async_manager import AsyncManager
from structlog.testing import capture_logs

from tests.actors.fake_host import until
from tests.conftest import token
from tests.web_hosts.conftest import Client, Connect, Visit, bearer
from vpt.web.live import sockets, transport
from vpt.web.live.transport import Transport, _Server

WIRE = "/socket.io/?EIO=4&transport=websocket"
POLL = "/socket.io/?EIO=4&transport=polling"


def transport_of(client: Client) -> Transport:
    return client.app[sockets.SOCKETS]._transport


def test_the_overridden_methods_are_those_of_the_library() -> None:
    names = [name for name in vars(_Server) if name.startswith("_handle_")]
    assert len(names) == 4
    for name in names:
        theirs = getattr(socketio.AsyncServer, name)  # AttributeError: it was renamed
        ours = getattr(_Server, name)
        assert inspect.iscoroutinefunction(theirs), name
        expected = list(inspect.signature(theirs).parameters)
        assert list(inspect.signature(ours).parameters) == expected, name


@pytest.mark.parametrize(
    ("called", "parameters"),
    [
        (socketio.AsyncServer.handle_request, ["self", "args", "kwargs"]),
        (socketio.AsyncServer.disconnect, ["self", "sid", "namespace", "ignore_queue"]),
        (socketio.AsyncServer.shutdown, ["self"]),
        (AsyncManager.eio_sid_from_sid, ["self", "sid", "namespace"]),
        (AsyncSocket.close, ["self", "wait", "abort", "reason"]),
        (AsyncSocket.schedule_ping, ["self"]),
    ],
)
def test_what_the_transport_calls_has_the_known_parameters(
    called: Any, parameters: list[str]
) -> None:
    assert list(inspect.signature(called).parameters) == parameters


async def test_what_the_transport_reads_is_there() -> None:
    server = socketio.AsyncServer(async_mode="aiohttp")
    assert isinstance(server.eio, engineio.AsyncServer)
    assert server.eio.sockets == {}
    assert server.environ == {}
    assert isinstance(server.manager, AsyncManager)
    engine = AsyncSocket(server.eio, "id")
    assert (engine.sid, engine.closed, engine.upgraded) == ("id", False, False)
    assert isinstance(engine.queue, asyncio.Queue)
    vars(engine)["schedule_ping"] = None  # it has a dict: `admit` takes the name away again
    packet = transport.encode("queue_changed", {"n": 1})
    assert packet.encode() == '42["queue_changed",{"n":1}]'


# ---------------------------------------------------------------- what clients reach


async def opened(ws: ClientWebSocketResponse, client: Client) -> None:
    """Connect with a token on a web socket that was just opened."""
    await ws.receive_str()
    token = bearer(client)["Authorization"].split()[1]
    await ws.send_str(f'40{{"token":"{token}"}}')
    assert (await ws.receive_str()).startswith("40")


async def test_a_client_reaches_no_handler_but_those_of_requests(client: Client) -> None:
    """The library would call any handler by its name, those of connect and disconnect, too."""
    reached: list[str] = []
    server = transport_of(client)._server
    kept = dict(server.handlers["/"])

    def noting(name: str) -> Any:
        async def handler(sid: str, *arguments: Any) -> Any:
            reached.append(name)
            return await kept[name](sid, *arguments) if name in kept else None

        return handler

    for name in (*kept, "other"):
        server.on(name, noting(name))
    async with client.ws_connect(WIRE) as ws:
        await opened(ws, client)
        assert reached == ["connect"]
        for data in ('"connect",{}', '"disconnect"', '"other"', '["subscribe"]', "null", "{}"):
            await ws.send_str(f"421[{data}]")
        await ws.send_str('451-["subscribe",{"_placeholder":true,"num":0}]')
        await ws.send_bytes(b"attachment")
        await ws.send_str('427["unsubscribe",{"execution_id":"e1"}]')
        assert await ws.receive_str() == '437[{"ok":true}]'
    assert reached[:2] == ["connect", "unsubscribe"]
    assert set(reached[2:]) <= {"disconnect"}, "that of the client going, not one it sent"


@pytest.mark.parametrize(
    "message",
    ["42[" + "[" * 5000, "4" + "9[]", "44"],
    ids=["deep", "of no type", "an error"],
)
async def test_a_client_that_sends_what_is_no_message_is_cut(client: Client, message: str) -> None:
    """Each such message was a line of the log, and nothing kept it from sending thousands."""
    async with client.ws_connect(WIRE) as ws:
        await opened(ws, client)
        await ws.send_str(message)
        assert (await ws.receive()).type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR)
    with capture_logs() as said:
        await transport_of(client)._sweep()
    assert [(line["event"], line["count"]) for line in said] == [("socket_clients_cut", 1)]


@pytest.mark.parametrize("message", ["40/other,", '40{"token":"no"}', "40"])
async def test_a_client_connects_a_few_times_and_is_cut_then(client: Client, message: str) -> None:
    async with client.ws_connect(WIRE) as ws:
        await ws.receive_str()
        for _ in range(transport.MOST_CONNECTS):
            await ws.send_str(message)
            assert (await ws.receive_str()).startswith("44")
        await ws.send_str(message)
        assert (await ws.receive()).type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR)


async def test_a_client_that_presented_its_token_is_pinged(client: Client) -> None:
    """A connection without a token is not: the library's task for it outlives the connection."""
    transport_of(client)._server.eio.ping_interval = 0.05
    async with client.ws_connect(WIRE) as ws:
        await opened(ws, client)
        assert await ws.receive_str() == "2"
        await ws.send_str("3")
        assert await ws.receive_str() == "2", "and asked again"


# ---------------------------------------------------------------- those without a token


def engines(client: Client) -> int:
    """Count the engine.io connections of a server that are in memory."""
    gc.collect()
    eio = transport_of(client)._server.eio
    return sum(isinstance(one, AsyncSocket) and one.server is eio for one in gc.get_objects())


async def test_connections_without_a_token_are_bounded_and_the_oldest_go(
    connect: Connect, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "STRANGER_LIMIT", 10)
    monkeypatch.setattr(transport, "STRANGER", 3600.0)
    client = await connect()
    pages = [await visit(client), await visit(client, transports=["polling"])]
    async with client.ws_connect(WIRE) as oldest:
        await oldest.receive_str()
        sids = []
        for _ in range(50):
            opened_by = await (await client.get(POLL)).text()
            sids.append(json.loads(opened_by[1:])["sid"])
        message = await oldest.receive()
        assert message.type is not WSMsgType.CLOSE, "it was cut: nobody waits for its answer"
    assert await until(lambda: engines(client) <= 10 + len(pages))
    statuses = [(await client.post(f"{POLL}&sid={sid}", data="3")).status for sid in sids]
    assert statuses == [400] * 40 + [200] * 10
    assert transport_of(client)._server._too_many == 41, "for the log"
    assert all(page.io.connected for page in pages)
    assert len(client.app[sockets.SOCKETS].clients) == len(pages)


async def test_a_flood_from_one_address_closes_no_connection_from_another(
    connect: Connect, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "STRANGER_LIMIT", 10)
    monkeypatch.setattr(transport, "STRANGER", 3600.0)
    client = await connect()
    elsewhere = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with aiohttp.ClientSession(connector=elsewhere) as session:
        poll = str(client.make_url(POLL))
        slow = json.loads((await (await session.get(poll)).text())[1:])["sid"]
        for _ in range(50):
            await (await client.get(POLL)).read()
        body = "40" + json.dumps({"token": token()})
        assert (await session.post(f"{poll}&sid={slow}", data=body)).status == 200
        assert await until(lambda: len(client.app[sockets.SOCKETS].clients) == 1)


async def test_a_sweep_that_fails_is_not_the_last(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "STRANGER", 0.05)
    client = await connect()
    server = transport_of(client)._server
    server.eio.ping_timeout = 3600  # after which the library itself closes what is not pinged
    server.eio.sockets["broken"] = object()  # what the sweep does with it raises
    server.strangers.add("broken", "127.0.0.1", 0.0)
    assert await until(lambda: "broken" not in server.strangers)
    async with client.ws_connect(WIRE) as ws:
        await ws.receive_str()
        assert await until(lambda: not server.strangers)
