"""The executions that failed a moment ago: each waits before the same device gets it again."""

from __future__ import annotations

from sortedcontainers import SortedKeyList

from vpt.model import Waiting

#: The back-off grows to four times as much with each failure, so often at most.
_GROWTH, _MOST = 4.0, 3


def backoff(first: float, failures: int) -> float:
    """Return for how long (s) no device gets an execution on which it failed; `first` is its unit.

    0 for an execution that did not fail: 1, 4, 16 and 64 times `first` after 1, 2, 3 and more.
    """
    return first * _GROWTH ** min(failures - 1, _MOST) if failures else 0.0


class Resting:
    """Executions whose `not_before` is still to come, the earliest first."""

    def __init__(self) -> None:
        self._order: SortedKeyList = SortedKeyList(key=lambda w: (w.not_before, w.execution_id))
        self._waiting: dict[str, Waiting] = {}

    def __contains__(self, execution_id: str) -> bool:
        """Return whether an execution rests."""
        return execution_id in self._waiting

    def add(self, waiting: Waiting) -> None:
        """Add an execution; no-op for one that need not rest."""
        if waiting.not_before:
            self._waiting[waiting.execution_id] = waiting
            self._order.add(waiting)

    def remove(self, execution_id: str) -> None:
        """Remove an execution; no-op when it does not rest."""
        waiting = self._waiting.pop(execution_id, None)
        if waiting is not None:
            self._order.remove(waiting)

    @property
    def next_end(self) -> float | None:
        """Return when the first one has rested long enough, by the database's clock."""
        return self._order[0].not_before if self._order else None

    def over(self, now: float) -> list[Waiting]:
        """Remove and return all that have rested long enough."""
        rested = []
        while self._order and self._order[0].not_before <= now:
            rested.append(self._order[0])
            self.remove(self._order[0].execution_id)
        return rested
