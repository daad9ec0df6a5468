"""Pruning: old data is deleted in small statements, so that others do not wait.

Of an execution the screenshots are deleted first, then the steps, then the row, each at its age.
Each of these is one statement, so after a crash an execution is as before or as it is to be, and
the next round goes on. What is pinned or not final is never deleted.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

import structlog

from vpt.config import Config
from vpt.errors import DatabaseAwayError
from vpt.store.artifacts import Artifacts, Files
from vpt.store.db import Database
from vpt.store.locks import holders_of, in_words
from vpt.store.retention import count_old_samples, prune_samples

log = structlog.get_logger(__name__)

_DAY = 86_400.0  # seconds
_TTL = 120.0  # seconds after which another round may begin when one died
_SLICE = 0.05  # seconds of work before a rest
_REST = 0.125  # length of a rest, as a part of the work before it
_RENEW = 5.0  # seconds between renewals of the lock
_BATCH = 200  # executions of one statement
_STEPS = 5000  # of all executions of one statement, unless it has only one
_SYNC = 10_000  # executions whose files are removed between two waits for the disk
_KEYS = 5000  # idempotency keys of one statement (sql/idempotency.sql); audit entries


class PruningError(Exception):
    """Another vpt is pruning this database: try again later."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many rows were deleted, or would be; `files` and `bytes` are those of screenshots."""

    executions: int = 0
    campaign_executions: int = 0
    steps: int = 0
    screenshots: int = 0
    files: int = 0
    bytes: int = 0
    sample_hours: int = 0
    samples_dropped: int = 0
    idempotency_keys: int = 0
    audit: int = 0


@dataclass(frozen=True, slots=True)
class Ages:
    """The ages (s) of deletion; screenshots go with their steps, steps with their executions."""

    executions: float
    steps: float
    screenshots: float
    samples: float
    hourly_samples: float

    @classmethod
    def of(cls, config: Config) -> Ages:
        """Return the ages that the settings say."""
        executions = config.keep_executions_days
        steps = min(config.keep_steps_days, executions)
        screenshots = min(config.keep_screenshots_days, steps)
        samples = (config.keep_samples_days, config.keep_hourly_samples_days)
        return cls(*(days * _DAY for days in (executions, steps, screenshots, *samples)))


class Pruning:
    """Prunes a database and a folder of screenshots, one round at a time in all processes."""

    def __init__(self, db: Database, artifacts: Artifacts, ages: Ages) -> None:
        self._db = db
        self._artifacts = artifacts
        self._ages = ages

    async def prune(self) -> Pruned:
        """Delete what is old. Raises PruningError while another round goes on."""
        began = time.monotonic()
        async with _locked(self._db) as lock:
            done = await _Round(self._db, self._artifacts, self._ages, lock).prune()
            lock.finished = True
        seconds = round(time.monotonic() - began, 1)
        log.info("pruned", seconds=seconds, **asdict(done))
        return done

    async def prune_daily(self) -> None:
        """Prune when the last complete round ended a day ago, or was interrupted."""
        ago: float | None = await self._db.value("pruned_ago")
        if ago is None or ago >= _DAY:
            with suppress(PruningError):
                await self.prune()

    async def prune_samples(self) -> None:
        """Prune samples only, unless a round is under way."""
        with suppress(PruningError):
            async with _locked(self._db) as lock:
                ages = (self._ages.samples, self._ages.hourly_samples)
                await prune_samples(self._db, *ages, lock.breathe)

    async def preview(self) -> Pruned:
        """Return what `prune` would delete now."""
        return await _Preview(self._db, self._artifacts, self._ages).count()


# ------------------------------------------------------------ one at a time


