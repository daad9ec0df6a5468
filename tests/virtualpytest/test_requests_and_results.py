"""A step in such a host's words, and its words as verdicts; whatever it says, nothing breaks."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vpt.dialects.base import MAX_TEXT, Call, HostTroubleError
from vpt.dialects.results import StepResult, StillRunning, read_status, script_result
from vpt.dialects.start_requests import StepKind, build_request, command_line
from vpt.model import Device, Host

HOST = Host("pi", "http://10.0.0.5:6109", dialect="virtualpytest")
DEVICE = Device("pi:d", "d", "d", "tv")


def read(kind: StepKind, said: Any) -> tuple[bool | None, str | None]:
    """Return the verdict's success and error; None and the trouble when there is none."""
    try:
        meaning = read_status(kind, said)
    except HostTroubleError as trouble:
        return None, trouble.trouble.name
    return (meaning.success, meaning.error) if isinstance(meaning, StepResult) else (None, "runs")


RESULTS = [{"success": True, "message": "yes"}, {"success": False, "message": "no"}]


@pytest.mark.parametrize(
    ("kind", "said", "read_as"),
    [
        ("action", {"status": "running"}, (None, "runs")),
        ("action", {"status": "pending"}, (None, "runs")),
        ("action", {"status": "completed", "result": {"success": True}}, (True, None)),
        (
            "action",
            {"status": "completed", "result": {"success": False, "results": RESULTS}},
            (False, "no"),
        ),
        (
            "action",
            {"status": "error", "error": "e", "result": {"success": False, "error": "why"}},
            (False, "why"),
        ),
        ("action", {"status": "error", "error": "e", "result": None}, (None, "HOST_ERROR")),
        ("action", {"status": "completed", "result": {}}, (None, "HOST_ERROR")),
        ("action", {"status": "completed", "result": {"success": "false"}}, (None, "HOST_ERROR")),
        ("action", {}, (None, "HOST_ERROR")),
        ("action", {"success": False, "error": "no such execution"}, (None, "FATE_UNKNOWN")),
        ("verification", {"status": "completed", "result": {"success": True}}, (True, None)),
        (
            "verification",
            {"status": "error", "error": "no", "result": {"success": False}},
            (False, "no"),
        ),
        ("verification", {"status": "error", "error": "boom"}, (None, "HOST_ERROR")),
        ("verification", {"status": "error", "result": {"success": True}}, (None, "HOST_ERROR")),
        ("graph", {"status": {"status": "running"}}, (None, "runs")),
        ("graph", {"status": "running"}, (None, "runs")),
        (
            "graph",
            {"status": {"status": "completed", "result": {"result_type": "success"}}},
            (True, None),
        ),
        (
            "graph",
            {"status": {"status": "failed", "result": {"result_type": "failure", "error": "w"}}},
            (False, "w"),
        ),
        (
            "graph",
            {"status": {"status": "failed", "result": {"result_type": "error"}}},
            (None, "HOST_ERROR"),
        ),
        ("graph", {"status": {"status": "failed"}}, (None, "HOST_ERROR")),
    ],
)
def test_what_a_poll_says(kind: str, said: Any, read_as: Any) -> None:
    assert read(StepKind(kind), said) == read_as


def test_what_was_not_verified_is_no_failure() -> None:
    items = [
        {"success": False, "skipped": True, "message": "not verified"},
        {"success": False, "message": "not there", "command": "see"},
    ]
    said = {"status": "error", "result": {"success": False, "results": items}}
    verdict = read_status(StepKind.VERIFICATION, said)
    assert isinstance(verdict, StepResult)
    assert verdict.error == "not there"
    assert verdict.output == "1. skipped not verified\n2. failed see not there"


