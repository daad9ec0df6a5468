"""A real lab on a real database, with hosts that do what the test says, and all that is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from tests.actors.fake_host import FakeHost, until
from vpt.actors.lab import Lab
from vpt.actors.state import check
from vpt.config import Config
from vpt.dialects.document import DocumentDialect
from vpt.events import Events
from vpt.model import (
    CampaignProgress,
    DeviceChanged,
    DeviceStatus,
    Event,
    HostChanged,
    HostStatus,
    Json,
    NewCampaign,
    NewExecution,
    Submitted,
    TestProgress,
)
from vpt.store.db import Database
from vpt.web.live.replay import (
    Progress,
    Topic,
    TopicKind,
    events_after,
    topic_of,
    topic_states,
)

PEER = "127.0.0.1"
FAST = {
    "host_probe_interval": 0.1,
    "host_probe_timeout": 3.0,
    "host_lost_after": 4,
    "run_grace": 0.3,
    "cancel_grace": 0.3,
    "step_timeout": 20.0,
    "infra_retries": 1,
    "retry_backoff": 0.02,
    "device_pause": 0.05,
}
LIMIT = 20.0  # seconds; a test that waits that long has failed


def steps_of(*steps: str | Json) -> tuple[Json, ...]:
    """Return steps of which a word is the command."""
    return tuple({"command": step} if isinstance(step, str) else step for step in steps)


def execution(*steps: str | Json, **more: Any) -> NewExecution:
    """Return a request to run these steps on a tv."""
    new = NewExecution(
        test_case_id="t",
        test_case_name="t",
        test_case_version=1,
        device_model="tv",
        requirements=(),
        steps=steps_of(*(steps or ("a",))),
        parameters={},
        timeout_s=None,
        test_retries=0,
        device_id=None,
        host_id=None,
        priority=50,
        queue_timeout_s=None,
        requested_by="ann",
    )
    return replace(new, **more)


def campaign(*entries: NewExecution, **more: Any) -> NewCampaign:
    """Return a request to run these in order."""
    new = NewCampaign(
        campaign_id="c",
        name="c",
        entries=entries,
        stop_on_failure=False,
        parallelism=1,
        priority=50,
        requested_by="ann",
    )
    return replace(new, **more)


class Kit:
    """A lab under test: it may crash and come back on the same database."""

    def __init__(
        self, config: Config, dsn: str, lab_dsn: str, dialect_type: type[DocumentDialect]
    ) -> None:
        self.config = config
        self.dsn = dsn
        self.lab_dsn = lab_dsn  # the lab's own way to the database
        self.told: list[Event] = []
        self.hosts: dict[str, FakeHost] = {}
        self.crashed = False
        self._beside: Any = None
        self._looking = asyncio.Lock()
        self.dialect_type = dialect_type
        self.db_type: Callable[[str], Database] = Database
        self.db: Database
        self.dialect: DocumentDialect
        self.lab: Lab

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Start a server's actors, as the process does."""
        self.db, self.dialect, events = self.db_type(self.lab_dsn), self.dialect_type(), Events()
        events.subscribe(self.told.append)
        await self.db.open()
        self.lab = Lab(self.config, self.db, events, self.dialect)
        await self.lab.start()

    async def stop(self, grace: float = 0.0) -> None:
        """Stop in order."""
        await self.lab.settle(grace)
        await self.lab.stop()
        await self._close()

    async def crash(self) -> None:
        """End as kill -9 would: nothing more is stored, sent or told."""
        self.crashed = True
        lab = self.lab
        lab._supervisor._closing = True
        self.db._pool.terminate()
        owners = (
            lab._supervisor._background,
            lab._upkeep,
            lab.campaigns._background,
            lab._queue._background,
        )
        tasks = [
            *(job._task for owner in owners for job in owner._scheduler if job._task),
            *(task for task in asyncio.all_tasks() if task.get_name() in ("steps", "statuses")),
        ]
        left = set(tasks)
        while left:  # one may be lost when the pool dies at the same moment
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=0.2)
        for owner in owners:
            await owner.close()
        await lab._supervisor._services.shared.close()
        await self._close()

    async def restart(self) -> None:
        """Crash and start anew."""
        await self.crash()
        await self.start()

    async def _close(self) -> None:
        await self.dialect.close()
        await self.db.close()

    async def close(self) -> None:
        """Stop, and see that nothing is left and nothing is broken."""
        for actor in self.lab._supervisor._actors.values():
            check(actor.state)
        await self.lab.settle(0)
        await self.lab.stop()
        await self.dialect.close()
        for host in self.hosts.values():
            await host.close()
        try:
            await self._check_events()
            await self._check_database()
        finally:
            await self.db.close()
            if self._beside is not None:
                await self._beside.close()
        overlaps = [each for host in self.hosts.values() for each in host.overlaps]
        assert not overlaps or any(host.may_overlap for host in self.hosts.values()), overlaps

    async def _check_events(self) -> None:
        """Events come as 1, 2, 3 ..., none after the final one, and a replay gives the same."""
        topics = [
            Topic(kind, row["id"])
            for kind, table in _TABLES.items()
            for row in await self.fetch(f"SELECT id FROM {table}")
        ]
        if self.lab_dsn == self.dsn and self.db_type is Database:
            await self._check_topics(self.db, topics)  # whose connections have read the catalog
            return
        db = Database(self.dsn)
        await db.open()
        try:
            await self._check_topics(db, topics)
        finally:
            await db.close()

    async def _check_topics(self, db: Database, topics: list[Topic]) -> None:
        for topic in topics:
            await self._check_topic(db, topic)

    async def _check_topic(self, db: Database, topic: Topic) -> None:
        told = [event for event in self.told if _topic(event) == topic]
        replayed = await replay(db, topic)
        numbers = [event.seq for event in replayed]
        assert numbers == list(range(1, len(numbers) + 1)), numbers
        assert not any(event.status.final for event in replayed[:-1]), replayed
        present = (await topic_states(db, topic.kind, [topic.id]))[topic]
        assert present.seq == len(numbers)
        assert present.over == bool(replayed and replayed[-1].status.final)
        if self.crashed:  # what was stored and not told is found by replay only
            assert [event.seq for event in told] == sorted({event.seq for event in told})
            assert [event for event in replayed if event in told] == told
        else:
            assert replayed[: len(told)] == told

    async def _check_database(self) -> None:
        for words, sql in _NEVER.items():
            assert await self.fetch(sql) == [], words

    # ------------------------------------------------------------ doing

    async def host(self, name: str = "h", *devices: str, **more: Any) -> FakeHost:
        """Start a host, let it join and wait until it is available."""
        host = await self.stranger(name, *devices, **more)
        await self.join(host)
        await self.is_now(name, HostStatus.AVAILABLE)
        return host

    async def stranger(self, name: str = "h", *devices: str, **more: Any) -> FakeHost:
        """Start a host that has not joined."""
        host = FakeHost(name, devices or ("d1",), **more)
        self.hosts[f"{name} at {host.port}"] = host
        await host.appear()
        return host

    async def join(self, host: FakeHost, **more: Any) -> None:
        await self.lab.registry.register(host.registration(**more), peer=PEER)

    async def submit(self, *steps: str | Json, **more: Any) -> Submitted:
        return await self.lab.executions.submit(execution(*steps, **more))

    async def run(self, *steps: str | Json, **more: Any) -> str:
        """Submit and give the id."""
        return (await self.submit(*steps, **more)).execution_id

    async def done(self, *steps: str | Json, **more: Any) -> Any:
        """Run to the end; give the execution's row."""
        return await self.final(await self.run(*steps, **more))

    async def campaign(self, *entries: NewExecution, **more: Any) -> str:
        """Start a campaign of test cases that have these entries' steps; return its id."""
        known = [await self.with_test_case(entry) for entry in entries]
        return await self.lab.campaigns.start(campaign(*known, **more))

    async def with_test_case(self, entry: NewExecution) -> NewExecution:
        """Store a test case with the steps of an entry; return the entry that runs it."""
        new = replace(entry, test_case_id=f"t_{uuid4().hex}", steps=())
        await self.db.row(
            "insert_test_case",
            id=new.test_case_id,
            name=new.test_case_name,
            description="",
            steps=list(entry.steps),
            device_model=new.device_model,
            requirements=list(new.requirements),
            tags=[],
            timeout_s=new.timeout_s,
            test_retries=new.test_retries,
            device_models=[],
        )
        return new

    # ------------------------------------------------------------ looking

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """Ask the database beside the lab's own pool."""
        async with self._looking:
            if self._beside is None or self._beside.is_closed():
                self._beside = await asyncpg.connect(self.dsn)
            return list(await self._beside.fetch(sql, *args))

    async def final(self, execution_id: str) -> Any:
        """Wait until it is over; give its row."""
        await self.lab.executions.until_final(execution_id, LIMIT)
        row = await self.execution(execution_id)
        assert row["completed_at"] is not None, f"still {row['status']}"
        return row

    async def campaign_final(self, campaign_execution_id: str) -> Any:
        await self.lab.campaigns.until_final(campaign_execution_id, LIMIT)
        sql = "SELECT * FROM campaign_executions WHERE id = $1"
        row = (await self.fetch(sql, campaign_execution_id))[0]
        assert row["completed_at"] is not None, f"still {row['status']}"
        return row

    async def execution(self, execution_id: str) -> Any:
        sql = "SELECT * FROM test_executions WHERE id = $1"
        return (await self.fetch(sql, execution_id))[0]

    async def attempts(self, execution_id: str) -> list[Any]:
        sql = "SELECT * FROM execution_attempts WHERE execution_id = $1 ORDER BY attempt"
        return await self.fetch(sql, execution_id)

    async def kinds(self, execution_id: str) -> list[tuple[str, str | None]]:
        """Return host and error kind of each attempt."""
        return [(row["host_id"], row["error_kind"]) for row in await self.attempts(execution_id)]

    async def steps(self, execution_id: str, attempt: int = 1) -> list[Any]:
        sql = """
            SELECT * FROM execution_steps
            WHERE execution_id = $1 AND attempt = $2
            ORDER BY step
        """
        return await self.fetch(sql, execution_id, attempt)

    async def statuses(self, execution_id: str, attempt: int = 1) -> list[str]:
        return [row["status"] for row in await self.steps(execution_id, attempt)]

    async def released(self, execution_id: str, attempt: int = 1) -> bool:
        row = (await self.attempts(execution_id))[attempt - 1]
        return row["released_at"] is not None

    def progress(self, execution_id: str) -> list[TestProgress]:
        return [
            event
            for event in self.told
            if isinstance(event, TestProgress) and event.execution_id == execution_id
        ]

    def campaign_progress(self) -> list[CampaignProgress]:
        return [event for event in self.told if isinstance(event, CampaignProgress)]

    def host_changes(self, host_id: str = "h") -> list[HostStatus]:
        changes = [event for event in self.told if isinstance(event, HostChanged)]
        return [event.status for event in changes if event.host_id == host_id]

    def device_changes(self, device_id: str = "h:d1") -> list[DeviceStatus]:
        changes = [event for event in self.told if isinstance(event, DeviceChanged)]
        return [event.status for event in changes if event.device_id == device_id]

    def status(self, host_id: str = "h") -> HostStatus | None:
        return next((v.status for v in self.lab.views() if v.host.id == host_id), None)

    def device(self, device_id: str = "h:d1") -> DeviceStatus | None:
        devices = (item for view in self.lab.views() for item in view.devices)
        return next((item.status for item in devices if item.device.id == device_id), None)

    async def is_now(self, host_id: str, *statuses: HostStatus) -> None:
        await until(lambda: self.status(host_id) in statuses)

    async def device_is(self, device_id: str, *statuses: DeviceStatus) -> None:
        await until(lambda: self.device(device_id) in statuses)