class _Lock:
    """The lock on pruning, a row that is renewed; it expires when its holder dies."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._id = f"{db.name}/{uuid4().hex}"  # by which others find our sessions
        self._since = self._taken = time.monotonic()
        self.finished = False

    async def take(self) -> None:
        """Acquire or renew the lock; PruningError when another process has it."""
        if await self._db.row("take_pruning", id=self._id, ttl_s=_TTL) is None:
            holders = holders_of(await self._db.rows("pruning_holders"))
            raise PruningError(f"{PruningError.__doc__} It is {in_words(holders)}.")
        self._taken = time.monotonic()

    async def breathe(self) -> None:
        """Rest when there was enough work, and keep the lock."""
        took = time.monotonic() - self._since
        if took < _SLICE:
            return
        await asyncio.sleep(_REST * took)
        if time.monotonic() - self._taken >= _RENEW:
            await self.take()
        self._since = time.monotonic()

    async def release(self) -> None:
        """Release the lock, and store whether the round was complete."""
        await self._db.row("leave_pruning", id=self._id, finished=self.finished)


@asynccontextmanager
async def _locked(db: Database) -> AsyncIterator[_Lock]:
    lock = _Lock(db)
    await lock.take()
    try:
        yield lock
    finally:
        with suppress(DatabaseAwayError):
            await lock.release()


# ------------------------------------------------------------ a round


async def _old_executions(db: Database, pruned: str, age_s: float) -> AsyncIterator[list[str]]:
    """Yield batches of ids of executions that are so old and pruned so far, oldest first."""
    at, after = None, ""
    while True:
        rows = await db.rows(
            "old_executions",
            pruned=pruned,
            age_s=age_s,
            after_at=at,
            after_id=after,
            limit=_BATCH,
        )
        if not rows:
            return
        some = rows[: _fitting(rows)]
        yield [row["id"] for row in some]
        at, after = some[-1]["completed_at"], some[-1]["id"]


def _fitting(rows: Sequence[Any]) -> int:
    """Return how many of the rows have at most _STEPS steps together; at least one."""
    steps = 0
    for number, row in enumerate(rows):
        steps += row["steps"]
        if steps > _STEPS:
            return max(1, number)
    return len(rows)


async def _old_campaigns(db: Database, age_s: float) -> AsyncIterator[str]:
    """Yield campaign executions that are so old and have nothing pinned, oldest first."""
    at, after = None, ""
    while rows := await db.rows(
        "old_campaigns", age_s=age_s, after_at=at, after_id=after, limit=_BATCH
    ):
        for row in rows:
            yield row["id"]
        at, after = rows[-1]["completed_at"], rows[-1]["id"]


class _Round:
    """One pass over all that is old."""

    def __init__(self, db: Database, artifacts: Artifacts, ages: Ages, lock: _Lock) -> None:
        self._db = db
        self._artifacts = artifacts
        self._ages = ages
        self._lock = lock
        self._done: Counter[str] = Counter()
        self._removed: list[
            str
        ] = []  # executions whose files are removed and still listed for removal

    async def prune(self) -> Pruned:
        """Delete all that is due, first what an interrupted round left."""
        await self._finish()
        await self._screenshots()
        await self._steps()
        await self._campaigns()
        await self._executions()
        await self._keys()
        await self._audit()
        ages = (self._ages.samples, self._ages.hourly_samples)
        samples = await prune_samples(self._db, *ages, self._lock.breathe)
        return Pruned(sample_hours=samples.hours, samples_dropped=samples.dropped, **self._done)

    async def _finish(self) -> None:
        """Remove the files that an interrupted round unlinked and did not remove."""
        after = ""
        while rows := await self._db.rows("screenshots_to_remove", after_id=after, limit=_BATCH):
            await self._remove([row["execution_id"] for row in rows])
            after = rows[-1]["execution_id"]
        await self._strike_out()

    async def _screenshots(self) -> None:
        """Unlink, list, then remove: a crash leaves no link without a file, no file for ever."""
        async for ids in _old_executions(self._db, "nothing", self._ages.screenshots):
            row = await self._db.row("unlink_screenshots", ids=ids)
            self._done["screenshots"] += row["screenshots"]
            await self._remove(row["ids"])
        await self._strike_out()

    async def _remove(self, ids: Sequence[str]) -> None:
        files = await self._artifacts.remove(ids)
        self._done.update(files=files.files, bytes=files.bytes)
        if files.left:  # they stay listed
            log.warning("screenshots_not_removed", executions=len(files.left), error=files.error)
        self._removed += {*ids} - {*files.left}
        if len(self._removed) >= _SYNC:
            await self._strike_out()
        await self._lock.breathe()

    async def _strike_out(self) -> None:
        """Delete from the list those whose files are removed, once the disk has it."""
        removed, self._removed = self._removed, []
        if removed:
            await self._artifacts.sync()
            await self._db.row("screenshots_removed", ids=removed)

    async def _steps(self) -> None:
        async for ids in _old_executions(self._db, "screenshots", self._ages.steps):
            self._done["steps"] += await self._db.value("delete_steps", ids=ids)
            await self._lock.breathe()

    async def _campaigns(self) -> None:
        async for campaign in _old_campaigns(self._db, self._ages.executions):
            await self._campaign(campaign)
            await self._lock.breathe()

    async def _campaign(self, campaign_execution_id: str) -> None:
        async with self._db.transaction() as session:
            may_go = await session.value(
                "lock_executions_of", campaign_execution_id=campaign_execution_id
            )
            if may_go is not False:
                gone = await session.value("delete_campaign_execution", id=campaign_execution_id)
                self._done.update(executions=gone, campaign_executions=1)

    async def _executions(self) -> None:
        async for ids in _old_executions(self._db, "steps", self._ages.executions):
            self._done["executions"] += await self._db.value("delete_executions", ids=ids)
            await self._lock.breathe()

    async def _keys(self) -> None:
        gone = _KEYS
        while gone == _KEYS:
            gone = await self._db.value("forget_requests")
            self._done["idempotency_keys"] += gone
            await self._lock.breathe()

    async def _audit(self) -> None:
        """Delete entries that are older than executions are kept."""
        gone = _KEYS
        while gone == _KEYS:
            gone = await self._db.value("drop_audit", age_s=self._ages.executions, limit=_KEYS)
            self._done["audit"] += gone
            await self._lock.breathe()


class _Preview:
    """Counts what a round would delete."""

    def __init__(self, db: Database, artifacts: Artifacts, ages: Ages) -> None:
        self._db = db
        self._artifacts = artifacts
        self._ages = ages

    async def count(self) -> Pruned:
        """Return the counts of all tables."""
        files = await self._files_left_behind()
        screenshots = steps = executions = 0
        async for ids in _old_executions(self._db, "nothing", self._ages.screenshots):
            screenshots += await self._db.value("count_screenshots", ids=ids)
            files += await self._artifacts.measure(ids)
        for pruned in ("nothing", "screenshots"):
            async for ids in _old_executions(self._db, pruned, self._ages.steps):
                steps += await self._db.value("count_steps", ids=ids)
        for pruned in ("nothing", "screenshots", "steps"):
            async for ids in _old_executions(self._db, pruned, self._ages.executions):
                executions += await self._db.value("count_executions", ids=ids)
        campaigns = await self._campaigns()
        samples = await count_old_samples(self._db, self._ages.samples, self._ages.hourly_samples)
        return Pruned(
            executions=executions + sum(campaigns),
            campaign_executions=len(campaigns),
            steps=steps,
            screenshots=screenshots,
            files=files.files,
            bytes=files.bytes,
            sample_hours=samples.hours,
            samples_dropped=samples.dropped,
            idempotency_keys=await self._db.value("count_forgotten_requests"),
            audit=await self._db.value("count_old_audit", age_s=self._ages.executions),
        )

    async def _files_left_behind(self) -> Files:
        files, after = Files(), ""
        while rows := await self._db.rows("screenshots_to_remove", after_id=after, limit=_BATCH):
            files += await self._artifacts.measure([row["execution_id"] for row in rows])
            after = rows[-1]["execution_id"]
        return files

    async def _campaigns(self) -> list[int]:
        """Return for each campaign execution how many executions would go with it."""
        counts = [
            await self._db.value("count_executions_of", campaign_execution_id=campaign)
            async for campaign in _old_campaigns(self._db, self._ages.executions)
        ]
        return [count for count in counts if count is not None]
