"""What hosts say of themselves and what people order of them."""

from __future__ import annotations

import base64
import ipaddress
from typing import Any

import pytest

from tests.web_hosts.conftest import Client, Connect, NotedLab, bearer
from vpt.config import Config
from vpt.errors import (
    ConflictError,
    HostUnreachableError,
    NotFoundError,
    NotRegisteredError,
    ReplacedError,
)
from vpt.model import (
    Answer,
    Credential,
    Device,
    Host,
    HostStatus,
    HostView,
    Presence,
    Reason,
    Registration,
    Role,
)
from vpt.store.db import Database
from vpt.store.seal import Sealer
from vpt.web.http.auth import secret_of
from vpt.web.schemas.hosts import HostResponse

PI: dict[str, Any] = {
    "host_name": "pi-1",
    "host_url": "http://127.0.0.1:6109/",
    "capabilities": ["android_mobile"],
}
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"pi-1:{password}".encode()).decode()}


def joining(config: Config) -> dict[str, str]:
    return {"Authorization": f"Bearer {config.host_join_token}"}


async def test_a_host_larger_than_a_page_is_told_without_its_devices(
    client: Client, db: Database
) -> None:
    viewer = {"headers": bearer(client, Role.VIEWER)}
    await store(db, "pi-1")
    await store(db, "pi-2")
    async with db.session() as session:
        await session._connection.execute(
            "INSERT INTO devices (id, name, host_id, local_id, status, tags)"
            " SELECT 'pi-1:' || n, 'd', 'pi-1', n, 'offline', ARRAY[repeat('x', 90000)]"
            " FROM generate_series(1, 100) n"
        )
    async with client.get("/api/hosts/pi-1/status", **viewer) as response:
        shown = await response.json()
    async with client.get("/api/hosts", **viewer) as response:
        first = await response.json()
    async with client.get(f"/api/hosts?cursor={first['next_cursor']}", **viewer) as response:
        second = await response.json()
    assert (shown["id"], shown["devices"], shown["devices_left_out"]) == ("pi-1", [], True)
    assert [host["id"] for host in first["items"]] == ["pi-2"]
    assert second == {"items": [shown], "next_cursor": None}
    assert not list(HostResponse().validate(shown))


def view(host_id: str, status: HostStatus = HostStatus.AVAILABLE) -> HostView:
    return HostView(Host(host_id, "http://127.0.0.1:1"), status, None, ())


async def store(db: Database, host_id: str, **columns: Any) -> None:
    names = ["id", "host_url", "dialect", "credential", *columns]
    marks = ", ".join(f"${n}" for n in range(1, len(names) + 1))
    async with db.session() as session:
        await session._connection.execute(
            f"INSERT INTO hosts ({', '.join(names)}) VALUES ({marks})",
            *(host_id, "http://10.0.0.1:1", "document", "join", *columns.values()),
        )


# --- registration


async def test_registering_is_answered_with_exactly_200(
    client: Client, lab: NotedLab, config: Config
) -> None:
    response = await client.post("/api/hosts/register", json=PI, headers=joining(config))
    assert response.status == 200
    assert await response.json() == {
        "status": "success",
        "host_id": "pi-1",
        "devices": ["pi-1"],
    }
    assert lab.asked == [
        (
            "register",
            Registration(
                host=Host(
                    "pi-1", "http://127.0.0.1:6109", capabilities=frozenset({"android_mobile"})
                ),
                devices=(Device("pi-1", None, "pi-1", None),),
                hardware={},
                secret=None,
                credential=Credential.JOIN,
            ),
            "127.0.0.1",
        )
    ]


