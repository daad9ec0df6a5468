"""Lists: steps where they are asked for, pages that end at 8 MiB, and known parameters only."""

from __future__ import annotations

import io
import re
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.conftest import Client, ClientFactory
from tests.web.kit import Json, got, made, refused, test_case
from vpt.bounds import LONGEST_CAMPAIGN, LONGEST_TEST_CASE
from vpt.model import Role
from vpt.store.db import Database
from vpt.web.http.operations import operation_of
from vpt.web.http.params import MAX_LIMIT, Page
from vpt.web.http.requests import list_response

MIB = 2**20
LARGEST_PAGE = 8 * MIB


async def pages(client: Client, path: str, **query: Any) -> AsyncIterator[tuple[int, list[Json]]]:
    """Yield the bytes and the items of each page of a list."""
    cursor = None
    while True:
        params = query | ({} if cursor is None else {"cursor": cursor})
        async with client.get(path, params=params) as response:
            body = await response.read()
            assert response.status == 200, body[:200]
        page = orjson.loads(body)
        yield len(body), page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return


async def test_a_list_of_test_cases_has_steps_where_they_are_asked_for(operator: Client) -> None:
    body = test_case()
    one = await made(operator, "/api/testcases", body)
    assert one["total_steps"] == 2
    (listed,) = (await got(operator, "/api/testcases"))["items"]
    assert listed == {name: value for name, value in one.items() if name != "steps"}
    (whole,) = (await got(operator, "/api/testcases", fields="steps"))["items"]
    assert whole == one == await got(operator, f"/api/testcases/{one['id']}")
    response = await operator.put(f"/api/testcases/{one['id']}", json=whole)
    assert response.status == 200, await response.text()


async def test_a_test_case_has_at_most_a_mebibyte(operator: Client) -> None:
    text = "x" * (
        LONGEST_TEST_CASE - len(orjson.dumps(test_case(description="", steps=[{"a": ""}])))
    )
    largest = orjson.dumps(test_case(description="", steps=[{"a": text}]))
    assert len(largest) == LONGEST_TEST_CASE
    headers = {"Content-Type": "application/json"}
    response = await operator.post("/api/testcases", data=io.BytesIO(largest), headers=headers)
    one = await response.json()
    assert response.status == 201, one
    for method, path in (("POST", "/api/testcases"), ("PUT", f"/api/testcases/{one['id']}")):
        for data in (
            io.BytesIO(largest + b" "),
            in_parts(largest + b" "),
        ):  # its length is known, or not
            status, told = await refused(operator, method, path, data=data, headers=headers)
            assert (status, told["code"]) == (413, "too_large")
            assert "1 MiB" in told["error"]
    too_large = b'{"name":"c","test_cases":[]' + b" " * LONGEST_CAMPAIGN + b"}"
    status, _ = await refused(
        operator, "POST", "/api/campaigns", data=io.BytesIO(too_large), headers=headers
    )
    assert status == 413


async def in_parts(body: bytes) -> AsyncIterator[bytes]:
    """Send a body in chunks, without its length."""
    yield body[:1000]
    yield body[1000:]


