"""Every query of the dashboards, expanded as Grafana does and run as the role that may read."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.grafana.kit import (
    Statement,
    dashboards,
    expanded,
    interval_of,
    last_day,
    seconds_of,
    statements,
    with_variables,
)

SEED = (Path(__file__).parent / "seed.sql").read_text(encoding="utf-8")
BOARDS = dashboards()


async def values_of(reader: Any, board: Any) -> dict[str, list[str]]:
    """Give all values of a dashboard's variables, as Grafana does for All."""
    values: dict[str, list[str]] = {}
    for variable in board["templating"]["list"]:
        rows = await reader.fetch(with_variables(variable["query"], values))
        values[variable["name"]] = [row[-1] for row in rows]
    return values


async def rows_of(reader: Any, statement: Statement, values: dict[str, list[str]]) -> list[Any]:
    """Run one query; a time series has its own rules."""
    sql = expanded(with_variables(statement.sql, values), last_day())
    try:
        rows = list(await reader.fetch(sql))
    except asyncpg.PostgresError as error:
        raise AssertionError(f"{statement.where}: {error}: {sql}") from error
    columns = (await reader.prepare(sql)).get_attributes()
    naive = [one.name for one in columns if one.type.name in ("timestamp", "date")]
    assert not naive, f"{statement.where}: {naive} have no zone"
    if statement.format == "time_series":
        names = [one.name for one in columns]
        assert names[0] == "time", f"{statement.where}: Found no column named time"
        times = [row["time"] for row in rows]
        assert None not in times, statement.where
        assert times == sorted(times), f"{statement.where}: not in order"
    return rows


@pytest.mark.parametrize(
    ("sql", "form", "complaint"),
    [
        ("SELECT count(*) FROM test_execution", "table", "does not exist"),
        ("SELECT finished_at FROM test_executions", "table", "does not exist"),
        ("SELECT created_at AT TIME ZONE 'UTC' FROM test_executions", "table", "have no zone"),
        ("SELECT sealed_secret FROM hosts", "table", "permission denied"),
        ("SELECT 1 FROM hosts WHERE id IN (${host:sqlstring})", "table", "syntax error"),
        ("SELECT count(*) FROM hosts", "time_series", "no column named time"),
        ("SELECT t AS time FROM generate_series(2, 1, -1) AS t", "time_series", "not in order"),
    ],
)
async def test_a_wrong_query_is_caught(sql: str, form: str, complaint: str, reader: Any) -> None:
    with pytest.raises(AssertionError, match=complaint):
        await rows_of(reader, Statement("a copy", sql, form), {"host": []})


async def test_moments_have_a_zone(owner: Any) -> None:
    naive = await owner.fetch(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = 'public' AND data_type = 'timestamp without time zone'"
    )
    assert naive == []


@pytest.mark.parametrize("name", BOARDS)
async def test_every_query_holds_on_an_empty_database(name: str, reader: Any) -> None:
    values = await values_of(reader, BOARDS[name])
    for statement in statements(BOARDS[name]):
        for row in await rows_of(reader, statement, values):
            says = _no_value(BOARDS[name], statement)
            assert says or None not in row.values(), f"{statement.where}: NULL, and nothing said"


def _no_value(board: Any, statement: Statement) -> str | None:
    for panel in board["panels"]:
        if f"{board['uid']}: {panel['title']}" == statement.where:
            return panel["fieldConfig"]["defaults"].get("noValue")
    return None


@pytest.mark.parametrize("name", BOARDS)
async def test_every_query_shows_something_of_a_lab(name: str, reader: Any, owner: Any) -> None:
    await owner.execute(SEED)
    values = await values_of(reader, BOARDS[name])
    empty = [
        statement.where
        for statement in statements(BOARDS[name])
        if not await rows_of(reader, statement, values)
    ]
    assert empty == []


async def shown(reader: Any, board: str, title: str) -> list[tuple[Any, ...]]:
    """Give what one panel shows."""
    values = await values_of(reader, BOARDS[board])
    (statement,) = (
        s for s in statements(BOARDS[board]) if s.where == f"{BOARDS[board]['uid']}: {title}"
    )
    return [tuple(row) for row in await rows_of(reader, statement, values)]


