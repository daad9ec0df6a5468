"""Whoever was away, was slow or came late is told all the same, once and in order."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientWebSocketResponse

from tests.actors.fake_host import until
from tests.web_hosts.conftest import ARRIVES, Client, Connect, Page, Visit, bearer
from vpt.errors import DatabaseAwayError
from vpt.events import Events
from vpt.model import (
    CampaignProgress,
    ExecutionStatus,
    HostChanged,
    HostStatus,
    StepStatus,
    TestProgress,
)
from vpt.store.db import Database
from vpt.web.live import delivery, publisher, sockets

TOTAL = 50_000


class Interrupted(Database):
    """Does what the test wants to happen just after events were read, and before they are told."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.after_reading: Callable[[], Awaitable[None]] | None = None

    async def rows(self, name: str, /, **args: Any) -> list[Any]:
        rows = await super().rows(name, **args)
        if name == "execution_events" and self.after_reading is not None:
            happens, self.after_reading = self.after_reading, None
            await happens()
        return rows


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Interrupted]:
    db = Interrupted(dsn)
    await db.open()
    yield db
    await db.close()


class Run:
    """An execution with one attempt, whose rows and events the test makes one by one."""

    def __init__(self, db: Database, events: Events, name: str = "e1") -> None:
        self.db, self.events, self.name = db, events, name
        self.seq = 0

    async def _do(self, sql: str, *args: Any) -> None:
        async with self.db.session() as session:
            await session._connection.execute(sql, self.name, *args)

    async def store(self, number: int = 1) -> None:
        """Store the next events, and publish none."""
        if self.seq == 0:
            await self._begin()
            number -= 1
            self.seq = 1
        await self._do(
            "INSERT INTO execution_steps (execution_id, attempt, step, action, status, seq)"
            " SELECT $1, 1, n - 1, 'a', 'passed', n FROM generate_series($2::int, $3::int) AS n",
            self.seq + 1,
            self.seq + number,
        )
        self.seq += number

    async def _begin(self) -> None:
        await self._do(
            "INSERT INTO test_executions (id, test_case_id, test_case_name, test_case_version,"
            " device_model, steps, actions, queue_timeout_s, requested_by, seq, attempt, status,"
            " host_id, device_id) VALUES ($1, 't', 't', 1, 'm', '[]',"
            " array_fill('a'::text, ARRAY[$2::int]), 1, 'ann', 1, 1, 'running', 'h', 'd' || $1)",
            TOTAL,
        )
        await self._do(
            "INSERT INTO execution_attempts (execution_id, attempt, host_id, device_id, seq)"
            " VALUES ($1, 1, 'h', 'd' || $1, 1)"
        )

    async def end(self) -> None:
        """Store the final event."""
        self.seq += 1
        await self._do(
            "UPDATE test_executions SET status = 'completed', completed_at = now(), seq = $2,"
            " end_step = $3 WHERE id = $1",
            self.seq,
            self.seq - 2,
        )

    def publish(self, seq: int | None = None) -> None:
        """Publish the event of that number, or the last one that was stored."""
        seq = seq or self.seq
        self.events.publish(
            TestProgress(
                self.name,
                1,
                seq - 1,
                TOTAL,
                ExecutionStatus.RUNNING,
                StepStatus.PASSED if seq > 1 else None,
                None,
                seq,
                None,
                "h",
                f"d{self.name}",
            )
        )


@pytest.fixture
def run(db: Database, events: Events) -> Run:
    return Run(db, events)


def numbers(page: Page) -> list[int]:
    return [payload["seq"] for name, payload in page.told if name == "test_progress"]


async def subscribe(page: Page, after_seq: Any = None, execution: str = "e1") -> Any:
    more = {} if after_seq is None else {"after_seq": after_seq}
    return await page.io.call("subscribe", {"execution_id": execution, **more})


