"""Samples of the probes: what is worth a row, kept here until it is written with the others'."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from vpt.db import Database
from vpt.errors import DatabaseAwayError

EVERY = 60.0  # seconds between two samples of a host that say the same
_EARLY = 0.9  # of that: a probe that comes a little sooner than it should need not be missed
_MOST = 1000  # samples of one statement
_KEPT = 20_000  # while the database is away: an hour and a half of 200 hosts; then the oldest go


@dataclass(frozen=True, slots=True)
class Sample:
    """How a probe went; `at` is on the clock that never goes back, `ms` None when it was missed."""

    host_id: str
    at: float
    ms: float | None

    @property
    def ok(self) -> bool:
        """True when the host answered."""
        return self.ms is not None


class Samples:
    """Keeps one probe of a host a minute, and each that went otherwise than the one before."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._last: dict[str, Sample] = {}
        self._waiting: deque[Sample] = deque(maxlen=_KEPT)

    def note(self, host_id: str, ms: float | None) -> None:
        """Learn how long (ms) a host took to answer a probe, None when it did not."""
        sample, last = Sample(host_id, time.monotonic(), ms), self._last.get(host_id)
        if last is None or last.ok is not sample.ok or sample.at - last.at >= EVERY * _EARLY:
            self._last[host_id] = sample
            self._waiting.append(sample)

    async def flush(self) -> None:
        """Write what waits; what the database does not take now waits for the next time.

        A sample whose answer was lost on the way may so be written twice, which does no harm.
        """
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
            try:
                await self._store(batch)
            except DatabaseAwayError:
                room = _KEPT - len(self._waiting)
                self._waiting.extendleft(reversed(batch[-room:] if room else []))
                raise
        self._forget()

    async def _store(self, batch: list[Sample]) -> None:
        now = time.monotonic()
        await self._db.row(
            "store_samples",
            host_ids=[sample.host_id for sample in batch],
            ages_s=[now - sample.at for sample in batch],
            oks=[sample.ok for sample in batch],
            responses_ms=[sample.ms for sample in batch],
        )

    def _forget(self) -> None:
        """Forget hosts that are probed no more: their next sample is written in any case."""
        oldest = time.monotonic() - 2 * EVERY
        self._last = {name: last for name, last in self._last.items() if last.at > oldest}