async def test_all_that_a_host_may_say_is_taken_and_the_rest_ignored(
    client: Client, lab: NotedLab, config: Config
) -> None:
    body = {
        **PI,
        "status": "available",
        "hardware": {"cpu": "arm64", "more": [1]},
        "devices": [
            {"device_id": "tv.1", "name": "TV", "model": "stb", "capabilities": ["4k"], "x": 1},
            {"device_id": "tv.2", "name": "TV", "model": "stb", "capabilities": None},
        ],
        "protocol": {"idempotency": True, "cancel": True, "later": "more"},
        "host_secret": "s" * 32,
        "unheard_of": {"a": 1},
    }
    response = await client.post("/api/hosts/register", json=body, headers=joining(config))
    assert (await response.json())["devices"] == ["pi-1:tv.1", "pi-1:tv.2"]
    registration = lab.asked[0][1]
    assert registration.host.idempotency
    assert registration.host.cancel
    assert registration.secret == "s" * 32
    assert registration.hardware == {"cpu": "arm64", "more": [1]}
    assert registration.devices[0] == Device(
        "pi-1:tv.1", "tv.1", "TV", "stb", frozenset({"4k"}), declared=True
    )
    nulls = {**PI, "devices": None, "hardware": None, "protocol": None, "host_secret": None}
    response = await client.post("/api/hosts/register", json=nulls, headers=joining(config))
    assert response.status == 200


TV = {"device_id": "tv", "name": "TV", "model": "stb"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"host_name": None}, "host_name"),
        ({"host_name": ""}, "host_name"),
        ({"host_name": "a" * 65}, "host_name"),
        ({"host_name": "a/b"}, "host_name"),
        ({"host_name": "pi\n"}, "host_name"),
        ({"host_name": 5}, "host_name"),
        ({"host_url": "http://169.254.169.254"}, "host_url"),
        ({"host_url": 5}, "host_url"),
        ({"capabilities": "adb"}, "capabilities"),
        ({"capabilities": [1]}, "capabilities"),
        ({"capabilities": ["a"] * 201}, "capabilities"),
        ({"hardware": []}, "hardware"),
        ({"devices": {}}, "devices"),
        ({"devices": [TV, TV]}, "devices"),
        ({"devices": [{**TV, "device_id": "a:b"}]}, "devices"),
        ({"devices": [{**TV, "device_id": "a" * 65}]}, "devices"),
        ({"devices": [{**TV, "model": None}]}, "devices"),
        ({"protocol": 1}, "protocol"),
        ({"host_secret": "short"}, "host_secret"),
        ({"host_secret": "s" * 31 + "\n"}, "host_secret"),
        ({"host_secret": "s" * 32 + "\n"}, "host_secret"),
    ],
)
async def test_a_registration_that_makes_no_sense_names_the_field(
    client: Client, lab: NotedLab, config: Config, change: dict[str, Any], field: str
) -> None:
    response = await client.post(
        "/api/hosts/register", json={**PI, **change}, headers=joining(config)
    )
    assert response.status == 400
    assert list((await response.json())["errors"]) == [field]
    assert lab.asked == []


async def test_a_body_that_is_not_declared_as_json_is_refused(
    client: Client, config: Config
) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = await client.post(
            "/api/hosts/register",
            data=b'{"host_name": "a"}',
            headers={**joining(config), "Content-Type": kind},
        )
        assert response.status == 400
        assert "application/json" in (await response.json())["error"]


# --- credentials


@pytest.mark.parametrize("spell", [lambda t: f"Bearer {t}", lambda t: t, basic])
@pytest.mark.parametrize(
    ("role", "user", "credential"),
    [
        (None, "", Credential.JOIN),
        (Role.ADMIN, "ann", Credential.JOIN),
        (Role.HOST, "pi-1", Credential.OWN),
    ],
)
async def test_a_credential_counts_however_it_is_presented(
    client: Client, lab: NotedLab, config: Config, spell: Any, role: Any, user: str, credential: Any
) -> None:
    token = config.host_join_token or ""
    if role is not None:
        token = bearer(client, role, user)["Authorization"].split()[1]
    spelt = spell(token)
    headers = spelt if isinstance(spelt, dict) else {"Authorization": spelt}
    response = await client.post("/api/hosts/register", json=PI, headers=headers)
    assert response.status == 200
    assert lab.asked[0][1].credential is credential


