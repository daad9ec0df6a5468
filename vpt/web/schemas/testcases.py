"""Test cases."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from marshmallow import Schema, ValidationError
from marshmallow import fields as f

from vpt.bounds import MOST_RETRIES, MOST_STEPS, MOST_WORDS
from vpt.model import Json
from vpt.web.schemas import fields
from vpt.web.schemas.body import StoredBody
from vpt.web.schemas.response import EARLY, TEST_CASE_ID, ResponseSchema, moment, text, whole
from vpt.web.schemas.steps import Step


class ParameterBody(Schema):
    """What a test case says of a parameter."""

    secret = fields.Flag(
        load_default=False,
        metadata=fields.about(
            "Its value is stored sealed until the run is over, and shown as `***` everywhere."
        ),
    )


def _few(parameters: Json) -> None:
    # marshmallow's Length would stand in the document as the length of a text.
    if len(parameters) > MOST_WORDS:
        raise ValidationError(f"Longer than maximum length {MOST_WORDS}.")


class TestCaseBody(StoredBody):
    """A test case."""

    __test__ = False

    name = fields.title("A name for people.")
    description = fields.description()
    steps = fields.BoundedList(
        Step(),
        MOST_STEPS,
        least=1,
        required=True,
        metadata=fields.about(
            "The steps, in the order in which they run. In their texts `${name}` is a parameter,"
            " `${secret:name}` a secret; `${device.id}`, `${device.local_id}`, `${device.model}`"
            " and `${host.name}` are what the step is sent to."
        ),
    )
    parameters = f.Dict(
        keys=f.String(validate=fields.LABEL),
        values=f.Nested(ParameterBody),
        load_default=dict,
        validate=_few,
        metadata={
            **fields.about("What is to be known of `${name}`s; they need not stand here."),
            "maxProperties": MOST_WORDS,
        },
    )
    device_model = fields.DeviceModels(
        required=True,
        metadata=fields.about(
            "The devices that can run it: their model, or a capability of their host;"
            " a list where any of several models will do."
        ),
    )
    requirements = fields.labels(
        "Capabilities that the device or its host needs.", MOST_WORDS, load_default=list
    )
    tags = fields.labels(fields.TAGS, MOST_WORDS, load_default=list)
    timeout_s = fields.seconds(
        "Seconds that one attempt may take; null for the server's `RUN_TIMEOUT`.",
        load_default=None,
        allow_none=True,
    )
    test_retries = fields.bounded(
        "How many more attempts follow a failed one.", 0, MOST_RETRIES, load_default=0
    )
    total_steps = f.Integer(dump_only=True, metadata=fields.about("The number of steps."))
    example: ClassVar[Json] = {
        "name": "The app starts",
        "description": "",
        "steps": [
            {
                "command": "http_request",
                "action_type": "desktop",
                "params": {"url": "${url}"},
                "timeout_s": 30,
            }
        ],
        "parameters": {"password": {"secret": True}},
        "device_model": "desktop",
        "requirements": [],
        "tags": ["smoke"],
        "timeout_s": None,
        "test_retries": 0,
    }


class TestCaseResponse(ResponseSchema, TestCaseBody):
    """The test case as it is stored."""

    __test__ = False

    id = text()
    version = whole("Incremented by each PUT; the ETag is made of it.")
    created_at = moment()
    updated_at = moment()
    example: ClassVar[Json] = {
        "id": TEST_CASE_ID,
        **TestCaseBody.example,
        "total_steps": 1,
        "version": 1,
        "created_at": EARLY,
        "updated_at": EARLY,
    }


class MoreFields(StrEnum):
    """What a list of test cases leaves out and may be asked for."""

    STEPS = "steps"


class ListedTestCaseResponse(TestCaseResponse):
    """A test case, as lists have it: without its steps, unless `fields` asks for them."""

    __test__ = False

    maybe = frozenset(("steps",))
    example: ClassVar[Json] = {
        name: value for name, value in TestCaseResponse.example.items() if name != "steps"
    }


TEST_CASE = TestCaseBody()
