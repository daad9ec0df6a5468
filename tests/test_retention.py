"""Old samples become hourly means, and very old ones go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.actors.fake_host import until
from vpt import retention
from vpt.db import Database
from vpt.retention import PrunedSamples, count_old_samples, prune_samples

RAW_S, HOURLY_S = 7 * 86_400.0, 90 * 86_400.0
HOURS = "date_trunc('hour', now(), 'UTC') - interval '{}'"


async def execute(db: Database, sql: str) -> None:
    async with db.session() as session:
        await session._connection.execute(sql)


async def fetch(db: Database, sql: str) -> list[tuple[Any, ...]]:
    async with db.session() as session:
        return [tuple(row) for row in await session._connection.fetch(sql)]


async def pruned(db: Database) -> PrunedSamples:
    async def breathe() -> None:
        """Nobody else wants a turn."""

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


async def sampled(db: Database, age: str, host: str, ok: str, ms: str, cpu: str = "NULL") -> None:
    await execute(
        db,
        "INSERT INTO host_health (host_id, recorded_at, ok, response_ms, cpu_percent)"
        f" VALUES ('{host}', {HOURS.format(age)}, {ok}, {ms}, {cpu})",
    )


async def test_samples_older_than_a_week_become_hourly_means(hosts: Database) -> None:
    for minutes, ok, ms in ((1, "true", "10"), (2, "true", "20"), (3, "false", "NULL")):
        await sampled(hosts, f"7 days 2 hours -{minutes} minutes", "a", ok, ms)
    await sampled(hosts, "7 days 2 hours -4 minutes", "a", "NULL", "NULL", "50")
    await sampled(hosts, "7 days 2 hours -5 minutes", "b", "NULL", "NULL", "30")
    await sampled(hosts, "7 days 1 hour", "a", "true", "40")
    await sampled(hosts, "6 days", "a", "true", "70")
    assert await pruned_as_foretold(hosts) == PrunedSamples(thinned=6, dropped=0)
    rows = await fetch(
        hosts,
        "SELECT host_id, recorded_at = date_trunc('hour', recorded_at, 'UTC'), ok, response_ms,"
        " cpu_percent, samples, round(ok_share::numeric, 2)::float8"
        " FROM host_health ORDER BY host_id, recorded_at",
    )
    assert rows == [
        ("a", True, False, 15, 50, 3, 0.67),
        ("a", True, True, 40, None, 1, 1),
        ("a", True, True, 70, None, None, None),
        ("b", True, None, None, 30, 0, None),
    ]


async def test_pruning_again_changes_nothing(hosts: Database) -> None:
    await sampled(hosts, "8 days", "a", "true", "10")
    assert (await pruned(hosts)).thinned == 1
    before = await fetch(hosts, "SELECT xmin, * FROM host_health")
    assert await pruned_as_foretold(hosts) == PrunedSamples(0, 0)
    assert await fetch(hosts, "SELECT xmin, * FROM host_health") == before


async def test_what_is_older_than_90_days_goes_in_pieces(
    hosts: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_BATCH", 2)
    for days in (91, 92, 93, 94, 95, 89):
        await sampled(hosts, f"{days} days", "a", "true", "10")
    assert await pruned_as_foretold(hosts) == PrunedSamples(thinned=1, dropped=5)
    assert await fetch(hosts, "SELECT count(*) FROM host_health") == [(1,)]


async def test_a_host_may_be_deleted_while_its_samples_are_thinned(hosts: Database) -> None:
    for host in ("a", "b"):
        await sampled(hosts, "8 days", host, "true", "10")
    async with hosts.transaction() as session:
        await session._connection.execute("SELECT FROM hosts WHERE id = 'a' FOR UPDATE")
        pruning = asyncio.create_task(pruned(hosts))
        await until(lambda: somebody_waits(hosts))
        await session.row("delete_host", id="a")
    assert (await pruning).thinned == 1
    assert await fetch(hosts, "SELECT host_id, samples FROM host_health") == [("b", 1)]


async def somebody_waits(db: Database) -> bool:
    waiting = "datname = current_database() AND wait_event_type = 'Lock'"
    return bool(await fetch(db, f"SELECT FROM pg_stat_activity WHERE {waiting}"))
