"""Replay: the events of an execution or a campaign, read from the database, none missing.

An event's row is stored before the event is published, so what is read here is never behind what
was sent; and each is equal to the event that was sent, or would have been had the server not died.
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
)
from vpt.store.artifacts import screenshot_url
from vpt.store.db import Database

Progress = TestProgress | CampaignProgress


class TopicKind(Enum):
    """What has its own events, numbered 1, 2, 3 ... (`seq`)."""

    EXECUTION = "execution"
    CAMPAIGN = "campaign execution"


@dataclass(frozen=True, slots=True)
class Topic:
    """What a client can subscribe to."""

    kind: TopicKind
    id: str


@dataclass(frozen=True, slots=True)
class TopicState:
    """The `seq` of a topic's newest event; `over` when that is the final one."""

    seq: int
    over: bool


_STATE_QUERY = {TopicKind.EXECUTION: "execution_seqs", TopicKind.CAMPAIGN: "campaign_seqs"}


def topic_of(event: Progress) -> Topic:
    """Return the topic that the event belongs to."""
    if isinstance(event, TestProgress):
        return Topic(TopicKind.EXECUTION, event.execution_id)
    return Topic(TopicKind.CAMPAIGN, event.campaign_execution_id)


async def topic_states(
    db: Database, kind: TopicKind, ids: Iterable[str]
) -> dict[Topic, TopicState]:
    """Return the state of each topic of one kind; those that do not exist are left out."""
    rows = await db.rows(_STATE_QUERY[kind], ids=list(ids))
    return {Topic(kind, row["id"]): TopicState(row["seq"], row["over"]) for row in rows}


async def events_after(db: Database, topic: Topic, seq: int, limit: int) -> list[Progress]:
    """Return the next events after `seq`, `limit` at most."""
    if topic.kind is TopicKind.CAMPAIGN:
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
