"""What is old goes, and nothing else, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.actors.fake_host import until
from tests.conftest import _EMPTY
from tests.past import BYTES, Campaign, Keep, Past, Present, Run, expected, fetch, present, store
from vpt.actors import lab as lab_module
from vpt.actors.lab import Lab
from vpt.config import Config, ConfigError, from_env
from vpt.dialects.document import DocumentDialect
from vpt.events import Events
from vpt.store import prune
from vpt.store.artifacts import Artifacts, Files
from vpt.store.db import Database, Session
from vpt.store.prune import Ages, Pruned, Pruning, PruningError
from vpt.web.live.replay import Topic, TopicKind, events_after, topic_states

DAY = 86_400.0
#: Days on both sides of each bound, and such that nothing happens at.
DAYS = [0.5, 13.99, 14.01, 100, 364.99, 365.01, 500, 729.99, 730.01, 1000]
EVERYTHING = Past(
    (
        *(Run(days) for days in DAYS),
        *(Run(1000, pinned=True), Run(1000, held=True), Run(None), Run(800, attempts=3)),
    ),
    (
        Campaign(730.01, (Run(731), Run(740, attempts=2))),
        Campaign(729.99, (Run(731), Run(740))),
        Campaign(1000, (Run(1001), Run(1001, pinned=True))),
        Campaign(1000, (Run(None), Run(1001))),
        Campaign(1000, ()),
        Campaign(None, (Run(1000), Run(None))),
    ),
)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "_BATCH", 3)
    monkeypatch.setattr(prune, "_STEPS", 2 * len("abc"))


def pruning(db: Database, folder: Path, keep: Keep = Keep()) -> Pruning:  # noqa: B008 (frozen)
    return Pruning(db, Artifacts(folder), Ages.of(config_of(keep)))


def config_of(keep: Keep) -> Config:
    return Config(
        keep_executions_days=keep.executions,
        keep_steps_days=keep.steps,
        keep_screenshots_days=keep.screenshots,
    )


async def execute(db: Database, sql: str, *args: Any) -> None:
    async with db.session() as session:
        await session._connection.execute(sql, *args)


# ------------------------------------------------------------ what goes


async def test_what_is_old_goes_and_nothing_else(db: Database, tmp_path: Path) -> None:
    await store(db, tmp_path, EVERYTHING)
    foretold = await pruning(db, tmp_path).preview()
    with capture_logs() as logged:
        done = await pruning(db, tmp_path).prune()
    assert done == foretold
    assert await present(db, tmp_path) == expected(EVERYTHING, Keep())
    assert (done.executions, done.campaign_executions) == (2 + 1 + 2, 2)
    assert done.bytes == done.files * BYTES > 0
    (line,) = [line for line in logged if line["event"] == "pruned"]
    assert (line["executions"], line["steps"]) == (done.executions, done.steps)
    assert await pruning(db, tmp_path).prune() == Pruned(), "there is nothing left to do"


async def test_a_preview_changes_nothing(db: Database, tmp_path: Path) -> None:
    await store(db, tmp_path, EVERYTHING)
    before = await present(db, tmp_path), await rows_of(db)
    assert (await pruning(db, tmp_path).preview()).executions > 0
    assert (await present(db, tmp_path), await rows_of(db)) == before


async def rows_of(db: Database) -> list[Any]:
    """Give all rows with what would betray a change or a lock."""
    names = await fetch(db, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return [
        [name, await fetch(db, f"SELECT xmin, xmax, ctid, t::text FROM {name} AS t")]
        for (name,) in names
    ]


RUNS = st.builds(
    Run,
    days=st.none() | st.sampled_from(DAYS) | st.integers(0, 2000).map(lambda n: n + 0.5),
    pinned=st.sampled_from([False, False, False, True]),
    attempts=st.integers(1, 2),
    held=st.sampled_from([False, False, False, True]),
)


@st.composite
def campaigns(draw: st.DrawFn) -> Campaign:
    runs = draw(st.lists(RUNS, max_size=3))
    if draw(st.sampled_from([True, False, False, False])):
        return Campaign(None, tuple(runs))
    days = draw(st.sampled_from(DAYS))
    over = [replace(run, days=days + (run.days or 0) / 10) for run in runs]
    return Campaign(days, tuple(over))


PASTS = st.builds(
    Past, st.lists(RUNS, max_size=8).map(tuple), st.lists(campaigns(), max_size=3).map(tuple)
)
BOUNDS = st.sampled_from([1.0, 14.0, 365.0, 730.0])
KEEPS = st.just(Keep()) | st.builds(Keep, BOUNDS, BOUNDS, BOUNDS)


def test_of_any_past_stays_what_should(shared_dsn: str, tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        db = Database(shared_dsn)
        runner.run(db.open())

        @settings(max_examples=60, deadline=None)
        @given(PASTS, KEEPS)
        def check(past: Past, keep: Keep) -> None:
            runner.run(stays(db, tmp_path, past, keep))

        check()
        runner.run(db.close())


async def stays(db: Database, folder: Path, past: Past, keep: Keep) -> None:
    shutil.rmtree(folder / "screenshots", ignore_errors=True)
    await execute(db, "BEGIN;" + _EMPTY + ";COMMIT")
    await store(db, folder, past)
    effective = Keep(
        min(keep.screenshots, keep.steps, keep.executions),
        min(keep.steps, keep.executions),
        keep.executions,
    )
    foretold = await pruning(db, folder, keep).preview()
    assert await pruning(db, folder, keep).prune() == foretold
    assert await present(db, folder) == expected(past, effective)


async def test_the_age_itself_is_not_older(db: Database) -> None:
    async with db.transaction() as session:  # in which it is always now
        await run_over(session, "exactly", "interval '0'")
        await run_over(session, "older", "interval '1 microsecond'")
        rows = await session.rows(
            "old_executions", pruned="nothing", age_s=14 * DAY, after_at=None, after_id="", limit=9
        )
    assert [row["id"] for row in rows] == ["older"]


async def run_over(session: Session, name: str, before: str) -> None:
    await session._connection.execute(
        "INSERT INTO test_executions (id, test_case_id, test_case_name, test_case_version,"
        " device_model, steps, actions, queue_timeout_s, requested_by, status, completed_at)"
        " VALUES ($1, 't', 't', 1, 'm', '[]', '{a}', 1, 'ann', 'cancelled',"
        f" now() - interval '14 days' - {before})",
        name,
    )


async def test_a_run_of_many_steps_is_a_batch_of_its_own(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "_STEPS", 1)
    await store(db, tmp_path, Past((Run(400), Run(401))))
    sizes = [len(ids) async for ids in prune._old_executions(db, "nothing", 14 * DAY)]
    assert sizes == [1, 1]


async def test_keys_of_requests_go_after_a_day(db: Database, tmp_path: Path) -> None:
    for hours in (23, 25, 26):
        await execute(
            db,
            "INSERT INTO idempotency_keys (user_id, method, path, key, body_hash, execution_id,"
            " created_at) VALUES ('ann', 'POST', '/', $1, '', 'e', now() - $2 * interval '1 h')",
            str(hours),
            float(hours),
        )
    assert (await pruning(db, tmp_path).preview()).idempotency_keys == 2
    assert (await pruning(db, tmp_path).prune()).idempotency_keys == 2
    assert [row["key"] for row in await fetch(db, "SELECT key FROM idempotency_keys")] == ["23"]


async def test_the_audit_goes_at_the_age_of_executions(db: Database, tmp_path: Path) -> None:
    for days in (729, 731, 732):
        await execute(
            db,
            "INSERT INTO audit (id, at, user_id, role, method, route, path, status, peer,"
            " request_id) VALUES ($1, now() - $2 * interval '1 day', 'ann', 'admin', 'PUT', '/',"
            " '/', 200, '', '')",
            str(days),
            float(days),
        )
    assert (await pruning(db, tmp_path).preview()).audit == 2
    assert (await pruning(db, tmp_path).prune()).audit == 2
    assert [row["id"] for row in await fetch(db, "SELECT id FROM audit")] == ["729"]


# ------------------------------------------------------------ what is told of it later


async def test_a_run_without_steps_is_told_of_as_before_but_for_how_they_ended(
    db: Database, tmp_path: Path
) -> None:
    await store(db, tmp_path, Past((Run(400, attempts=3),)))
    topic = Topic(TopicKind.EXECUTION, "e0")
    whole = await events_after(db, topic, 0, 100)
    assert [event.seq for event in whole] == [*range(1, 14)]
    where = await topic_states(db, TopicKind.EXECUTION, ["e0"])
    await pruning(db, tmp_path).prune()
    assert await topic_states(db, TopicKind.EXECUTION, ["e0"]) == where
    blurred = [replace(event, step_status=None, screenshot_url=None) for event in whole]  # type: ignore[call-arg]
    for after in range(15):
        for limit in (1, 2, 5, 100):
            assert await events_after(db, topic, after, limit) == blurred[after:][:limit]


async def test_an_execution_says_what_is_gone(db: Database, tmp_path: Path) -> None:
    await store(db, tmp_path, Past((Run(1), Run(20), Run(400, attempts=2))))
    await pruning(db, tmp_path).prune()
    said = [await item(db, name) for name in ("e0", "e1", "e2")]
    assert [one["pruned"] for one in said] == ["nothing", "screenshots", "steps"]
    assert [len(one["steps"]) for one in said] == [3, 3, 0]
    assert [one["steps"][0]["screenshot_url"] for one in said[:2]] == [
        "/screenshots/e0/1/1.png",
        None,
    ]
    assert [one["total_steps"] for one in said] == [3, 3, 3]
    assert [one["attempt"] for one in said[2]["attempts"]] == [1, 2]
    assert (await item(db, "e2", attempt=1))["steps"] == []


async def item(db: Database, name: str, attempt: int | None = None) -> Any:
    return orjson.loads(await db.value("execution_item", id=name, attempt=attempt))


# ------------------------------------------------------------ who dies in the middle


class KilledError(BaseException):
    """The process is dead."""


class Mortal(Database):
    """Dies at its n-th statement, before or after the server has done it."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.die_at = 0
        self.done_first = False
        self.statements = 0

    async def _run(self, method: str, name: str, args: Any) -> Any:
        with self._risk() as last:
            if last and not self.done_first:
                raise KilledError
            result = await super()._run(method, name, args)
            if last:
                raise KilledError
            return result

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        with self._risk() as last:
            async with super().transaction() as session:
                yield session
                if last and not self.done_first:
                    raise KilledError
            if last:
                raise KilledError

    def _risk(self) -> Any:
        self.statements += 1
        if self.die_at and self.statements > self.die_at:
            raise KilledError
        return nullcontext(self.statements == self.die_at)