async def test_the_panels_say_what_is_so(reader: Any, owner: Any) -> None:
    await owner.execute(SEED)
    ((rate,),) = await shown(reader, "overview", "Test Success Rate")
    assert float(rate) == pytest.approx(100 * 126 / 133, abs=0.5)  # 7 errors are not counted
    assert await shown(reader, "overview", "Hosts up") == [(2,)]
    assert await shown(reader, "overview", "Failures") == [(7,)]
    assert await shown(reader, "overview", "Infrastructure errors") == [(7,)]
    assert float((await shown(reader, "overview", "Median duration"))[0][0]) == 90
    assert (await shown(reader, "hosts", "Hosts"))[0][:2] == ("pi-1", "available")
    assert [row[4:] for row in await shown(reader, "campaigns", "Last run of each campaign")]
    # 35 runs of 90 s each in a day
    used = dict(await shown(reader, "devices", "In use"))
    assert used["pi-1-1"] == pytest.approx(100 * 35 * 90 / 86400, rel=0.1)
    passed = float((await shown(reader, "campaigns", "All green"))[0][0])
    assert passed == 100


async def test_the_documents_own_overview_query_holds(reader: Any, owner: Any) -> None:
    await owner.execute(SEED)
    rate = await reader.fetchval(
        "SELECT COUNT(CASE WHEN status = 'completed' THEN 1 END)::numeric"
        " / NULLIF(COUNT(*), 0) * 100 FROM test_executions"
        " WHERE created_at >= NOW() - INTERVAL '24 hours'"
    )
    assert float(rate) == 90


async def test_devices_in_use_are_those_of_each_moment(reader: Any, owner: Any) -> None:
    await owner.execute(SEED)
    await owner.execute(
        "UPDATE execution_attempts SET started_at = started_at - interval '23 hours 55 minutes'"
        " WHERE execution_id = 'e1';"  # from before the range until within it
        "UPDATE execution_attempts SET status = 'running', completed_at = NULL, released_at = NULL"
        " WHERE execution_id = 'e3'"
    )
    used = await shown(reader, "devices", "Devices in use")
    counted = [
        await owner.fetchval(
            "SELECT count(*) FROM execution_attempts WHERE started_at <= $1"
            " AND coalesce(released_at, 'infinity') > $1",
            moment,
        )
        for moment, _ in used
    ]
    assert [devices for _, devices in used] == counted
    assert len(counted) == 121
    assert len(set(counted)) > 1


async def test_links_lead_to_the_page_that_the_server_named(reader: Any) -> None:
    assert (await values_of(reader, BOARDS["overview"]))["vpt_url"] == ["https://vpt.example"]


@pytest.mark.parametrize(
    ("hours", "points", "least", "interval"),
    [
        (6, 1900, 10, "10s"),
        (6, 150, 60, "2m"),
        (24, 950, 10, "2m"),
        (24, 150, 60, "10m"),
        (168, 150, 60, "1h"),
        (720, 150, 60, "6h"),
        (720, 20, 60, "1d"),
        (1, 150, 300, "5m"),
    ],
)
def test_an_interval_is_what_grafana_makes_of_range_and_points(
    hours: int, points: int, least: int, interval: str
) -> None:
    assert interval_of(hours * 3600, points, least) == interval
    statement = Statement("a panel", "", points=points, least=least)
    assert statement.over(timedelta(hours=hours)).interval == interval


def test_macros_become_what_grafana_makes_of_them() -> None:
    span = last_day()
    assert expanded("$__timeGroupAlias(a.b,$__interval)", span) == (
        'floor(extract(epoch from a.b)/300)*300 AS "time"'
    )
    assert expanded("$__timeGroup(x,'1h30m')", span) == "floor(extract(epoch from x)/5400)*5400"
    assert expanded("$__interval_ms", span) == "300000"
    assert expanded("$__timeFrom()", span).endswith("Z'")
    with pytest.raises(ValueError, match="unknown macro"):
        expanded("$__timeFilters(x)", span)
    with pytest.raises(ValueError, match="error parsing interval"):
        seconds_of("300")
