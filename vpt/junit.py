"""JUnit XML: what CI systems read of executions; the dialect of Surefire and Jenkins' xUnit.

A `failure` is a test's verdict, an `error` is infrastructure, a cancelled or left out test is
`skipped`. Attempts before the last stand beside it: as flaky when the test passed in the end,
else as reruns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC
from typing import Any, TypeVar

import orjson
from junitparser import Error, Failure, Properties, Property, Skipped
from junitparser import xunit2 as x

from vpt.model import ExecutionStatus

Case = Mapping[str, Any]  # a row of the query junit_cases
Attempt = Mapping[str, Any]
Problem = TypeVar("Problem", Failure, Error)

#: XML has no words for these: with one of them in it no parser reads the file.
_UNSAYABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INTERIM = {
    (True, True): x.FlakyFailure,
    (True, False): x.FlakyError,
    (False, True): x.RerunFailure,
    (False, False): x.RerunError,
}


def report(head: Mapping[str, Any], about: Mapping[str, str], cases: Iterable[Case]) -> bytes:
    """Build one suite with a case for each row; `about` are properties of the whole.

    `head` is the row of the query junit_head. A campaign that could not go on has a case of its
    own, in error: its tests were skipped, which no CI system minds.
    """
    name = head["name"]
    suite = x.TestSuite(_plain(name))
    suite.timestamp = head["began_at"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    properties = Properties()
    _add(properties, about)
    for number, row in enumerate(cases, 1):
        suite.add_testcase(_case(name, row))
        where = {
            f"{number}.{label}": row[column]
            for label, column in (
                ("execution_id", "execution_id"),
                ("host", "host_id"),
                ("device", "device_id"),
            )
            if row[column]
        }
        _add(properties, where)  # the schema knows properties of suites only
    if head["error_kind"] is not None:
        broken = x.TestCase(_plain(name), _plain(name), 0)
        broken.append(Error(_plain(head["error"]), head["error_kind"]))
        suite.add_testcase(broken)
    suite.append(properties)
    whole = x.JUnitXml(_plain(name))
    whole.add_testsuite(suite)
    whole.update_statistics()
    text: bytes = whole.tostring()
    return text


def _add(properties: Properties, named: Mapping[str, str]) -> None:
    for name, value in named.items():
        properties.add_property(Property(_plain(name), _plain(value)))


def _case(suite: str, row: Case) -> x.TestCase:
    attempts: list[Attempt] = orjson.loads(row["attempts"])
    case = x.TestCase(_plain(row["name"]), _plain(suite), round(row["duration_s"] or 0, 3))
    status = row["status"]
    if status != ExecutionStatus.COMPLETED:
        case.append(_result(row, attempts))
    passed = status == ExecutionStatus.COMPLETED
    for attempt in attempts[:-1]:
        if attempt["status"] in (ExecutionStatus.FAILED, ExecutionStatus.ERROR):
            case.append(_interim(attempt, passed=passed))
    path = f"/api/executions/{row['execution_id']}"
    told = "\n".join(line for attempt in attempts for line in _story(path, attempt))
    if row["pruned"] == "steps":
        told += "\nThe steps are too old to be kept."
    if told:
        case.system_out = _plain(told)
    return case


def _result(row: Case, attempts: list[Attempt]) -> Failure | Error | Skipped:
    """Return why a test is not completed."""
    status = row["status"]
    if status == "skipped":
        return Skipped("The campaign had stopped before.", "skipped")
    if status == ExecutionStatus.CANCELLED:
        return Skipped("It was cancelled.", "cancelled")
    last = attempts[-1] if attempts else {}
    if status == ExecutionStatus.FAILED:
        return _with_body(Failure(_plain(_why_failed(last)), "failed"), row, last)
    if status == ExecutionStatus.ERROR:
        words = _plain(row["error"] or row["error_kind"])
        return _with_body(Error(words, row["error_kind"]), row, last)
    return Error(f"It is not over: it is {status}.", "unfinished")


def _with_body(result: Problem, row: Case, attempt: Attempt) -> Problem:
    """Repeat it as the text, which is all that GitLab shows, with the step's output."""
    at: str = f"/api/executions/{row['execution_id']}/attempts/{attempt.get('attempt')}"
    steps: list[Mapping[str, Any]] = [
        step for step in attempt.get("steps", ()) if step["status"] in ("failed", "error")
    ]
    told = [result.message, *(line for step in steps for line in _step(at, step))]
    result.text = _plain("\n".join(told))
    return result


def _interim(attempt: Attempt, *, passed: bool) -> x.InterimResult:
    failed = attempt["status"] == ExecutionStatus.FAILED
    words = _why_failed(attempt) if failed else attempt["error"] or attempt["error_kind"]
    kind = _INTERIM[passed, failed]
    return kind(_plain(words), "failed" if failed else attempt["error_kind"])


def _why_failed(attempt: Attempt) -> str:
    for step in attempt.get("steps", ()):
        if step["status"] == "failed":
            words = step["error"] or step["output"] or "no reason given"
            return f"step {step['step']}, {step['action']}: {words}"
    return "It failed."


def _story(path: str, attempt: Attempt) -> Iterable[str]:
    """Describe an attempt step by step; `path` is its execution's."""
    yield (
        f"attempt {attempt['attempt']} on {attempt['device_id']} of host {attempt['host_id']}: "
        f"{attempt['status']}" + (f" ({attempt['error_kind']})" if attempt["error_kind"] else "")
    )
    for step in attempt["steps"]:
        yield from _step(f"{path}/attempts/{attempt['attempt']}", step)
    left_out = (attempt["last_step"] or 0) - len(attempt["steps"])
    if left_out > 0:
        yield f"  {left_out} more steps: GET {path}?attempt={attempt['attempt']}"


def _step(path: str, step: Mapping[str, Any]) -> Iterable[str]:
    """Describe a step; `path` is its attempt's."""
    took = "" if step["duration_ms"] is None else f", {step['duration_ms']:.0f} ms"
    yield f"  step {step['step']}, {step['action']}: {step['status']}{took}"
    for kind in ("output", "error"):
        if step[kind]:
            yield f"    {kind}: " + step[kind].rstrip().replace("\n", "\n      ")
        if step[f"{kind}_cut"]:
            yield f"    [cut] The whole: GET {path}/steps/{step['step']}/{kind}"


def _plain(words: object) -> str:
    return _UNSAYABLE.sub("\ufffd", str(words))
