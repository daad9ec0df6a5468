"""What becomes of old rows: thinned and deleted piece by piece, so that nobody waits for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

import structlog

from vpt.db import Database

log = structlog.get_logger(__name__)

_DAY = 86_400.0
RAW_SAMPLES, HOURLY_SAMPLES = 7 * _DAY, 90 * _DAY  # seconds
_BATCH = 5000  # rows of one DELETE
_REST = 0.05  # seconds between statements: others have their turn


@dataclass(frozen=True, slots=True)
class PrunedSamples:
    """How many samples went into hourly rows, and how many rows were dropped."""

    thinned: int
    dropped: int


async def prune_samples(db: Database) -> PrunedSamples:
    """Make hourly means of samples older than 7 days, and drop what is older than 90.

    May be stopped and begun again at any point. Raises DatabaseAwayError.
    """
    dropped = await _drop(db)  # first: what is dropped need not be thinned
    thinned = await _thin(db)
    if thinned or dropped:
        log.info("samples_pruned", thinned=thinned, dropped=dropped)
    return PrunedSamples(thinned, dropped)


async def _thin(db: Database) -> int:
    thinned, hour = 0, await _next_hour(db, None)
    while hour is not None:
        async with db.transaction() as session:
            await session.rows("keep_hosts")
            thinned += await session.value("thin_hour", hour=hour)
        await asyncio.sleep(_REST)
        hour = await _next_hour(db, hour)
    return thinned


async def _next_hour(db: Database, after: datetime | None) -> datetime | None:
    hour: datetime | None = await db.value("next_raw_hour", after=after, age_s=RAW_SAMPLES)
    return hour


async def _drop(db: Database) -> int:
    dropped, gone = 0, _BATCH
    while gone == _BATCH:
        gone = await db.value("drop_samples", age_s=HOURLY_SAMPLES, limit=_BATCH)
        dropped += gone
        await asyncio.sleep(_REST)
    return dropped
