"""Test cases."""

from __future__ import annotations

from typing import ClassVar

from vpt.bounds import MOST_RETRIES, MOST_STEPS, MOST_WORDS
from vpt.model import Json
from vpt.web.schemas import fields
from vpt.web.schemas.body import StoredBody
from vpt.web.schemas.response import EARLY, TEST_CASE_ID, ResponseSchema, moment, text, whole
from vpt.web.schemas.steps import Step


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
        metadata=fields.about("The steps, in the order in which they run."),
    )
    device_model = fields.title(
        "The devices that can run it: their model, or a capability of their host."
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
        "version": 1,
        "created_at": EARLY,
        "updated_at": EARLY,
    }


TEST_CASE = TestCaseBody()
