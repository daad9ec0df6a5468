"""Bodies that make no sense change nothing and are told why."""

from __future__ import annotations

import gzip
import io
import json
from dataclasses import replace

import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.conftest import Client
from tests.web.kit import got, made, refused, test_case
from vpt.actors.lab import Lab
from vpt.bounds import LONGEST_BODY
from vpt.config import Config
from vpt.events import Events
from vpt.store.db import Database
from vpt.web.app import make_app
from vpt.web.http import held

WRONG_LIMITS = ("0", "-1", "1001", "x", "", "1e3", "9" * 400, "\u0661")
WRONG_CURSORS = ("x", "!!", "", "eHg", "x" * 5000, "OTk5OTk5OTk5OTk5OTk5OTk5IHg")
DEEP = b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
NOT_JSON = {
    "empty list": b"[]",
    "text": b'"x"',
    "null": b"null",
    "half": b'{"name":',
    "NaN": b'{"name": NaN}',
    "Infinity": b'{"name": -Infinity}',
    "beyond a double": b'{"name": 1e400}',
    "beyond 64 bits": b'{"name": 123456789012345678901234567890}',
    "ten thousand digits": b'{"name": ' + b"9" * 10_000 + b"}",
    "lone surrogate": b'{"name": "\\ud800"}',
    "lone surrogate as key": b'{"\\udc00": 1}',
    "raw surrogate": b'{"name": "\xed\xa0\x80"}',
    "not UTF-8": b'{"name": "\xff"}',
    "UTF-16": '{"name": 1}'.encode("utf-16"),
    "NUL": b'{"name": "a\\u0000b"}',
    "NUL as key": b'{"a\\u0000": 1}',
    "NUL after a backslash": b'{"name": "\\\\\\u0000"}',
    "raw NUL": b'{"name": "\x00"}',
    "deep": b'{"a":' + b"[" * 51 + b"]" * 51 + b"}",
    "very deep": DEEP,
    "very deep and open": b"[" * 100_000,
}


async def test_a_body_that_is_no_sound_object_is_refused(operator: Client) -> None:
    for kind, body in NOT_JSON.items():
        status, answer = await refused(operator, "POST", "/api/testcases", data=body)
        assert (status, answer.get("code")) == (400, "bad_request"), kind
    assert (await got(operator, "/api/testcases"))["items"] == []


async def test_a_literal_backslash_u0000_is_no_nul(operator: Client) -> None:
    body = test_case(description="the text \\u0000")
    response = await operator.post("/api/testcases", json=body)
    assert response.status == 201
    assert (await response.json())["description"] == "the text \\u0000"


async def test_fifty_levels_are_not_too_deep(operator: Client) -> None:
    deep = json.loads("[" * 47 + "]" * 47)
    response = await operator.post("/api/testcases", json=test_case(steps=[{"x": deep}]))
    assert response.status == 201


async def test_numbers_up_to_64_bits_come_back_as_they_went(operator: Client) -> None:
    step = {"big": 2**64 - 1, "low": -(2**63), "half": 0.1, "text": "1" * 30}
    response = await operator.post("/api/testcases", json=test_case(steps=[step]))
    assert (await response.json())["steps"] == [step]


async def test_twenty_megabytes_are_too_large(operator: Client) -> None:
    body = io.BytesIO(b'{"name": "' + b"x" * 20_000_000 + b'"}')
    status, answer = await refused(operator, "POST", "/api/testcases", data=body)
    assert (status, answer["code"]) == (413, "too_large")


async def test_too_many_values_are_too_large(operator: Client) -> None:
    body = b'{"name": [' + b"{}," * 100_000 + b"0]}"
    status, answer = await refused(operator, "POST", "/api/testcases", data=body)
    assert (status, answer["code"]) == (413, "too_large")
    assert answer["error"] == "The body has more than 100000 values."


async def test_of_too_many_items_none_is_looked_at(operator: Client) -> None:
    body = test_case(steps=[{"timeout_s": "x"}] * 20_000)
    status, answer = await refused(operator, "POST", "/api/testcases", json=body)
    assert (status, answer["errors"]) == (
        400,
        {"steps": ["Length must be between 1 and 1000."]},
    )


