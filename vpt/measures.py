"""Figures that are counted where things happen and read when somebody asks; no library, no I/O."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

#: Upper bounds of the buckets in seconds.
ANSWERS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
PROBES = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
STEPS = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 3600.0)


class Spread:
    """How values are spread over buckets, and their sum: a fraction of a microsecond a value."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value; one that equals a bound is within it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def join(self, other: Spread) -> None:
        """Count all that another one of the same bounds has counted."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    @property
    def total(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def up_to(self) -> Iterator[tuple[float, int]]:
        """Give each bound, the last one infinite, and how many values were not above it."""
        return zip((*self.bounds, float("inf")), accumulate(self.counts), strict=True)


class Spreads:
    """A spread for each combination of labels; whoever adds sees to it that these are few."""

    __slots__ = ("_bounds", "by_labels")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.by_labels: dict[tuple[str | int, ...], Spread] = {}

    def add(self, labels: tuple[str | int, ...], value: float) -> None:
        """Count a value under its labels."""
        spread = self.by_labels.get(labels)
        if spread is None:
            spread = self.by_labels[labels] = Spread(self._bounds)
        spread.add(value)

    def joined(self, labels: int) -> dict[tuple[str | int, ...], Spread]:
        """Give the spreads by the first so many labels alone."""
        joined: dict[tuple[str | int, ...], Spread] = {}
        for key, spread in self.by_labels.items():
            joined.setdefault(key[:labels], Spread(self._bounds)).join(spread)
        return joined


@dataclass(slots=True)
class Tally:
    """What the actors count since the start; durations in seconds."""

    dispatched: Spread = field(default_factory=lambda: Spread(WAITS))  # in line until it began
    steps: Spreads = field(default_factory=lambda: Spreads(STEPS))  # by how they ended
    probes: Spread = field(default_factory=lambda: Spread(PROBES))  # those that were answered
    probes_missed: int = 0
    restarts: int = 0
