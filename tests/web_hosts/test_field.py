"""VirtualPyTest hosts and the whole server: what stays, what changes, and which key goes where."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.actors.fake_host import until
from tests.conftest import Client
from tests.web_hosts.conftest import bearer
from tests.web_hosts.test_virtualpytest import Json, basic, said
from vpt.actors.lab import Lab
from vpt.config import Config
from vpt.dialects.base import Call, HostTroubleError, Identity, Trouble
from vpt.events import Events
from vpt.model import Answer, Device, Host, Role
from vpt.store.db import Database
from vpt.store.tokens import make_token
from vpt.web.app import make_app

KEY, OWN_KEY = "the-key-that-hosts-share", "the-key-of-one-host"
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


@dataclass
class NotedDialect:
    """Takes notes of whom it was to call with which secret; URLs in `dead` do not answer."""

    dead: set[str] = field(default_factory=set)
    probes: list[Host] = field(default_factory=list)
    sent: list[tuple[str, str | None]] = field(default_factory=list)
    ended: list[tuple[str, Json, str | None]] = field(default_factory=list)

    async def probe(self, host: Host, limit: float) -> Identity:
        self.probes.append(host)
        if host.url in self.dead:
            raise HostTroubleError(Trouble.NOT_CONNECTED, "dead")
        return Identity()

    async def send(self, call: Call) -> Answer:
        self.sent.append((call.host.url, call.host.secret))
        return Answer(success=True, raw={"success": True})

    async def leave(self, host: Host, device: Device, limit: float) -> None:
        pass

    async def look(self, host: Host, device: Device, limit: float) -> None:
        pass

    async def check_key(self, host: Host, limit: float) -> None:
        pass

    async def close(self) -> None:
        pass

    async def cancel(self, host: Host, execution_id: str, attempt: int, limit: float) -> bool:
        return True

    def task_complete(self, task_id: str, said: Json, host_id: str | None) -> bool:
        self.ended.append((task_id, said, host_id))
        return task_id == "known"


@dataclass
class Server:
    """A whole server, a client of it, and its way to the hosts."""

    config: Config
    db: Database
    dialect: NotedDialect
    client: Client
    lab: Lab

    async def says(self, path: str, body: Json, credential: str | None = None) -> int:
        """Say something as a host does; give the status."""
        token = credential or self.config.host_join_token or ""
        headers = {} if token == "none" else basic(token)
        url = f"/server/{path}"
        async with self.client.post(url, json=body, headers=headers) as response:
            text = await response.text()
            assert KEY not in text and OWN_KEY not in text
            return response.status

    async def joins(self, credential: str | None = None, **changes: Any) -> None:
        """Register a host and wait until it is up."""
        body = said(**changes)
        assert await self.says("system/register", body, credential) == 200
        await until(lambda: self.is_up(body["host_name"]))

    async def is_up(self, name: str = "field-1") -> bool:
        return (await self.shown(f"/api/hosts/{name}/status"))["status"] in {"available", "busy"}

    async def shown(self, path: str) -> Json:
        """Return what an admin sees."""
        async with self.client.get(path, headers=bearer(self.client)) as response:
            text = await response.read()
            assert response.status == 200, text
            assert KEY.encode() not in text and OWN_KEY.encode() not in text
            seen: Json = orjson.loads(text)
            return seen

    async def edits(self, path: str, body: Json) -> None:
        """Change something as an admin."""
        headers = bearer(self.client)
        async with self.client.put(path, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
            assert OWN_KEY not in await response.text()

    async def key_sent(self, name: str = "field-1") -> tuple[str, str | None]:
        """Have something done on a host; give where it went and with which key."""
        body = {"device_id": "device1", "command": "x"}
        headers = bearer(self.client, Role.OPERATOR)
        url = f"/api/hosts/{name}/execute"
        async with self.client.post(url, json=body, headers=headers) as response:
            assert response.status == 200, await response.text()
        return self.dialect.sent[-1]

    async def sampled(self) -> None:
        """Write what is known of hosts, whether a minute is over or not."""
        self.lab._samples._ended.clear()
        await self.lab._samples.flush()

    async def fetch(self, sql: str) -> list[Any]:
        async with self.db.session() as session:
            return [tuple(row) for row in await session._connection.fetch(sql)]


@pytest.fixture
async def field_server(config: Config, db: Database, events: Events) -> AsyncIterator[Server]:
    """Return a whole server with open networks and a key for its hosts."""
    config = replace(config, api_key=KEY, host_open_networks=LOOPBACK, host_probe_interval=0.1)
    dialect = NotedDialect()
    lab = Lab(config, db, events, dialect)
    await lab.start()
    client = TestClient(TestServer(make_app(config, db, lab, events)))
    await client.start_server()
    yield Server(config, db, dialect, client, lab)
    await client.close()
    await lab.stop()


# --- registering and pings


async def test_three_devices_appear_with_what_they_can_do(field_server: Server) -> None:
    await field_server.joins()
    host = await field_server.shown("/api/hosts/field-1/status")
    assert (host["dialect"], host["page_url"]) == ("virtualpytest", "http://127.0.0.1:16109")
    models = {item["id"]: item["model"] for item in host["devices"]}
    assert models == {
        "field-1:device1": "android_mobile",
        "field-1:device2": "stb",
        "field-1:device3": "web",
    }
    capabilities = {item["local_id"]: set(item["capabilities"]) for item in host["devices"]}
    assert {"av", "remote", "android_mobile", "image", "adb"} <= capabilities["device1"]
    assert capabilities["device3"] == {"desktop", "bash", "web", "playwright", "verification"}


async def test_a_ping_is_in_the_next_sample_and_changes_nothing_else(field_server: Server) -> None:
    await field_server.joins()
    tables = [
        f"SELECT {one}::text FROM {one} ORDER BY 1"
        for one in ("devices", "device_schemas", "hosts", "test_executions", "tokens")
    ]
    # When they were seen is written beside everything else; xmin tells of any other write.
    unseen = "UPDATE hosts SET last_seen = NULL; UPDATE devices SET last_seen = NULL"

    async def looks() -> list[Any]:
        async with field_server.db.session() as session:
            await session._connection.execute(unseen)
        return [await field_server.fetch(sql) for sql in tables]

    before = await looks()
    probes = len(field_server.dialect.probes)
    renamed = said("ping", device={"device_name": "Other", "device_model": "stb"})
    assert await field_server.says("system/ping", renamed) == 200
    await until(lambda: len(field_server.dialect.probes) > probes)
    assert await looks() == before
    await field_server.sampled()
    ((cpu, load, metrics),) = await field_server.fetch(
        "SELECT cpu_percent, load_1m, device_metrics FROM host_health"
        " WHERE device_metrics IS NOT NULL"
    )
    assert (cpu, load, sorted(metrics)) == (1.0, 1.21, ["device1", "device2", "device3"])
    assert "device_action_types" not in str(metrics)


async def test_an_unknown_host_is_asked_to_register_and_one_that_left_too(
    field_server: Server,
) -> None:
    assert await field_server.says("system/ping", said("ping")) == 404
    await field_server.joins()
    assert await field_server.says("system/ping", said("ping")) == 200
    assert await field_server.says("system/unregister", {"host_name": "field-1"}) == 200
    await until(lambda: _is_offline(field_server))
    assert await field_server.says("system/ping", said("ping")) == 404
    await field_server.joins()
    assert await field_server.says("system/ping", said("ping")) == 200


async def _is_offline(server: Server) -> bool:
    return (await server.shown("/api/hosts/field-1/status"))["status"] == "offline"


async def test_what_people_set_survives_every_registration(field_server: Server) -> None:
    await field_server.joins()
    await field_server.edits("/api/hosts/field-1", {"tags": ["rack"], "api_key": OWN_KEY})
    await field_server.edits(
        "/api/devices/field-1:device1",
        {"name": "Mine", "tags": ["slow"], "capabilities": ["5g"], "status": "disabled"},
    )
    await field_server.joins(device={"device_name": "Theirs", "device_model": "android_tv"})
    device = await field_server.shown("/api/devices/field-1:device1")
    assert (device["name"], device["tags"], device["capabilities"]) == ("Mine", ["slow"], ["5g"])
    assert (device["status"], device["model"]) == ("disabled", "android_tv")
    other = await field_server.shown("/api/devices/field-1:device2")
    assert other["name"] == "LivingRoomSTB"
    assert (await field_server.shown("/api/hosts/field-1/status"))["tags"] == ["rack"]


async def test_what_a_device_can_do_is_stored_once_and_dropped_with_its_last_device(
    field_server: Server,
) -> None:
    count = "SELECT count(*) FROM device_schemas"
    await field_server.joins()
    await field_server.joins(host_name="field-2")
    assert await field_server.fetch(count) == [(3,)]
    first = await field_server.fetch("SELECT xmin::text, hash FROM device_schemas ORDER BY hash")
    await field_server.joins()
    again = await field_server.fetch("SELECT xmin::text, hash FROM device_schemas ORDER BY hash")
    assert again == first
    schema = await field_server.shown("/api/devices/field-1:device1/schema")
    told = said()["devices"][0]
    assert schema == {
        "action_types": told["device_action_types"],
        "verification_types": told["device_verification_types"],
    }
    none = {"device_action_types": {}, "device_verification_types": {}}
    await field_server.joins(device=none)
    assert await field_server.fetch(count) == [(3,)]
    async with field_server.client.get(
        "/api/devices/field-1:device1/schema", headers=bearer(field_server.client)
    ) as response:
        assert response.status == 404
    await field_server.joins(host_name="field-2", device=none)
    assert await field_server.fetch(count) == [(2,)]


async def test_registrations_at_once_lose_no_schema(field_server: Server) -> None:
    kinds = [{"device_action_types": {"Remote": [{"command": str(n % 3)}]}} for n in range(24)]
    bodies = [said(host_name=f"field-{n % 6}", device=kind) for n, kind in enumerate(kinds)]
    statuses = await asyncio.gather(
        *(field_server.says("system/register", body) for body in bodies)
    )
    assert set(statuses) == {200} or set(statuses) == {200, 409}, statuses
    for n in range(6):
        await field_server.shown(f"/api/devices/field-{n}:device1/schema")


# --- credentials and keys


async def test_a_name_is_not_taken_by_a_worse_credential_or_from_a_url_that_answers(
    field_server: Server,
) -> None:
    await field_server.joins()
    ours = "http://127.0.0.1:16109"
    stolen = said(host_url="http://127.0.0.1:7777", host_api_url="http://127.0.0.1:7777")
    assert await field_server.says("system/register", said(), "none") == 409
    assert await field_server.says("system/register", stolen) == 409
    assert await field_server.says("system/ping", said("ping"), "none") == 409
    assert await field_server.says("system/unregister", said("ping"), "none") == 409
    assert await field_server.says("system/register", stolen, "wrong") == 401
    assert await field_server.key_sent() == (ours, KEY)
    field_server.dialect.dead.add(ours)
    assert await field_server.says("system/register", stolen, "none") == 409
    assert await field_server.says("system/register", stolen) == 200
    await until(field_server.is_up)
    assert await field_server.key_sent() == ("http://127.0.0.1:7777", KEY)


async def test_a_host_does_not_change_its_dialect_while_it_answers_in_the_old_one(
    field_server: Server,
) -> None:
    await field_server.joins()
    document = {"host_name": "field-1", "host_url": "http://127.0.0.1:16109"}
    token = field_server.config.host_join_token or ""
    client, url = field_server.client, "/api/hosts/register"
    async with client.post(url, json=document, headers=basic(token)) as response:
        assert response.status == 409
    assert await field_server.key_sent() == ("http://127.0.0.1:16109", KEY)
    field_server.dialect.dead.add("http://127.0.0.1:16109")
    async with client.post(url, json=document, headers=basic(token)) as response:
        assert response.status == 200
    host = await field_server.shown("/api/hosts/field-1/status")
    assert (host["dialect"], host["page_url"]) == ("document", None)
    assert await field_server.fetch("SELECT FROM device_schemas") == []


async def test_the_shared_key_goes_to_no_host_without_credential(field_server: Server) -> None:
    await field_server.joins("none")
    assert await field_server.key_sent() == ("http://127.0.0.1:16109", None)
    await field_server.joins()  # a better credential
    assert await field_server.key_sent() == ("http://127.0.0.1:16109", KEY)


async def test_a_key_of_its_own_takes_the_shared_ones_place_at_once(field_server: Server) -> None:
    await field_server.joins()
    assert (await field_server.key_sent())[1] == KEY
    await field_server.edits("/api/hosts/field-1", {"api_key": OWN_KEY})
    assert (await field_server.key_sent())[1] == OWN_KEY
    await field_server.joins()
    assert (await field_server.key_sent())[1] == OWN_KEY
    sealed = await field_server.fetch("SELECT hosts::text FROM hosts")
    assert OWN_KEY not in str(sealed)
    await field_server.edits("/api/hosts/field-1", {"tags": []})
    assert (await field_server.key_sent())[1] == OWN_KEY
    await field_server.edits("/api/hosts/field-1", {"api_key": None})
    assert (await field_server.key_sent())[1] == KEY


async def test_no_key_is_logged(field_server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    await field_server.joins()
    await field_server.edits("/api/hosts/field-1", {"api_key": OWN_KEY})
    await field_server.key_sent()
    token = await make_token(field_server.db, "field-1")
    assert await field_server.says("system/register", said(), token) == 200
    logged = capsys.readouterr()
    for secret in (KEY, OWN_KEY, token, field_server.config.host_join_token or "?"):
        assert secret not in logged.out + logged.err
    assert "host_registered" in logged.out + logged.err


async def test_a_token_of_its_own_lets_one_host_join_and_no_other(field_server: Server) -> None:
    token = await make_token(field_server.db, "field-1")
    await field_server.joins(token)
    assert await field_server.fetch("SELECT credential FROM hosts") == [("own",)]
    assert await field_server.says("system/register", said(host_name="field-2"), token) == 403
    assert await field_server.says("system/register", said()) == 409  # the join token is less
    bearing = {"Authorization": f"Bearer {token}"}
    url = "/api/hosts/field-1/heartbeat"
    async with field_server.client.post(url, headers=bearing) as response:
        assert response.status == 200


# --- ends of scripts


async def test_the_end_of_a_script_gets_200_whoever_waits_for_it(field_server: Server) -> None:
    own = await make_token(field_server.db, "field-1")
    for task, credential in (("known", None), ("unknown", own), ("late", "none")):
        body = {"task_id": task, "result": {"exit_code": 0}}
        assert await field_server.says("script/taskComplete", body, credential) == 200
    told = {"result": {"exit_code": 0}, "error": None}
    assert field_server.dialect.ended == [
        ("known", told, None),
        ("unknown", told, "field-1"),
        ("late", told, None),
    ]


# --- many at once


@pytest.mark.alone
async def test_20_hosts_that_ping_at_once_are_answered_as_soon_as_one_after_another(
    field_server: Server,
) -> None:
    names = [f"field-{n}" for n in range(20)]
    for name in names:
        assert await field_server.says("system/register", said(host_name=name)) == 200
    bodies = [_heavy(name) for name in names]
    assert 40_000 < min(map(len, bodies)) < 60_000
    headers = {
        **basic(field_server.config.host_join_token or ""),
        "Content-Type": "application/json",
    }

    async def ping(body: bytes) -> float:
        began = time.perf_counter()
        url = "/server/system/ping"
        async with field_server.client.post(url, data=body, headers=headers) as response:
            assert response.status == 200
        return time.perf_counter() - began

    one = sorted([await ping(bodies[0]) for _ in range(9)])[4]
    slowest = [max(await asyncio.gather(*map(ping, bodies))) for _ in range(3)]
    assert sorted(slowest)[1] < 1.5 * len(bodies) * one, (one, slowest)
    await field_server.sampled()
    told = "SELECT count(DISTINCT host_id) FROM host_health WHERE cpu_percent IS NOT NULL"
    assert await field_server.fetch(told) == [(20,)]


def _heavy(name: str) -> bytes:
    """Return a ping as long as real ones are: the sample's lists are shortened."""
    body = said("ping", host_name=name)
    for device in body["devices"]:
        for types in (device["device_action_types"], device["device_verification_types"]):
            for kind, each in types.items():
                types[kind] = each * (1 + 8_000 // len(orjson.dumps(types)))
    return orjson.dumps(body)


# --- what nobody may read


@pytest.mark.parametrize("then", ["system/register", "system/ping"])
async def test_the_token_of_a_host_is_masked_in_what_it_says(
    field_server: Server, then: str
) -> None:
    own = await make_token(field_server.db, "field-1")
    await field_server.joins(own)
    newer = await make_token(field_server.db, "field-1")
    assert await field_server.says(then, said(then.removeprefix("system/")), newer) == 200

    async def send(call: Call) -> Answer:
        text = f"{own} {newer} {KEY} http://u:geheim@h"
        return Answer(success=True, output=text, raw={"success": True, "output": text})

    field_server.dialect.send = send  # type: ignore[method-assign]
    headers = bearer(field_server.client, Role.OPERATOR)
    body = {"device_id": "device1", "command": "x"}
    url = "/api/hosts/field-1/execute"
    async with field_server.client.post(url, json=body, headers=headers) as response:
        answer = await response.json()
        assert answer["result"]["output"] == "*** *** *** http://u:***@h"