async def left_whole(db: Database, folder: Path) -> Present:
    """See that nothing dangles: a link has its file, a file its link or a note."""
    now = await present(db, folder)
    runs = await fetch(
        db,
        "SELECT execution_id, count(*) AS attempts FROM execution_attempts GROUP BY execution_id",
    )
    for name, attempts in [tuple(row) for row in runs]:
        gone, steps, links = now.executions[name]
        assert steps == (0 if gone == "steps" else 3 * attempts)
        assert links == (attempts if gone == "nothing" else 0)
        assert links <= now.files.get(name, 0), "no link dangles"
    for name in now.files:
        linked = name in now.executions and now.executions[name][2]
        assert linked or name in now.noted, "no file is forgotten"
    return now


SMALL = Past(
    (Run(20, attempts=2), Run(21), Run(22), Run(400), Run(800), Run(1000, pinned=True)),
    (Campaign(800, (Run(801), Run(802))),),
)


async def test_whoever_dies_leaves_all_whole_and_the_next_one_goes_on(
    dsn: str, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "_SLICE", 60)  # the same statements each time
    mortal = Mortal(dsn)
    await mortal.open()
    try:
        await lives_and_deaths(mortal, db, tmp_path)
    finally:
        await mortal.close()


async def lives_and_deaths(mortal: Mortal, db: Database, folder: Path) -> None:
    await begin_anew(mortal, db, folder)
    await pruning(mortal, folder).prune()
    last = mortal.statements
    assert last > 20
    for moment in range(1, last + 1):
        for done_first in (False, True):
            await begin_anew(mortal, db, folder)
            mortal.die_at, mortal.done_first = moment, done_first
            with pytest.raises(KilledError):
                await pruning(mortal, folder).prune()
            await left_whole(db, folder)
            await execute(db, "UPDATE pruner SET expires_at = now()")  # as time does
            await pruning(db, folder).prune()
            assert await present(db, folder) == expected(SMALL, Keep()), moment


