"""Test cases: made, listed, changed by several people, deleted, run."""

from __future__ import annotations

import asyncio
import json

from tests.conftest import Client
from tests.web.kit import FakeHost, got, made, refused, test_case


async def test_a_test_case_lives(operator: Client) -> None:
    case = await made(operator, "/api/testcases", test_case(tags=["tv"], timeout_s=60))
    path = f"/api/testcases/{case['id']}"
    assert case["version"] == 1
    assert case["created_at"].endswith("Z")
    assert case == await got(operator, path)
    changed = await operator.put(path, json=test_case(name="Another"))
    assert changed.status == 200
    after = await changed.json()
    assert (after["version"], after["name"], after["tags"], after["timeout_s"]) == (
        2,
        "Another",
        [],
        None,
    )
    assert (await operator.delete(path)).status == 204
    assert (await refused(operator, "GET", path))[0] == 404
    assert (await refused(operator, "DELETE", path))[0] == 404
    assert (await refused(operator, "PUT", path, json=test_case()))[0] == 404


async def test_what_was_read_can_be_put_back(operator: Client) -> None:
    case = await made(operator, "/api/testcases", test_case())
    back = await operator.put(f"/api/testcases/{case['id']}", json=case)
    assert (await back.json())["version"] == 2


async def test_a_change_over_another_ones_change_is_refused(operator: Client) -> None:
    case = await made(operator, "/api/testcases", test_case())
    path = f"/api/testcases/{case['id']}"
    etag = (await operator.get(path)).headers["ETag"]
    headers = {"If-Match": etag}
    first = await operator.put(path, json=test_case(name="first"), headers=headers)
    assert (first.status, first.headers["ETag"] != etag) == (200, True)
    for method in ("PUT", "DELETE"):
        status, answer = await refused(
            operator, method, path, json=test_case(name="second"), headers=headers
        )
        assert (status, answer["code"]) == (412, "precondition_failed")
    for odd in ('W/"3"', 'W/"1"', '"2-zip"', "2", "x", '"9999999999"', ""):
        status, _ = await refused(
            operator, "PUT", path, json=test_case(), headers={"If-Match": odd}
        )
        assert status == 412, odd
    # Tags as proxies change them when they compress: nginx, Apache, Caddy. Each PUT counts one up.
    for good in ('"1", "2"', 'W/"3"', '"4-gzip"', 'W/"5-br", "1"', '"6;gzip"', "*"):
        response = await operator.put(path, json=test_case(), headers={"If-Match": good})
        assert response.status == 200, good


async def test_of_two_changes_at_once_one_wins(operator: Client) -> None:
    case = await made(operator, "/api/testcases", test_case())
    path, headers = f"/api/testcases/{case['id']}", {"If-Match": '"1"'}
    answers = await asyncio.gather(
        *(operator.put(path, json=test_case(), headers=headers) for _ in range(8))
    )
    assert sorted(answer.status for answer in answers) == [200] + [412] * 7