async def test_a_compressed_body_is_refused_before_it_is_unpacked(operator: Client) -> None:
    body = gzip.compress(b'{"name": "' + b"x" * 20_000_000 + b'"}')
    headers = {"Content-Encoding": "gzip"}
    status, answer = await refused(operator, "POST", "/api/testcases", data=body, headers=headers)
    assert (status, answer["error"]) == (400, "The body is compressed: send it uncompressed.")


async def test_a_long_sound_body_is_taken(operator: Client) -> None:
    steps = [{"command": "type", "text": "x" * 2000}] * 500
    response = await operator.post("/api/testcases", json=test_case(steps=steps))
    assert response.status == 201


async def test_an_empty_body_lacks_what_is_required(operator: Client) -> None:
    status, answer = await refused(operator, "POST", "/api/testcases")
    assert status == 400
    assert set(answer["errors"]) == {"name", "steps", "device_model"}


WRONG_FIELDS = [
    {"name": ""},
    {"name": "x" * 101},
    {"name": 7},
    {"name": None},
    {"description": "x" * 1001},
    {"steps": []},
    {"steps": {}},
    {"steps": ["press"]},
    {"steps": [None]},
    {"steps": [{}] * 1001},
    {"steps": [{"timeout_s": 0}]},
    {"steps": [{"timeout_s": "5"}]},
    {"steps": [{"timeout_s": True}]},
    {"steps": [{"retries": 1.5}]},
    {"steps": [{"retries": -1}]},
    {"steps": [{"continue_on_failure": "yes"}]},
    {"steps": [{"continue_on_failure": 1}]},
    {"steps": [{"delay_s": -1}]},
    {"steps": [{"delay_s": 1e9}]},
    {"device_model": ""},
    {"device_model": []},
    {"requirements": "wifi"},
    {"requirements": [1]},
    {"requirements": [""]},
    {"tags": ["x"] * 101},
    {"timeout_s": 0},
    {"timeout_s": "60"},
    {"timeout_s": 1e300},
    {"test_retries": 11},
    {"test_retries": True},
    {"test_retries": "1"},
    {"test_retries": 2**64 - 1},
    {"owner": "ann"},
]


async def test_a_wrong_field_is_named(operator: Client) -> None:
    for wrong in WRONG_FIELDS:
        status, answer = await refused(operator, "POST", "/api/testcases", json=test_case(**wrong))
        assert (status, set(answer["errors"])) == (400, set(wrong)), wrong
    assert (await got(operator, "/api/testcases"))["items"] == []


PARAMS = [
    *[("limit", value) for value in WRONG_LIMITS],
    *[("cursor", value) for value in WRONG_CURSORS],
    *[("q", value) for value in ("a\0b", "x" * 300)],
]


async def test_a_query_that_makes_no_sense_is_refused(operator: Client) -> None:
    for name, value in PARAMS:
        status, _ = await refused(operator, "GET", "/api/testcases", params={name: value})
        assert status == 400, (name, value)


EXECUTION_PARAMS = [
    ("status", "done"),
    ("since", "yesterday"),
    ("until", "0001-01-01T00:00:00+14:00"),
    ("since", "2026-13-01"),
]


async def test_a_filter_that_makes_no_sense_is_refused(operator: Client) -> None:
    for name, value in EXECUTION_PARAMS:
        status, _ = await refused(operator, "GET", "/api/executions", params={name: value})
        assert status == 400, (name, value)


async def test_no_body_is_longer_than_the_bound_whatever_max_body_is(
    operator: Client, config: Config, db: Database, lab: Lab, events: Events
) -> None:
    app = make_app(replace(config, max_body=64 * 2**20), db, lab, events)
    async with TestClient(TestServer(app), headers=operator.session.headers) as client:
        case = await made(client, "/api/testcases", test_case())
        for size, wanted in ((LONGEST_BODY, 422), (LONGEST_BODY + 1, 413)):
            body = b'{"parameters":{}' + b" " * (size - 17) + b"}"
            path = f"/api/testcases/{case['id']}/execute"
            told = await refused(client, "POST", path, data=io.BytesIO(body))
            assert told[0] == wanted


async def test_a_body_that_came_with_its_head_is_held_until_it_is_answered(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "MOST_HELD", 10)
    told = await refused(operator, "POST", "/api/testcases", json=test_case())
    assert (told[0], told[1]["code"], held.held.size) == (503, "unavailable", 0)
    monkeypatch.undo()
    assert (await operator.post("/api/testcases", json=test_case())).status == 201
    assert held.held.size == 0
