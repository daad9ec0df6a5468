"""Executions that somebody wants kept."""

from __future__ import annotations

from tests.conftest import Client
from tests.web.kit import FakeHost, got, made, refused, test_case


async def test_an_execution_is_pinned_and_let_go(
    operator: Client, viewer: Client, host: FakeHost
) -> None:
    host.gate.clear()
    case = await made(operator, "/api/testcases", test_case())
    execution = await made(operator, f"/api/testcases/{case['id']}/execute", {})
    path = f"/api/executions/{execution['execution_id']}"
    assert (await got(viewer, path))["pinned"] is False
    for _ in range(2):  # one that runs, too
        response = await operator.put(f"{path}/pin")
        assert (response.status, (await response.json())["pinned"]) == (200, True)
    host.gate.set()
    done = await got(viewer, path, wait="30")
    assert (done["status"], done["pinned"], done["pruned"]) == ("completed", True, "nothing")
    (item,) = (await got(viewer, "/api/executions"))["items"]
    assert (item["pinned"], item["pruned"]) == (True, "nothing")
    for _ in range(2):
        response = await operator.delete(f"{path}/pin")
        assert (response.status, await response.read()) == (204, b"")
    assert (await got(viewer, path))["pinned"] is False


async def test_who_may_pin_and_what(operator: Client, viewer: Client, nobody: Client) -> None:
    for method in ("PUT", "DELETE"):
        path = "/api/executions/no/pin"
        assert (await refused(nobody, method, path))[0] == 401
        assert (await refused(viewer, method, path))[0] == 403
        assert (await refused(operator, method, path))[0] == 404
    assert (await refused(operator, "GET", "/api/executions/no/pin"))[0] == 405


async def test_a_pin_takes_no_fields(operator: Client, host: FakeHost) -> None:
    case = await made(operator, "/api/testcases", test_case())
    execution = await made(operator, f"/api/testcases/{case['id']}/execute", {})
    path = f"/api/executions/{execution['execution_id']}/pin"
    status, answer = await refused(operator, "PUT", path, json={"pinned": False})
    assert (status, list(answer["errors"])) == (400, ["pinned"])
