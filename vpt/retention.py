"""What becomes of old samples: thinned and deleted piece by piece, so that nobody waits for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from vpt.db import Database

log = structlog.get_logger(__name__)

Breathe = Callable[[], Awaitable[None]]

_BATCH = 5000  # rows of one DELETE


@dataclass(frozen=True, slots=True)
class PrunedSamples:
    """How many samples went into hourly rows, and how many rows were dropped."""

    thinned: int
    dropped: int


async def prune_samples(
    db: Database, raw_s: float, hourly_s: float, breathe: Breathe
) -> PrunedSamples:
    """Make hourly means of samples older than `raw_s`, and drop what is older than `hourly_s`.

    `breathe` comes between statements: others have their turn. May be stopped and begun again at
    any point. Raises DatabaseAwayError.
    """
    dropped = await _drop(db, hourly_s, breathe)  # first: what is dropped need not be thinned
    thinned = await _thin(db, raw_s, breathe)
    if thinned or dropped:
        log.info("samples_pruned", thinned=thinned, dropped=dropped)
    return PrunedSamples(thinned, dropped)


async def count_old_samples(db: Database, raw_s: float, hourly_s: float) -> PrunedSamples:
    """Say what `prune_samples` would do, a day in each statement."""
    thinned = dropped = 0
    since = await db.value("oldest_sample")
    while since is not None:
        row = await db.row("count_old_samples", since=since, raw_s=raw_s, hourly_s=hourly_s)
        thinned, dropped = thinned + row["thinned"], dropped + row["dropped"]
        since = row["next_day"]
    return PrunedSamples(thinned, dropped)


async def _thin(db: Database, raw_s: float, breathe: Breathe) -> int:
    thinned, hour = 0, await _next_hour(db, None, raw_s)
    while hour is not None:
        async with db.transaction() as session:
            await session.rows("keep_hosts")
            thinned += await session.value("thin_hour", hour=hour)
        await breathe()
        hour = await _next_hour(db, hour, raw_s)
    return thinned


async def _next_hour(db: Database, after: datetime | None, raw_s: float) -> datetime | None:
    hour: datetime | None = await db.value("next_raw_hour", after=after, age_s=raw_s)
    return hour


async def _drop(db: Database, hourly_s: float, breathe: Breathe) -> int:
    dropped, gone = 0, _BATCH
    while gone == _BATCH:
        gone = await db.value("drop_samples", age_s=hourly_s, limit=_BATCH)
        dropped += gone
        await breathe()
    return dropped