async def begin_anew(mortal: Mortal, db: Database, folder: Path) -> None:
    shutil.rmtree(folder / "screenshots", ignore_errors=True)
    await execute(db, "BEGIN;" + _EMPTY + ";COMMIT")
    await store(db, folder, SMALL)
    mortal.die_at = mortal.statements = 0


class Weak(Artifacts):
    """Dies while it removes files."""

    async def remove(self, execution_ids: Iterable[str]) -> Files:
        await super().remove([*execution_ids][:1])
        raise KilledError


async def test_files_that_were_not_removed_go_in_the_next_round(
    db: Database, tmp_path: Path
) -> None:
    await store(db, tmp_path, SMALL)
    with pytest.raises(KilledError):
        await Pruning(db, Weak(tmp_path), Ages.of(Config())).prune()
    seen = await left_whole(db, tmp_path)
    assert any(name in seen.files for name in seen.noted)
    with capture_logs() as logged:
        foretold = await pruning(db, tmp_path).preview()
        await pruning(db, tmp_path).prune_daily()  # not only in a day: that one was broken off
    (line,) = [line for line in logged if line["event"] == "pruned"]
    assert line["files"] == foretold.files
    assert await present(db, tmp_path) == expected(SMALL, Keep())


async def test_a_file_that_the_disk_keeps_stops_nothing_else(db: Database, tmp_path: Path) -> None:
    await store(db, tmp_path, SMALL)
    stubborn = tmp_path / "screenshots" / "e1" / "a folder"
    stubborn.mkdir()
    with capture_logs() as logged:
        await pruning(db, tmp_path).prune()
    (line,) = [line for line in logged if line["event"] == "screenshots_not_removed"]
    assert line["executions"] == 1
    now = await present(db, tmp_path)
    assert (now.noted, set(now.files)) == ({"e1"}, {"e1", "e5"})
    shutil.rmtree(stubborn)
    await pruning(db, tmp_path).prune()
    assert await present(db, tmp_path) == expected(SMALL, Keep())