async def test_without_a_credential_a_host_is_told_so(client: Client, lab: NotedLab) -> None:
    for path in ("register", "pi-1/heartbeat", "pi-1/unregister"):
        response = await client.post(f"/api/hosts/{path}", json=PI)
        assert response.status == 401
        assert (await response.json())["error"] == "No token provided"
    assert lab.asked == []


async def test_a_wrong_credential_is_refused_even_from_an_open_network(
    connect: Connect, lab: NotedLab
) -> None:
    client = await connect(host_open_networks=LOOPBACK)
    wrong = [
        "Bearer wrong",
        "Bearer",
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        basic("")["Authorization"],
        basic("wrong")["Authorization"],
        "wrong",
        bearer(client, Role.OPERATOR)["Authorization"],
        bearer(client, Role.VIEWER)["Authorization"],
    ]
    for header in wrong:
        for path in ("register", "pi-1/heartbeat", "pi-1/unregister"):
            response = await client.post(
                f"/api/hosts/{path}", json=PI, headers={"Authorization": header}
            )
            assert response.status == 401, header
            assert (await response.json())["error"] == "Invalid token"
    assert lab.asked == []


async def test_the_open_network_is_that_of_the_socket_whatever_headers_say(
    connect: Connect, lab: NotedLab
) -> None:
    client = await connect(host_open_networks=LOOPBACK)
    assert (await client.post("/api/hosts/register", json=PI)).status == 200
    assert lab.asked[0][1].credential is Credential.OPEN
    browser = await client.post("/api/hosts/register", json=PI, headers={"Origin": "http://x"})
    assert browser.status == 401
    other = await connect(host_open_networks=(ipaddress.ip_network("10.0.0.0/8"),))
    forged = {"X-Forwarded-For": "10.0.0.1", "Forwarded": "for=10.0.0.1"}
    assert (await other.post("/api/hosts/register", json=PI, headers=forged)).status == 401


async def test_a_host_without_credential_cannot_name_another_address(connect: Connect) -> None:
    client = await connect(host_open_networks=LOOPBACK)
    body = {**PI, "host_url": "http://10.0.0.1:6109"}
    response = await client.post("/api/hosts/register", json=body)
    assert list((await response.json())["errors"]) == ["host_url"]


async def test_a_hosts_token_speaks_for_that_host_only(client: Client, lab: NotedLab) -> None:
    headers = bearer(client, Role.HOST, "pi-2")
    for path in ("register", "pi-1/heartbeat", "pi-1/unregister"):
        response = await client.post(f"/api/hosts/{path}", json=PI, headers=headers)
        assert response.status == 403
    assert lab.asked == []
    assert (await client.get("/api/hosts", headers=headers)).status == 403


# --- heartbeat and goodbye


async def test_a_heartbeat_may_be_empty_or_tell_of_its_health(
    client: Client, lab: NotedLab, config: Config
) -> None:
    told = {
        "cpu_percent": 12,
        "memory_percent": 50.5,
        "disk_percent": "nonsense",
        "temperature": True,
        "load": 1e300,
        "else": 1,
    }
    bodies: list[dict[str, Any]] = [
        {},
        {"json": {}},
        {"json": {"system_stats": "x"}},
        {"json": {"system_stats": told}},
    ]
    for body in bodies:
        response = await client.post("/api/hosts/pi-1/heartbeat", headers=joining(config), **body)
        assert response.status == 200
    assert [entry[2].stats for entry in lab.asked] == [
        None,
        None,
        None,
        {"cpu_percent": 12.0, "memory_percent": 50.5},
    ]


