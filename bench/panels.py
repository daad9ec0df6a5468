"""The panels: how long every query of Grafana takes on the history of a lab, with its role.

What the queries are and how Grafana fills them in is taken from the tests (tests/grafana/kit.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import seed
import structlog

from tests.grafana.kit import (
    Statement,
    dashboards,
    expanded,
    last_day,
    rules,
    statements,
    with_variables,
)
from vpt import embedded
from vpt.config import Config
from vpt.store.grafana_role import ROLE, prepare
from vpt.store.migrations import migrate

RANGES = {
    "6 h": timedelta(hours=6),
    "24 h": timedelta(days=1),
    "7 d": timedelta(days=7),
    "30 d": timedelta(days=30),
}
AT_ONCE = 10  # connections of Grafana's datasource
WIDTH = 52
_SIZES = """
SELECT name, to_char(count, '999,999,999') AS rows, pg_size_pretty(pg_total_relation_size(name))
FROM (
    SELECT 'host_health' AS name, count(*) FROM host_health
    UNION ALL SELECT 'health_means', count(*) FROM health_means
    UNION ALL SELECT 'test_executions', count(*) FROM test_executions
    UNION ALL SELECT 'execution_steps', count(*) FROM execution_steps
) AS one
"""


@dataclass
class Figures:
    """The measurements: milliseconds and number of rows, by query and range."""

    rounds: int
    limit: float
    slow: list[str] = field(default_factory=list)

    async def row(self, pool: Any, where: str, sqls: list[str]) -> None:
        """Measure a query once for each range, print it, and record it if it is too slow."""
        cells, rows = [], 0
        for sql in sqls:
            times = []
            for _ in range(self.rounds):
                began = time.perf_counter()
                rows = len(await pool.fetch(sql))
                times.append(1000 * (time.perf_counter() - began))
            cells.append(median(times))
        print(_line(where, cells) + f"{rows:10,}")
        if max(cells) > self.limit:
            self.slow.append(where)


def _line(where: str, cells: list[float]) -> str:
    return f"{where:{WIDTH}}" + "".join(f"{cell:8.0f}" for cell in cells).ljust(8 * len(RANGES))


async def _dashboard(pool: Any, board: Any, figures: Figures) -> None:
    values: dict[str, list[str]] = {}
    for variable in board["templating"]["list"]:
        sql = with_variables(variable["query"], values)
        values[variable["name"]] = [row[-1] for row in await pool.fetch(sql)]
        await figures.row(pool, f"{board['uid']}: ${variable['name']}", [sql])
    for statement in statements(board):
        await figures.row(pool, statement.where, _over_ranges(statement, values))
    whole = []
    for number in range(len(RANGES)):
        began = time.perf_counter()
        sqls = [_over_ranges(statement, values)[number] for statement in statements(board)]
        await asyncio.gather(*map(pool.fetch, sqls))
        whole.append(1000 * (time.perf_counter() - began))
    print(_line(f"{board['uid']}, all at once", whole))


def _over_ranges(statement: Statement, values: dict[str, list[str]]) -> list[str]:
    sql = with_variables(statement.sql, values)
    return [expanded(sql, statement.over(range_)) for range_ in RANGES.values()]


async def measure(pool: Any, options: argparse.Namespace) -> list[str]:
    """Print all measurements; return the queries that exceeded the limit."""
    for row in await pool.fetch(_SIZES):
        print(f"{row[0]:20}{row[1]} rows, {row[2]}")
    figures = Figures(options.rounds, options.limit)
    print(f"\n{'milliseconds, median of ' + str(options.rounds):{WIDTH}}", end="")
    print("".join(f"{name:>8}" for name in RANGES) + f"{'rows':>10}")
    for board in dashboards().values():
        await _dashboard(pool, board, figures)
    for rule in rules():
        sql = expanded(rule["data"][0]["model"]["rawSql"], last_day())
        await figures.row(pool, f"rule {rule['uid']}", [sql])
    return figures.slow


@contextlib.asynccontextmanager
async def lab_of(options: argparse.Namespace) -> AsyncIterator[Any]:
    """Yield connections with the role of Grafana to a database that was made for it."""
    folder = _folder()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = await embedded.start(folder / "data")
        stack.push_async_callback(server.stop)
        await migrate(server.dsn)
        await _fill(server.dsn, options)
        password = secrets.token_urlsafe(16)
        if not await prepare(server.dsn, Config(vpt_grafana_db_password=password)):
            raise RuntimeError(f"the role {ROLE} could not be made")
        yield await stack.enter_async_context(
            asyncpg.create_pool(server.dsn, user=ROLE, password=password, max_size=AT_ONCE)
        )


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="vpt-bench-"))
    folder.chmod(0o711)  # as root PostgreSQL runs as another user
    return folder


async def _fill(dsn: str, options: argparse.Namespace) -> None:
    began = time.perf_counter()
    connection = await asyncpg.connect(dsn)
    try:
        await seed.fill_hosts(connection, options.hosts)
        await seed.fill_samples(connection, days=options.days)
        await seed.fill_executions(connection, a_day=options.executions, days=options.days)
    finally:
        await connection.close()
    print(
        f"{options.hosts} hosts, {options.days} days: made in {time.perf_counter() - began:.0f} s"
    )


async def run(options: argparse.Namespace) -> int:
    """Measure; 0 when no query takes longer than the limit, else 1."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    given = asyncpg.create_pool(options.dsn, max_size=AT_ONCE) if options.dsn else None
    async with given or lab_of(options) as pool:
        slow = await measure(pool, options)
    for where in slow:
        print(f"over {options.limit:g} ms: {where}")
    if not slow:
        print(f"no query took {options.limit:g} ms")
    return bool(slow)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/panels", description=__doc__)
    parser.add_argument("--hosts", type=int, default=200, help="(200)")
    parser.add_argument("--days", type=int, default=30, help="of samples and executions (30)")
    parser.add_argument("--executions", type=int, default=3000, help="a day, of ten steps (3000)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts (3)")
    parser.add_argument("--limit", type=float, default=500, help="milliseconds (500)")
    parser.add_argument("--dsn", help="look at this database, as whom the DSN names, and make none")
    return parser.parse_args()


def main() -> int:
    """Run and return: 0 fast enough, 1 too slow, 2 an error, 130 interrupted."""
    try:
        return asyncio.run(run(_options()))
    except KeyboardInterrupt:
        return 130
    except (OSError, RuntimeError, asyncpg.PostgresError, embedded.EmbeddedError) as error:
        print(f"THE BENCH FAILED: {type(error).__name__}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