# ------------------------------------------------------------ who comes in between


class Interrupted(Database):
    """Lets the test do something between a statement and the next."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.after: dict[str, Callable[[], Awaitable[None]]] = {}

    async def rows(self, name: str, /, **args: Any) -> list[Any]:
        rows = await super().rows(name, **args)
        if rows and (happens := self.after.pop(f"{name} {args.get('pruned', '')}".strip(), None)):
            await happens()
        return rows


@pytest.mark.parametrize(
    ("moment", "gone"),
    [
        ("old_executions nothing", "nothing"),
        ("old_executions screenshots", "screenshots"),
        ("old_executions steps", "steps"),
    ],
)
async def test_who_is_pinned_at_the_last_moment_stays(
    dsn: str, db: Database, tmp_path: Path, moment: str, gone: str
) -> None:
    await store(db, tmp_path, Past((Run(1000), Run(1000))))
    interrupted = Interrupted(dsn)
    await interrupted.open()

    async def pin() -> None:
        await db.row("pin_execution", id="e0", pinned=True)

    interrupted.after[moment] = pin
    await pruning(interrupted, tmp_path).prune()
    await interrupted.close()
    assert {name: row[0] for name, row in (await present(db, tmp_path)).executions.items()} == {
        "e0": gone
    }
    await db.row("pin_execution", id="e0", pinned=False)
    await pruning(db, tmp_path).prune()
    assert await present(db, tmp_path) == Present()


async def test_a_pin_at_the_last_moment_keeps_the_whole_campaign_execution(
    dsn: str, db: Database, tmp_path: Path
) -> None:
    await store(db, tmp_path, Past((), (Campaign(1000, (Run(1000), Run(1000))),)))
    interrupted = Interrupted(dsn)
    await interrupted.open()

    async def pin() -> None:
        await db.row("pin_execution", id="c0e0", pinned=True)

    interrupted.after["old_campaigns"] = pin
    await pruning(interrupted, tmp_path).prune()
    await interrupted.close()
    now = await present(db, tmp_path)
    assert (set(now.executions), now.campaigns) == ({"c0e0", "c0e1"}, {"c0"})
    results = await fetch(db, "SELECT execution_id FROM campaign_results ORDER BY position")
    assert [row[0] for row in results] == ["c0e0", "c0e1"]


async def test_who_is_let_go_in_the_middle_of_a_round_goes_in_the_next_one(
    dsn: str, db: Database, tmp_path: Path
) -> None:
    past = Past((Run(500),), (Campaign(1000, (Run(1000, pinned=True), Run(1000))),))
    await store(db, tmp_path, past)
    interrupted = Interrupted(dsn)
    await interrupted.open()

    async def unpin() -> None:
        await db.row("pin_execution", id="c0e0", pinned=False)

    interrupted.after["old_executions screenshots"] = unpin
    await pruning(interrupted, tmp_path).prune()
    await interrupted.close()
    now = await left_whole(db, tmp_path)
    assert (set(now.files), now.campaigns) == ({"c0e0"}, {"c0"})
    await pruning(db, tmp_path).prune()
    assert (await present(db, tmp_path)).campaigns == frozenset()
    assert (await present(db, tmp_path)).files == {}


async def test_two_rounds_never_run_at_once(dsn: str, db: Database, tmp_path: Path) -> None:
    await store(db, tmp_path, SMALL)
    interrupted, began, go_on = Interrupted(dsn), asyncio.Event(), asyncio.Event()
    await interrupted.open()

    async def wait() -> None:
        began.set()
        await go_on.wait()

    interrupted.after["old_executions nothing"] = wait
    first = asyncio.create_task(pruning(interrupted, tmp_path).prune())
    await began.wait()
    with pytest.raises(PruningError):
        await pruning(db, tmp_path).prune()
    await pruning(db, tmp_path).prune_daily()
    await pruning(db, tmp_path).prune_samples()
    assert await db.value("pruned_ago") is None
    go_on.set()
    await first
    await interrupted.close()
    assert await present(db, tmp_path) == expected(SMALL, Keep())
    assert (await db.value("pruned_ago")) < 60
    await pruning(db, tmp_path).prune()  # the turn is free again


async def test_a_round_that_lost_its_turn_ends(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "_SLICE", 0)
    monkeypatch.setattr(prune, "_RENEW", 0)
    async with prune._locked(db) as lock:
        await execute(db, "UPDATE pruner SET id = 'another'")
        with pytest.raises(PruningError):
            await lock.breathe()
    rows = await fetch(db, "SELECT id, expires_at > now(), finished_at FROM pruner")
    assert [tuple(row) for row in rows] == [("another", True, None)]


# ------------------------------------------------------------ by itself


async def test_the_server_prunes_once_a_day(
    config: Config, db: Database, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab_module, "_PRUNE", (0.01, 0.03))
    folder = config.vpt_data_dir
    await store(db, folder, SMALL)
    with capture_logs() as logged:
        async with running(config, db, events):
            await until(lambda: any(line["event"] == "pruned" for line in logged))
            await execute(db, "UPDATE test_executions SET pinned = false")
            await pruning(db, folder).prune_daily()
            assert "e5" in (await present(db, folder)).executions, "it is not a day ago"
            await execute(db, "UPDATE pruner SET finished_at = now() - interval '24 h'")
            await until(lambda: len([x for x in logged if x["event"] == "pruned"]) == 2)
    assert "e5" not in (await present(db, folder)).executions


@asynccontextmanager
async def running(config: Config, db: Database, events: Events) -> AsyncIterator[Lab]:
    dialect = DocumentDialect()
    lab = Lab(config, db, events, dialect)
    await lab.start()
    try:
        yield lab
    finally:
        await lab.stop()
        await dialect.close()


@pytest.mark.parametrize(
    "name", ["EXECUTIONS", "STEPS", "SCREENSHOTS", "SAMPLES", "HOURLY_SAMPLES"]
)
def test_the_settings_are_days(name: str) -> None:
    name = f"KEEP_{name}_DAYS"
    assert getattr(from_env({name: "1.5"}), name.lower()) == 1.5
    for wrong in ("0", "36501", "-1", "nan", "inf", "a week"):
        with pytest.raises(ConfigError, match=f"{name}: expected a number of days"):
            from_env({name: wrong})