async def test_a_host_tells_of_its_devices_its_address_and_its_installation(
    client: Client, lab: NotedLab, config: Config
) -> None:
    away = {"available": False, "reason": "no cable" + "!" * 1000}
    facts = {"os": "14", "battery": 80, "rooted": False}
    headers = joining(config)
    body = {
        **PI,
        "instance_id": "installed-1",
        "devices": [{**TV, **away}, {**TV, "device_id": "b", "properties": facts}],
    }
    assert (await client.post("/api/hosts/register", json=body, headers=headers)).status == 200
    told = {"tv": away, "b": {"properties": facts}, "c": {}}
    more = {"devices": told, "host_url": "http://10.0.0.9:1", "instance_id": "installed-1"}
    url = "/api/hosts/pi-1/heartbeat"
    assert (await client.post(url, json=more, headers=headers)).status == 200
    registration, heartbeat = lab.asked[0][1], lab.asked[1][2]
    gone = Presence(available=False, reason="no cable" + "!" * 492)
    assert registration.instance_id == heartbeat.instance_id == "installed-1"
    assert registration.presences == {
        "pi-1:tv": gone,
        "pi-1:b": Presence(properties=facts),
    }
    assert heartbeat.presences == {"tv": gone, "b": Presence(properties=facts), "c": Presence()}
    assert heartbeat.host_url == "http://10.0.0.9:1"


@pytest.mark.parametrize(
    "properties",
    [
        {str(number): 1 for number in range(65)},
        {"": 1},
        {"a" * 65: 1},
        {"a": "b" * 257},
        {"a": None},
        {"a": [1]},
        {"a": 1e300},
        5,
    ],
)
async def test_properties_of_a_device_are_few_and_short(
    client: Client, config: Config, properties: Any
) -> None:
    body = {"devices": {"tv": {"properties": properties}}}
    response = await client.post("/api/hosts/pi-1/heartbeat", json=body, headers=joining(config))
    assert response.status == 400
    assert list((await response.json())["errors"]["devices"]["tv"]["value"]) == ["properties"]


async def test_a_host_that_is_not_registered_is_asked_to_register(
    client: Client, lab: NotedLab, config: Config
) -> None:
    lab.refusal = NotRegisteredError()
    for path in ("heartbeat", "unregister"):
        response = await client.post(f"/api/hosts/pi-1/{path}", headers=joining(config))
        assert response.status == 404
        body = await response.json()
        assert (body["status"], body["action"]) == ("not_registered", "register")


async def test_a_host_whose_name_another_one_has_is_told_to_stop(
    client: Client, lab: NotedLab, config: Config
) -> None:
    lab.refusal = ReplacedError()
    for path in ("heartbeat", "unregister"):
        told = {"instance_id": "instance-1"}
        response = await client.post(f"/api/hosts/pi-1/{path}", json=told, headers=joining(config))
        assert response.status == 409
        body = await response.json()
        assert (body["status"], body["action"]) == ("replaced", "stop")


# --- what people see


async def test_hosts_are_listed_newest_first_with_filters_and_pages(
    client: Client, db: Database
) -> None:
    await store(db, "a", status="lost", tags=["rack"])
    await store(db, "b", status="available", capabilities=["adb"])
    await store(db, "c", status="available", tags=["rack"])
    headers = bearer(client, Role.VIEWER)

    async def ids(query: str) -> list[str]:
        response = await client.get(f"/api/hosts?{query}", headers=headers)
        return [item["id"] for item in (await response.json())["items"]]

    assert await ids("") == ["c", "b", "a"]
    assert await ids("status=available") == ["c", "b"]
    assert await ids("tag=rack") == ["c", "a"]
    assert await ids("capability=adb") == ["b"]
    page = await (await client.get("/api/hosts?limit=2", headers=headers)).json()
    assert [item["id"] for item in page["items"]] == ["c", "b"]
    assert await ids(f"limit=2&cursor={page['next_cursor']}") == ["a"]
    for query in ("status=odd", "limit=0", "limit=1001", "cursor=x"):
        assert (await client.get(f"/api/hosts?{query}", headers=headers)).status == 400


