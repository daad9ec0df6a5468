"""Counters and histograms, counted where things happen and read by /metrics; no I/O."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

#: Upper bounds of the buckets, in seconds, of requests, probes, steps and queue times.
ANSWERS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
PROBES = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
STEPS = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
WAITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 3600.0)


class Histogram:
    """A histogram with fixed buckets, and the sum of its values; adding takes under 1 µs."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value; one that equals a bound belongs to that bucket."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def join(self, other: Histogram) -> None:
        """Add the counts of another histogram with the same bounds."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    @property
    def total(self) -> int:
        """The number of values."""
        return sum(self.counts)

    def up_to(self) -> Iterator[tuple[float, int]]:
        """Return pairs of bound (the last one is infinite) and number of values up to it."""
        return zip((*self.bounds, float("inf")), accumulate(self.counts), strict=True)


class LabelledHistograms:
    """A histogram per combination of labels; the caller must keep their number small."""

    __slots__ = ("_bounds", "by_labels")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.by_labels: dict[tuple[str | int, ...], Histogram] = {}

    def add(self, labels: tuple[str | int, ...], value: float) -> None:
        """Count a value under its labels."""
        histogram = self.by_labels.get(labels)
        if histogram is None:
            histogram = self.by_labels[labels] = Histogram(self._bounds)
        histogram.add(value)

    def joined(self, labels: int) -> dict[tuple[str | int, ...], Histogram]:
        """Return the histograms by the first `labels` labels, added up over the others."""
        joined: dict[tuple[str | int, ...], Histogram] = {}
        for key, histogram in self.by_labels.items():
            joined.setdefault(key[:labels], Histogram(self._bounds)).join(histogram)
        return joined


@dataclass(slots=True)
class Tally:
    """What the actors count since the start of the server; durations in seconds."""

    dispatched: Histogram = field(
        default_factory=lambda: Histogram(WAITS)
    )  # from queued to started
    steps: LabelledHistograms = field(
        default_factory=lambda: LabelledHistograms(STEPS)
    )  # by their result
    probes: Histogram = field(default_factory=lambda: Histogram(PROBES))  # answered ones
    probes_missed: int = 0
    restarts: int = 0
