"""Executions of another system, imported as history."""

from __future__ import annotations

from datetime import UTC
from typing import Any, ClassVar

from marshmallow import Schema, ValidationError, validate, validates_schema
from marshmallow import fields as f

from vpt.bounds import LONGEST_ID
from vpt.model import ExecutionStatus, Json
from vpt.web.schemas import fields
from vpt.web.schemas.response import EARLY, LATE, ResponseSchema, whole

LONGEST_IMPORT = 16 * 2**20
MOST_IMPORTED = 500
_LONGEST_TEXT = 10_000
_VERDICTS = (ExecutionStatus.COMPLETED.value, ExecutionStatus.FAILED.value)


def _text(sentence: str, longest: int, **options: Any) -> f.String:
    return f.String(
        validate=validate.Length(1, longest), metadata=fields.about(sentence), **options
    )


def _moment(sentence: str) -> f.AwareDateTime:
    return f.AwareDateTime(
        format="iso", default_timezone=UTC, required=True, metadata=fields.about(sentence)
    )


class ImportedExecutionBody(Schema):
    """A finished execution of another system."""

    id = f.String(
        required=True,
        validate=validate.Regexp(r"[A-Za-z0-9_.-]{1,100}\Z"),
        metadata=fields.about("Its id there."),
    )
    test_case_name = fields.title("The name of what ran.")
    test_case_id = _text(
        "The test case here that it belongs to.", LONGEST_ID, load_default=None, allow_none=True
    )
    device_model = fields.title("The model of the device.")
    host_id = _text("The host that ran it.", LONGEST_ID, required=True)
    device_id = _text("The device that ran it.", LONGEST_ID, required=True)
    status = f.String(
        required=True,
        validate=validate.OneOf(_VERDICTS),
        metadata=fields.about("The verdict: `completed` when the product passed."),
    )
    error = _text("Why it failed.", _LONGEST_TEXT, load_default=None, allow_none=True)
    output = _text(
        "The output of its only step.", _LONGEST_TEXT, load_default=None, allow_none=True
    )
    started_at = _moment("When it began.")
    completed_at = _moment("When it ended.")

    @validates_schema
    def _ends_after_it_began(self, data: Json, **_: Any) -> None:
        if data["completed_at"] < data["started_at"]:
            raise ValidationError("Before started_at.", "completed_at")


class ImportBody(Schema):
    """Finished executions of another system."""

    source = f.String(
        required=True,
        validate=validate.Regexp(r"[a-z0-9-]{1,40}\Z"),
        metadata=fields.about("The name of the other system."),
    )
    executions: f.List[Any] = fields.BoundedList(
        f.Nested(ImportedExecutionBody),
        MOST_IMPORTED,
        required=True,
        metadata=fields.about("The executions, each once."),
    )
    example: ClassVar[Json] = {
        "source": "virtualpytest",
        "executions": [
            {
                "id": "7a2f",
                "test_case_name": "The app starts",
                "test_case_id": None,
                "device_model": "stb",
                "host_id": "rack-1",
                "device_id": "rack-1:device1",
                "status": "completed",
                "error": None,
                "output": "report: https://example.org/report.html",
                "started_at": EARLY,
                "completed_at": LATE,
            }
        ],
    }


class ImportedResponse(ResponseSchema):
    """How many executions were stored."""

    imported = whole("Stored now.")
    known = whole("Stored before: these stay as they are.")
    example: ClassVar[Json] = {"imported": 1, "known": 0}


IMPORT = ImportBody()