async def test_a_host_is_shown_with_its_devices_and_no_secret(client: Client, db: Database) -> None:
    await store(db, "pi-1", sealed_secret=b"x", sealed_api_key=b"y", hardware={"cpu": 1})
    async with db.session() as session:
        await session._connection.execute(
            "INSERT INTO devices (id, host_id, local_id, name, model)"
            " VALUES ('pi-1:tv', 'pi-1', 'tv', 'TV', 'stb')"
        )
    headers = bearer(client, Role.VIEWER)
    item = await (await client.get("/api/hosts/pi-1/status", headers=headers)).json()
    (device,) = item.pop("devices")
    assert (device["id"], device["local_id"], device["status"]) == ("pi-1:tv", "tv", "offline")
    assert item.pop("registered_at").endswith("Z")
    assert item == {
        "id": "pi-1",
        "host_name": "pi-1",
        "host_url": "http://10.0.0.1:1",
        "page_url": None,
        "dialect": "document",
        "status": "suspect",
        "reason": None,
        "reason_text": None,
        "reason_until": None,
        "trouble": None,
        "capabilities": [],
        "tags": [],
        "hardware": {"cpu": 1},
        "protocol": {"idempotency": False, "cancel": False},
        "draining": False,
        "last_seen": None,
    }


async def test_unknown_hosts_are_404_before_anything_is_said_of_the_body(
    client: Client, lab: NotedLab
) -> None:
    headers = bearer(client)
    assert (await client.get("/api/hosts/no/status", headers=headers)).status == 404
    for path in ("/api/hosts/no", "/api/hosts/no/execute"):
        method = "PUT" if path.endswith("no") else "POST"
        response = await client.request(method, path, data=b"[", headers=headers)
        assert response.status == 404, path
    lab.refusal = NotFoundError()
    assert (await client.post("/api/hosts/no/drain", headers=headers)).status == 404
    assert (await client.delete("/api/hosts/no", headers=headers)).status == 404


async def test_an_admin_sets_tags_and_a_key_that_is_never_read_back(
    client: Client, db: Database
) -> None:
    await store(db, "pi-1")
    headers = bearer(client)
    response = await client.put(
        "/api/hosts/pi-1", json={"tags": ["rack"], "api_key": "hush"}, headers=headers
    )
    item = await response.json()
    assert (response.status, item["tags"]) == (200, ["rack"])
    assert "hush" not in await response.text()

    async def key() -> str | None:
        async with db.session() as session:
            sealed = await session._connection.fetchval("SELECT sealed_api_key FROM hosts")
        return None if sealed is None else Sealer(secret_of(client.app)).open(sealed)

    assert await key() == "hush"
    await client.put("/api/hosts/pi-1", json={"tags": []}, headers=headers)
    assert await key() == "hush"
    await client.put("/api/hosts/pi-1", json={"api_key": None}, headers=headers)
    assert await key() is None
    for bad in ({"tags": "x"}, {"api_key": ""}, {"status": "lost"}, {"tags": None}):
        assert (await client.put("/api/hosts/pi-1", json=bad, headers=headers)).status == 400


async def test_draining_answers_with_what_the_actor_knows(
    client: Client, db: Database, lab: NotedLab
) -> None:
    await store(db, "pi-1")
    lab.hosts = [HostView(Host("pi-1", "x"), HostStatus.DRAINING, Reason.PROBES, ())]
    response = await client.post("/api/hosts/pi-1/drain", headers=bearer(client, Role.OPERATOR))
    item = await response.json()
    assert (item["status"], item["reason"]) == ("draining", "probes")
    await client.post("/api/hosts/pi-1/resume", headers=bearer(client, Role.OPERATOR))
    assert lab.asked == [("drain", "pi-1", True), ("drain", "pi-1", False)]


async def test_a_host_that_runs_something_is_not_deleted(client: Client, lab: NotedLab) -> None:
    lab.refusal = ConflictError("It runs something.")
    response = await client.delete("/api/hosts/pi-1", headers=bearer(client))
    assert response.status == 409
    lab.refusal = None
    assert (await client.delete("/api/hosts/pi-1", headers=bearer(client))).status == 204


