"""What pages are told while it happens."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from aiohttp import WSMsgType, web
from socketio.exceptions import ConnectionError as RefusedError

from tests.actors.fake_host import until
from tests.web_hosts.conftest import ARRIVES, Client, Connect, Visit, bearer
from vpt.config import Config
from vpt.events import Events
from vpt.model import (
    CampaignProgress,
    DeviceChanged,
    DeviceStatus,
    ExecutionStatus,
    HostChanged,
    HostStatus,
    Role,
    StepStatus,
    TestProgress,
)
from vpt.store import tokens
from vpt.store.db import Database
from vpt.store.tokens import issue_token
from vpt.web.http.auth import secret_of
from vpt.web.live import sockets, transport

TOKEN_ID = f"tok_{'0' * 16}"
WIRE = "/socket.io/?EIO=4&transport=websocket"


def progress(seq: int, execution: str = "e1", campaign: str | None = None) -> TestProgress:
    return TestProgress(
        execution_id=execution,
        attempt=1,
        step=seq - 1,
        total_steps=10,
        status=ExecutionStatus.RUNNING,
        step_status=StepStatus.PASSED,
        screenshot_url=None,
        seq=seq,
        campaign_execution_id=campaign,
    )


async def stored(db: Database, execution: str, seq: int) -> None:
    async with db.session() as session:
        await session._connection.execute(
            "INSERT INTO test_executions (id, test_case_id, test_case_name, test_case_version,"
            " device_model, steps, actions, queue_timeout_s, requested_by, seq)"
            " VALUES ($1, 't', 't', 1, 'm', '[]', '{}', 1, 'ann', $2)",
            execution,
            seq,
        )


async def test_the_four_events_carry_the_contracts_fields(
    client: Client, visit: Visit, events: Events
) -> None:
    page = await visit(client)
    events.publish(progress(1))
    events.publish(DeviceChanged("pi:tv", DeviceStatus.BUSY, "2026-01-01T00:00:00Z"))
    events.publish(HostChanged("pi", HostStatus.LOST, None, None))
    events.publish(CampaignProgress("c1", 1, 2, ExecutionStatus.RUNNING, 1))
    expected: list[tuple[str, dict[str, Any]]] = [
        (
            "test_progress",
            {
                "execution_id": "e1",
                "attempt": 1,
                "step": 0,
                "total_steps": 10,
                "status": "running",
                "step_status": "passed",
                "screenshot_url": None,
                "seq": 1,
                "campaign_execution_id": None,
            },
        ),
        (
            "device_status",
            {"device_id": "pi:tv", "status": "busy", "last_seen": "2026-01-01T00:00:00Z"},
        ),
        (
            "host_status",
            {"host_id": "pi", "status": "lost", "reason": None, "last_seen": None},
        ),
        (
            "campaign_progress",
            {
                "campaign_execution_id": "c1",
                "done": 1,
                "total": 2,
                "status": "running",
                "seq": 1,
            },
        ),
    ]
    told = await page.until(4)
    assert [name for name, _ in told] == [name for name, _ in expected]
    for (_, payload), (_, fields) in zip(told, expected, strict=True):
        assert fields.items() <= payload.items()  # more fields may be added


@pytest.mark.parametrize(
    ("transports", "many"),
    [
        (["websocket"], 500),
        (["polling", "websocket"], 500),
        (["polling"], 15),  # the Python client takes at most 16 packets of one poll
    ],
)
async def test_the_order_of_publishing_is_the_order_of_arrival(
    client: Client, visit: Visit, events: Events, transports: list[str], many: int
) -> None:
    pages = [await visit(client, transports=transports) for _ in range(3)]
    for seq in range(1, many + 1):
        events.publish(progress(seq))
        if seq % 50 == 0:
            await asyncio.sleep(0)
    for page in pages:
        assert [payload["seq"] for _, payload in await page.until(many)] == [*range(1, many + 1)]


async def test_the_authorization_header_is_as_good_as_auth(client: Client, visit: Visit) -> None:
    page = await visit(client, auth=None, headers=bearer(client, Role.OPERATOR))
    assert page.io.connected


async def test_who_has_no_valid_user_token_is_refused(
    client: Client, visit: Visit, config: Config
) -> None:
    secret = config.secret_key or ""
    expired = jwt.encode({"user_id": "ann", "exp": 1}, secret, algorithm="HS256")
    unsigned = jwt.encode({"user_id": "ann"}, None, algorithm="none")
    host = issue_token(secret, "pi", Role.HOST, 1)
    foreign = issue_token("x" * 32, "ann", Role.ADMIN, 1)
    for token in ("", "nonsense", expired, unsigned, host, foreign):
        with pytest.raises(RefusedError):
            await visit(client, token)
    for auth in (None, [], {"token": 5}, {"token": None}, "text"):
        with pytest.raises(RefusedError):
            await visit(client, auth=auth)


async def test_a_refusal_says_what_the_rest_api_says(client: Client) -> None:
    for auth, words in (('{"token":"bad"}', "Invalid token"), ("", "No token provided")):
        async with client.ws_connect("/socket.io/?EIO=4&transport=websocket") as ws:
            await ws.receive_str()
            await ws.send_str(f"40{auth}")
            assert await ws.receive_str() == f'44{{"message":"{words}"}}'


async def test_the_connection_ends_with_its_token(
    client: Client, visit: Visit, config: Config
) -> None:
    claims = {"user_id": "ann", "exp": int(time.time()) + 2}
    page = await visit(client, jwt.encode(claims, config.secret_key or "", algorithm="HS256"))
    async with asyncio.timeout(ARRIVES):
        await page.gone.wait()


async def test_whoever_subscribes_gets_that_and_the_lab_only(
    client: Client, visit: Visit, events: Events, db: Database
) -> None:
    await stored(db, "e1", 7)
    page, other = await visit(client), await visit(client)
    assert await page.io.call("subscribe", {"execution_id": "e1"}) == {"ok": True, "seq": 7}
    events.publish(progress(1, "e2"))
    events.publish(CampaignProgress("c1", 1, 2, ExecutionStatus.RUNNING, 1))
    events.publish(progress(8, "e1"))
    events.publish(DeviceChanged("d", DeviceStatus.ONLINE, None))
    events.publish(HostChanged("h", HostStatus.BUSY, None, None))
    assert [name for name, _ in await page.until(3)] == [
        "test_progress",
        "device_status",
        "host_status",
    ]
    assert page.told[0][1]["seq"] == 8
    assert len(await other.until(5)) == 5


async def test_after_the_last_unsubscribe_everything_arrives_again(
    client: Client, visit: Visit, events: Events, db: Database
) -> None:
    await stored(db, "e1", 0)
    await stored(db, "e2", 0)
    page = await visit(client)
    for execution in ("e1", "e2", "e1"):
        assert (await page.io.call("subscribe", {"execution_id": execution}))["ok"]
    assert await page.io.call("unsubscribe", {"execution_id": "e1"}) == {"ok": True}
    events.publish(progress(1, "e1"))
    events.publish(progress(1, "e2"))
    await page.io.call("unsubscribe", {"execution_id": "e2"})
    events.publish(progress(1, "e3"))
    told = await page.until(2)
    assert [payload["execution_id"] for _, payload in told] == ["e2", "e3"]


async def test_a_campaigns_subscriber_gets_its_executions_progress_once(
    client: Client, visit: Visit, events: Events, db: Database
) -> None:
    async with db.session() as session:
        await session._connection.execute(
            "INSERT INTO campaign_executions (id, campaign_id, name, stop_on_failure,"
            " parallelism, priority, requested_by, total, seq)"
            " VALUES ('c1', 'c', 'c', false, 1, 50, 'ann', 2, 3)"
        )
    await stored(db, "e1", 0)
    page = await visit(client)
    answer = await page.io.call("subscribe", {"campaign_execution_id": "c1"})
    assert answer == {"ok": True, "seq": 3}
    await page.io.call("subscribe", {"execution_id": "e1"})
    events.publish(progress(1, "e1", "c1"))
    events.publish(progress(1, "e9", "c2"))
    events.publish(CampaignProgress("c1", 1, 2, ExecutionStatus.RUNNING, 4))
    told = await page.until(2)
    assert [name for name, _ in told] == ["test_progress", "campaign_progress"]


async def test_nonsense_is_answered_and_narrows_nothing(
    client: Client, visit: Visit, events: Events
) -> None:
    page = await visit(client)
    both = {"execution_id": "a", "campaign_execution_id": "b"}
    for data in (None, 5, [], {}, {"execution_id": 5}, both, {"execution_id": "\0"}):
        for event in ("subscribe", "unsubscribe"):
            answer = await page.io.call(event, data)
            assert answer["ok"] is False
            assert answer["error"]
    assert not (await page.io.call("subscribe", {"execution_id": "unknown"}))["ok"]
    assert (await page.io.call("unsubscribe", {"execution_id": "never"}))["ok"]
    assert not (await page.io.call("subscribe", ("two", "arguments")))["ok"]
    events.publish(progress(1))
    await page.until(1)


async def test_garbage_on_the_wire_ends_nothing_but_its_own_connection(
    client: Client, visit: Visit, events: Events
) -> None:
    page = await visit(client)
    for garbage in ("", "9", "4", "49", "42[", "42[]", "451-[", "4" * 90, "42" + "[" * 5000):
        async with client.ws_connect("/socket.io/?EIO=4&transport=websocket") as ws:
            await ws.receive_str()
            await ws.send_str(garbage)
            await ws.send_bytes(b"\x00\xff")
    events.publish(progress(1))
    await page.until(1)


@pytest.mark.parametrize("garbage", ["", "x"])
async def test_who_sends_what_is_no_packet_is_sent_away(client: Client, garbage: str) -> None:
    async with client.ws_connect(WIRE) as ws:
        await ws.receive_str()
        await ws.send_str(garbage)
        assert (await ws.receive()).type is WSMsgType.CLOSE


async def test_clients_may_ask_and_call_nothing_else(
    client: Client, visit: Visit, events: Events, db: Database
) -> None:
    """To connect once more by an event would leave a subscriber behind that nobody knows."""
    await stored(db, "e1", 1)
    page = await visit(client)
    auth = f'{{"token":"{bearer(client)["Authorization"].split()[1]}"}}'
    async with client.ws_connect(WIRE) as ws:
        await ws.receive_str()
        await ws.send_str(f"40{auth}")
        assert (await ws.receive_str()).startswith("40")
        asked = '["subscribe",{"execution_id":"e1"}]'
        await ws.send_str(f"421{asked}")
        assert (await ws.receive_str()).startswith("431[")
        others = (f'["connect",{{}},{auth}]', '["disconnect"]', "[{}]", '["other"]', "null")
        for event in (f"42{one}" for one in others):
            await ws.send_str(event)
        await ws.send_str(f"452-{asked}")
        await ws.send_str(f"429{asked}")
        assert (await ws.receive_str()).startswith("439[")
    assert await until(lambda: connections(client.app) == 1)
    events.publish(progress(2))
    await page.until(1)


async def polled(client: Client) -> str:
    """Open a connection by polling; return its path."""
    path = "/socket.io/?EIO=4&transport=polling"
    opened = json.loads((await (await client.get(path)).text())[1:])
    return f"{path}&sid={opened['sid']}"


async def test_a_post_that_comes_in_pieces_is_whole(client: Client) -> None:
    path = await polled(client)
    body = f'40{{"token":"{bearer(client)["Authorization"].split()[1]}"}}'.encode()

    async def pieces() -> AsyncIterator[bytes]:
        yield body[:9]
        for _ in range(100):  # until the server has had a look at it
            await asyncio.sleep(0)
        yield body[9:]

    headers = {"Content-Length": str(len(body))}
    assert (await client.post(path, data=pieces(), headers=headers)).status == 200
    assert (await (await client.get(path)).text()).startswith("40{")


async def test_a_post_that_makes_no_sense_does_not_hang(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "POST_TIMEOUT", 0.2)
    for body, status in (("6", 400), ("4" * (transport.MESSAGE_LIMIT + 1), 413)):
        answer = await client.post(await polled(client), data=body)
        assert (answer.status, answer.content_type) == (status, "application/json")


async def revocable(client: Client, db: Database) -> str:
    """Return a viewer's token whose row has the id TOKEN_ID."""
    row = {"id": TOKEN_ID, "name": "ann", "role": Role.VIEWER, "created_by": "x"}
    await db.row("insert_token", **row, **dict.fromkeys(("host_id", "hash", "expires_at")))
    return issue_token(secret_of(client.app), "ann", Role.VIEWER, 1, TOKEN_ID)


