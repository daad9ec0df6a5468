"""The checks of what a bad host, device or address may cost: time, and never a result."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from checks import PRICE, Comparison, Records
from spoil import AwayTime, Spoiled, Spoiler

#: A device that fails is used so often until it is held back: the errors in a row, one that was
#: under way, and one that the server's end kept from being stored.
_BEFORE_PAUSE = 3 + 2
#: Attempts of an execution that the infrastructure fails: the first one and INFRA_RETRIES.
_ATTEMPTS = 3
_LATE = 0.5  # seconds from a heartbeat until nothing more is on its way to a device that is away


class HostTruth:
    """Compares what scripted hosts did with what the server stored and showed."""

    def __init__(self, truth: Comparison, records: Records, spoiler: Spoiler, pause: float) -> None:
        """Add differences to `truth`; a device is first held back for `pause` seconds."""
        self._truth = truth
        self._records = records
        self._spoiler = spoiler
        self._pause = pause
        self._badly_answered = {
            answer.attempt for host in spoiler.hosts for answer in host.bad_answers
        }
        self._steps = {_key(step): step["status"] for step in records.steps}

    def check(self) -> None:
        """Check everything."""
        for host in (*self._spoiler.hosts, *self._spoiler.copies):
            for words in host.overlaps:
                self._truth.differ("device used twice", words)
            for key in host.acted_as_another:
                words = f"{key} was sent to not-{host.name}; the step is {self._steps.get(key)}"
                self._truth.differ("somebody else's verdict", words)
        for spoiled in self._spoiler.spoiled:
            self._held_back(spoiled)
        for away in self._spoiler.away:
            self._not_used(away)
        self._no_needless_error()

    def _held_back(self, spoiled: Spoiled) -> None:
        """Check that a host which fails whatever it gets soon gets nothing, and that this shows."""
        where = f"{spoiled.host.name} ({spoiled.behaviour})"
        seconds = spoiled.ended - spoiled.began
        most = _BEFORE_PAUSE + math.floor(math.log2(1 + seconds / self._pause))
        for device, attempts in spoiled.failed().items():
            self._truth.counts["attempts answered badly"] += len(attempts)
            if len(attempts) > most:
                words = f"{where}: {len(attempts)} attempts on {device} in {seconds:.1f} s"
                self._truth.differ("not held back", f"{words}, {most} at most")
        if not spoiled.held_back or spoiled.disturbed:
            return
        self._truth.counts["hosts that failed three in a row"] += 1
        if not spoiled.shown:
            self._truth.differ("not held back", f"{where}: nothing says why it gets no runs")

    def _not_used(self, away: AwayTime) -> None:
        if away.disturbed:
            return
        began = [at for at, device in away.host.starts if device == away.device]
        for at in began:
            if away.began + _LATE < at < away.ended:
                words = f"{away.host.name}:{away.device} began an attempt {at - away.began:.2f} s"
                self._truth.differ("used while away", f"{words} after it said that it was away")

    def _no_needless_error(self) -> None:
        """Check that a bad host costs an execution one attempt: others fit all the time."""
        attempts: dict[str, list[Any]] = defaultdict(list)
        for attempt in self._records.attempts:
            attempts[attempt["execution_id"]].append(attempt)
        for row in self._records.executions.values():
            mine = attempts[row["id"]]
            bad = [a for a in mine if self._is_bad(a)]
            if row["status"] == "error" and (len(bad) > 1 or len(mine) < _ATTEMPTS):
                places = [f"{a['device_id']}: {a['error_kind']}" for a in mine]
                words = f"execution {row['id']} ({row['tag']}) failed on {places}"
                self._truth.differ("needless error", f"{words}: {row['error']}")

    def _is_bad(self, attempt: Any) -> bool:
        """Return whether a scripted host answered the attempt badly, be it by breaking off."""
        name = f"{attempt['execution_id']}/{attempt['attempt']}"
        return name in self._badly_answered or attempt["error_kind"] not in (None, *PRICE)


def _key(step: Any) -> str:
    return f"{step['execution_id']}/{step['attempt']}/{step['step']}/{step['tries']}"
