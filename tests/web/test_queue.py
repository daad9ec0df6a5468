"""Waiting over REST: why, where in line, how long; and what a full line or a full inbox answers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest
from msgspec import structs

from tests.actors.fake_host import until
from tests.actors.hooks import Pause, at_statement
from tests.conftest import Client
from tests.web.kit import FakeHost, Json, got, made, refused, test_case
from vpt.actors.lab import Lab
from vpt.config import Config

LEASE = "/api/devices/host-1:tv-1/lease"


async def run(client: Client, **changes: object) -> str:
    """Make a test case, run it, give the execution's id."""
    case = await made(client, "/api/testcases", test_case(steps=[{"command": "a"}], **changes))
    execution = await made(client, f"/api/testcases/{case['id']}/execute", {})
    return str(execution["execution_id"])


async def wait_of(client: Client, execution_id: str) -> Json:
    return await got(client, f"/api/executions/{execution_id}/queue")


async def test_a_viewer_reads_why_where_and_how_long(
    operator: Client, viewer: Client, host: FakeHost
) -> None:
    path = f"/api/testcases/{(await made(operator, '/api/testcases', test_case()))['id']}/execute"
    host.gate.clear()
    ids = [(await made(operator, path, {}))["execution_id"] for _ in range(3)]
    assert await wait_of(viewer, ids[1]) == {
        "reason": "all_busy",
        "names": ["host-1:tv-1"],
        "position": 1,
        "eta_s": None,  # no run of this kind is over
    }
    assert (await wait_of(viewer, ids[2]))["position"] == 2
    await asyncio.sleep(0.3)
    host.gate.set()
    done = await got(operator, f"/api/executions/{ids[2]}", wait=30)
    assert done["status"] == "completed"
    host.gate.clear()
    more = [(await made(operator, path, {}))["execution_id"] for _ in range(4)]
    etas = [(await wait_of(viewer, one))["eta_s"] for one in more[1:]]
    # The rest of the run, and a whole one more for each that is before: tests/actors/test_eta.py.
    assert 0.05 < etas[0] < etas[1] < etas[2] < 90


async def test_of_another_test_the_same_device_model_tells_how_long(
    operator: Client, host: FakeHost
) -> None:
    await got(operator, f"/api/executions/{await run(operator)}", wait=30)
    host.gate.clear()
    await run(operator)
    assert (await wait_of(operator, await run(operator, name="another")))["eta_s"] is not None


async def test_what_does_not_wait_has_no_place(operator: Client, host: FakeHost) -> None:
    status, answer = await refused(operator, "GET", "/api/executions/nothing/queue")
    assert (status, answer["code"]) == (404, "not_found")
    host.gate.clear()
    running = await run(operator)
    path = f"/api/executions/{running}/queue"
    assert (await refused(operator, "GET", path)) == (
        409,
        {"error": "The execution is not queued any more.", "code": "not_queued"},
    )
    host.gate.set()
    await got(operator, f"/api/executions/{running}", wait=30)
    assert (await refused(operator, "GET", path))[1]["code"] == "not_queued"


@pytest.mark.usefixtures("host")
async def test_what_has_a_device_is_never_told_to_wait(operator: Client, lab: Lab) -> None:
    case = await made(operator, "/api/testcases", test_case())
    body = {"name": "all", "test_cases": [{"test_case_id": case["id"]}]}
    path = f"/api/campaigns/{(await made(operator, '/api/campaigns', body))['id']}/execute"
    pause = Pause()
    with at_statement(SimpleNamespace(db=lab._db), "start_attempt", before=pause.here):
        campaign = (await made(operator, path, {}))["campaign_execution_id"]
        await pause.reached.wait()
        results = (await got(operator, f"/api/campaign-executions/{campaign}"))["results"]
        [execution] = [result["execution_id"] for result in results]
        assert (await got(operator, f"/api/executions/{execution}"))["status"] == "queued"
        assert await refused(operator, "GET", f"/api/executions/{execution}/queue") == (
            409,
            {
                "error": "The execution has a device, where it is about to begin.",
                "code": "not_queued",
            },
        )
        pause.go.set()
        done = await got(operator, f"/api/executions/{execution}", wait=30)
    assert done["status"] == "completed"


async def test_nobody_without_a_token_learns_of_it(nobody: Client) -> None:
    assert (await refused(nobody, "GET", "/api/executions/x/queue"))[0] == 401


@pytest.mark.usefixtures("host")
async def test_a_lease_is_waited_for_and_nobody_knows_how_long(operator: Client) -> None:
    await got(operator, f"/api/executions/{await run(operator)}", wait=30)
    await operator.post(LEASE, json={"ttl_s": 60})
    waiting = await run(operator)
    expected = {"reason": "leased", "names": ["host-1:tv-1"], "position": 1, "eta_s": None}
    assert await wait_of(operator, waiting) == expected
    await operator.delete(LEASE)
    assert (await got(operator, f"/api/executions/{waiting}", wait=30))["status"] == "completed"


