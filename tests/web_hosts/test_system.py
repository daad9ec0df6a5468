"""The server on itself."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.web_hosts.conftest import Client, Connect, NotedLab, Visit, bearer
from tests.web_hosts.test_hosts import store, view
from vpt.model import HostStatus, Role
from vpt.store.db import Database
from vpt.web.http.keys import CONFIG


async def finished(db: Database, status: str, *, device: str = "d", seconds: int = 10) -> None:
    kind = "'host_lost'" if status == "error" else "NULL"
    async with db.session() as session:
        await session._connection.execute(
            "INSERT INTO test_executions (id, test_case_id, test_case_name, test_case_version,"
            " device_model, steps, actions, queue_timeout_s, requested_by, status, error_kind,"
            " device_id, started_at, completed_at)"
            f" VALUES (gen_random_uuid()::text, 't', 't', 1, 'm', '[]', '{{}}', 1, 'ann', $1,"
            f" {kind}, $2, now() - make_interval(secs => $3), now())",
            status,
            device,
            float(seconds),
        )


async def test_a_server_that_leans_on_nothing_else_is_healthy(client: Client) -> None:
    response = await client.get("/api/health")
    body = await response.json()
    assert response.status == 200
    assert body.pop("timestamp").endswith("Z")
    assert body == {
        "status": "healthy",
        "checks": {"database": True, "grafana": True, "hosts": True, "external_services": True},
    }


async def test_hosts_are_unwell_only_when_none_can_be_reached(
    client: Client, lab: NotedLab
) -> None:
    lost, suspect = HostStatus.LOST, HostStatus.SUSPECT
    for statuses, well in [
        ([HostStatus.OFFLINE], True),
        ([lost, suspect], True),
        ([lost, HostStatus.OFFLINE], False),
    ]:
        lab.hosts = [view(str(number), status) for number, status in enumerate(statuses)]
        response = await client.get("/api/health")
        assert (await response.json())["checks"]["hosts"] is well
        assert response.status == (200 if well else 503)
    assert (await client.get("/api/health/ready")).status == 200


async def test_details_are_for_those_with_a_token(client: Client) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, bearer(client, Role.HOST, "pi")):
        assert "details" not in await (await client.get("/api/health", headers=headers)).json()
    response = await client.get("/api/health", headers=bearer(client, Role.VIEWER))
    assert (await response.json())["details"]["database"]["ok"] is True


@pytest.mark.parametrize("status", [200, 503])
async def test_grafana_and_others_are_asked_in_the_background(
    connect: Connect, status: int
) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=status)

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    async with TestServer(app) as server:
        url = str(server.make_url("/"))
        client = await connect(grafana_url=url, supabase_url=url)
        for _ in range(3):
            response = await client.get("/api/health")
        checks = (await response.json())["checks"]
        assert checks["grafana"] is checks["external_services"] is (status == 200)
    assert sorted(asked) == ["/api/health", "/auth/v1/health"]


async def test_without_its_database_the_server_is_alive_but_not_ready(
    connect: Connect, db: Database
) -> None:
    client = await connect()
    await db.close()
    assert (await client.get("/api/health/live")).status == 200
    assert (await client.get("/api/health/ready")).status == 503
    response = await client.get("/api/health")
    assert (await response.json())["checks"]["database"] is False
    response = await client.get("/api/devices", headers=bearer(client))
    assert response.status == 503


async def test_info_names_versions_and_no_secret(connect: Connect) -> None:
    client = await connect(grafana_url="https://user:hush@grafana.example/x?y=hush", embedded=True)
    assert (await client.get("/api/system/info")).status == 401
    response = await client.get("/api/system/info", headers=bearer(client, Role.VIEWER))
    body = await response.json()
    assert body["database"]["mode"] == "embedded"
    assert body["urls"] == {"grafana": "https://grafana.example/x"}
    assert body["settings"]["MAX_BODY"] > 0
    text = await response.text()
    config = client.app[CONFIG]
    for secret in ("hush", config.secret_key, config.host_join_token):
        assert str(secret) not in text


async def test_status_counts_the_lab_and_measures_the_process(client: Client, db: Database) -> None:
    await store(db, "a", status="lost")
    await finished(db, "completed")
    body = await (
        await client.get("/api/system/status", headers=bearer(client, Role.VIEWER))
    ).json()
    assert (body["hosts"]["total"], body["hosts"]["lost"], body["hosts"]["busy"]) == (1, 1, 0)
    assert body["devices"]["total"] == 0
    assert (body["queue_length"], body["queue_oldest_s"], body["running"]) == (0, None, 0)
    assert body["success_rate"] == 100
    assert body["memory_bytes"] > 1_000_000
    assert body["loop_lag_ms"] >= 0


async def test_connected_pages_are_counted(client: Client, visit: Visit) -> None:
    headers = bearer(client, Role.VIEWER)
    for pages in (1, 2):
        await visit(client)
        text = await (await client.get("/metrics", headers=headers)).text()
        assert f"\nvpt_socketio_clients {pages}.0\n" in text


async def test_errors_of_the_infrastructure_do_not_lower_the_success_rate(
    client: Client, db: Database
) -> None:
    headers = bearer(client, Role.VIEWER)

    async def rate(query: str = "") -> Any:
        response = await client.get(f"/api/metrics/success-rate{query}", headers=headers)
        return await response.json() if response.status == 200 else response.status

    nothing = {"days": 30, "total": 0, "completed": 0, "failed": 0, "error": 0}
    assert await rate() == {**nothing, "success_rate": None, "by_day": []}
    for status in ("completed", "completed", "failed", "error"):
        await finished(db, status)
    await finished(db, "failed", seconds=2 * 86_400)
    expected = {"days": 1, "total": 4, "completed": 2, "failed": 1, "error": 1}
    last_day = await rate("?days=1")
    by_day = last_day.pop("by_day")
    assert last_day == {**expected, "success_rate": 66.67}
    assert sum(day["completed"] + day["failed"] + day["error"] for day in by_day) == 4
    days = [day["day"] for day in (await rate())["by_day"]]
    assert days == sorted(days) and len(days) in {2, 3}  # it may be about midnight
    for days in ("0", "3651", "x", "1.5", "-1", "", "9" * 50):
        assert await rate(f"?days={days}") == 400


async def test_each_device_has_its_figures(client: Client, db: Database) -> None:
    headers = bearer(client, Role.OPERATOR)
    ids = []
    for name in ("idle", "used"):
        body = {"name": name, "model": "m"}
        response = await client.post("/api/devices", json=body, headers=headers)
        ids.append((await response.json())["id"])
    await finished(db, "completed", device=ids[1], seconds=10)
    await finished(db, "failed", device=ids[1], seconds=20)
    body = await (await client.get("/api/metrics/devices", headers=headers)).json()
    idle, used = body["items"]
    assert (idle["name"], idle["test_count"], idle["avg_duration"]) == ("idle", 0, None)
    assert (used["test_count"], used["success_rate"]) == (2, 50)
    assert used["avg_duration"] == pytest.approx(15, abs=1)


@pytest.mark.parametrize(("key", "well"), [(None, True), ("right", True), ("wrong", False)])
async def test_supabase_is_asked_with_its_key(
    connect: Connect, key: str | None, well: bool
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=200 if request.headers.get("apikey") == "right" else 401)

    app = web.Application()
    app.router.add_get("/auth/v1/health", answer)
    async with TestServer(app) as server:
        client = await connect(supabase_url=str(server.make_url("/")), supabase_anon_key=key)
        checks = (await (await client.get("/api/health")).json())["checks"]
    assert checks["external_services"] is well