async def test_what_happened_after_after_seq_comes_first_and_then_what_happens(
    client: Client, visit: Visit, run: Run
) -> None:
    await run.store(5)
    page = await visit(client)
    assert await subscribe(page, 2) == {"ok": True, "seq": 5}
    assert numbers(page) == [3, 4, 5], "the answer comes after what it speaks of"
    run.publish(4)
    run.publish(5)  # published late: it was replayed
    await run.store()
    run.publish()
    await page.until(4)
    assert numbers(page) == [3, 4, 5, 6]


async def test_a_replayed_event_is_the_event_that_was_published(
    client: Client, visit: Visit, run: Run
) -> None:
    witness, late = await visit(client), await visit(client)
    for _ in range(3):
        await run.store()
        run.publish()
    await witness.until(3)
    await late.until(3)
    late.told.clear()
    await subscribe(late, 0)
    assert late.told == witness.told


async def test_without_after_seq_and_from_the_future_nothing_is_replayed(
    client: Client, visit: Visit, run: Run
) -> None:
    await run.store(5)
    for after_seq in (None, 5, 6, 10**30):
        page = await visit(client)
        assert await subscribe(page, after_seq) == {"ok": True, "seq": 5}
        assert numbers(page) == []
    await run.store()
    run.publish()
    assert numbers(page) == [] or await page.until(1)
    await page.until(1)
    assert numbers(page) == [6]


@pytest.mark.parametrize("after_seq", [-1, True, "1", 1.0, [], {}])
async def test_an_after_seq_that_makes_no_sense_is_refused(
    client: Client, visit: Visit, run: Run, after_seq: Any
) -> None:
    await run.store(2)
    page = await visit(client)
    answer = await subscribe(page, after_seq)
    assert answer["ok"] is False
    assert "after_seq" in answer["error"]
    run.publish()
    await page.until(1)


async def test_who_is_told_of_a_later_event_is_told_of_those_before_it_first(
    client: Client, visit: Visit, run: Run
) -> None:
    await run.store(1)
    narrow, wide = await visit(client), await visit(client)
    await subscribe(narrow, 0)
    run.publish()
    await wide.until(1)
    await run.store(250)
    run.publish(200)
    run.publish(251)
    for page in (narrow, wide):
        await page.until(251)
        assert numbers(page) == [*range(1, 252)]


async def test_what_was_stored_and_never_published_is_found(
    connect: Connect, visit: Visit, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "RECHECK", 0.05)
    client = await connect()
    await run.store(2)
    narrow, wide = await visit(client), await visit(client)
    await subscribe(narrow, 0)
    run.publish(2)
    await wide.until(1)
    await run.store()
    await run.end()
    await narrow.until(4)
    await wide.until(3)
    assert numbers(narrow) == [1, 2, 3, 4]
    assert numbers(wide) == [2, 3, 4]
    assert narrow.told[-1][1]["status"] == "completed"
    assert client.app[sockets.SOCKETS]._publisher._shared == {}, "what is over is kept no longer"


async def test_subscribing_again_gives_what_is_asked_anew_and_no_other_double(
    client: Client, visit: Visit, run: Run
) -> None:
    await run.store(4)
    page = await visit(client)
    await subscribe(page, 1)
    assert await subscribe(page) == {"ok": True, "seq": 4}
    assert numbers(page) == [2, 3, 4]
    await subscribe(page, 3)
    assert numbers(page) == [2, 3, 4, 4]
    await run.store()
    run.publish()
    await page.until(5)
    await page.io.call("unsubscribe", {"execution_id": "e1"})
    run.publish()
    await page.until(6)
    assert numbers(page) == [2, 3, 4, 4, 5, 5]


async def test_two_requests_at_once_are_answered_one_after_the_other(
    client: Client, visit: Visit, run: Run
) -> None:
    await run.store(450)
    page = await visit(client)
    answers = await asyncio.gather(subscribe(page, 0), subscribe(page), subscribe(page, 440))
    assert answers == [{"ok": True, "seq": 450}] * 3
    assert numbers(page) == [*range(1, 451), *range(441, 451)]


