"""Executions: starting one, and what is known of it."""

from __future__ import annotations

from typing import ClassVar

from marshmallow import Schema, validate
from marshmallow import fields as f

from vpt.model import ErrorKind, ExecutionStatus, Json, StepStatus, WaitReason
from vpt.web.schemas import fields
from vpt.web.schemas.response import (
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
    words,
)


class ExecuteBody(Schema):
    """How to run a test case."""

    device_id = fields.device_reference()
    host_id = fields.host_reference()
    priority = fields.priority()
    parameters = fields.parameters()
    timeout_s = fields.seconds(
        "Seconds that one attempt may take; null for the test case's own.",
        load_default=None,
        allow_none=True,
    )
    queue_timeout_s = fields.seconds(
        "Seconds that it may wait for a device; null for the server's `QUEUE_TIMEOUT`.",
        load_default=None,
        allow_none=True,
    )
    example: ClassVar[Json] = {
        "device_id": "pi-1:desktop",
        "priority": 80,
        "parameters": {"url": "http://127.0.0.1:5109/api/health/live"},
        "timeout_s": 120,
    }


class SubmittedResponse(ResponseSchema):
    """The execution that was started."""

    execution_id = text()
    status = one_of(ExecutionStatus, "`running` when a device was free at once, else `queued`.")
    host = text(none=True)
    device_id = text(none=True)
    example: ClassVar[Json] = {
        "execution_id": EXECUTION_ID,
        "status": "running",
        "host": "pi-1",
        "device_id": "pi-1:desktop",
    }


class ListedExecutionResponse(ResponseSchema):
    """An execution, as lists have it."""

    execution_id = text()
    test_case_id = text()
    test_case_name = text()
    test_case_version = whole()
    campaign_execution_id = text(none=True)
    status = one_of(ExecutionStatus)
    error_kind = one_of(
        ErrorKind,
        "For status `error`: why there is no verdict on the product under test.",
        none=True,
    )
    error = text(none=True)
    host = text(none=True)
    host_id = text(none=True)
    device_id = text(none=True)
    device_model = fields.DeviceModels(
        metadata=fields.about("What the test case asked for: a model, or a list of several.")
    )
    model = text(
        "The model that it runs or ran on: that of `device_model` which the device has.", none=True
    )
    priority = whole()
    attempt = whole("The number of the latest attempt; 0 before the first.")
    total_steps = whole()
    results = f.Raw(
        allow_none=True,
        metadata=fields.about("Numbers of steps by status, once the execution is final."),
    )
    requested_by = text()
    cancel_requested = flag()
    pinned = flag("True when it is kept, whatever its age.")
    pruned = f.String(
        validate=validate.OneOf(("nothing", "screenshots", "steps")),
        metadata=fields.about("What was deleted of it because of its age."),
    )
    imported_from = text(
        "The other system whose history it is; null for an execution of this lab.", none=True
    )
    created_at = moment()
    queued_at = moment()
    started_at = moment(none=True)
    completed_at = moment(none=True)
    duration_s = number(none=True)
    example: ClassVar[Json] = {
        "execution_id": EXECUTION_ID,
        "test_case_id": TEST_CASE_ID,
        "test_case_name": "The app starts",
        "test_case_version": 1,
        "campaign_execution_id": None,
        "status": "completed",
        "error_kind": None,
        "error": None,
        "host": "pi-1",
        "host_id": "pi-1",
        "device_id": "pi-1:desktop",
        "device_model": "desktop",
        "model": "desktop",
        "priority": 50,
        "attempt": 1,
        "total_steps": 1,
        "results": None,
        "requested_by": "ci",
        "cancel_requested": False,
        "pinned": False,
        "pruned": "nothing",
        "imported_from": None,
        "created_at": EARLY,
        "queued_at": EARLY,
        "started_at": EARLY,
        "completed_at": LATE,
        "duration_s": 4.2,
    }


class Attempt(ResponseSchema):
    """One attempt of an execution, on one device."""

    attempt = whole()
    host = text(none=True)
    device_id = text(none=True)
    status = one_of(ExecutionStatus)
    error_kind = one_of(ErrorKind, none=True)
    error = text(none=True)
    started_at = moment()
    completed_at = moment(none=True)


