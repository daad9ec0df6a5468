"""The size of the history of a lab, and the cost of a daily pruning round under load.

What the round finds: a day of samples that go and a day that has no means yet, a day of executions
whose screenshots go, another one whose steps go, and a third one that goes whole.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import asyncpg
import structlog
from seed import fill_executions, fill_hosts, fill_samples

from vpt import embedded
from vpt.config import Config
from vpt.store.artifacts import Artifacts, Files
from vpt.store.db import Database, Session
from vpt.store.migrations import migrate
from vpt.store.prune import Ages, Pruning

GOAL = 10.0  # seconds of a round
PICTURE = bytes(4096)
TABLES = (
    *("host_health", "health_means", "test_executions", "execution_attempts"),
    *("execution_steps", "campaign_executions", "campaign_results"),
)


class Timed(Database):
    """Records the duration of each statement and transaction, in seconds."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.took: dict[str, list[float]] = {}

    async def _run(self, method: str, name: str, args: Any) -> Any:
        began = time.perf_counter()
        try:
            return await super()._run(method, name, args)
        finally:
            self.took.setdefault(name, []).append(time.perf_counter() - began)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        began = time.perf_counter()
        async with super().transaction() as session:
            yield session
        self.took.setdefault("a transaction", []).append(time.perf_counter() - began)


class TimedArtifacts(Artifacts):
    """Records the duration of disk operations, in seconds."""

    def __init__(self, data_dir: Path, took: dict[str, list[float]]) -> None:
        super().__init__(data_dir)
        self._took = took

    async def remove(self, execution_ids: Iterable[str]) -> Files:
        began = time.perf_counter()
        files = await super().remove(execution_ids)
        self._took.setdefault("files", []).append(time.perf_counter() - began)
        return files

    async def sync(self) -> None:
        began = time.perf_counter()
        await super().sync()
        self._took.setdefault("sync", []).append(time.perf_counter() - began)


class Worker:
    """Concurrent load: updates of a host and of a recent execution, again and again."""

    def __init__(self, db: Database, execution_id: str) -> None:
        self._db = db
        self._execution_id = execution_id
        self.took: list[float] = []

    async def work(self) -> None:
        """Run until cancelled."""
        while True:
            began = time.perf_counter()
            await self._db.row("store_seen", host_ids=["lab-001"])
            await self._db.row("pin_execution", id=self._execution_id, pinned=False)
            self.took.append(time.perf_counter() - began)
            await asyncio.sleep(0.02)

    def say(self, when: str) -> None:
        """Print the durations of the two statements."""
        took = sorted(self.took)
        p50, p99, most = (1000 * took[int(len(took) * share)] for share in (0.5, 0.99, 0.99999))
        print(f"two small writes {when}: p50 {p50:.1f} ms, p99 {p99:.1f}, the longest {most:.1f}")
        self.took = []


async def fill(dsn: str, folder: Path, options: argparse.Namespace) -> None:
    """Create the history that a server which pruned daily until yesterday would have."""
    connection = await asyncpg.connect(dsn)
    a_day = options.executions
    try:
        await fill_hosts(connection, options.hosts)
        await fill_samples(connection, days=options.days, raw_days=8)
        await connection.execute(_A_DAY_WITHOUT)
        await fill_executions(connection, a_day=a_day, days=1, until=730, pruned="steps")
        await fill_executions(connection, a_day=a_day, days=1, until=365, pruned="screenshots")
        older = max(0, options.days - 15)
        await fill_executions(connection, a_day=a_day, days=older, until=15, pruned="screenshots")
        await fill_executions(connection, a_day=a_day, days=min(15, options.days))
        await connection.execute("VACUUM ANALYZE")
        rows = await connection.fetch(_UNLINKED)
    finally:
        await connection.close()
    await asyncio.to_thread(_draw, folder / "screenshots", rows)


