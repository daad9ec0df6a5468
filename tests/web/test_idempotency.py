"""Idempotency-Key: what is sent again starts nothing."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.actors.fake_host import until
from tests.conftest import Client, ClientFactory
from tests.web.kit import FakeHost, got, made, refused, test_case
from vpt.actors.lab import Lab
from vpt.config import Config
from vpt.dialects.document import DocumentDialect
from vpt.events import Events
from vpt.model import Json, Role
from vpt.store.db import Database
from vpt.web.app import make_app

KEY = {"Idempotency-Key": "build 17"}


@pytest.fixture
async def path(operator: Client, host: FakeHost) -> str:
    """Return the route that runs a test case, whose host does not answer yet."""
    host.gate.clear()
    made_case = await made(operator, "/api/testcases", test_case())
    return f"/api/testcases/{made_case['id']}/execute"


async def start(client: Client, path: str, body: Json, key: dict[str, str] = KEY) -> Json:
    async with client.post(path, json=body, headers=key) as response:
        assert response.status == 202, await response.text()
        answer: Json = await response.json()
        return answer


async def count(client: Client) -> int:
    return len((await got(client, "/api/executions"))["items"])


async def test_fifty_equal_requests_at_once_start_one_execution(
    operator: Client, path: str
) -> None:
    answers = await asyncio.gather(*(start(operator, path, {"priority": 60}) for _ in range(50)))
    assert len({answer["execution_id"] for answer in answers}) == 1
    assert await count(operator) == 1


async def test_the_answer_says_how_it_stands_now(
    operator: Client, path: str, host: FakeHost
) -> None:
    first = await start(operator, path, {"priority": 60, "parameters": {"a": 1, "b": 2}})
    assert first["status"] == "running"
    host.gate.set()
    await got(operator, f"/api/executions/{first['execution_id']}", wait=20)
    again = await start(operator, path, {"parameters": {"b": 2, "a": 1}, "priority": 60})
    assert again == {**first, "status": "completed"}


async def test_another_body_under_the_same_key_is_a_conflict(operator: Client, path: str) -> None:
    await start(operator, path, {"priority": 60})
    status, answer = await refused(operator, "POST", path, json={"priority": 61}, headers=KEY)
    assert (status, answer["code"]) == (409, "idempotency_conflict")
    assert await count(operator) == 1


async def test_another_user_path_or_key_is_another_request(
    operator: Client, client: ClientFactory, path: str
) -> None:
    admin = await client(Role.ADMIN)
    other = await made(operator, "/api/testcases", test_case())
    ids = {
        (await start(operator, path, {}))["execution_id"],
        (await start(admin, path, {}))["execution_id"],
        (await start(operator, f"/api/testcases/{other['id']}/execute", {}))["execution_id"],
        (await start(operator, path, {}, {"Idempotency-Key": "build 18"}))["execution_id"],
        (await made(operator, path, {}))["execution_id"],
    }
    assert len(ids) == 5


async def test_a_refused_request_leaves_no_key(operator: Client, path: str) -> None:
    body = {"device_id": "host-1:tv-2"}
    assert (await refused(operator, "POST", path, json=body, headers=KEY))[0] == 422
    await start(operator, path, {})


async def test_a_key_counts_for_a_day(operator: Client, path: str, db: Database) -> None:
    first = await start(operator, path, {})
    async with db.session() as session:
        await session._connection.execute(
            "UPDATE idempotency_keys SET created_at = now() - interval '25 hours'"
        )
    again = await start(operator, path, {"priority": 3})
    assert again["execution_id"] != first["execution_id"]
    assert (await start(operator, path, {"priority": 3}))["execution_id"] == again["execution_id"]


@pytest.mark.parametrize("key", ["x" * 201, ""])
async def test_a_key_that_makes_no_sense_is_refused(operator: Client, path: str, key: str) -> None:
    headers = {"Idempotency-Key": key}
    status, answer = await refused(operator, "POST", path, json={}, headers=headers)
    assert (status, answer["code"]) == (400, "bad_request")


async def test_a_campaign_starts_once_too(operator: Client, path: str) -> None:
    case = {"test_case_id": path.split("/")[3]}
    campaign = await made(operator, "/api/campaigns", {"name": "c", "test_cases": [case]})
    campaign_path = f"/api/campaigns/{campaign['id']}/execute"
    first, *others = await asyncio.gather(*(start(operator, campaign_path, {}) for _ in range(9)))
    assert {other["campaign_execution_id"] for other in others} == {first["campaign_execution_id"]}
    assert {other["summary"]["total"] for other in others} == {1}
    items = (await got(operator, "/api/campaign-executions"))["items"]
    assert len(items) == 1


async def test_what_an_equal_request_started_is_told_even_when_it_would_be_refused_now(
    operator: Client, path: str, host: FakeHost
) -> None:
    first = await start(operator, path, {})
    host.gate.set()
    await got(operator, f"/api/executions/{first['execution_id']}", wait=20)
    async with operator.delete(path.removesuffix("/execute")) as response:
        assert response.status == 204
    assert (await start(operator, path, {}))["execution_id"] == first["execution_id"]
    other = {"Idempotency-Key": "build 18"}
    assert (await refused(operator, "POST", path, json={}, headers=other))[0] == 404
    assert (await refused(operator, "POST", path, data="{", headers=other))[0] == 404
    assert (await refused(operator, "POST", path, data="{", headers=KEY))[0] == 400


async def test_an_empty_body_equals_an_empty_object(operator: Client, path: str) -> None:
    first = await start(operator, path, {})
    async with operator.post(path, headers=KEY) as response:
        assert (await response.json())["execution_id"] == first["execution_id"]


async def test_a_key_holds_when_the_answer_was_never_heard(
    operator: Client, path: str, config: Config, dsn: str, lab: Lab, events: Events
) -> None:
    """The client goes, the server ends; the next one knows what the request started."""
    asking = asyncio.create_task(start(operator, path, {"priority": 60}))
    await until(lambda: count(operator))
    asking.cancel()
    await lab.stop()
    db, dialect = Database(dsn), DocumentDialect()
    await db.open()
    next_lab = Lab(config, db, events, dialect)
    await next_lab.start()
    next_server = TestServer(make_app(config, db, next_lab, events))
    async with TestClient(next_server, headers=operator.session.headers) as client:
        answers = await asyncio.gather(*(start(client, path, {"priority": 60}) for _ in range(9)))
        [item] = (await got(client, "/api/executions"))["items"]
        assert {answer["execution_id"] for answer in answers} == {item["execution_id"]}
    await next_lab.stop()
    await dialect.close()
    await db.close()


async def test_while_the_database_is_away_nothing_is_started_and_no_key_is_kept(
    operator: Client, path: str, db: Database
) -> None:
    ours, db._ours = db._ours, lambda: False  # what is under way there ends well
    answers = await asyncio.gather(
        *(refused(operator, "POST", path, json={}, headers=KEY) for _ in range(9))
    )
    assert {(status, answer["code"]) for status, answer in answers} == {(503, "database_away")}
    db._ours = ours
    assert await count(operator) == 0
    await start(operator, path, {"priority": 1})  # another body: the key is still free


async def test_old_keys_are_forgotten(operator: Client, path: str, db: Database, lab: Lab) -> None:
    await start(operator, path, {})
    await start(operator, path, {}, {"Idempotency-Key": "young"})
    async with db.session() as session:
        await session._connection.execute(
            "UPDATE idempotency_keys SET created_at = now() - interval '25 hours'"
            " WHERE key = 'build 17'"
        )
        await lab._sweep()
        rows = await session._connection.fetch("SELECT key FROM idempotency_keys")
    assert [row["key"] for row in rows] == ["young"]
