"""Samples become means of their hour, and what is old goes."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.actors.fake_host import until
from vpt.store import retention
from vpt.store.db import SQL, Database
from vpt.store.retention import PrunedSamples, count_old_samples, prune_samples

RAW_S, HOURLY_S = 7 * 86_400.0, 90 * 86_400.0
HOUR = "date_trunc('hour', now(), 'UTC')"
MEANS = (
    f"SELECT span, extract(epoch FROM {HOUR} - at)::integer / 60, host_id, ok, probes, answered,"
    " response_ms, cpu_percent FROM health_means ORDER BY span, at, host_id"
)


async def execute(db: Database, sql: str) -> None:
    async with db.session() as session:
        await session._connection.execute(sql)


async def fetch(db: Database, sql: str) -> list[tuple[Any, ...]]:
    async with db.session() as session:
        return [tuple(row) for row in await session._connection.fetch(sql)]


async def breathe() -> None:
    """Nobody else wants a turn."""


async def pruned(db: Database) -> PrunedSamples:
    return await prune_samples(db, RAW_S, HOURLY_S, breathe)


async def pruned_as_foretold(db: Database) -> PrunedSamples:
    foretold = await count_old_samples(db, RAW_S, HOURLY_S)
    done = await pruned(db)
    assert done == foretold
    return done


@pytest.fixture
async def hosts(db: Database) -> Database:
    """Give a database that has two hosts."""
    await execute(
        db,
        "INSERT INTO hosts (id, host_url, dialect, credential, capabilities)"
        " SELECT name, 'http://h', 'document', 'join', '{}' FROM (VALUES ('a'), ('b')) AS n (name)",
    )
    return db


async def sampled(
    db: Database, age: str, host: str = "a", ok: str = "true", ms: str = "10", more: str = "6, 1"
) -> None:
    """Store a sample, so much before this hour; `more` are its probes and its processor's load."""
    await execute(
        db,
        "INSERT INTO host_health (host_id, recorded_at, ok, response_ms, probes, cpu_percent)"
        f" VALUES ('{host}', {HOUR} - interval '{age}', {ok}, {ms}, {more})",
    )


async def test_an_hour_that_is_over_has_means_of_ten_minutes_and_of_itself(
    hosts: Database,
) -> None:
    await sampled(hosts, "60 min", ok="true", ms="10", more="6, 30")
    await sampled(hosts, "55 min", ok="true", ms="20", more="NULL, 50")  # as it once was stored
    await sampled(hosts, "54 min", ok="false", ms="NULL", more="2, NULL")
    await sampled(hosts, "40 min", ok="NULL", ms="NULL", more="0, 10")
    await sampled(hosts, "41 min", host="b", ok="true", ms="8", more="6, NULL")
    await sampled(hosts, "0 min", ok="true", ms="70", more="6, 70")  # this hour is not over
    assert await pruned_as_foretold(hosts) == PrunedSamples(hours=1, dropped=0)
    assert await fetch(hosts, MEANS) == [
        (10, 60, "a", False, 9, 7, 15, 40),
        (10, 50, "b", True, 6, 6, 8, None),
        (10, 40, "a", None, 0, 0, None, 10),
        (60, 60, "a", False, 9, 7, 15, 30),
        (60, 60, "b", True, 6, 6, 8, None),
    ]


async def test_pruning_again_changes_nothing(hosts: Database) -> None:
    await sampled(hosts, "1 hour")
    await sampled(hosts, "2 hours")
    assert await pruned_as_foretold(hosts) == PrunedSamples(hours=2, dropped=0)
    before = await fetch(hosts, "SELECT xmin, * FROM health_means")
    assert await pruned_as_foretold(hosts) == PrunedSamples(hours=0, dropped=0)
    assert await fetch(hosts, "SELECT xmin, * FROM health_means") == before


async def test_a_sample_that_came_late_is_taken_in(hosts: Database) -> None:
    await sampled(hosts, "30 min")
    await pruned(hosts)
    await sampled(hosts, "29 min", ok="false", ms="NULL", more="2, 3")
    assert await pruned_as_foretold(hosts) == PrunedSamples(hours=0, dropped=0)
    assert (await fetch(hosts, MEANS))[-1] == (60, 60, "a", False, 8, 6, 10, 2)