def _draw(folder: Path, rows: list[Any]) -> None:
    folder.mkdir()
    for execution_id, attempt, step in rows:
        (folder / execution_id).mkdir(exist_ok=True)
        (folder / execution_id / f"{attempt}-{step}.png").write_bytes(PICTURE)


async def say_sizes(db: Database, when: str) -> None:
    """Print the number of rows and the size of each table."""
    print(f"\n{when:24}{'rows':>12}{'MB':>9}{'indexes MB':>12}")
    async with db.session() as session:
        for table in TABLES:
            row = await session._connection.fetchrow(_SIZE.format(table=table))  # noqa: SLF001
            print(f"{table:24}{row['rows']:12,}{row['mb']:9,.0f}{row['indexes']:12,.0f}")


async def measure(dsn: str, folder: Path) -> None:
    """Prune one day under concurrent load."""
    db, other = Timed(dsn), Database(dsn)
    await db.open()
    await other.open()
    await say_sizes(other, "before")
    worker = Worker(other, await _youngest(other))
    task = asyncio.create_task(worker.work())
    await asyncio.sleep(3)
    print()
    worker.say("beside nothing")
    pruning = Pruning(db, TimedArtifacts(folder, db.took), Ages.of(Config()))
    began = time.perf_counter()
    foretold = await pruning.preview()
    preview_s = time.perf_counter() - began
    db.took.clear()
    began = time.perf_counter()
    done = await pruning.prune()
    seconds = time.perf_counter() - began
    worker.say("beside the round")
    task.cancel()
    print(f"\n{'':22}{'foretold':>14}{'gone':>14}")
    for what, many in asdict(foretold).items():
        print(f"{what:22}{many:14,}{getattr(done, what):14,}")
    print()
    for name, took in sorted(db.took.items(), key=lambda one: -sum(one[1]))[:8]:
        print(f"{name:26}{len(took):6} times{sum(took):8.2f} s, longest {max(took):.3f} s")
    await say_sizes(other, "after")
    await db.close()
    await other.close()
    verdict = "reached" if seconds <= GOAL else "NOT REACHED"
    print(f"\na round: {seconds:.1f} s   (at most {GOAL:.0f}: {verdict})")
    print(f"its preview: {preview_s:.1f} s")


async def _youngest(db: Database) -> str:
    async with db.session() as session:
        return str(await session._connection.fetchval(_YOUNGEST))  # noqa: SLF001


_A_DAY_WITHOUT = "DELETE FROM health_means WHERE at >= now() - interval '1 day'"
_YOUNGEST = "SELECT id FROM test_executions ORDER BY created_at DESC LIMIT 1"
_UNLINKED = """
SELECT s.execution_id, s.attempt, s.step
FROM test_executions e
JOIN execution_steps s ON s.execution_id = e.id
WHERE s.screenshot IS NOT NULL AND e.completed_at < now() - interval '14 days'
"""
_SIZE = """
SELECT (SELECT count(*) FROM {table}) AS rows, pg_total_relation_size('{table}') / 1e6 AS mb,
    pg_indexes_size('{table}') / 1e6 AS indexes
"""


async def run(options: argparse.Namespace) -> None:
    """Start PostgreSQL, fill it, measure, end it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    folder = _folder()
    try:
        server = await embedded.start(folder / "data")
        try:
            await migrate(server.dsn)
            began = time.perf_counter()
            await fill(server.dsn, folder, options)
            print(f"filled in {time.perf_counter() - began:.0f} s", flush=True)
            await measure(server.dsn, folder)
        finally:
            await server.stop()
    finally:
        shutil.rmtree(folder)


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="vpt-bench-"))
    folder.chmod(0o711)  # as root PostgreSQL runs as another user
    return folder


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(prog="bench/prune", description=__doc__)
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--days", type=int, default=30, help="of samples and executions (30)")
    parser.add_argument("--executions", type=int, default=10_000, help="a day (10000)")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
