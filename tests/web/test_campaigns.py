"""Campaigns: made, checked, run, stopped, cancelled."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from tests.conftest import Client
from tests.web.kit import FakeHost, Json, got, made, refused, test_case
from vpt import parameters
from vpt.store.db import Database, Session


async def campaign(client: Client, count: int = 2, **changes: Any) -> Json:
    """Make a campaign of `count` new test cases."""
    cases = [await made(client, "/api/testcases", test_case(name=f"{n}")) for n in range(count)]
    entries = [{"test_case_id": case["id"]} for case in cases]
    return await made(client, "/api/campaigns", {"name": "all", "test_cases": entries, **changes})


async def executed(client: Client, one: Json) -> Json:
    """Run a campaign to its end."""
    begun = await made(client, f"/api/campaigns/{one['id']}/execute", {})
    assert (begun["status"], begun["results"]) == ("running", [])
    path = f"/api/campaign-executions/{begun['campaign_execution_id']}"
    return await got(client, path, wait="30")


async def test_a_campaign_of_which_nothing_fits_one_test_names_it(
    operator: Client, host: FakeHost
) -> None:
    names = [("Good", "pixel"), ("Toast", "toaster")]
    cases = [
        await made(operator, "/api/testcases", test_case(name=name, device_model=model))
        for name, model in names
    ]
    body = {"name": "all", "test_cases": [{"test_case_id": case["id"]} for case in cases]}
    path = f"/api/campaigns/{(await made(operator, '/api/campaigns', body))['id']}/execute"
    status, answer = await refused(operator, "POST", path, json={})
    assert (status, answer["code"]) == (422, "nothing_fits")
    assert answer["error"].startswith("Test 2, Toast: No registered host can run this")
    assert (await got(operator, "/api/campaign-executions"))["items"] == []


async def test_a_campaign_lives(operator: Client) -> None:
    one = await campaign(operator, parallelism=2)
    path = f"/api/campaigns/{one['id']}"
    assert one == await got(operator, path)
    assert (one["stop_on_failure"], one["parallelism"], one["priority"]) == (False, 2, 50)
    assert one["test_cases"][0]["device_id"] is None
    assert (await got(operator, "/api/campaigns"))["items"] == [one]
    assert (await got(operator, "/api/campaigns", q="ALL"))["items"] == [one]
    assert (await got(operator, "/api/campaigns", q="none"))["items"] == []
    back = await operator.put(path, json=one | {"name": "some"})
    assert ((await back.json())["name"], back.status) == ("some", 200)
    assert (await operator.delete(path)).status == 204
    for method in ("GET", "PUT", "DELETE"):
        assert (await refused(operator, method, path, json=one))[0] == 404


async def test_a_change_over_another_ones_change_is_refused(operator: Client) -> None:
    one = await campaign(operator)
    path = f"/api/campaigns/{one['id']}"
    headers = {"If-Match": (await operator.get(path)).headers["ETag"]}
    bodies = [one | {"name": name} for name in "abcd"]
    answers = await asyncio.gather(
        *(operator.put(path, json=body, headers=headers) for body in bodies)
    )
    assert sorted(answer.status for answer in answers) == [200, 412, 412, 412]
    status, answer = await refused(operator, "DELETE", path, headers=headers)
    assert (status, answer["code"]) == (412, "precondition_failed")
    [winner] = [await answer.json() for answer in answers if answer.status == 200]
    assert (winner, winner["version"]) == (await got(operator, path), 2)
    assert (await operator.delete(path, headers={"If-Match": '"2"'})).status == 204


async def test_a_test_case_that_a_campaign_uses_cannot_be_deleted(operator: Client) -> None:
    one = await campaign(operator, 1)
    path = f"/api/testcases/{one['test_cases'][0]['test_case_id']}"
    status, answer = await refused(operator, "DELETE", path)
    assert (status, answer["code"]) == (409, "conflict")
    await operator.delete(f"/api/campaigns/{one['id']}")
    assert (await operator.delete(path)).status == 204


WRONG: tuple[tuple[Json, int], ...] = (
    ({"test_cases": []}, 400),
    ({"test_cases": [{}]}, 400),
    ({"test_cases": ["x"]}, 400),
    ({"test_cases": [{"test_case_id": "x", "priority": 1}]}, 400),
    ({"test_cases": [{"test_case_id": "x"}]}, 422),
    ({"name": ""}, 400),
    ({"parallelism": 0}, 400),
    ({"stop_on_failure": "no"}, 400),
    ({"priority": -1}, 400),
)


async def test_a_campaign_that_makes_no_sense_changes_nothing(operator: Client) -> None:
    one = await campaign(operator, 1)
    path = f"/api/campaigns/{one['id']}"
    for wrong, status in WRONG:
        assert (await refused(operator, "PUT", path, json=one | wrong))[0] == status, wrong
    assert await got(operator, path) == one


async def test_a_campaign_on_what_does_not_exist_is_refused(operator: Client) -> None:
    one = await campaign(operator, 1)
    for place in ({"device_id": "no"}, {"host_id": "no"}):
        body = {"name": "all", "test_cases": [one["test_cases"][0] | place]}
        assert (await refused(operator, "POST", "/api/campaigns", json=body))[0] == 422, place


async def test_a_campaign_runs_to_its_end(operator: Client, host: FakeHost) -> None:
    done = await executed(operator, await campaign(operator, 3, parallelism=2))
    assert done["status"] == "completed"
    assert {result["status"] for result in done["results"]} == {"completed"}
    assert {result["host"] for result in done["results"]} == {"host-1"}
    assert (done["summary"]["total"], done["summary"]["success_rate"]) == (3, 100)
    page = await got(operator, "/api/campaign-executions", status="completed")
    listed = {name: value for name, value in done.items() if name != "results"}
    assert page["items"] == [listed], "results are in the item only"
    filtered = await got(operator, "/api/campaign-executions", campaign_id="none")
    assert filtered["items"] == []
    executions = await got(
        operator, "/api/executions", campaign_execution_id=done["campaign_execution_id"]
    )
    assert len(executions["items"]) == 3


async def test_a_failure_stops_a_campaign_that_wants_it(operator: Client, host: FakeHost) -> None:
    host.answer = lambda _: {"success": False}
    done = await executed(operator, await campaign(operator, 3, stop_on_failure=True))
    assert done["status"] == "failed"
    assert [r["status"] for r in done["results"]] == ["failed", "skipped", "skipped"]
    assert [r["execution_id"] is None for r in done["results"]] == [False, True, True]
    summary = done["summary"]
    assert (summary["failed"], summary["skipped"], summary["success_rate"]) == (1, 2, 0)


async def test_a_campaign_is_cancelled(operator: Client, host: FakeHost) -> None:
    host.gate.clear()
    one = await campaign(operator, 3)
    begun = await made(operator, f"/api/campaigns/{one['id']}/execute", {})
    path = f"/api/campaign-executions/{begun['campaign_execution_id']}"
    assert (await operator.post(f"{path}/cancel")).status == 202
    done = await got(operator, path, wait="30")
    assert (done["status"], done["summary"]["success_rate"]) == ("cancelled", None)
    assert (await refused(operator, "POST", f"{path}/cancel"))[0] == 409
    assert (await refused(operator, "POST", "/api/campaign-executions/no/cancel"))[0] == 404


async def test_starting_a_campaign_reads_the_steps_once_and_fills_in_none(
    operator: Client, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What 1,000 entries of a test case cost beside each other: their parameters only."""
    steps = [{"command": "${key}", "timeout_s": "${limit}"} for _ in range(1000)]
    case = await made(operator, "/api/testcases", test_case(steps=steps))
    entries = [
        {"test_case_id": case["id"], "device_id": "tv-1", "parameters": {"key": f"{n}", "limit": n}}
        for n in range(1, 1001)
    ]
    one = await made(operator, "/api/campaigns", {"name": "n", "test_cases": entries})
    host.gate.clear()
    asked: Counter[str] = Counter()
    filled: Counter[str] = Counter()
    for kind in (Session, Database):
        _count(monkeypatch, kind, ("value", "rows", "row"), asked)
    _count(monkeypatch, parameters, ("filled", "uses_of"), filled)
    begun = await made(operator, f"/api/campaigns/{one['id']}/execute", {})
    assert (asked["test_case_steps"], asked["devices_named"]) == (1, 1)
    most_started = 2  # by now
    assert filled["uses_of"] <= 1 + most_started
    assert filled["filled"] <= 1000 + most_started * 2 * 1000, "a value an entry, no step"
    await operator.post(f"/api/campaign-executions/{begun['campaign_execution_id']}/cancel")