class PictureShown(ResponseSchema):
    """A picture of a step beside its screenshot."""

    url = text("Its path, with `?sign=1` a link that needs no token for an hour.")
    caption = text("What it shows.")


class StepShown(ResponseSchema):
    """A step of the attempt that was asked for."""

    index = whole("The number of the step, from 1.")
    action = text("The `command` of the step.")
    step = f.Dict(metadata=fields.about("The step, with parameters filled in."))
    status = one_of(StepStatus)
    tries = whole("How often the step was tried.")
    started_at = moment(none=True)
    finished_at = moment(none=True)
    duration_ms = number(none=True)
    output = text("The beginning of the output; the whole has a route of its own.", none=True)
    output_size = whole("Bytes of the whole output.", none=True)
    output_truncated = flag("True when `output` is not the whole output.")
    error = text("The beginning of the error, cut like the output.", none=True)
    error_size = whole("Bytes of the whole error.", none=True)
    error_truncated = flag("True when `error` is not the whole error.")
    screenshot_url = text(none=True)
    pictures = f.List(
        f.Nested(PictureShown),
        metadata=fields.about("Those beside the screenshot: of actions, blocks, verifications."),
    )
    notes = text(
        "What the server has to say of the step: that its screenshot was left out, and why.",
        none=True,
    )


class ExecutionResponse(ListedExecutionResponse):
    """The execution, with its attempts and the steps of one of them."""

    requirements = words()
    parameters = f.Dict()
    timeout_s = number(none=True)
    test_retries = whole("How often a failed test may be repeated.")
    wanted_device_id = text(none=True)
    wanted_host_id = text(none=True)
    queue_timeout_s = number(none=True)
    attempts = f.List(f.Nested(Attempt))
    steps = f.List(f.Nested(StepShown))
    example: ClassVar[Json] = {
        **ListedExecutionResponse.example,
        "requirements": [],
        "parameters": {},
        "timeout_s": None,
        "test_retries": 0,
        "wanted_device_id": None,
        "wanted_host_id": None,
        "queue_timeout_s": 3600,
        "attempts": [
            {
                "attempt": 1,
                "host": "pi-1",
                "device_id": "pi-1:desktop",
                "status": "completed",
                "error_kind": None,
                "error": None,
                "started_at": EARLY,
                "completed_at": LATE,
            }
        ],
        "steps": [
            {
                "index": 1,
                "action": "http_request",
                "step": {"command": "http_request", "params": {"url": "http://tv.example/"}},
                "status": "passed",
                "tries": 1,
                "started_at": EARLY,
                "finished_at": LATE,
                "duration_ms": 4200.0,
                "output": "200 OK",
                "output_size": 6,
                "output_truncated": False,
                "error": None,
                "error_size": None,
                "error_truncated": False,
                "screenshot_url": f"/screenshots/{EXECUTION_ID}/1/1.png",
                "pictures": [
                    {"url": f"/screenshots/{EXECUTION_ID}/1/1-1.png", "caption": "1. press_key"}
                ],
                "notes": None,
            }
        ],
    }


class QueuePlaceResponse(ResponseSchema):
    """Why the execution waits, and its place in the queue."""

    reason = one_of(WaitReason)
    names = words("The devices or hosts that it waits for.")
    position = whole("The place in the queue, from 1.")
    eta_s = number(
        "The estimated wait in seconds; null when there is nothing to estimate it from.", none=True
    )
    example: ClassVar[Json] = {
        "reason": "all_busy",
        "names": ["pi-1:desktop"],
        "position": 2,
        "eta_s": 31.5,
    }


class ExecutionCancelledResponse(ResponseSchema):
    """Cancellation was requested."""

    execution_id = text()
    status = one_of(ExecutionStatus, "The status when cancellation was requested.")
    example: ClassVar[Json] = {"execution_id": EXECUTION_ID, "status": "running"}


EXECUTE = ExecuteBody()
