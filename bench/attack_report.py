"""What came of the attacks: a row for each, with its limits, and the table of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from vpt.bodies import MOST_VALUES, MOST_WIDE

MIB = 2**20
Json = dict[str, Any]
#: Milliseconds for which nobody else may wait longer because of an attack.
LIMIT_MS = 50.0
#: The small run is a test beside others on a loaded machine: only what is far beyond fails it.
SMALL_LIMIT_MS, SMALL_FACTOR = 1000.0, 5.0
#: Memory may grow by this many times the bytes of an attack,
MOST_TIMES = 4
#: and by what each connection costs (its objects and buffers),
OF_CONNECTION = 64 * 1024
#: and by what the most values of one body take, in however few bytes they are written: 120 bytes
#: for each (an empty object is 64, its entry in a list 8, a name and its entry in an object 75);
#: and by the copy that the parser makes of a text while it reads it, if that is beyond ASCII.
ALLOWANCE = 120 * MOST_VALUES + MOST_WIDE


@dataclass(slots=True)
class Row:
    """What was measured of one attack, and what of it is beyond a limit."""

    name: str
    worst: float = 0.0  # milliseconds by the clock
    blocked: float = 0.0  # the most milliseconds that the attacked process kept somebody waiting
    limit: float = 0.0  # of `blocked`
    late: bool = False  # it is beyond the limit
    during: str = ""  # what was sent when it kept somebody waiting longest
    machine: float = 0.0  # `blocked` of a server that nobody attacked
    growth: int = 0  # bytes, of the item that is nearest to its limit
    times: float = 0.0  # how many times the bytes of that item
    grower: str = ""
    answers: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def add_times(row: Row, probed: Json, baseline: float, bystander: Json, *, small: bool) -> None:
    """Note how long the prober waited, against the limit of this run."""
    row.worst, row.blocked = probed["worst"], probed["blocked"]
    row.machine = bystander["blocked"]
    usual = max(baseline, row.machine)
    row.limit = SMALL_LIMIT_MS + SMALL_FACTOR * usual if small else LIMIT_MS + usual
    row.late = row.blocked > row.limit
    if row.late:
        row.broken.append(f"others waited {row.blocked:.0f} ms, the limit is {row.limit:.0f} ms")
    if probed["failed"]:
        row.broken.append(f"{len(probed['failed'])} probes failed: {probed['failed'][0]}")


def add_items(row: Row, items: Iterable[Json], at: float, may_come: frozenset[str]) -> None:
    """Note what was sent, what was answered, and how the memory grew; `at`: the worst moment."""
    nearest = -1.0
    for item in items:
        row.answers.update(item["answers"])
        if item["began"] <= at <= item["ended"]:
            row.during = f"{item['name']}, after {at - item['began']:.1f} s"
        most = MOST_TIMES * item["bytes"] + OF_CONNECTION * item["connections"] + ALLOWANCE
        if item["growth"] > most:
            row.broken.append(
                f"{item['name']}: memory grew by {item['growth'] / MIB:.0f} MiB, at most"
                f" {most / MIB:.0f} MiB are allowed"
            )
        if item["growth"] / most > nearest:
            nearest, row.growth, row.grower = item["growth"] / most, item["growth"], item["name"]
            row.times = item["growth"] / item["bytes"] if item["bytes"] else 0.0
        wrong = {answer: n for answer, n in item["answers"].items() if answer not in may_come}
        wrong.pop("still open", None)
        if wrong:
            row.broken.append(f"{item['name']}: answered {wrong}")


def each_line(item: Json) -> str:
    """Return one thing that was sent, its time and memory, as a line."""
    growth, seconds = item["growth"], item["ended"] - item["began"]
    times = f"{growth / item['bytes']:.1f} times" if item["bytes"] else ""
    return f"    {item['name']}: {seconds:.2f} s, {growth / MIB:.1f} MiB {times} {item['answers']}"


TITLE = (
    "| attack | blocked ms | limit | machine | by the clock | memory MiB | times its bytes | hosts"
    " | answers | |"
)
RULE = "|---|---|---|---|---|---|---|---|---|---|"


def line(row: Row, changed: Iterable[str]) -> str:
    """Return the row as a line of the table."""
    answers = ", ".join(f"{count} of {answer}" for answer, count in sorted(row.answers.items()))
    hosts = ", ".join(changed) or "stayed"
    cells = [
        row.name,
        f"{row.blocked:.1f}" + (f" ({row.during})" if row.during else ""),
        f"{row.limit:.0f}",
        f"{row.machine:.1f}",
        f"{row.worst:.1f}",
        f"{row.growth / MIB:.1f}" + (f" ({row.grower})" if row.grower else ""),
        f"{row.times:.1f}" if row.times else "",
        hosts,
        "; ".join(filter(None, [answers, *row.notes])),
        "**PAST A LIMIT**" if row.broken else "",
    ]
    return f"| {' | '.join(cells)} |"
