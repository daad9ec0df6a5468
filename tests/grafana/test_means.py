"""What panels show of hosts is the same over any time, and costs no more over a long one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from tests.grafana.kit import dashboards, expanded, statements, with_variables

HOSTS = ["h1", "h2", "h3"]
RANGES = {"6 h": 6, "24 h": 24, "2 d": 48, "3 d": 72, "30 d": 720}
_THIS_HOUR = "date_trunc('hour', now(), 'UTC')"
#: They begin with a whole hour: the mean of a part of one would differ from all others.
#: Half of the probes of h1 are missed, those of h2 all; h3 is at work and not probed.
_THREE_DAYS = f"""
    INSERT INTO hosts (id, host_url, dialect, credential)
    SELECT 'h' || n, 'http://h', 'document', 'join' FROM generate_series(1, 3) AS n;
    INSERT INTO host_health (host_id, recorded_at, ok, probes, cpu_percent)
    SELECT id, now() - n * interval '1 minute',
        CASE id WHEN 'h1' THEN n % 2 = 0 WHEN 'h2' THEN false END,
        CASE id WHEN 'h3' THEN 0 ELSE 6 END, 20 + n % 2 * 20
    FROM hosts, generate_series(0, 3 * 1440 + 60) AS n
    WHERE now() - n * interval '1 minute' >= {_THIS_HOUR} - interval '3 days';
"""
_MEANS = f"""
    INSERT INTO health_means
    SELECT n.*
    FROM unnest('{{10,60}}'::integer[]) AS span,
        means_of_health(now() - interval '4 days', {_THIS_HOUR}, span) AS n;
    INSERT INTO health_means (host_id, span, at, ok, probes, answered, cpu_percent)
    SELECT id, 60, at, id = 'h3', CASE id WHEN 'h3' THEN 0 ELSE 360 END,
        CASE id WHEN 'h1' THEN 180 ELSE 0 END, 30
    FROM hosts, generate_series({_THIS_HOUR} - interval '31 days',
        {_THIS_HOUR} - interval '4 days', '1 hour') AS at;
    ANALYZE;
"""


@pytest.fixture
async def month(owner: Any) -> None:
    """Store three days of samples and a month of means."""
    await owner.execute(_THREE_DAYS)
    await owner.execute(_MEANS)


def _query(board: str, title: str, hours: float) -> str:
    (statement,) = (
        one for one in statements(dashboards()[board]) if one.where.endswith(f": {title}")
    )
    sql = with_variables(statement.sql, {"host": HOSTS})
    return expanded(sql, statement.over(timedelta(hours=hours)))


async def test_a_range_of_any_length_shows_the_same(reader: Any, month: None) -> None:
    for hours in RANGES.values():
        answered = await reader.fetch(_query("hosts", "Probes answered", hours))
        shares = {row["host"]: float(row["available"]) for row in answered}
        assert shares == {"h1": pytest.approx(50, abs=1), "h2": 0}, hours
        loads = await reader.fetch(_query("hosts", "Processor", hours))
        assert {row["metric"] for row in loads} == set(HOSTS)
        assert {round(row["value"]) for row in loads[3:-3]} == {30}, hours
        covered = float(loads[-1]["time"] - loads[0]["time"]) / 3600
        assert hours - 7 < covered <= hours + 6, hours


async def test_a_timeline_shows_who_is_away_and_not_who_is_at_work(
    reader: Any, month: None
) -> None:
    for hours in RANGES.values():
        rows = await reader.fetch(_query("hosts", "Availability", hours))
        shown = {
            host: {round(row["value"]) for row in rows if row["metric"] == host}
            for host in ("h2", "h3")
        }
        assert shown == {"h2": {0}, "h3": {100}}, hours
        overview = await reader.fetch(_query("overview", "Hosts", hours))
        assert sorted(map(tuple, overview)) == sorted(map(tuple, rows))


async def test_no_sample_counts_twice_and_none_is_left_out(
    reader: Any, owner: Any, month: None
) -> None:
    probes = (
        f"SELECT sum(probes) FROM health_over({_THIS_HOUR} - interval '{{}} hours', now())"
        " WHERE host_id = 'h2'"
    )
    samples = (
        "SELECT sum(probes) FROM host_health"
        f" WHERE host_id = 'h2' AND recorded_at >= {_THIS_HOUR} - interval '{{}} hours'"
    )
    for known in ("all means", "none"):
        for hours in (2, 20, 47, 70):
            stored = await owner.fetchval(samples.format(hours))
            assert await reader.fetchval(probes.format(hours)) == stored, (known, hours)
        await owner.execute("TRUNCATE health_means")


async def test_a_time_whose_samples_are_gone_shows_hours_however_short_it_is(
    reader: Any, owner: Any, month: None
) -> None:
    def over(since: int, until: int) -> str:
        return (
            f"SELECT count(*) FROM health_over({_THIS_HOUR} - interval '{since} hours',"
            f" {_THIS_HOUR} - interval '{until} hours') WHERE host_id = 'h3'"
        )

    assert await reader.fetchval(over(217, 216)) == 2  # their beginnings
    assert await reader.fetchval(over(3, 2)) in (60, 61)
    assert await reader.fetchval(over(100, 60)) == 5 + 13, "a part of it is gone"
    old = "span = 60 AND at < now() - interval '73 hours'"
    await owner.execute(f"DELETE FROM health_means WHERE {old}")
    assert await reader.fetchval(over(100, 60)) > 60, "a lab that is three days old"
    await owner.execute("DELETE FROM host_health")
    assert await reader.fetchval(over(3, 2)) == 2


async def test_no_panel_reads_samples_of_more_than_six_hours(reader: Any, month: None) -> None:
    """A longer range reads those of the hour that is not over, and the means of all others."""
    of_health = [
        (name, one.where.partition(": ")[2])
        for name, board in dashboards().items()
        for one in statements(board)
        if "health" in one.sql
    ]
    assert len(of_health) == 10
    for hours in RANGES.values():
        most = len(HOSTS) * (6 * 60 + 1 if hours == 6 else 61)
        for name, title in of_health:
            query = _query(name, title, hours)
            plan = await reader.fetchval(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {query}")
            assert "health_span" not in plan, "asked for each row"
            nodes = list(_nodes(json.loads(plan)[0]["Plan"]))
            assert all(node["Node Type"] != "Function Scan" for node in nodes), "planned apart"
            assert sum(map(_samples, nodes)) <= most, (title, hours)


def _nodes(plan: Any) -> Iterator[Any]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def _samples(node: Any) -> float:
    if node.get("Relation Name") != "host_health":
        return 0
    rows: float = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    return rows * float(node["Actual Loops"])
