"""Samples of hosts: a summary a minute of probes and heartbeats, kept here until it is stored."""

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
_BATCH = 1000  # samples of one statement
_KEPT = 20_000  # while the database is away: an hour and a half of 200 hosts; then the oldest go


@dataclass(slots=True)
class Sample:
    """How a host was since its last sample; `ok` is None when it was not probed."""

    host_id: str
    at: float  # on the monotonic clock: the other one may be set back
    ok: bool | None = None
    probes: int = 0
    ms: float = 0.0  # the sum of all answers
    stats: Json | None = None
    device_metrics: Json | None = None

    def mean_ms(self) -> float | None:
        """Return how long an answer took on average, None when there was none."""
        return self.ms / self.probes if self.ok else None


class Samples:
    """Makes one sample of a host a minute, and one more whenever a probe goes otherwise.

    All probes of a sample were answered, or all were missed: so an outage that is shorter than
    the minute is seen, and what hosts report twice a minute is stored once.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._growing: dict[str, Sample] = {}
        #: Of each host: when its last sample ended, and whether the probes of that were answered.
        self._ended: dict[str, tuple[float, bool | None]] = {}
        self._waiting: deque[Sample] = deque(maxlen=_KEPT)

    def probed(self, host_id: str, ms: float | None) -> None:
        """Add a probe: how long (ms) the host took to answer, None when it did not."""
        ok, before = ms is not None, self._growing.get(host_id)
        if before is not None and before.ok is (not ok):  # its probes went otherwise
            self._end(before)
        sample = self._growing_of(host_id)
        sample.ok, sample.probes, sample.ms = ok, sample.probes + 1, sample.ms + (ms or 0)
        if self._last_ok(host_id) is (not ok):
            self._end(sample)  # at once: a change of the host is not kept for a minute

    def reported(self, host_id: str, stats: Json | None, device_metrics: Json | None) -> None:
        """Add what a host reports of itself; only the newest report of a sample is kept."""
        sample = self._growing_of(host_id)
        sample.stats = stats or sample.stats
        sample.device_metrics = device_metrics or sample.device_metrics

    def _growing_of(self, host_id: str) -> Sample:
        now = time.monotonic()
        sample = self._growing.setdefault(host_id, Sample(host_id, now))
        sample.at = now
        return sample

    def _end(self, sample: Sample) -> None:
        del self._growing[sample.host_id]
        # One without probes says nothing of them: what was known before is still so.
        ok = self._last_ok(sample.host_id) if sample.ok is None else sample.ok
        self._ended[sample.host_id] = (time.monotonic(), ok)
        self._waiting.append(sample)

    def _last_ok(self, host_id: str) -> bool | None:
        """Return whether the probes of a host's last sample were answered; None when unknown."""
        return self._ended.get(host_id, (0, None))[1]

    async def flush(self) -> None:
        """Store the samples whose minute is over; what the database does not take waits.

        A sample is stored twice when the answer to its statement was lost, which does no harm.
        """
        self._end_due()
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                await self._store(batch)
            except DatabaseAwayError:
                # New samples may have come meanwhile, and it is the oldest that are dropped.
                room = _KEPT - len(self._waiting)
                self._waiting.extendleft(reversed(batch[-room:] if room else []))
                raise

    def _end_due(self) -> None:
        due = time.monotonic() - EVERY
        for sample in tuple(self._growing.values()):
            if self._ended.get(sample.host_id, (due, None))[0] <= due:
                self._end(sample)
        oldest = due - EVERY  # before that: hosts that are gone, whose entry would stay for ever
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
            device_metrics=[_json_text(sample.device_metrics) for sample in batch],
            **stats,
        )


def _json_text(value: Json | None) -> str | None:
    return None if value is None else orjson.dumps(value).decode()
