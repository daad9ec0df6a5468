"""A past of executions and campaigns, of any age, and what has to be left of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpt.store.db import Database

STEPS = 3  # of an attempt; the first one has a screenshot
BYTES = 10  # of a screenshot


@dataclass(frozen=True)
class Run:
    """An execution; `days` is how long it is over, None while it is not."""

    days: float | None = 0
    pinned: bool = False
    attempts: int = 1
    held: bool = False  # its last attempt still holds a device

    def left(self, keep: Keep) -> str:
        """Say what is to be gone of it but itself."""
        if self.days is None or self.pinned:
            return "nothing"
        if self.days > keep.steps:
            return "steps"
        return "screenshots" if self.days > keep.screenshots else "nothing"

    def may_go(self, keep: Keep) -> bool:
        return not (self.days is None or self.pinned or self.held) and self.days > keep.executions


@dataclass(frozen=True)
class Campaign:
    """A campaign execution; its executions were over when it was."""

    days: float | None = 0
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Keep:
    """For how many days things are kept; who goes takes along what is his."""

    screenshots: float = 14
    steps: float = 365
    executions: float = 730


@dataclass(frozen=True)
class Past:
    """All that was."""

    runs: tuple[Run, ...] = ()
    campaigns: tuple[Campaign, ...] = ()

    def named(self) -> dict[str, tuple[Run, str | None]]:
        """Give each execution with its id and its campaign execution's."""
        named: dict[str, tuple[Run, str | None]] = {
            f"e{n}": (run, None) for n, run in enumerate(self.runs)
        }
        for c, campaign in enumerate(self.campaigns):
            named |= {f"c{c}e{n}": (run, f"c{c}") for n, run in enumerate(campaign.runs)}
        return named

    def kept_campaigns(self, keep: Keep) -> set[str]:
        return {
            f"c{c}"
            for c, campaign in enumerate(self.campaigns)
            if campaign.days is None
            or campaign.days <= keep.executions
            or not all(run.may_go(keep) for run in campaign.runs)
        }

    def kept(self, keep: Keep) -> dict[str, str]:
        """Give the executions that stay, with what is gone of each."""
        campaigns = self.kept_campaigns(keep)
        return {
            name: run.left(keep)
            for name, (run, campaign) in self.named().items()
            if (campaign in campaigns if campaign else not run.may_go(keep))
        }


@dataclass(frozen=True)
class Present:
    """What there is: by execution what is gone, its rows of steps, its links, its files."""

    executions: Mapping[str, tuple[str, int, int]] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)
    campaigns: frozenset[str] = frozenset()
    noted: frozenset[str] = frozenset()


def expected(past: Past, keep: Keep) -> Present:
    """Say what there has to be after a round."""
    named, kept = past.named(), past.kept(keep)
    rows = {name: named[name][0].attempts for name in kept}
    return Present(
        {
            name: (
                gone,
                0 if gone == "steps" else rows[name] * STEPS,
                rows[name] if gone == "nothing" else 0,
            )
            for name, gone in kept.items()
        },
        {name: rows[name] for name, gone in kept.items() if gone == "nothing"},
        frozenset(past.kept_campaigns(keep)),
    )


async def fetch(db: Database, sql: str, *args: Any) -> list[Any]:
    async with db.session() as session:
        return list(await session._connection.fetch(sql, *args))


async def present(db: Database, folder: Path) -> Present:
    """See what there is."""
    executions = await fetch(
        db,
        "SELECT e.id, e.pruned, count(s.step) AS steps, count(s.screenshot) AS links"
        " FROM test_executions e LEFT JOIN execution_steps s ON s.execution_id = e.id"
        " GROUP BY e.id",
    )
    return Present(
        {row["id"]: (row["pruned"], row["steps"], row["links"]) for row in executions},
        {one.name: len([*one.iterdir()]) for one in (folder / "screenshots").iterdir()},
        frozenset(row["id"] for row in await fetch(db, "SELECT id FROM campaign_executions")),
        frozenset(
            row["execution_id"]
            for row in await fetch(db, "SELECT execution_id FROM screenshots_to_remove")
        ),
    )


async def store(db: Database, folder: Path, past: Past) -> None:
    """Make it so."""
    named = past.named()
    (folder / "screenshots").mkdir(exist_ok=True)
    for name, (run, _) in named.items():
        place = folder / "screenshots" / name
        place.mkdir()
        for attempt in range(1, run.attempts + 1):
            (place / f"{attempt}-1.png").write_bytes(b"x" * BYTES)
    async with db.transaction() as session:
        execute = session._connection.executemany
        await execute(_CAMPAIGN, [(f"c{c}", one.days) for c, one in enumerate(past.campaigns)])
        await execute(_EXECUTION, [_row(name, *rest) for name, rest in named.items()])
        await execute(_RESULT, _numbered(named))
        await execute(_ATTEMPTS, [(n, r.attempts, r.days, r.held) for n, (r, _) in named.items()])
        await session._connection.execute(_STEPS)


def _row(name: str, run: Run, campaign: str | None) -> Sequence[Any]:
    return name, run.days, run.pinned, run.attempts, campaign


def _numbered(named: Mapping[str, tuple[Run, str | None]]) -> Iterable[Sequence[Any]]:
    for number, (name, (_, campaign)) in enumerate(named.items()):
        if campaign is not None:
            yield campaign, number, name


_CAMPAIGN = """
INSERT INTO campaign_executions (id, campaign_id, name, stop_on_failure, parallelism, priority,
    requested_by, status, total, completed_at)
SELECT $1, 'ca', 'all', false, 1, 50, 'ann', CASE WHEN $2::float8 IS NULL THEN 'running'
    ELSE 'completed' END, 1, now() - make_interval(secs => $2 * 86400)
"""
_EXECUTION = """
INSERT INTO test_executions (id, test_case_id, test_case_name, test_case_version, device_model,
    steps, actions, queue_timeout_s, requested_by, campaign_execution_id, status, pinned, attempt,
    host_id, device_id, seq, completed_at, end_step)
SELECT $1::text, 't', 't', 1, 'm', '[]', '{a,b,c}', 1, 'ann', $5, CASE WHEN $2::float8 IS NULL
    THEN 'running' ELSE 'completed' END, $3, $4, 'h', 'd' || $1, 1 + 4 * $4,
    now() - make_interval(secs => $2 * 86400), 3
"""
_RESULT = """
INSERT INTO campaign_results (campaign_execution_id, position, test_case_id, request, execution_id)
VALUES ($1, $2, 't', '{}', $3)
"""
_ATTEMPTS = """
INSERT INTO execution_attempts (execution_id, attempt, host_id, device_id, seq, status,
    completed_at, released_at)
SELECT $1::text, n, 'h', 'd' || $1, 1 + 4 * (n - 1),
    CASE WHEN open AND $3::float8 IS NULL THEN 'running' ELSE 'completed' END,
    CASE WHEN NOT open OR $3 IS NOT NULL THEN now() END,
    CASE WHEN NOT open OR $3 IS NOT NULL AND NOT $4 THEN now() END
FROM generate_series(1, $2::int) AS n
CROSS JOIN LATERAL (SELECT n = $2 AS open) AS last
"""
_STEPS = """
INSERT INTO execution_steps (execution_id, attempt, step, action, status, seq, screenshot)
SELECT execution_id, attempt, n, 'a', 'passed', seq + n, CASE WHEN n = 1 THEN 'png' END
FROM execution_attempts
CROSS JOIN generate_series(1, 3) AS n
"""
