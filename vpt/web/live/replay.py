"""Replay: the events of an execution or a campaign as the database has them, none missing.

An event's row stands before the event is published, so what is read here is never behind what was
told; and each is the very event that was told, or would have been had the server not died.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from vpt.model import (
    CampaignProgress,
    ExecutionStatus,
    StepStatus,
    TestProgress,
    screenshot_url,
)
from vpt.store.db import Database

Progress = TestProgress | CampaignProgress


class Kind(Enum):
    """What has events of its own, numbered 1, 2, 3 ..."""

    EXECUTION = "execution"
    CAMPAIGN = "campaign execution"


@dataclass(frozen=True, slots=True)
class Topic:
    """What a client can narrow to."""

    kind: Kind
    id: str


@dataclass(frozen=True, slots=True)
class Present:
    """The number of a topic's newest event; `over` when that is the final one."""

    seq: int
    over: bool


_PRESENT = {Kind.EXECUTION: "execution_seqs", Kind.CAMPAIGN: "campaign_seqs"}


def topic_of(event: Progress) -> Topic:
    """Give what the event belongs to."""
    if isinstance(event, TestProgress):
        return Topic(Kind.EXECUTION, event.execution_id)
    return Topic(Kind.CAMPAIGN, event.campaign_execution_id)


async def presents(db: Database, kind: Kind, ids: Iterable[str]) -> dict[Topic, Present]:
    """Give where topics of one kind stand; those that do not exist are left out."""
    rows = await db.rows(_PRESENT[kind], ids=list(ids))
    return {Topic(kind, row["id"]): Present(row["seq"], row["over"]) for row in rows}


async def events_after(db: Database, topic: Topic, seq: int, limit: int) -> list[Progress]:
    """Give the next events after `seq`, `limit` at most."""
    if topic.kind is Kind.CAMPAIGN:
        rows = await db.rows("campaign_events", id=topic.id, after_seq=seq, limit=limit)
        return [_campaign_progress(topic.id, row) for row in rows]
    rows = await db.rows("execution_events", id=topic.id, after_seq=seq, limit=limit)
    return [_test_progress(topic.id, row) for row in rows]


def _campaign_progress(campaign_execution_id: str, row: Any) -> CampaignProgress:
    return CampaignProgress(
        campaign_execution_id,
        row["done"],
        row["total"],
        ExecutionStatus(row["status"]),
        row["seq"],
    )


def _test_progress(execution_id: str, row: Any) -> TestProgress:
    attempt, step, step_status = row["attempt"], row["step"], row["step_status"]
    return TestProgress(
        execution_id,
        attempt,
        step,
        row["total_steps"],
        ExecutionStatus(row["status"]),
        StepStatus(step_status) if step_status else None,
        screenshot_url(execution_id, attempt, step) if row["screenshot"] else None,
        row["seq"],
        row["campaign_execution_id"],
        row["host_id"],
        row["device_id"],
    )