def test_pictures_are_in_order_and_empty_names_are_none() -> None:
    items = [{"screenshot_path": "/1"}, {"screenshot_path": ""}]
    result = {"success": True, "results": items, "verification_screenshots": ["/1", "/2", ""]}
    verdict = read_status(StepKind.VERIFICATION, {"status": "completed", "result": result})
    assert isinstance(verdict, StepResult) and verdict.pictures == ("/1", "/1", "/2")


def test_the_output_of_a_script_has_an_end() -> None:
    verdict = script_result(
        {"result": {"stdout": "\0" + "x" * 3 * MAX_TEXT, "exit_code": 1, "stderr": "the reason"}}
    )
    assert len(verdict.output or "") < MAX_TEXT + 100 and "\0" not in (verdict.output or "")
    assert verdict.error == "The script failed with exit code 1.\nthe reason"


def test_where_it_stands_is_small() -> None:
    said = {"progress": float("nan"), "message": "x\0" * 5000}
    meaning = read_status(StepKind.ACTION, {"status": "running"} | said)
    assert isinstance(meaning, StillRunning) and meaning.progress["progress"] is None
    assert len(meaning.progress["message"]) == 1000 and "\0" not in meaning.progress["message"]
    states = {str(n): {"status": "success", "log": "x" * 999} for n in range(5000)}
    graph = read_status(StepKind.GRAPH, {"status": {"status": "running", "block_states": states}})
    assert isinstance(graph, StillRunning) and len(graph.progress["blocks"]) == 1000
    assert graph.progress["blocks"]["7"] == "success"


whatever = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_names = st.sampled_from(
    [
        *("status", "result", "success", "results", "step_results", "message", "error"),
        *("progress", "block_states", "result_type", "action_screenshots", "screenshots"),
        *("output_data", "report_url", "exit_code", "script_success", "stdout", "stderr"),
        *("skipped", "command", "current_block_id"),
    ]
)
_anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=6,
)
_said = st.dictionaries(_names, _anything, max_size=5)
_ended = st.sampled_from(["completed", "error", "failed", "running"])


@whatever
@given(st.sampled_from([StepKind.ACTION, StepKind.VERIFICATION, StepKind.GRAPH]), _said, _ended)
def test_whatever_a_host_says_is_read(kind: StepKind, said: Any, ended: str) -> None:
    for words in (said, {**said, "status": ended}, {"status": {**said, "status": ended}}):
        read(kind, words)
        read(kind, {"status": ended, "result": words})


@whatever
@given(_said)
def test_whatever_a_script_says_is_read(said: Any) -> None:
    for words in (said, {"result": said}):
        with contextlib.suppress(HostTroubleError):
            script_result(words)


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        (None, ""),
        ("--a b", "--a b"),
        (["--a", "b c"], "--a 'b c'"),
        (
            {"a": "b", "-c": 1.5, "d": True, "e": False, "f": None},
            "--a b -c 1.5 --d true --e false",
        ),
        ({"a": ["x", 1]}, """--a '["x", 1]'"""),
        (7, "7"),
    ],
)
def test_the_parameters_of_a_script(parameters: Any, line: str) -> None:
    assert command_line(parameters) == line


@whatever
@given(st.dictionaries(st.sampled_from(["actions", "verifications", "graph", "x"]), _anything))
def test_whatever_a_step_is_can_be_said(step: Any) -> None:
    with contextlib.suppress(HostTroubleError):  # a graph that is none
        build_request(Call(HOST, DEVICE, step, "k", 1.0))


@pytest.mark.parametrize(
    ("stderr", "shown"),
    [("token secret-value\n" + "x" * 1995, "x" * 1995), ("secret-value" * 500, None)],
)
def test_the_end_of_a_long_error_begins_with_a_whole_line(stderr: str, shown: str | None) -> None:
    """The rest of a line may begin within a secret, of which the mask would not find that part."""
    told = script_result({"result": {"stdout": "", "exit_code": 1, "stderr": stderr}})
    assert "alue" not in (told.error or "")
    assert shown is None or (told.error or "").endswith(shown)
