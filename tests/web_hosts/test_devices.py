"""Devices: what hosts declare and what people make of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web_hosts.conftest import Client, NotedLab, bearer
from tests.web_hosts.test_hosts import store
from vpt.model import Device, DeviceStatus, DeviceView, Host, HostStatus, HostView, Role
from vpt.store.db import Database

TV = {"name": "TV", "model": "stb"}


#: Of a device that is available and has no properties.
SAYS_NOTHING = {"away": None, "properties": None}


async def declare(db: Database, name: str = "TV", local_id: str = "tv") -> None:
    """Do what a registration does to a device."""
    row = {
        "id": f"pi-1:{local_id}",
        "host_id": "pi-1",
        "local_id": local_id,
        "name": name,
        "model": "stb",
        "capabilities": ["declared"],
        **SAYS_NOTHING,
    }
    async with db.session() as session:
        await session.many("upsert_device", [row])


async def test_a_device_without_host_is_added_shown_and_deleted(
    client: Client, lab: NotedLab
) -> None:
    headers = bearer(client, Role.OPERATOR)
    response = await client.post("/api/devices", json={**TV, "tags": ["lab"]}, headers=headers)
    item = await response.json()
    assert response.status == 201
    assert (item["host_id"], item["local_id"], item["status"]) == (None, None, "offline")
    assert (item["declared"], item["tags"], item["capabilities"]) == (False, ["lab"], [])
    path = f"/api/devices/{item['id']}"
    assert await (await client.get(path, headers=headers)).json() == item
    assert (await client.delete(path, headers=headers)).status == 204
    assert (await client.get(path, headers=headers)).status == 404
    assert lab.asked == []


async def test_a_device_on_a_host_bears_the_hosts_name_and_the_actor_is_told(
    client: Client, db: Database, lab: NotedLab
) -> None:
    await store(db, "pi-1")
    headers = bearer(client, Role.OPERATOR)
    body = {**TV, "host_id": "pi-1", "local_id": "tv"}
    response = await client.post("/api/devices", json=body, headers=headers)
    assert (response.status, (await response.json())["id"]) == (201, "pi-1:tv")
    assert (await client.post("/api/devices", json=body, headers=headers)).status == 409
    assert (await client.delete("/api/devices/pi-1:tv", headers=headers)).status == 204
    assert lab.asked == [("devices_changed", "pi-1")] * 2


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"name": "TV"}, 400),
        ({**TV, "name": ""}, 400),
        ({**TV, "local_id": "tv"}, 400),
        ({**TV, "host_id": "pi-1"}, 400),
        ({**TV, "status": "busy"}, 400),
        ({**TV, "declared": True}, 400),
        ({**TV, "tags": "x"}, 400),
        ({**TV, "host_id": "no", "local_id": "tv"}, 422),
    ],
)
async def test_a_device_that_makes_no_sense_is_not_added(
    client: Client, body: dict[str, Any], status: int
) -> None:
    headers = bearer(client, Role.OPERATOR)
    assert (await client.post("/api/devices", json=body, headers=headers)).status == status
    assert (await (await client.get("/api/devices", headers=headers)).json())["items"] == []


async def test_what_people_edit_survives_a_registration(client: Client, db: Database) -> None:
    await store(db, "pi-1")
    await declare(db)
    headers = bearer(client, Role.OPERATOR)
    edit = {"name": "Mine", "tags": ["a"], "capabilities": ["4k"], "status": "disabled"}
    response = await client.put("/api/devices/pi-1:tv", json=edit, headers=headers)
    assert response.status == 200
    await declare(db, "Told anew")
    item = await (await client.get("/api/devices/pi-1:tv", headers=headers)).json()
    assert {name: item[name] for name in edit} == edit


async def test_what_nobody_edited_follows_the_registration(client: Client, db: Database) -> None:
    await store(db, "pi-1")
    await declare(db)
    headers = bearer(client, Role.OPERATOR)
    await client.put("/api/devices/pi-1:tv", json={"tags": ["a"]}, headers=headers)
    await declare(db, "Told anew")
    item = await (await client.get("/api/devices/pi-1:tv", headers=headers)).json()
    assert (item["name"], item["tags"]) == ("Told anew", ["a"])


async def test_a_changed_device_is_shown_with_the_status_its_actor_knows(
    client: Client, db: Database, lab: NotedLab
) -> None:
    await store(db, "pi-1")
    await declare(db)
    device = DeviceView(Device("pi-1:tv", "tv", "TV", "stb"), DeviceStatus.ONLINE)
    lab.hosts = [HostView(Host("pi-1", "x"), HostStatus.AVAILABLE, None, (device,))]
    headers = bearer(client, Role.OPERATOR)
    response = await client.put("/api/devices/pi-1:tv", json={"status": "online"}, headers=headers)
    assert (await response.json())["status"] == "online"


async def test_a_declared_or_busy_device_is_not_deleted(client: Client, db: Database) -> None:
    await store(db, "pi-1")
    await declare(db)
    headers = bearer(client, Role.OPERATOR)
    assert (await client.delete("/api/devices/pi-1:tv", headers=headers)).status == 409
    async with db.session() as session:
        await session._connection.execute("UPDATE devices SET declared = false, status = 'busy'")
    assert (await client.delete("/api/devices/pi-1:tv", headers=headers)).status == 409
    assert (await client.delete("/api/devices/no", headers=headers)).status == 404


async def test_an_edit_that_makes_no_sense_changes_nothing(client: Client, db: Database) -> None:
    await store(db, "pi-1")
    await declare(db)
    headers = bearer(client, Role.OPERATOR)
    for body in ({"status": "offline"}, {"model": "x"}, {"name": None}, {"tags": [1]}):
        response = await client.put("/api/devices/pi-1:tv", json=body, headers=headers)
        assert response.status == 400
    assert (await client.put("/api/devices/no", data=b"[", headers=headers)).status == 404
    viewer = bearer(client, Role.VIEWER)
    assert (await client.put("/api/devices/pi-1:tv", json={}, headers=viewer)).status == 403


async def test_devices_are_listed_with_filters_and_pages(client: Client, db: Database) -> None:
    await store(db, "pi-1")
    for local_id in ("a", "b", "c"):
        await declare(db, local_id=local_id)
    headers = bearer(client, Role.OPERATOR)
    await client.post("/api/devices", json={**TV, "model": "phone"}, headers=headers)
    await client.put("/api/devices/pi-1:a", json={"tags": ["x"]}, headers=headers)

    async def many(query: str) -> int:
        response = await client.get(f"/api/devices?{query}", headers=headers)
        return len((await response.json())["items"])

    assert await many("") == 4
    assert await many("host_id=pi-1") == 3
    assert await many("model=phone") == 1
    assert await many("tag=x") == 1
    assert await many("status=offline&limit=2") == 2
    assert (await client.get("/api/devices?status=odd", headers=headers)).status == 400


async def test_what_was_read_of_a_device_can_be_sent_back(client: Client, db: Database) -> None:
    await store(db, "pi-1")
    await declare(db)
    headers = bearer(client, Role.OPERATOR)
    added = await client.post(
        "/api/devices", json={**TV, "host_id": "pi-1", "local_id": "more"}, headers=headers
    )
    for device_id in ("pi-1:tv", (await added.json())["id"]):
        path = f"/api/devices/{device_id}"
        item = await (await client.get(path, headers=headers)).json()
        response = await client.put(path, json=item, headers=headers)
        assert (response.status, await response.json()) == (200, item)
        for name in ("id", "host_id", "local_id"):
            wrong = await client.put(path, json={**item, name: "other"}, headers=headers)
            assert (wrong.status, list((await wrong.json())["errors"])) == (400, [name])
    await declare(db, "Told anew")  # what was sent back unchanged is no edit
    item = await (await client.get("/api/devices/pi-1:tv", headers=headers)).json()
    assert item["name"] == "Told anew"


async def test_the_model_of_a_device_that_no_host_declares_may_change(
    client: Client, db: Database, lab: NotedLab
) -> None:
    await store(db, "pi-1")
    await declare(db)
    headers = bearer(client, Role.OPERATOR)
    body = {**TV, "host_id": "pi-1", "local_id": "more"}
    await client.post("/api/devices", json=body, headers=headers)
    response = await client.put("/api/devices/pi-1:more", json={"model": "new"}, headers=headers)
    assert (response.status, (await response.json())["model"]) == (200, "new")
    assert lab.asked[-1] == ("devices_changed", "pi-1")
    refused = await client.put("/api/devices/pi-1:tv", json={"model": "new"}, headers=headers)
    assert (refused.status, list((await refused.json())["errors"])) == (400, ["model"])
    same = await client.put("/api/devices/pi-1:tv", json={"model": "stb"}, headers=headers)
    assert same.status == 200


async def test_a_device_whose_id_is_anothers_name_is_neither_leased_nor_changed(
    client: Client, db: Database
) -> None:
    await store(db, "tv")
    await store(db, "pi-1")
    async with db.session() as session:
        row = {"id": "tv", "host_id": "tv", "local_id": None, "name": "tv", "model": None}
        await session.many("upsert_device", [{**row, "capabilities": [], **SAYS_NOTHING}])
    await declare(db)  # as before a server refused such names
    headers = bearer(client, Role.OPERATOR)
    for method, path in (("POST", "/lease"), ("PUT", ""), ("DELETE", "")):
        response = await client.request(method, f"/api/devices/tv{path}", json={}, headers=headers)
        assert response.status == 422
        assert "pi-1:tv, tv" in (await response.json())["error"]
    assert (await client.get("/api/devices/tv", headers=headers)).status == 200


async def test_a_person_adds_no_device_whose_name_is_a_hosts(client: Client, db: Database) -> None:
    await store(db, "tv")
    await store(db, "pi-1")
    headers = bearer(client, Role.OPERATOR)
    body = {**TV, "host_id": "pi-1", "local_id": "tv"}
    response = await client.post("/api/devices", json=body, headers=headers)
    assert (response.status, "the host tv" in (await response.json())["error"]) == (409, True)


async def test_a_device_that_is_held_back_is_resumed(
    client: Client, db: Database, lab: NotedLab
) -> None:
    await store(db, "pi-1")
    await declare(db)
    device = Device("pi-1:tv", "tv", "TV", "stb")
    view = DeviceView(device, DeviceStatus.ONLINE)
    lab.hosts = [HostView(Host("pi-1", "http://h"), HostStatus.AVAILABLE, None, (view,))]
    held = """
        UPDATE devices
        SET status = 'offline', reason = 'held_back', reason_text = 'x', reason_until = now()
    """
    async with db.session() as session:
        await session._connection.execute(held)
    path = "/api/devices/pi-1:tv/resume"
    assert (await client.post(path, headers=bearer(client, Role.VIEWER))).status == 403
    response = await client.post(path, headers=bearer(client, Role.OPERATOR))
    item = await response.json()
    shown = ("status", "reason", "reason_text", "reason_until")
    assert [item[name] for name in shown] == ["online", None, None, None]
    assert lab.asked == [("forget_errors", "pi-1", "pi-1:tv")]
    unknown = await client.post("/api/devices/x/resume", headers=bearer(client, Role.OPERATOR))
    assert unknown.status == 404


async def test_a_device_without_host_has_nothing_to_resume(client: Client, lab: NotedLab) -> None:
    headers = bearer(client, Role.OPERATOR)
    device_id = (await (await client.post("/api/devices", json=TV, headers=headers)).json())["id"]
    response = await client.post(f"/api/devices/{device_id}/resume", headers=headers)
    assert response.status == 200
    assert lab.asked == []