async def waits_for_tokens(db: Database) -> bool:
    """Return whether somebody waits for the lock on the tokens."""
    async with db.session() as session:
        return await session._connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database AS d ON d.oid = database"
            " WHERE datname = current_database() AND relation = 'tokens'::regclass AND NOT granted)"
        )


async def test_a_client_that_went_while_its_token_was_looked_up_is_not_kept(
    client: Client, db: Database
) -> None:
    token = await revocable(client, db)
    async with db.transaction() as transaction:
        await transaction._connection.execute("LOCK TABLE tokens")
        path = await polled(client)
        came = asyncio.create_task(client.post(path, data=f'40{{"token":"{token}"}}'))
        assert await until(lambda: waits_for_tokens(db))
        assert (await client.post(path, data="1")).status == 200
    assert (await came).status == 200
    assert connections(client.app) == 0


async def test_a_client_whose_token_was_revoked_is_disconnected_by_and_by(
    connect: Connect, visit: Visit, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process revoked it: this one looks every RECHECK seconds."""
    monkeypatch.setattr(sockets, "RECHECK", 0.1)
    monkeypatch.setattr(tokens, "KNOWN_FOR", 0.0)
    client = await connect()
    gone = await visit(client, await revocable(client, db))
    stays = await visit(client)
    await db.row("delete_token", id=TOKEN_ID)
    async with asyncio.timeout(ARRIVES):
        await gone.gone.wait()
    assert stays.io.connected


async def test_a_client_that_does_not_read_is_dropped_and_delays_nobody(
    connect: Connect, visit: Visit, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "QUEUE_LIMIT", 100)
    client = await connect()
    page = await visit(client)
    session = client.session
    url = client.make_url("/socket.io/?EIO=4&transport=websocket")
    async with session.ws_connect(url, max_msg_size=0) as slow:
        await slow.receive_str()
        token = bearer(client)["Authorization"].split()[1]
        await slow.send_str(f'40{{"token":"{token}"}}')
        assert (await slow.receive_str()).startswith("40")
        connection = slow._conn
        assert connection is not None
        assert connection.transport is not None
        connection.transport.pause_reading()
        big = "x" * 20_000
        seq = 0
        while True:
            seq += 1
            events.publish(progress(seq, big))
            await page.until(seq)
            if connections(client.app) == 1:
                break
            assert seq < 5000
        connection.transport.abort()
    assert seq > transport.QUEUE_LIMIT


def connections(app: web.Application) -> int:
    """Return the number of connected clients."""
    return len(app[sockets.SOCKETS].clients)


async def test_at_shutdown_clients_are_sent_away_at_once(connect: Connect, visit: Visit) -> None:
    client = await connect()
    pages = [await visit(client), await visit(client, transports=["polling"])]
    async with client.ws_connect("/socket.io/?EIO=4&transport=websocket") as ws:
        began = time.perf_counter()
        await client.server.close()
        assert time.perf_counter() - began < 2 * transport.GOODBYE
        message = await ws.receive()
        while message.type is WSMsgType.TEXT:
            message = await ws.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1001)
    async with asyncio.timeout(ARRIVES):
        await pages[0].gone.wait()


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://page.example", True),
        ("https://evil.example", False),
        ("http://{host}", True),
        ("null", False),
        ("http://[", False),
    ],
)
async def test_only_known_origins_and_our_own_may_connect(
    connect: Connect, origin: str, allowed: bool
) -> None:
    client = await connect(cors_origins=("https://page.example/",))
    address = f"{client.host}:{client.port}"
    headers = {"Origin": origin.format(host=address), "Host": address}
    response = await client.get("/socket.io/?EIO=4&transport=polling", headers=headers)
    assert response.status == (200 if allowed else 400)


async def test_who_presents_no_token_is_not_kept(
    connect: Connect, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "STRANGER", 1.0)  # in which a page presents its token
    client = await connect()
    page = await visit(client)
    for words in (None, '40{"token":"bad"}'):
        async with client.ws_connect("/socket.io/?EIO=4&transport=websocket") as ws:
            if words:
                await ws.send_str(words)
            async with asyncio.timeout(ARRIVES):
                async for _ in ws:
                    pass
            assert ws.closed
    assert page.io.connected
