"""`vpt prune`, in processes of its own."""

from __future__ import annotations

import re
from pathlib import Path

from tests.actors.fake_host import until
from tests.past import Keep, Past, Run, expected, fetch, present, store
from tests.system.kit import process
from tests.test_prune import EVERYTHING, left_whole, rows_of
from vpt.store.db import Database


async def prune(folder: Path, dsn: str, *options: str) -> tuple[int, str]:
    """Run it; give its exit code and what it said."""
    command = ("-m", "vpt", "prune", *options)
    async with process(folder, *command, DATABASE_URL=dsn, VPT_DATA_DIR=folder) as one:
        return await one.ended(), one.said()


def figures(said: str) -> dict[str, float]:
    found = re.findall(r"^ *([\d,.]+) (.+)$", said, re.MULTILINE)
    return {name: float(number.replace(",", "")) for number, name in found}


async def test_it_says_what_would_go_and_then_it_goes(
    dsn: str, db: Database, tmp_path: Path
) -> None:
    await store(db, tmp_path, EVERYTHING)
    before = await present(db, tmp_path), await rows_of(db)
    code, foretold = await prune(tmp_path, dsn, "--dry-run")
    assert (code, foretold.splitlines()[0]) == (0, "would go")
    assert (await present(db, tmp_path), await rows_of(db)) == before
    code, said = await prune(tmp_path, dsn)
    assert (code, said.splitlines()[0]) == (0, "gone")
    assert said.splitlines()[1:] == foretold.splitlines()[1:]
    assert await present(db, tmp_path) == expected(EVERYTHING, Keep())
    told = figures(said)
    assert (told["executions"], told["campaign executions"]) == (5, 2)
    assert told["files"] == told["screenshots"] > 0


async def test_a_second_one_is_told_so(dsn: str, db: Database, tmp_path: Path) -> None:
    assert await db.row("take_pruning", id="the server", ttl_s=60)
    code, said = await prune(tmp_path, dsn)
    assert (code, "Another vpt is pruning" in said) == (2, True), said
    await db.row("leave_pruning", id="the server", finished=True)
    assert (await prune(tmp_path, dsn))[0] == 0


async def test_after_a_kill_the_next_one_goes_on(dsn: str, db: Database, tmp_path: Path) -> None:
    past = Past(tuple(Run(1000 + n, pinned=n % 10 == 0) for n in range(2000)))
    await store(db, tmp_path, past)
    command = ("-m", "vpt", "prune")
    async with process(tmp_path, *command, DATABASE_URL=dsn, VPT_DATA_DIR=tmp_path) as one:
        await until(lambda: begun(db))
        await one.kill()
    assert len((await left_whole(db, tmp_path)).executions) > 200
    code, said = await prune(tmp_path, dsn)
    assert (code, "Another vpt is pruning" in said) == (2, True), "its turn is not over yet"
    async with db.session() as session:  # as two minutes do
        await session._connection.execute("UPDATE pruner SET expires_at = now()")
    assert (await prune(tmp_path, dsn))[0] == 0
    assert await present(db, tmp_path) == expected(past, Keep())


async def begun(db: Database) -> bool:
    return bool(await fetch(db, "SELECT FROM test_executions WHERE pruned <> 'nothing' LIMIT 1"))