@pytest.mark.usefixtures("host")
async def test_a_draining_host_is_waited_for(operator: Client) -> None:
    await operator.post("/api/hosts/host-1/drain")
    waiting = await run(operator)
    answer = await wait_of(operator, waiting)
    assert (answer["reason"], answer["names"]) == ("draining", ["host-1"])
    await operator.post("/api/hosts/host-1/resume")
    assert (await got(operator, f"/api/executions/{waiting}", wait=30))["status"] == "completed"


async def test_a_host_that_misses_its_probes_is_suspect_and_then_none_is_online(
    operator: Client,
) -> None:
    host = FakeHost()
    server = await host.join(operator)
    await server.close()
    waiting = await run(operator)
    reasons: list[str] = []

    async def none_is_online() -> bool:
        reasons.append((await wait_of(operator, waiting))["reason"])
        return reasons[-1] == "no_online_host"

    await until(none_is_online)
    assert set(reasons) == {"host_suspect", "no_online_host"}
    assert (await wait_of(operator, waiting))["names"] == ["host-1"]


async def test_a_host_that_flaps_is_paused(operator: Client, host: FakeHost, lab: Lab) -> None:
    actor = lab._supervisor._actors["host-1"]
    actor._state = structs.replace(actor.state, paused=True, flaps=1)
    await operator.post("/api/hosts/host-1/resume")  # any message shows the state
    waiting = await run(operator)
    answer = await wait_of(operator, waiting)
    assert (answer["reason"], answer["names"]) == ("paused", ["host-1"])


# ---------------------------------------------------------------- back-pressure


class TestFull:
    @pytest.fixture
    def config(self, config: Config) -> Config:
        return replace(config, max_queued=2, inbox_limit=2)

    async def test_a_full_line_answers_503_and_when_to_come_again(
        self, operator: Client, host: FakeHost
    ) -> None:
        host.gate.clear()
        for _ in range(3):
            last = await run(operator)
        case = await made(operator, "/api/testcases", test_case())
        path = f"/api/testcases/{case['id']}/execute"
        campaign = await made(
            operator, "/api/campaigns", {"name": "c", "test_cases": [{"test_case_id": case["id"]}]}
        )
        for full in (path, f"/api/campaigns/{campaign['id']}/execute"):
            async with operator.post(full, json={}, headers={"Idempotency-Key": "k"}) as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "10")
                assert await response.json() == {
                    "error": "The queue is full.",
                    "code": "unavailable",
                }
        host.gate.set()
        await got(operator, f"/api/executions/{last}", wait=30)
        async with operator.post(path, json={}, headers={"Idempotency-Key": "k"}) as response:
            assert response.status == 202, "a refused request leaves no key"

    async def test_a_full_inbox_answers_503_and_when_to_come_again(
        self, operator: Client, host: FakeHost
    ) -> None:
        host.gate.clear()
        path, action = "/api/hosts/host-1/execute", {"command": "press_key"}
        posts = [asyncio.create_task(operator.post(path, json=action)) for _ in range(10)]
        done, waiting = await asyncio.wait(posts, timeout=1)
        for one in done:
            response = one.result()
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
            assert (await response.json())["code"] == "unavailable"
        assert len(waiting) <= 3, "one is under way, two wait"
        host.gate.set()
        assert {(await one).status for one in waiting} == {200}


@pytest.mark.usefixtures("host")
async def test_a_named_device_that_does_not_fit_is_told_with_what_the_test_wants(
    operator: Client,
) -> None:
    for requirements, words in (
        ([], "host-1:tv-1 is a pixel; the test wants android_mobile."),
        (["nfc"], "host-1:tv-1 is a pixel; the test wants android_mobile. It lacks nfc, too."),
    ):
        asked = test_case(device_model="android_mobile", requirements=requirements)
        case = await made(operator, "/api/testcases", asked)
        status, answer = await refused(
            operator,
            "POST",
            f"/api/testcases/{case['id']}/execute",
            json={"device_id": "host-1:tv-1"},
        )
        assert (status, answer["code"], answer["error"]) == (422, "nothing_fits", words)


@pytest.mark.usefixtures("host")
async def test_an_impossible_wish_says_what_is_missing_and_who_is_nearest(
    operator: Client,
) -> None:
    case = await made(operator, "/api/testcases", test_case(requirements=["nfc", "wifi"]))
    status, answer = await refused(
        operator, "POST", f"/api/testcases/{case['id']}/execute", json={}
    )
    assert status == 422
    assert answer["error"] == (
        "No registered host can run this; the nearest, host-1:tv-1, lacks nfc."
    )
    assert (await got(operator, "/api/executions"))["items"] == []