def _count(
    monkeypatch: pytest.MonkeyPatch, owner: Any, names: tuple[str, ...], counts: Counter[str]
) -> None:
    """Count the calls of functions by their names, of queries by the query's."""

    def counting(name: str, real: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            counts[args[1] if owner in (Session, Database) else name] += 1
            return real(*args, **more)

        return call

    for name in names:
        monkeypatch.setattr(owner, name, counting(name, getattr(owner, name)))


async def test_parameters_that_an_entry_lacks_are_named(operator: Client, host: FakeHost) -> None:
    case = await made(operator, "/api/testcases", test_case(steps=[{"x": "${a}"}]))
    entries = [{"test_case_id": case["id"], "parameters": {"a": 1}}, {"test_case_id": case["id"]}]
    one = await made(operator, "/api/campaigns", {"name": "n", "test_cases": entries})
    status, answer = await refused(operator, "POST", f"/api/campaigns/{one['id']}/execute")
    assert status == 400
    assert answer == {"errors": {"test_cases": {"1": {"parameters": ["Missing: a."]}}}}


async def test_a_campaign_keeps_the_id_of_its_device(operator: Client, host: FakeHost) -> None:
    case = await made(operator, "/api/testcases", test_case())
    entry = {"test_case_id": case["id"], "device_id": "tv-1"}
    one = await made(operator, "/api/campaigns", {"name": "c", "test_cases": [entry]})
    assert one["test_cases"][0]["device_id"] == "host-1:tv-1"
    async with operator.put(
        f"/api/campaigns/{one['id']}", json={"name": "c", "test_cases": [entry]}
    ) as response:
        assert (await response.json())["test_cases"][0]["device_id"] == "host-1:tv-1"