async def test_samples_are_kept_7_days_and_hourly_means_90(
    hosts: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_BATCH", 2)
    for age in ("6 days 23 hours", "7 days", "7 days 30 min", "8 days", "9 days", "91 days"):
        await sampled(hosts, age)
    assert await pruned_as_foretold(hosts) == PrunedSamples(hours=6, dropped=4)
    ages = f"SELECT extract(epoch FROM {HOUR} - {{}})::integer / 3600 FROM {{}} ORDER BY 1"
    week = 7 * 24
    # 7 days ago the hour that is now half over was not yet over
    assert await fetch(hosts, ages.format("recorded_at", "host_health")) == [(week - 1,), (week,)]
    ten = "health_means WHERE span = 10"
    assert await fetch(hosts, ages.format("at", ten)) == [(week - 1,), (week,)]
    hourly = "health_means WHERE span = 60"
    assert await fetch(hosts, ages.format("at", hourly)) == [
        (week - 1,),
        (week,),
        (week + 1,),
        (8 * 24,),
        (9 * 24,),
    ]


async def test_means_never_lose_what_was_dropped_since(hosts: Database) -> None:
    await sampled(hosts, "8 days")
    await sampled(hosts, "8 days -1 min")
    await pruned(hosts)
    before = await fetch(hosts, MEANS)
    await sampled(hosts, "8 days -2 min")  # what a pruning that was stopped would have left
    await pruned(hosts)
    assert await fetch(hosts, MEANS) == before


async def test_a_host_may_be_deleted_while_means_of_it_are_made(hosts: Database) -> None:
    for host in ("a", "b"):
        await sampled(hosts, "8 days", host)
    async with hosts.transaction() as session:
        await session._connection.execute("SELECT FROM hosts WHERE id = 'a' FOR UPDATE")
        pruning = asyncio.create_task(pruned(hosts))
        await until(lambda: somebody_waits(hosts))
        await session.row("delete_host", id="a")
    assert await pruning == PrunedSamples(hours=1, dropped=1)  # b's sample
    assert await fetch(hosts, "SELECT host_id, span FROM health_means") == [("b", 60)]


async def test_a_host_may_be_deleted_while_its_samples_are_dropped(hosts: Database) -> None:
    for host in ("a", "b"):
        await sampled(hosts, "8 days", host)
    async with hosts.transaction() as session:
        await session.row("delete_host", id="a")
        gone = await retention._drop(hosts, breathe, "drop_samples", age_s=RAW_S)
        assert gone == 1, "nobody waits for a's"
    assert await fetch(hosts, "SELECT FROM host_health") == []


async def somebody_waits(db: Database) -> bool:
    waiting = "datname = current_database() AND wait_event_type = 'Lock'"
    return bool(await fetch(db, f"SELECT FROM pg_stat_activity WHERE {waiting}"))


async def test_hourly_rows_among_the_samples_become_means(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    try:
        for path in sorted((SQL / "migrations").glob("*.sql")):
            if path.stem == "0008_health_means":
                await connection.execute(_OLD_SAMPLES)
            await connection.execute(path.read_text())
        means = "SELECT span, at, ok, probes, answered, cpu_percent FROM health_means ORDER BY at"
        assert [(*row,)[:1] + (*row,)[2:] for row in await connection.fetch(means)] == [
            (60, False, 60, 57, 20),
            (60, None, 0, 0, 30),
        ]
        left = await connection.fetch("SELECT ok, probes FROM host_health")
        assert [tuple(row) for row in left] == [(True, None)]
    finally:
        await connection.close()


_OLD_SAMPLES = """
    INSERT INTO hosts (id, host_url, dialect, credential)
    VALUES ('a', 'http://a', 'document', 'join');
    INSERT INTO host_health (host_id, recorded_at, ok, cpu_percent, samples, ok_share)
    VALUES ('a', now() - interval '9 days', false, 20, 60, 0.95),
        ('a', now() - interval '8 days', NULL, 30, 0, NULL), ('a', now(), true, 40, NULL, NULL)
"""