async def test_a_list_gives_all_once_newest_first(operator: Client) -> None:
    for n in range(7):
        await made(operator, "/api/testcases", test_case(name=f"case {n}"))
    names, params = [], {"limit": "3"}
    while True:
        page = await got(operator, "/api/testcases", **params)
        names += [item["name"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert names == [f"case {n}" for n in range(6, -1, -1)]
    assert len((await got(operator, "/api/testcases", limit="7"))["items"]) == 7
    assert (await got(operator, "/api/testcases", limit="7"))["next_cursor"] is None


async def test_a_list_is_filtered(operator: Client) -> None:
    await made(operator, "/api/testcases", test_case(name="Zap 100%", tags=["slow"]))
    await made(operator, "/api/testcases", test_case(name="other", device_model="tv"))
    for params, names in (
        ({"q": "zap"}, ["Zap 100%"]),
        ({"q": "%"}, ["Zap 100%"]),
        ({"q": "_"}, []),
        ({"tag": "slow"}, ["Zap 100%"]),
        ({"device_model": "tv"}, ["other"]),
        ({"device_model": "tv", "tag": "slow"}, []),
    ):
        page = await got(operator, "/api/testcases", **params)
        assert [item["name"] for item in page["items"]] == names


async def test_a_test_case_runs_with_its_parameters(operator: Client, host: FakeHost) -> None:
    steps = [{"command": "type", "params": {"text": "${word}!", "n": "${n}", "raw": "$${word}"}}]
    case = await made(operator, "/api/testcases", test_case(steps=steps))
    body = {"device_id": "tv-1", "parameters": {"word": "hi", "n": [1, 2]}}
    run = await made(operator, f"/api/testcases/{case['id']}/execute", body)
    assert (run["status"], run["host"], run["device_id"]) == ("running", "host-1", "host-1:tv-1")
    done = await got(operator, f"/api/executions/{run['execution_id']}", wait="20")
    assert done["status"] == "completed"
    assert host.seen[0]["params"] == {"text": "hi!", "n": [1, 2], "raw": "${word}"}


async def test_parameters_that_lack_are_named(operator: Client, host: FakeHost) -> None:
    case = await made(operator, "/api/testcases", test_case(steps=[{"x": "${a} ${b}"}]))
    path = f"/api/testcases/{case['id']}/execute"
    status, answer = await refused(operator, "POST", path, json={"parameters": {"b": 1}})
    assert (status, answer) == (400, {"errors": {"parameters": ["Missing: a."]}})
    assert host.seen == []


async def test_a_parameter_that_makes_no_timeout_is_refused(operator: Client) -> None:
    case = await made(operator, "/api/testcases", test_case(steps=[{"timeout_s": "${t}"}]))
    path = f"/api/testcases/{case['id']}/execute"
    status, answer = await refused(operator, "POST", path, json={"parameters": {"t": "soon"}})
    assert (status, list(answer["errors"])) == (400, ["steps"])


NO_SUCH = (
    {"device_id": "nothing"},
    {"host_id": "nothing"},
    {"device_id": "tv-1", "host_id": "nothing"},
    {"device_id": "host-1:tv-1", "host_id": "host-2"},
    {"device_id": "tv-1"},
)


async def test_a_reference_to_nothing_or_to_two_is_refused(
    operator: Client, host: FakeHost
) -> None:
    server = await FakeHost("host-2").join(operator)
    case = await made(operator, "/api/testcases", test_case())
    path = f"/api/testcases/{case['id']}/execute"
    for body in NO_SUCH:
        assert (await refused(operator, "POST", path, json=body))[0] == 422, body
    assert (await got(operator, "/api/executions"))["items"] == []
    await server.close()


NAMES = (
    {"device_id": "host-1:tv-1"},
    {"device_id": "tv-1", "host_id": "host-1"},
    {"device_id": "host-1:tv-1", "host_id": "host-1"},
    {"device_id": "tv-1"},
)
ANY = ({"host_id": "host-1"}, {"device_id": None, "host_id": None}, {})


async def test_a_device_has_several_names(operator: Client, host: FakeHost) -> None:
    case = await made(operator, "/api/testcases", test_case())
    for body in (*NAMES, *ANY):
        run = await made(operator, f"/api/testcases/{case['id']}/execute", body)
        done = await got(operator, f"/api/executions/{run['execution_id']}", wait="20")
        assert (done["status"], done["device_id"]) == ("completed", "host-1:tv-1"), body


async def test_what_nothing_could_ever_run_is_refused_at_once(
    operator: Client, host: FakeHost
) -> None:
    case = await made(operator, "/api/testcases", test_case(requirements=["infrared"]))
    status, answer = await refused(operator, "POST", f"/api/testcases/{case['id']}/execute")
    assert (status, "infrared" in answer["error"]) == (422, True)


WRONG_WISHES = (
    {"priority": 101},
    {"priority": 1.5},
    {"device_id": 7},
    {"device_id": ""},
    {"parameters": []},
    {"timeout_s": -1},
    {"queue_timeout_s": "x"},
    {"device": "tv-1"},
)


async def test_a_wish_that_makes_no_sense_is_refused(operator: Client) -> None:
    case = await made(operator, "/api/testcases", test_case())
    path = f"/api/testcases/{case['id']}/execute"
    for wrong in WRONG_WISHES:
        status, answer = await refused(operator, "POST", path, json=wrong)
        assert (status, set(answer["errors"])) == (400, set(wrong)), wrong


async def test_a_whole_number_may_be_written_with_a_point(operator: Client) -> None:
    body = json.dumps(test_case(test_retries=2.0, steps=[{"command": "x", "retries": 1.0}]))
    assert "2.0" in body
    headers = {"Content-Type": "application/json"}
    response = await operator.post("/api/testcases", data=body, headers=headers)
    assert response.status == 201, await response.text()
    assert (await response.json())["test_retries"] == 2
    for odd in (2.5, True, "2"):
        status, _ = await refused(
            operator, "POST", "/api/testcases", json=test_case(test_retries=odd)
        )
        assert status == 400, odd


async def test_any_of_several_device_models_will_do(operator: Client, host: FakeHost) -> None:
    several = {"device_model": ["tv", "pixel", "tv"]}
    case = await made(operator, "/api/testcases", test_case(name="several", **several))
    one = await made(operator, "/api/testcases", test_case(name="one", device_model=["pixel"]))
    assert (case["device_model"], one["device_model"]) == (["tv", "pixel"], "pixel")
    for model, names in (("tv", ["several"]), ("pixel", ["one", "several"]), ("t", [])):
        page = await got(operator, "/api/testcases", device_model=model)
        assert [item["name"] for item in page["items"]] == names
    host.gate.clear()
    ids = [
        (await made(operator, f"/api/testcases/{case['id']}/execute", {}))["execution_id"]
        for _ in range(2)
    ]
    shown = [await got(operator, f"/api/executions/{one}") for one in ids]
    assert [(item["device_model"], item["model"]) for item in shown] == [
        (["tv", "pixel"], "pixel"),
        (["tv", "pixel"], None),  # it waits
    ]
    host.gate.set()
    await got(operator, f"/api/executions/{ids[1]}", wait=30)
    listed = (await got(operator, "/api/executions"))["items"]
    assert [item["model"] for item in listed] == ["pixel", "pixel"]
    assert {action["device_model"] for action in host.seen} == {"pixel"}
    path = f"/api/testcases/{case['id']}"
    for model in ("pixel", ["oven", "tv"]):
        assert (await operator.put(path, json=test_case(device_model=model))).status == 200
        assert (await got(operator, path))["device_model"] == model
    status, refusal = await refused(operator, "POST", f"{path}/execute", json={})
    assert status == 422
    assert "lacks device model oven or tv" in refusal["error"]
    for wrong in ([], [""], [1], {}, [["tv"]], ["m"] * 101):
        status, _ = await refused(
            operator, "POST", "/api/testcases", json=test_case(device_model=wrong)
        )
        assert status == 400, wrong


async def test_a_campaigns_entry_may_ask_for_several_device_models(
    operator: Client, host: FakeHost
) -> None:
    case = await made(operator, "/api/testcases", test_case(device_model=["tv", "wifi"]))
    fits = await made(operator, "/api/testcases", test_case(device_model=["tv", "pixel"]))
    entries = [{"test_case_id": fits["id"]}]
    campaign = await made(operator, "/api/campaigns", {"name": "all", "test_cases": entries})
    begun = await made(operator, f"/api/campaigns/{campaign['id']}/execute", {})
    path = f"/api/campaign-executions/{begun['campaign_execution_id']}"
    ended = await got(operator, path, wait=30)
    assert ended["status"] == "completed"
    # A capability of the host is the model of an implicit device only.
    status, refusal = await refused(
        operator, "POST", f"/api/testcases/{case['id']}/execute", json={}
    )
    assert (status, "lacks device model tv or wifi" in refusal["error"]) == (422, True)