@pytest.mark.parametrize(
    ("method", "path", "least"),
    [
        ("GET", "/api/hosts", Role.VIEWER),
        ("GET", "/api/hosts/pi-1/status", Role.VIEWER),
        ("PUT", "/api/hosts/pi-1", Role.ADMIN),
        ("DELETE", "/api/hosts/pi-1", Role.ADMIN),
        ("POST", "/api/hosts/pi-1/drain", Role.OPERATOR),
        ("POST", "/api/hosts/pi-1/resume", Role.OPERATOR),
        ("POST", "/api/hosts/pi-1/execute", Role.OPERATOR),
    ],
)
async def test_each_route_asks_for_its_role(
    client: Client, lab: NotedLab, method: str, path: str, least: Role
) -> None:
    ranks = [Role.HOST, Role.VIEWER, Role.OPERATOR, Role.ADMIN]
    assert (await client.request(method, path)).status == 401
    for role in ranks:
        response = await client.request(method, path, headers=bearer(client, role, "pi-1"))
        assert (response.status == 403) is (ranks.index(role) < ranks.index(least))


# --- manual actions


async def test_an_action_goes_to_the_host_as_it_is(client: Client, lab: NotedLab) -> None:
    lab.hosts = [view("pi-1")]
    body = {
        "device_id": "tv",
        "timeout_s": 2.5,
        "command": "press",
        "params": {"key": "OK"},
        "execution_id": "forged",
        "attempt": 1,
        "step": 2,
    }
    headers = bearer(client, Role.OPERATOR, "olga")
    response = await client.post("/api/hosts/pi-1/execute", json=body, headers=headers)
    assert response.status == 200
    assert await response.json() == {
        "success": True,
        "result": {"success": True, "n": 1},
        "duration_ms": 1.235,
    }
    action = {"command": "press", "params": {"key": "OK"}}
    assert lab.asked == [("act", "pi-1", "tv", action, 2.5, "olga")]


async def test_an_answer_without_its_text_is_told_in_its_parts(
    client: Client, lab: NotedLab
) -> None:
    lab.hosts, lab.answer = [view("pi-1")], Answer(False, error="no such key")
    response = await client.post("/api/hosts/pi-1/execute", headers=bearer(client))
    body = await response.json()
    assert body["success"] is False
    assert body["result"]["error"] == "no such key"


@pytest.mark.parametrize(
    "body",
    [
        {"timeout_s": 0},
        {"timeout_s": -1},
        {"timeout_s": "1"},
        {"timeout_s": True},
        {"timeout_s": 1e9},
        {"device_id": 5},
        {"device_id": ""},
        {"device_id": "x" * 300},
    ],
)
async def test_an_action_that_makes_no_sense_is_not_sent(
    client: Client, lab: NotedLab, body: dict[str, Any]
) -> None:
    lab.hosts = [view("pi-1")]
    response = await client.post("/api/hosts/pi-1/execute", json=body, headers=bearer(client))
    assert response.status == 400
    assert list((await response.json())["errors"]) == list(body)
    assert lab.asked == []


async def test_a_host_out_of_reach_is_503_and_tells_when_to_come_back(
    client: Client, lab: NotedLab
) -> None:
    lab.refusal = HostUnreachableError()
    response = await client.post("/api/hosts/pi-1/execute", headers=bearer(client))
    assert response.status == 503
    assert response.headers["Retry-After"]


# --- who may speak for a host


@pytest.mark.parametrize("name", [".", "..", "..."])
async def test_no_host_is_named_of_dots_alone(client: Client, config: Config, name: str) -> None:
    """Clients take such a name out of a path."""
    for path in ("/api/hosts/register", "/server/system/register"):
        body = {**PI, "host_name": name}
        response = await client.post(path, json=body, headers=joining(config))
        assert (response.status, list((await response.json())["errors"])) == (400, ["host_name"])


