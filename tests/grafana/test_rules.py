"""Every alert rule fires exactly when it should."""

from __future__ import annotations

import operator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.grafana.kit import POSTGRES, expanded, last_day, rules

SEED = (Path(__file__).parent / "seed.sql").read_text(encoding="utf-8")
RULES = {rule["uid"]: rule for rule in rules()}
COMPARE = {"gt": operator.gt, "lt": operator.lt}

_ENDED_NOW = (
    "UPDATE test_executions SET completed_at = now(), status = '{}', error_kind = {}"
    " WHERE started_at > now() - interval '6 h'"
)
#: What goes wrong, and which instances of the rule say so.
BROKEN: dict[str, tuple[str, set[tuple[str, ...]]]] = {
    "vpt-server-down": ("UPDATE server_instance SET expires_at = now() - interval '40 s'", {()}),
    "vpt-host-lost": ("UPDATE hosts SET status = 'lost' WHERE id = 'pi-1'", {("pi-1",)}),
    "vpt-host-held-back": (
        "UPDATE hosts SET status = 'suspect', reason = 'flapping' WHERE id = 'pi-2'",
        {("pi-2",)},
    ),
    "vpt-samples-stalled": (
        "DELETE FROM host_health WHERE host_id = 'pi-1' AND recorded_at > now() - interval '16 m'",
        {("pi-1",)},
    ),
    "vpt-host-cpu": ("UPDATE host_health SET cpu_percent = 95 WHERE host_id = 'pi-1'", {("pi-1",)}),
    "vpt-host-memory": (
        "UPDATE host_health SET memory_percent = 91 WHERE host_id = 'pi-1'",
        {("pi-1",)},
    ),
    "vpt-host-disk": (
        "UPDATE host_health SET disk_percent = 90 WHERE host_id = 'pi-2'",
        {("pi-2",)},
    ),
    "vpt-host-disk-full": (
        "UPDATE host_health SET disk_percent = 96 WHERE host_id = 'pi-2'",
        {("pi-2",)},
    ),
    "vpt-host-hot": ("UPDATE host_health SET temperature = 85 WHERE host_id = 'pi-2'", {("pi-2",)}),
    "vpt-device-away": (
        "UPDATE devices SET status = 'offline', withdrawn = true WHERE id = 'pi-1-1';"
        "UPDATE devices SET status = 'offline', reason = 'away' WHERE id = 'pi-2-1'",
        {("pi-1-1", "pi-1"), ("pi-2-1", "pi-2")},
    ),
    "vpt-device-held-back": (
        "UPDATE devices SET status = 'offline', reason = 'held_back' WHERE id = 'pi-1-1'",
        {("pi-1-1", "pi-1")},
    ),
    "vpt-pass-rate-low": (_ENDED_NOW.format("failed", "NULL"), {()}),
    "vpt-infrastructure-errors": (_ENDED_NOW.format("error", "'host_lost'"), {()}),
    "vpt-execution-stuck": (
        "UPDATE execution_attempts SET status = 'running', completed_at = NULL, released_at = NULL,"
        " started_at = now() - interval '136 min' WHERE execution_id = 'e1'",
        {()},
    ),
    "vpt-queue-stuck": (
        "DELETE FROM execution_attempts; UPDATE test_executions SET"
        " started_at = started_at - interval '2 h', completed_at = NULL, error_kind = NULL,"
        " status = 'queued', queued_at = now() - interval '2 h'",
        {()},
    ),
    "vpt-campaign-failed": (
        "UPDATE campaign_executions SET status = 'failed' WHERE id = 'c1'",
        {("nightly", "Nightly")},
    ),
    "vpt-nothing-runs": (
        "UPDATE test_executions SET started_at = started_at - interval '5 h'",
        {()},
    ),
}
#: What looks like it and is none of it.
HARMLESS: dict[str, str] = {
    "vpt-server-down": "DELETE FROM server_instance",
    "vpt-host-lost": "UPDATE hosts SET status = 'offline'",
    "vpt-host-held-back": "UPDATE hosts SET status = 'suspect', reason = 'probes'",
    "vpt-samples-stalled": "DELETE FROM host_health; UPDATE hosts SET last_seen = now()",
    "vpt-host-cpu": "UPDATE host_health SET cpu_percent = 100"
    " WHERE recorded_at > now() - interval '2 m' OR recorded_at < now() - interval '11 m'",
    "vpt-host-memory": "UPDATE host_health SET memory_percent = NULL",
    "vpt-host-disk": "UPDATE host_health SET disk_percent = 96"
    " WHERE recorded_at < now() - interval '1 h'",
    "vpt-host-disk-full": "UPDATE host_health SET disk_percent = 94",
    "vpt-host-hot": "UPDATE host_health SET temperature = 80",
    "vpt-device-away": "UPDATE hosts SET status = 'lost'; UPDATE devices SET status = 'offline'",
    "vpt-device-held-back": "UPDATE devices SET status = 'offline', reason = 'away';"
    "UPDATE devices SET status = 'disabled', disabled = true, reason = 'held_back'"
    " WHERE id = 'pi-1-1'",
    "vpt-pass-rate-low": "UPDATE test_executions SET status = 'failed', error_kind = NULL"
    " WHERE completed_at < now() - interval '61 m' OR id IN ('e1', 'e2')",
    "vpt-infrastructure-errors": "UPDATE test_executions SET status = 'error',"
    " error_kind = 'internal' WHERE completed_at < now() - interval '61 m' OR id IN ('e1', 'e2')",
    "vpt-execution-stuck": "UPDATE test_executions SET timeout_s = 9000 WHERE id = 'e1';"
    "UPDATE execution_attempts SET status = 'running', completed_at = NULL, released_at = NULL,"
    " started_at = now() - interval '136 min' WHERE execution_id = 'e1'",
    "vpt-queue-stuck": "UPDATE test_executions SET status = 'queued', completed_at = NULL,"
    " queued_at = now() - interval '2 h' WHERE id = 'e2'",
    "vpt-campaign-failed": "UPDATE campaign_executions SET status = 'failed' WHERE id = 'c2'",
    "vpt-nothing-runs": "DELETE FROM execution_attempts; UPDATE campaign_results"
    " SET execution_id = NULL; DELETE FROM test_executions",
}