async def test_a_page_of_test_cases_ends_at_8_mib(operator: Client, db: Database) -> None:
    # Rows of before may be larger than what is accepted now: the oldest exceeds a page by itself.
    sizes = [9 * MIB, *([MIB] * 9), 3 * MIB, *([10] * 5), 7 * MIB, 2 * MIB]
    ids = [f"tc_{number:02}" for number in range(len(sizes))]
    for test_case_id, size in zip(ids, sizes, strict=True):
        await store_test_case(db, test_case_id, "é" * (size // 2))
    seen: list[str] = []
    many = 0
    async for size, items in pages(operator, "/api/testcases", fields="steps", limit=MAX_LIMIT):
        assert size <= LARGEST_PAGE or len(items) == 1
        seen += [item["id"] for item in items]
        many += 1
    assert seen == ids[::-1]
    assert many < 8
    async for size, items in pages(operator, "/api/testcases", limit=MAX_LIMIT):
        assert size < 100_000
        assert [item["id"] for item in items] == ids[::-1]


async def store_test_case(db: Database, test_case_id: str, text: str) -> None:
    """Store a test case whose only step has a text."""
    rest = {"description": "", "device_model": "m", "requirements": [], "tags": []}
    await db.row(
        "insert_test_case",
        id=test_case_id,
        name=test_case_id,
        steps=[{"command": text}],
        timeout_s=None,
        test_retries=0,
        device_models=[],
        **rest,
    )


@pytest.mark.parametrize("limit", [7, 150, MAX_LIMIT])
@pytest.mark.parametrize("path", ["/api/devices", "/api/hosts"])
async def test_pages_of_hosts_and_devices_end_at_8_mib(
    viewer: Client, db: Database, path: str, limit: int
) -> None:
    async with db.session() as session:
        await session._connection.execute(_LAB)
    seen: list[str] = []
    async for size, items in pages(viewer, path, limit=limit):
        assert size <= LARGEST_PAGE
        assert 0 < len(items) <= limit
        last = items[-1]["id"].startswith("h001")
        assert last or len(items) == limit or size > LARGEST_PAGE * 0.9
        seen += [item["id"] for item in items]
    assert len(seen) == len(set(seen)) == 250
    assert seen == sorted(seen, reverse=True)


#: 250 hosts with a device each; each of both is 60 KB long.
_LAB = """
    INSERT INTO hosts (id, host_url, dialect, credential, status, capabilities, created_at)
    SELECT 'h' || to_char(n, 'fm000'), 'http://127.0.0.1:1', 'document', 'own', 'offline',
        array_fill(repeat('x', 100), ARRAY[1]), '2026-01-01'
    FROM generate_series(1, 250) AS n;
    INSERT INTO devices (id, name, model, host_id, local_id, status, capabilities, created_at)
    SELECT 'h' || to_char(n, 'fm000') || ':d', 'd', 'm', 'h' || to_char(n, 'fm000'), 'd', 'offline',
        array_fill(repeat('x', 100), ARRAY[580]), '2026-01-01'
    FROM generate_series(1, 250) AS n;
"""


async def test_a_page_of_executions_ends_at_8_mib(viewer: Client, db: Database) -> None:
    async with db.session() as session:
        await session._connection.execute(_EXECUTIONS)
    seen: list[str] = []
    count = 0
    async for size, items in pages(viewer, "/api/executions", limit=MAX_LIMIT):
        assert size <= LARGEST_PAGE
        seen += [item["execution_id"] for item in items]
        count += 1
    assert count == 2
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 1000


#: 1000 executions of 12 KB.
_EXECUTIONS = """
    INSERT INTO test_executions (id, test_case_id, test_case_name, test_case_version, device_model,
        steps, actions, queue_timeout_s, requested_by, status, error_kind, error, created_at,
        completed_at)
    SELECT 'e' || to_char(n, 'fm0000'), 't', repeat(E'\\x01', 1000), 1, 'm', '[]', '{}', 1, 'ann',
        'error', 'host_error', repeat(E'\\x01', 1000), '2026-01-01', now()
    FROM generate_series(1, 1000) AS n;
"""


async def test_executions_are_found_by_kind_of_error_and_user(viewer: Client, db: Database) -> None:
    async with db.session() as session:
        await session._connection.execute(_ENDS)

    async def found(**filters: str) -> list[str]:
        items = (await got(viewer, "/api/executions", **filters))["items"]
        return [item["execution_id"] for item in items]

    assert await found(error_kind="host_lost") == ["c", "b"]
    assert await found(requested_by="ci") == ["c", "a"]
    assert await found(requested_by="ci", error_kind="host_lost", limit="1") == ["c"]
    assert await found(error_kind="internal") == []
    assert await found(error_kind="", requested_by="") == ["c", "b", "a"]
    status, told = await refused(viewer, "GET", "/api/executions?error_kind=lost")
    assert (status, told["code"]) == (400, "bad_request")


_ENDS = """
    INSERT INTO test_executions (id, test_case_id, test_case_name, test_case_version, device_model,
        steps, actions, queue_timeout_s, requested_by, status, error_kind, created_at, completed_at)
    SELECT id, 't', 't', 1, 'm', '[]', '{}', 1, who, status, kind, '2026-01-01', now()
    FROM (VALUES
        ('a', 'ci', 'completed', NULL), ('b', 'ann', 'error', 'host_lost'),
        ('c', 'ci', 'error', 'host_lost')
    ) AS e (id, who, status, kind);
"""


async def test_an_unknown_or_repeated_parameter_is_refused_with_the_known_ones(
    viewer: Client,
) -> None:
    status, told = await refused(viewer, "GET", "/api/campaign-executions?staus=failed")
    assert (status, told["code"]) == (400, "bad_request")
    assert "`staus`" in told["error"]
    assert "`campaign_id`, `cursor`, `limit`, `status`." in told["error"]
    status, told = await refused(viewer, "GET", "/api/executions?status=failed&status=error")
    assert (status, told["code"]) == (400, "bad_request")
    assert "`status` is sent more than once" in told["error"]
    status, told = await refused(viewer, "GET", "/api/testcases/none?x%0A%1B=")
    assert (status, told["error"]) == (
        400,
        "There is no parameter `x??` here: this route has none.",
    )
    status, _ = await refused(viewer, "GET", f"/api/hosts?{'y' * 5_000}")
    assert status == 400


async def test_every_route_of_the_api_refuses_an_unknown_parameter(
    client: ClientFactory, nobody: Client
) -> None:
    admin = await client(Role.ADMIN)
    app = admin.server.app  # type: ignore[attr-defined]
    lenient = set()
    for route in app.router.routes():
        declared = operation_of(route.handler)
        if declared is None or route.method not in {"GET", "POST", "PUT", "DELETE"}:
            continue
        canonical = route.resource.canonical
        if not declared.strict:
            lenient.add(canonical)
            continue
        path = canonical.replace("{attempt}", "1").replace("{step}", "1")
        path = re.sub(r"\{(id|execution_id|secret_name|command|name)\}", "x", path)
        path = path.replace("{care}", "restart_host")
        async with admin.request(route.method, path, params={"unheard_of": "1"}) as response:
            told = await response.json()
            assert (response.status, told["code"]) == (400, "bad_request"), (route.method, path)
            assert all(f"`{param.name}`" in told["error"] for param in declared.query), told
    # What hosts of others send is theirs; files and pages are asked for with a version.
    assert lenient == {
        *("/", "/console/{version}/{name}", "/api/openapi.json", "/api/asyncapi.json"),
        *("/api/docs", "/api/docs/{name}"),
        *("/api/hosts/register", "/api/hosts/{id}/heartbeat", "/api/hosts/{id}/unregister"),
        *("/server/system/register", "/server/system/ping", "/server/system/unregister"),
        "/server/script/taskComplete",
    }
    async with nobody.get("/api/executions?x=1") as response:
        assert response.status == 401


def test_one_emoji_does_not_make_a_page_four_times_as_large() -> None:
    rows = [{"id": str(n), "created_at": None, "item": '"' + "x" * 2**20 + '"'} for n in range(6)]
    rows.append({"id": "6", "created_at": None, "item": '"\U0001f600"'})
    tracemalloc.start()
    try:
        response = list_response(rows, Page(10, None, None))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(response.body, bytes)
    assert len(response.body) > 6 * 2**20
    assert peak < 3.5 * len(response.body)