async def test_a_serial_of_adb_over_tcp_is_the_name_of_a_device(
    client: Client, config: Config, lab: NotedLab
) -> None:
    devices = [{"device_id": "192.168.1.5:5555", "name": "Phone", "model": "phone"}]
    body = {**PI, "devices": devices}
    response = await client.post("/api/hosts/register", json=body, headers=joining(config))
    assert (await response.json())["devices"] == ["pi-1:192.168.1.5:5555"]
    response = await client.post("/server/system/register", json=body, headers=joining(config))
    assert response.status == 200
    assert [call[1].devices[0].local_id for call in lab.asked] == ["192.168.1.5:5555"] * 2


async def test_a_host_of_an_open_network_speaks_from_its_address_only(
    connect: Connect, db: Database, lab: NotedLab
) -> None:
    client = await connect(host_open_networks=LOOPBACK)
    await store(db, "far")  # at 10.0.0.1
    await store(db, "near")
    async with db.session() as session:
        await session._connection.execute(
            "UPDATE hosts SET credential = 'open', host_url = CASE WHEN id = 'near'"
            " THEN 'http://127.0.0.1:1' ELSE host_url END"
        )
    for name, status in (("far", 403), ("near", 200)):
        for path in (f"/api/hosts/{name}/heartbeat", f"/api/hosts/{name}/unregister"):
            assert (await client.post(path, json={})).status == status, path
        for path in ("/server/system/ping", "/server/system/unregister"):
            assert (await client.post(path, json={"host_name": name})).status == status, path
    assert {call[1] for call in lab.asked} == {"near"}


_SCRIPT_UNDER_WAY = """
    WITH e AS (
        INSERT INTO test_executions (id, test_case_id, test_case_name, test_case_version,
            device_model, steps, actions, queue_timeout_s, requested_by, status, attempt)
        VALUES ('e', 't', 't', 1, 'tv', '[]', '{a}', 60, 'ann', 'running', 1)
        RETURNING id
    ), a AS (
        INSERT INTO execution_attempts (execution_id, attempt, host_id, device_id, seq)
        SELECT id, 1, 'pi-1', 'pi-1:d', 1 FROM e
        RETURNING execution_id
    )
    INSERT INTO execution_steps (execution_id, attempt, step, action, handle)
    SELECT execution_id, 1, 1, 'a', 'script:t1' FROM a
"""


async def test_the_end_of_a_script_comes_from_its_host_only(
    connect: Connect, config: Config, db: Database, lab: NotedLab
) -> None:
    client = await connect(host_open_networks=LOOPBACK)
    await store(db, "pi-1")
    async with db.session() as session:
        run = session._connection.execute
        await run(_SCRIPT_UNDER_WAY)

        async def ended(headers: dict[str, str], credential: str, url: str) -> int:
            await run("UPDATE hosts SET credential = $1, host_url = $2", credential, url)
            path, body = "/server/script/taskComplete", {"task_id": "t1"}
            return (await client.post(path, json=body, headers=headers)).status

        far, near = "http://10.0.0.1:1", "http://127.0.0.1:1"
        assert await ended({}, "open", far) == 403
        assert await ended({}, "join", near) == 403
        assert await ended(joining(config), "own", near) == 403
        assert lab.asked == []
        assert await ended({}, "open", near) == 200
        assert await ended(joining(config), "join", far) == 200
        assert await ended(bearer(client, Role.HOST, "pi-1"), "own", far) == 200


async def test_a_heartbeat_stores_until_when_a_signed_token_is_valid(
    client: Client, db: Database
) -> None:
    await store(db, "pi-1")
    async with db.session() as session:
        await session._connection.execute("UPDATE hosts SET credential = 'own'")
        headers = bearer(client, Role.HOST, "pi-1")
        assert (await client.post("/api/hosts/pi-1/heartbeat", headers=headers)).status == 200
        until = "SELECT credential_until BETWEEN now() AND now() + interval '2 days' FROM hosts"
        assert await session._connection.fetchval(until)
