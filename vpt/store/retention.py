"""Samples of hosts: summed up and deleted in small statements, so that others do not wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from vpt.store.db import Database

log = structlog.get_logger(__name__)

Breathe = Callable[[], Awaitable[None]]

_HOUR = timedelta(hours=1)
_BATCH = 20_000  # rows of one DELETE


@dataclass(frozen=True, slots=True)
class PrunedSamples:
    """How many hours were summed up, and how many rows were deleted."""

    hours: int
    dropped: int


async def prune_samples(
    db: Database, raw_s: float, hourly_s: float, breathe: Breathe
) -> PrunedSamples:
    """Store means of each hour's samples; delete samples older than `raw_s`, means than `hourly_s`.

    `breathe` is awaited between statements, so that others have their turn. It may be cancelled and
    called again at any point. Raises DatabaseAwayError.
    """
    ages = _ages_of_means(raw_s, hourly_s)
    hours = await _make_means(db, ages, breathe)  # first: of deleted samples no means can be made
    dropped = await _drop(db, breathe, "drop_samples", age_s=raw_s)
    for span, age_s in ages.items():
        dropped += await _drop(db, breathe, "drop_means", span=span, age_s=age_s)
    if hours or dropped:
        log.info("samples_pruned", hours=hours, dropped=dropped)
    return PrunedSamples(hours, dropped)


async def count_old_samples(db: Database, raw_s: float, hourly_s: float) -> PrunedSamples:
    """Return what `prune_samples` would do."""
    hours = await db.value("count_hours")
    dropped = await db.value("count_old_samples", age_s=raw_s)
    for span, age_s in _ages_of_means(raw_s, hourly_s).items():
        dropped += await db.value("count_old_means", span=span, age_s=age_s)
    return PrunedSamples(hours, dropped)


def _ages_of_means(raw_s: float, hourly_s: float) -> dict[int, float]:
    """Return how long (s) means are kept, by the minutes that each covers."""
    return {10: raw_s, 60: hourly_s}


async def _make_means(db: Database, ages: dict[int, float], breathe: Breathe) -> int:
    newest: datetime | None = await db.value(
        "newest_hour"
    )  # made once more, since samples may arrive late
    made, hour = 0, await db.value("next_hour", since=newest)
    while hour is not None:
        async with db.transaction() as session:
            await session.rows("keep_hosts")
            for span, age_s in ages.items():
                await session.row("store_means", hour=hour, span=span, age_s=age_s)
        made += hour != newest
        await breathe()
        hour = await db.value("next_hour", since=hour + _HOUR)
    return made


async def _drop(db: Database, breathe: Breathe, query: str, **args: float) -> int:
    dropped, gone = 0, _BATCH
    while gone == _BATCH:
        gone = await db.value(query, limit=_BATCH, **args)
        dropped += gone
        await breathe()
    return dropped