async def test_while_the_database_is_away_nobody_is_half_subscribed(
    client: Client, visit: Visit, run: Run, db: Database
) -> None:
    await run.store(3)
    page, known = await visit(client), await visit(client)
    await subscribe(known, 2)
    await db.close()
    for one in (page, known):
        answer = await subscribe(one, 0)
        assert answer["ok"] is False
        assert "database" in answer["error"]
    run.publish(1)
    run.publish(2)
    await page.until(2)
    assert numbers(page) == [1, 2], "as before"
    await db.open()
    await run.store(2)
    run.publish(5)
    await known.until(3)
    assert numbers(known) == [3, 4, 5], "as before"


@pytest.mark.parametrize("after_seq", [1, 3], ids=["some to read", "nothing to read yet"])
async def test_what_is_published_while_it_reads_is_told_after_what_it_read(
    client: Client, visit: Visit, run: Run, db: Interrupted, after_seq: int
) -> None:
    await run.store(3)
    page = await visit(client)

    async def meanwhile() -> None:
        await run.store()
        run.publish()

    db.after_reading = meanwhile
    assert await subscribe(page, after_seq) == {"ok": True, "seq": 4}
    assert numbers(page) == [*range(after_seq + 1, 5)]


async def test_a_replay_that_breaks_leaves_all_as_it_was(
    client: Client, visit: Visit, run: Run, db: Interrupted
) -> None:
    await run.store(3)
    new, known = await visit(client), await visit(client)
    await subscribe(known)

    async def breaks() -> None:
        raise DatabaseAwayError

    for page in (new, known):
        db.after_reading = breaks
        assert (await subscribe(page, 0))["ok"] is False
    await run.store()
    run.publish()
    for page in (new, known):
        await page.until(1)
        assert numbers(page) == [4]


async def test_a_mistake_of_ours_while_it_reads_what_it_missed_is_not_the_end(
    client: Client, visit: Visit, run: Run, db: Interrupted
) -> None:
    await run.store(2)
    page = await visit(client)
    await subscribe(page)
    failed = asyncio.Event()

    async def fails() -> None:
        failed.set()
        raise ZeroDivisionError

    db.after_reading = fails
    await run.store(2)
    run.publish()
    async with asyncio.timeout(ARRIVES):
        await failed.wait()
    await run.store()
    run.publish()
    await page.until(3)
    assert numbers(page) == [3, 4, 5]


async def test_a_new_client_that_narrows_at_once_is_told_what_it_asked_for(
    client: Client, visit: Visit, run: Run, events: Events
) -> None:
    await run.store(3)
    page, wide = await visit(client), await visit(client)
    run.publish()
    events.publish(HostChanged("h", HostStatus.BUSY, None, None))
    await subscribe(page, 0)
    assert [name for name, _ in page.told] == ["host_status", *["test_progress"] * 3]
    assert numbers(page) == [1, 2, 3]
    await wide.until(2)
    assert [name for name, _ in wide.told] == ["test_progress", "host_status"]


async def test_a_campaigns_events_are_replayed_too(
    client: Client, visit: Visit, events: Events, db: Database
) -> None:
    async with db.session() as session:
        await session._connection.execute(
            "INSERT INTO campaign_executions (id, campaign_id, name, stop_on_failure,"
            " parallelism, priority, requested_by, total, seq)"
            " VALUES ('c1', 'c', 'c', false, 1, 50, 'ann', 4, 3)"
        )
    page = await visit(client)
    wish = {"campaign_execution_id": "c1", "after_seq": 1}
    assert await page.io.call("subscribe", wish) == {"ok": True, "seq": 3}
    events.publish(CampaignProgress("c1", 2, 4, ExecutionStatus.RUNNING, 3))
    events.publish(CampaignProgress("c1", 3, 4, ExecutionStatus.RUNNING, 4))
    told = await page.until(3)
    assert [(name, payload["done"], payload["seq"]) for name, payload in told] == [
        ("campaign_progress", 1, 2),
        ("campaign_progress", 2, 3),
        ("campaign_progress", 3, 4),
    ]


