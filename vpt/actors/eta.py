"""How long an execution will wait: made of what runs, and of who is before it, per device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from vpt.actors import matching
from vpt.actors.dispatcher import Dispatcher
from vpt.actors.groups import rank
from vpt.model import Waiting
from vpt.store.db import Database

#: Seconds that a run takes still which already takes longer than usual: it may end at any moment.
SOON = 0.1
_MOST_BEFORE = 1000  # executions that are looked at one by one; those beyond by their mean
_MOST_STEPS = 100_000  # of the simulation: executions before, times machines
_MOST_KINDS = 50  # kinds of runs whose history is read; others take as long as the mean of these

Kind = tuple[str, str]  # test case and device model


@dataclass(frozen=True, slots=True)
class Ahead:
    """What is between an execution and a device.

    `mine` are the machines that could run it: devices, or serial hosts, which run one thing at a
    time. `before` has the machines of each execution that goes first; `more` go first beyond these.
    """

    mine: Set[str]
    before: Mapping[str, Set[str]]
    more: int
    machines: Mapping[str, str]  # of each device


def ahead(dispatcher: Dispatcher, waiting: Waiting) -> Ahead | None:
    """Return what is ahead of an execution, None when no device that fits works through runs."""
    group = dispatcher.group_of(waiting)
    if group is None:
        return None
    machines = matching.at_work(dispatcher.awaited(group))
    if not machines:
        return None
    mine = frozenset(machines.values())
    first: list[tuple[Waiting, Set[str]]] = []
    position = 0
    for rival in group.rivals(dispatcher.groups):
        position += rival.before(waiting)
        theirs = matching.at_work(dispatcher.awaited(rival))
        machines |= theirs
        able = frozenset(theirs.values())
        first += [(one, able) for one in rival.ahead_of(waiting, _MOST_BEFORE)]
    # Each group is in order, and their ranks make one order of all.
    first.sort(key=lambda pair: rank(pair[0]))
    most = max(1, min(_MOST_BEFORE, _MOST_STEPS // len(machines)))
    # What was just given a device is before all others, and on that device only.
    before: dict[str, Set[str]] = {
        name: {machines[at]} for name, at in dispatcher.given.items() if at in machines
    }
    before |= {one.execution_id: able for one, able in first[:most] if able}
    return Ahead(mine, before, max(0, position - most), machines)


def wait_s(ahead: Ahead, busy: Mapping[str, float], lasts: Mapping[str, float]) -> float:
    """Return for how long (s) an execution waits: each one before it gets the machine free first.

    `busy` is for how long a machine is at work, `lasts` how long each execution before will be.
    """
    free_at = {machine: busy.get(machine, 0.0) for machine in ahead.machines.values()}
    # As the dispatcher does: whoever is first gets the first of its machines that is free.
    for execution_id, machines in ahead.before.items():
        # As the dispatcher does: the first in the queue gets what is free first.
        first = min(machines, key=lambda machine: (free_at[machine], machine))
        free_at[first] += lasts[execution_id]
    # Where thousands wait, the order of those far behind changes nothing that one could notice.
    mean = sum(lasts.values()) / len(lasts) if lasts else 0.0
    return min(free_at[machine] for machine in ahead.mine) + ahead.more * mean / len(ahead.mine)


class Etas:
    """Estimates waits by the history of each test on its device model."""

    def __init__(self, db: Database, dispatcher: Dispatcher) -> None:
        self._db = db
        self._dispatcher = dispatcher

    async def of(self, execution_id: str) -> float | None:
        """Return for how long (s) an execution will wait, None when nothing tells."""
        waiting = self._dispatcher.waiting(execution_id)
        found = None if waiting is None else ahead(self._dispatcher, waiting)
        if found is None:
            return None
        runs = await self._db.rows("runs_on", device_ids=list(found.machines))
        queued = await self._db.rows("kinds_of", execution_ids=list(found.before))
        usual = await self._usual([*map(_kind, runs), *map(_kind, queued)])
        # A guess for one test alone could be wrong by hours, and nobody could tell that it is one.
        if any(usual.get(_kind(row)) is None for row in (*runs, *queued)):
            return None
        # Between the look at the queue and these rows somebody may have left.
        lasts = dict.fromkeys(found.before, 0.0)  # one that left meanwhile takes no time
        lasts |= {row["id"]: usual[_kind(row)] for row in queued}
        busy = [(found.machines[row["device_id"]], _left(row, usual)) for row in runs]
        return wait_s(found, _latest(busy), lasts)

    async def _usual(self, kinds: Sequence[Kind]) -> Mapping[Kind, float]:
        """Return how long (s) runs of these kinds take, as far as there is a history."""
        often = [kind for kind, _ in Counter(kinds).most_common()]
        asked, others = often[:_MOST_KINDS], often[_MOST_KINDS:]
        rows = await self._db.rows(
            "usual_durations",
            test_case_ids=[kind[0] for kind in asked],
            device_models=[kind[1] for kind in asked],
        )
        found = {_kind(row): row["seconds"] for row in rows if row["seconds"] is not None}
        if found:
            found |= dict.fromkeys(others, sum(found.values()) / len(found))
        return found


def _kind(row: Any) -> Kind:
    return row["test_case_id"], row["device_model"]


def _left(row: Any, usual: Mapping[Kind, float]) -> float:
    """Return for how long (s) a run goes on still."""
    left: float = usual[_kind(row)] - row["elapsed_s"]
    return max(SOON, left)


def _latest(busy: Iterable[tuple[str, float]]) -> Mapping[str, float]:
    """Return for how long each machine is at work: a serial host may be about to end two."""
    latest: dict[str, float] = {}
    for machine, left in busy:
        latest[machine] = max(latest.get(machine, 0.0), left)
    return latest