async def fired(reader: Any, uid: str) -> set[tuple[str, ...]]:
    """Evaluate a rule as Grafana does: each row is an instance, its texts are the labels."""
    source, _, threshold = RULES[uid]["data"]
    assert source["datasourceUid"] == POSTGRES
    rows = await reader.fetch(expanded(source["model"]["rawSql"], last_day()))
    evaluator = threshold["model"]["conditions"][0]["evaluator"]
    firing, seen = set(), set()
    for row in rows:
        numbers = [v for v in row.values() if isinstance(v, int | float | Decimal)]
        labels = tuple(v for v in row.values() if isinstance(v, str))
        assert len(numbers) == 1 and len(labels) == len(row) - 1, f"{uid}: one number, else text"
        assert labels not in seen, f"{uid}: two rows have the labels {labels}"
        seen.add(labels)
        if COMPARE[evaluator["type"]](float(numbers[0]), evaluator["params"][0]):
            firing.add(labels)
    return firing


async def all_fired(reader: Any) -> set[str]:
    """Give the rules that fire."""
    return {uid for uid in RULES if await fired(reader, uid)}


def test_every_rule_is_tried() -> None:
    assert set(RULES) == set(BROKEN) == set(HARMLESS)


async def test_on_an_empty_database_none_fires(reader: Any) -> None:
    assert await all_fired(reader) == set()


async def test_in_a_healthy_lab_none_fires(reader: Any, owner: Any) -> None:
    await owner.execute(SEED)
    assert await all_fired(reader) == set()


@pytest.mark.parametrize("uid", BROKEN)
async def test_a_rule_fires_for_what_is_broken(uid: str, reader: Any, owner: Any) -> None:
    harm, instances = BROKEN[uid]
    await owner.execute(SEED)
    await owner.execute(harm)
    assert await fired(reader, uid) == instances
    others = await all_fired(reader) - {uid}
    assert others <= ALSO.get(uid, set())


#: What cannot go wrong alone.
ALSO = {
    "vpt-host-disk-full": {"vpt-host-disk"},
    "vpt-queue-stuck": {"vpt-nothing-runs"},
}


@pytest.mark.parametrize("uid", HARMLESS)
async def test_a_rule_stays_quiet_for_what_only_looks_so(uid: str, reader: Any, owner: Any) -> None:
    await owner.execute(SEED)
    await owner.execute(HARMLESS[uid])
    assert await fired(reader, uid) == set()