async def test_who_comes_and_goes_misses_nothing(client: Client, visit: Visit, run: Run) -> None:
    dice = random.Random(5)
    end = 400
    await run.store()
    seen: list[int] = []
    going = True

    async def happen() -> None:
        """Store and publish; now and then what is stored is not published, as by a crash."""
        late: list[int] = []
        while run.seq < end:
            await run.store()
            late.append(run.seq)
            if dice.random() < 0.7:
                for seq in late:
                    run.publish(seq)
                late.clear()
            elif dice.random() < 0.3:
                late.clear()
            await asyncio.sleep(dice.uniform(0, 0.004))
        run.publish()

    happening = asyncio.create_task(happen())
    visits = 0
    while going:
        page = await visit(client)
        visits += 1
        answer = await subscribe(page, len(seen))
        assert answer["ok"]
        if not happening.done():
            await asyncio.sleep(dice.uniform(0, 0.1))
        else:
            await happening
            going = False
        await page.io.disconnect()
        seen += numbers(page)
        assert seen == [*range(1, len(seen) + 1)]
    assert len(seen) == end
    assert visits > 5


async def test_an_unsubscribe_ends_a_replay_under_way(
    client: Client, visit: Visit, run: Run
) -> None:
    await run.store(20_000)
    page = await visit(client)
    asking = asyncio.create_task(subscribe(page, 0))
    await page.until(1)
    assert await page.io.call("unsubscribe", {"execution_id": "e1"}) == {"ok": True}
    assert (await asking)["ok"] is False
    told = len(page.told)
    assert told < 20_000
    run.publish()
    await page.until(told + 1)
    assert numbers(page)[-1] == 20_000


# ---------------------------------------------------------------- who does not read


@asynccontextmanager
async def deaf(client: Client) -> AsyncIterator[ClientWebSocketResponse]:
    """Connect somebody who reads nothing after the connect."""
    url = client.make_url("/socket.io/?EIO=4&transport=websocket")
    async with client.session.ws_connect(url, max_msg_size=0) as ws:
        await ws.receive_str()
        token = bearer(client)["Authorization"].split()[1]
        await ws.send_str(f'40{{"token":"{token}"}}')
        assert (await ws.receive_str()).startswith("40")
        connection = ws._conn
        assert connection is not None
        assert connection.transport is not None
        connection.transport.pause_reading()
        yield ws
        connection.transport.abort()


async def test_a_replay_waits_for_its_reader_and_drops_one_that_does_not_read(
    connect: Connect, visit: Visit, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "PATIENCE", 1.0)
    client = await connect()
    served = client.app[sockets.SOCKETS]
    await run.store(TOTAL)
    page = await visit(client)
    await subscribe(page)
    async with deaf(client) as ws:
        await ws.send_str('421["subscribe",{"execution_id":"e1","after_seq":0}]')
        most, slowest = 0, 0.0
        async with asyncio.timeout(60):
            while len(served.clients) == 2:
                slow = next(one for one in served.clients.values() if one.sid != page.io.get_sid())
                most = max(most, slow.connection.queued)
                began = time.perf_counter()
                await run.store()
                run.publish()
                await page.until(run.seq - TOTAL)
                slowest = max(slowest, time.perf_counter() - began)
                await asyncio.sleep(0.01)
    assert most <= 2 * delivery.PAGE, "what waits for it is bounded"
    assert slowest < 1
    assert numbers(page) == [*range(TOTAL + 1, run.seq + 1)]
    assert [one.topic.id for one in served._audience.all_subscribers()] == ["e1"]


async def test_who_asks_and_asks_without_reading_is_dropped(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "ASK_LIMIT", 10)
    client = await connect()
    async with deaf(client) as ws:
        for _ in range(200):
            await ws.send_str('421["subscribe",{"execution_id":"e1"}]')
        await until(lambda: not client.app[sockets.SOCKETS].clients)
