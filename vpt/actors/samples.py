"""Samples of hosts: what probes and heartbeats come to, kept here until it is written."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import orjson

from vpt.errors import DatabaseAwayError
from vpt.model import Json
from vpt.store.db import Database

EVERY = 60.0  # seconds between two samples of a host whose probes go alike
STATS = ("cpu_percent", "memory_percent", "disk_percent", "temperature", "load_1m")
_MOST = 1000  # samples of one statement
_KEPT = 20_000  # while the database is away: an hour and a half of 200 hosts; then the oldest go


@dataclass(slots=True)
class Sample:
    """What a host was like since its last sample; `ok` is None when it was not probed.

    `at` is on the clock that never goes back.
    """

    host_id: str
    at: float
    ok: bool | None = None
    probes: int = 0
    ms: float = 0.0  # of all answers together
    stats: Json | None = None
    device_metrics: Json | None = None

    def mean_ms(self) -> float | None:
        """Give how long an answer took, None when there was none."""
        return self.ms / self.probes if self.ok else None


class Samples:
    """Makes one sample of a host a minute, and one more whenever a probe goes otherwise.

    So a sample's probes all went alike, and what hosts say twice a minute is stored once.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._growing: dict[str, Sample] = {}
        self._ended: dict[str, tuple[float, bool | None]] = {}  # when its last, how its probes went
        self._waiting: deque[Sample] = deque(maxlen=_KEPT)

    def probed(self, host_id: str, ms: float | None) -> None:
        """Learn how long (ms) a host took to answer a probe, None when it did not."""
        ok, before = ms is not None, self._growing.get(host_id)
        if before is not None and before.ok is (not ok):
            self._end(before)
        sample = self._of(host_id)
        sample.ok, sample.probes, sample.ms = ok, sample.probes + 1, sample.ms + (ms or 0)
        if self._went(host_id) is (not ok):
            self._end(sample)

    def told(self, host_id: str, stats: Json | None, device_metrics: Json | None) -> None:
        """Learn what a host says of itself, of which the newest is kept."""
        sample = self._of(host_id)
        sample.stats = stats or sample.stats
        sample.device_metrics = device_metrics or sample.device_metrics

    def _of(self, host_id: str) -> Sample:
        now = time.monotonic()
        sample = self._growing.setdefault(host_id, Sample(host_id, now))
        sample.at = now
        return sample

    def _end(self, sample: Sample) -> None:
        del self._growing[sample.host_id]
        ok = self._went(sample.host_id) if sample.ok is None else sample.ok
        self._ended[sample.host_id] = (time.monotonic(), ok)
        self._waiting.append(sample)

    def _went(self, host_id: str) -> bool | None:
        """Give how a host's probes went that are in its samples; None when nobody knows."""
        return self._ended.get(host_id, (0, None))[1]

    async def flush(self) -> None:
        """Write what a minute is over for; what the database does not take waits for next time.

        A sample whose answer was lost on the way may so be written twice, which does no harm.
        """
        self._end_due()
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
            try:
                await self._store(batch)
            except DatabaseAwayError:
                room = _KEPT - len(self._waiting)
                self._waiting.extendleft(reversed(batch[-room:] if room else []))
                raise

    def _end_due(self) -> None:
        due = time.monotonic() - EVERY
        for sample in tuple(self._growing.values()):
            if self._ended.get(sample.host_id, (due, None))[0] <= due:
                self._end(sample)
        oldest = due - EVERY  # hosts that say nothing any more
        self._ended = {name: end for name, end in self._ended.items() if end[0] > oldest}

    async def _store(self, batch: list[Sample]) -> None:
        now = time.monotonic()
        names = ("cpus", "memories", "disks", "temperatures", "loads")
        stats = {
            name: [(sample.stats or {}).get(stat) for sample in batch]
            for name, stat in zip(names, STATS, strict=True)
        }
        await self._db.row(
            "store_samples",
            host_ids=[sample.host_id for sample in batch],
            ages_s=[now - sample.at for sample in batch],
            oks=[sample.ok for sample in batch],
            probes=[sample.probes for sample in batch],
            responses_ms=[sample.mean_ms() for sample in batch],
            device_metrics=[_text(sample.device_metrics) for sample in batch],
            **stats,
        )


def _text(value: Json | None) -> str | None:
    return None if value is None else orjson.dumps(value).decode()
