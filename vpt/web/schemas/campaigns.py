"""Campaigns and their executions."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

from marshmallow import Schema, validate
from marshmallow import fields as f

from vpt.bounds import LONGEST_ID, MOST_ENTRIES, MOST_PARALLEL
from vpt.model import ErrorKind, Json
from vpt.web.schemas import fields
from vpt.web.schemas.body import StoredBody
from vpt.web.schemas.response import (
    CAMPAIGN_EXECUTION_ID,
    CAMPAIGN_ID,
    EARLY,
    EXECUTION_ID,
    LATE,
    TEST_CASE_ID,
    ResponseSchema,
    flag,
    moment,
    number,
    one_of,
    text,
    whole,
)


class CampaignStatus(StrEnum):
    """The status of a campaign execution."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    ERROR = "error"
    CANCELLED = "cancelled"


class ResultStatus(StrEnum):
    """The status of one entry of a campaign execution; `skipped`: it was never started."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    ERROR = "error"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class EntryBody(Schema):
    """One test case of a campaign, and where to run it."""

    test_case_id = f.String(
        required=True,
        validate=validate.Length(1, LONGEST_ID),
        metadata=fields.about("The test case to run."),
    )
    device_id = fields.device_reference()
    host_id = fields.host_reference()
    parameters = fields.parameters()


class CampaignBody(StoredBody):
    """A campaign."""

    name = fields.title("A name for people.")
    description = fields.description()
    test_cases: f.List[Any] = fields.BoundedList(
        f.Nested(EntryBody),
        MOST_ENTRIES,
        least=1,
        required=True,
        metadata=fields.about("The entries, in the order in which they are started."),
    )
    stop_on_failure = fields.Flag(
        load_default=False,
        metadata=fields.about("Start no further entry after one that ended `failed` or `error`."),
    )
    parallelism = fields.bounded(
        "How many entries may run at the same time.", 1, MOST_PARALLEL, load_default=1
    )
    priority = fields.priority()
    example: ClassVar[Json] = {
        "name": "Every night",
        "description": "",
        "test_cases": [
            {
                "test_case_id": TEST_CASE_ID,
                "device_id": None,
                "host_id": None,
                "parameters": {"url": "http://127.0.0.1:5109/api/health/live"},
            }
        ],
        "stop_on_failure": False,
        "parallelism": 1,
        "priority": 50,
    }


class CampaignEntryResponse(ResponseSchema, EntryBody):
    """A test case of a campaign."""


class CampaignResponse(ResponseSchema, CampaignBody):
    """The campaign as it is stored."""

    id = text()
    test_cases = f.List(f.Nested(CampaignEntryResponse))
    version = whole("Incremented by each PUT; the ETag is made of it.")
    created_at = moment()
    updated_at = moment()
    example: ClassVar[Json] = {
        "id": CAMPAIGN_ID,
        **CampaignBody.example,
        "version": 1,
        "created_at": EARLY,
        "updated_at": EARLY,
    }


class CampaignResult(ResponseSchema):
    """What became of one entry of a campaign."""

    execution_id = text("Null when it was skipped.", none=True)
    test_case_id = text()
    test_case_name = text(none=True)
    status = one_of(ResultStatus)
    error_kind = one_of(ErrorKind, none=True)
    host = text(none=True)
    device_id = text(none=True)
    duration_s = number(none=True)


class Summary(ResponseSchema):
    """How many entries ended with which status."""

    total = whole()
    completed = whole()
    failed = whole()
    error = whole()
    cancelled = whole()
    skipped = whole()
    success_rate = number("Percent of `completed` among `completed` and `failed`.", none=True)
    duration_s = number(none=True)


class ListedCampaignExecutionResponse(ResponseSchema):
    """A campaign execution, as lists have it: without the results of its entries."""

    campaign_execution_id = text()
    campaign_id = text()
    name = text()
    status = one_of(CampaignStatus)
    error_kind = one_of(ErrorKind, "`internal` when the server could not go on with it.", none=True)
    error = text(none=True)
    stop_on_failure = flag()
    parallelism = whole()
    priority = whole()
    requested_by = text()
    cancel_requested = flag()
    created_at = moment()
    started_at = moment(none=True)
    completed_at = moment(none=True)
    summary = f.Nested(Summary)
    example: ClassVar[Json] = {
        "campaign_execution_id": CAMPAIGN_EXECUTION_ID,
        "campaign_id": CAMPAIGN_ID,
        "name": "Every night",
        "status": "completed",
        "error_kind": None,
        "error": None,
        "stop_on_failure": False,
        "parallelism": 1,
        "priority": 50,
        "requested_by": "ci",
        "cancel_requested": False,
        "created_at": EARLY,
        "started_at": EARLY,
        "completed_at": LATE,
        "summary": {
            "total": 1,
            "completed": 1,
            "failed": 0,
            "error": 0,
            "cancelled": 0,
            "skipped": 0,
            "success_rate": 100.0,
            "duration_s": 4.2,
        },
    }


class CampaignExecutionResponse(ListedCampaignExecutionResponse):
    """The campaign execution, with the results of its entries."""

    results = f.List(
        f.Nested(CampaignResult),
        metadata=fields.about("Without entries that were not started yet."),
    )
    example: ClassVar[Json] = {
        **ListedCampaignExecutionResponse.example,
        "results": [
            {
                "execution_id": EXECUTION_ID,
                "test_case_id": TEST_CASE_ID,
                "test_case_name": "The app starts",
                "status": "completed",
                "error_kind": None,
                "host": "pi-1",
                "device_id": "pi-1:desktop",
                "duration_s": 4.2,
            }
        ],
    }


class CampaignStartedResponse(ResponseSchema):
    """The campaign execution that was started: its status, results and summary."""

    campaign_execution_id = text()
    status = one_of(CampaignStatus)
    results = f.List(
        f.Nested(CampaignResult),
        metadata=fields.about("Empty, except in the response to a repeated Idempotency-Key."),
    )
    summary = f.Nested(Summary)
    example: ClassVar[Json] = {
        "campaign_execution_id": CAMPAIGN_EXECUTION_ID,
        "status": "running",
        "results": [],
        "summary": {
            **CampaignExecutionResponse.example["summary"],
            "completed": 0,
            "success_rate": None,
            "duration_s": 0,
        },
    }


class CampaignCancelledResponse(ResponseSchema):
    """Cancellation was requested."""

    campaign_execution_id = text()
    status = one_of(CampaignStatus, "The status when cancellation was requested.")
    example: ClassVar[Json] = {"campaign_execution_id": CAMPAIGN_EXECUTION_ID, "status": "running"}


CAMPAIGN = CampaignBody()