async def replay(db: Database, topic: Topic, page: int = 3) -> list[Progress]:
    """Read all that was told of a topic, in small pages."""
    events: list[Progress] = []
    while more := await events_after(db, topic, len(events), page):
        assert len(more) <= page
        events += more
    return events


def _topic(event: Event) -> Topic | None:
    return topic_of(event) if isinstance(event, TestProgress | CampaignProgress) else None


_TABLES = {TopicKind.EXECUTION: "test_executions", TopicKind.CAMPAIGN: "campaign_executions"}
_NEVER = {
    "a final execution has an attempt that runs": """
        SELECT e.id FROM test_executions e JOIN execution_attempts a ON a.execution_id = e.id
        WHERE e.status <> 'running' AND a.status = 'running'
    """,
    "a running execution has no attempt that runs": """
        SELECT e.id FROM test_executions e
        WHERE e.status = 'running' AND NOT EXISTS (
            SELECT FROM execution_attempts a
            WHERE a.execution_id = e.id AND a.attempt = e.attempt AND a.status = 'running')
    """,
    "a step runs in an attempt that is over": """
        SELECT s.execution_id FROM execution_steps s JOIN execution_attempts a
            ON (a.execution_id, a.attempt) = (s.execution_id, s.attempt)
        WHERE s.status = 'running' AND a.status <> 'running'
    """,
    "an execution counts other attempts than it has": """
        SELECT e.id FROM test_executions e
        WHERE e.attempt <> (
            SELECT count(*) FROM execution_attempts a WHERE a.execution_id = e.id)
    """,
    "a number was given to two events": """
        SELECT execution_id, seq FROM (
            SELECT execution_id, seq FROM execution_attempts
            UNION ALL
            SELECT execution_id, seq FROM execution_steps WHERE seq IS NOT NULL
        ) AS told GROUP BY execution_id, seq HAVING count(*) > 1
    """,
    "an event is numbered after the final one": """
        SELECT e.id FROM test_executions e JOIN execution_steps s ON s.execution_id = e.id
        WHERE e.completed_at IS NOT NULL AND s.seq >= e.seq
    """,
    "a campaign is over and an execution of it is not": """
        SELECT c.id FROM campaign_executions c
        JOIN test_executions e ON e.campaign_execution_id = c.id
        WHERE c.completed_at IS NOT NULL AND e.completed_at IS NULL
    """,
}

StartLab = Callable[..., Awaitable[Kit]]


@pytest.fixture
async def start_lab(tmp_path: Path, dsn: str) -> AsyncIterator[StartLab]:
    """Return a maker of labs with settings of the test's own; one a test."""
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:

        async def start(
            *,
            dialect_type: type[DocumentDialect] = DocumentDialect,
            lab_dsn: str = dsn,
            **settings: Any,
        ) -> Kit:
            config = Config(vpt_data_dir=tmp_path, secret_key="s" * 40, **{**FAST, **settings})
            kit = Kit(config, dsn, lab_dsn, dialect_type)
            await kit.start()
            stack.push_async_callback(kit.close)
            return kit

        yield start
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:  # what ends by itself may take a moment
        await asyncio.wait(left, timeout=1)
    assert not {task for task in left if not task.done()}


@pytest.fixture
async def lab(start_lab: StartLab) -> Kit:
    """Return a lab in a hurry."""
    return await start_lab()
