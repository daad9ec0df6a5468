"""What VirtualPyTest hosts say, and what is made of it."""

from __future__ import annotations

import asyncio
import base64
import copy
import io
import ipaddress
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.actors.fake_host import until
from tests.web_hosts.conftest import Client, Connect, NotedLab, bearer
from vpt.config import Config
from vpt.errors import ConflictError, NotRegisteredError
from vpt.model import Credential, Device, Heartbeat, Host, Registration, Role
from vpt.web.api.virtualpytest import LONGEST_END
from vpt.web.http import held

DATA = Path(__file__).parents[1] / "virtualpytest" / "data"
SAYS = {
    kind: json.loads((DATA / f"{kind}.json").read_text(encoding="utf-8"))
    for kind in ("register", "ping")
}
PATHS = ("system/register", "system/ping", "system/unregister", "script/taskComplete")
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
Json = dict[str, Any]


def said(kind: str = "register", **changes: Any) -> Json:
    """Return what a real host says, changed; `device` changes its first device only."""
    body: Json = copy.deepcopy(SAYS[kind])
    body["devices"][0].update(changes.pop("device", {}))
    return body | changes


def basic(password: str) -> dict[str, str]:
    """Return the header that a SERVER_URL with name and password makes."""
    pair = base64.b64encode(f"field-1:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


@pytest.fixture
def joining(config: Config) -> dict[str, str]:
    """Return the headers of a host that knows the join token."""
    return basic(config.host_join_token or "")


async def registered(client: Client, lab: NotedLab, headers: Any, body: Json) -> Registration:
    """Register, and give what the lab was told."""
    response = await client.post("/server/system/register", json=body, headers=headers)
    assert response.status == 200, await response.text()
    told = lab.asked[-1][1]
    assert isinstance(told, Registration)
    return told


# --- registration


async def test_what_a_real_host_says_gives_three_devices_with_what_they_can_do(
    client: Client, lab: NotedLab, joining: Any
) -> None:
    told = await registered(client, lab, joining, said())
    assert told.host == Host(
        "field-1",
        "http://127.0.0.1:16109",
        dialect="virtualpytest",
        capabilities=frozenset({"av", "remote", "verification", "web", "desktop"}),
    )
    assert told.host.serial
    av = {"av", "hdmi_stream", "remote", "verification", "audio", "text", "image", "video"}
    assert told.devices == (
        Device(
            "field-1:device1",
            "device1",
            "Pixel7",
            "android_mobile",
            frozenset(av | {"android_mobile", "adb"}),
        ),
        Device("field-1:device2", "device2", "LivingRoomSTB", "stb", frozenset(av | {"ir_remote"})),
        Device(
            "field-1:device3",
            "device3",
            "WebDesk",
            "web",
            frozenset({"desktop", "bash", "web", "playwright", "verification"}),
        ),
    )
    assert (told.credential, told.page_url) == (Credential.JOIN, "http://127.0.0.1:16109")
    assert told.hardware["memory_total_gb"] == 23.54
    assert sorted(told.schemas) == [device.id for device in told.devices]
    schema = json.loads(told.schemas["field-1:device3"].text)
    assert schema["verification_types"] == said()["devices"][2]["device_verification_types"]


async def test_registering_is_answered_with_exactly_200(client: Client, joining: Any) -> None:
    response = await client.post("/server/system/register", json=said(), headers=joining)
    assert response.status == 200
    assert await response.json() == {"status": "success", "host_id": "field-1"}


@pytest.mark.parametrize(
    ("families", "words"),
    [
        ({"remote": ["android_tv", "bluetooth"]}, {"remote", "android_tv", "bluetooth"}),
        ({"remote": ["", None, 5, "ir"], "power": ""}, {"remote", "ir"}),
        ({"power": True, "av": False, "ai": {"x": 1}, "web": 1}, {"power", "ai", "web"}),
        ({"remote": "x" * 101}, {"remote"}),
        (None, set()),
        ("remote", set()),
    ],
)
async def test_a_family_is_had_when_something_drives_it(
    client: Client, lab: NotedLab, joining: Any, families: Any, words: set[str]
) -> None:
    device = {"device_capabilities": families, "device_verification_types": {}}
    told = await registered(client, lab, joining, said(device=device))
    assert told.devices[0].capabilities == words


@pytest.mark.parametrize(
    "oddity",
    [
        {"devices": None, "capabilities": None, "system_stats": None, "host_ip": None},
        {"devices": {}, "capabilities": {"a": 1}, "system_stats": [], "host_port": "x"},
        {"devices": "x", "capabilities": "av", "system_stats": "x", "device_count": -1},
        {"unheard_of": {"a": [None]}, "host_api_url": "", "capabilities": [None, 1, "", "av"]},
        {"device": {"device_name": None, "device_model": None}},
        {"device": {"device_name": "", "device_model": ["x"], "device_capabilities": []}},
        {"device": {"device_name": 5, "device_action_types": [], "device_ip": {}}},
        {"device": {"device_name": "\n", "device_verification_types": "x", "device_port": []}},
        {"device": {"device_action_types": {"Remote": None}, "device_verification_types": {"": 1}}},
    ],
)
async def test_a_host_is_not_refused_for_being_odd(
    client: Client, lab: NotedLab, joining: Any, oddity: Json
) -> None:
    told = await registered(client, lab, joining, said(**oddity))
    assert told.devices
    assert all(word for word in told.host.capabilities | told.devices[0].capabilities)


async def test_a_host_without_devices_has_one_implicit_device(
    client: Client, lab: NotedLab, joining: Any
) -> None:
    told = await registered(client, lab, joining, said(devices=[]))
    assert told.devices == (Device("field-1", None, "field-1", None),)
    assert told.schemas == {}


async def test_names_are_cut_and_what_has_no_name_bears_its_id(
    client: Client, lab: NotedLab, joining: Any
) -> None:
    long = {"device_id": 7, "device_name": "n" * 300, "device_model": "m" * 300}
    told = await registered(client, lab, joining, said(device=long))
    device = told.devices[0]
    assert (device.id, device.name, device.model) == ("field-1:7", "n" * 100, "m" * 100)
    told = await registered(client, lab, joining, said(device={"device_name": None}))
    assert told.devices[0].name == "device1"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"host_name": None}, "host_name"),
        ({"host_name": ""}, "host_name"),
        ({"host_name": "a/b"}, "host_name"),
        ({"host_name": "a\n"}, "host_name"),
        ({"host_url": None, "host_api_url": None}, "host_url"),
        ({"host_api_url": 5}, "host_api_url"),
        ({"host_api_url": "http://169.254.169.254"}, "host_api_url"),
        ({"host_api_url": "http://a:b@10.0.0.1"}, "host_api_url"),
        ({"host_api_url": None, "host_url": "file:///etc"}, "host_url"),
        ({"device": {"device_id": "a:b"}}, "devices"),
        ({"device": {"device_id": None}}, "devices"),
        ({"device": {"device_id": True}}, "devices"),
        ({"device": {"device_id": "device2"}}, "devices"),
        ({"devices": [None]}, "devices"),
        ({"devices": [{"device_id": str(n)} for n in range(1001)]}, "devices"),
    ],
)
async def test_what_a_host_cannot_be_known_or_reached_by_is_refused(
    client: Client, lab: NotedLab, joining: Any, change: Json, field: str
) -> None:
    response = await client.post("/server/system/register", json=said(**change), headers=joining)
    assert response.status == 400
    assert list((await response.json())["errors"]) == [field]
    assert lab.asked == []


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("https://lab.example/pi/", "https://lab.example/pi"),
        ("javascript:alert(1)", None),
        ("http://a:b@lab.example", None),
        ("", None),
        (7, None),
    ],
)
async def test_the_url_for_browsers_is_kept_beside_ours(
    client: Client, lab: NotedLab, joining: Any, page: Any, shown: str | None
) -> None:
    body = said(host_url=page, host_api_url="http://10.0.0.9:6109")
    told = await registered(client, lab, joining, body)
    assert (told.host.url, told.page_url) == ("http://10.0.0.9:6109", shown)


async def test_the_same_schemas_have_the_same_hash_in_whatever_order(
    client: Client, lab: NotedLab, joining: Any
) -> None:
    first = await registered(client, lab, joining, said())
    types = said()["devices"][0]["device_verification_types"]
    turned = {"device_verification_types": dict(reversed(types.items()))}
    second = await registered(client, lab, joining, said(device=turned))
    assert first.schemas == second.schemas
    other = await registered(client, lab, joining, said(device={"device_action_types": {}}))
    assert other.schemas["field-1:device1"].hash != first.schemas["field-1:device1"].hash


# --- credentials


@pytest.mark.parametrize("path", PATHS)
async def test_nobody_speaks_without_a_good_credential(
    client: Client, lab: NotedLab, path: str
) -> None:
    wrong = [None, basic("wrong"), basic(""), {"Authorization": "x"}, bearer(client, Role.OPERATOR)]
    for headers in wrong:
        response = await client.post(f"/server/{path}", json=said(), headers=headers)
        assert response.status == 401, headers
    assert lab.asked == []


async def test_a_hosts_token_speaks_for_that_host_only(client: Client, lab: NotedLab) -> None:
    headers = bearer(client, Role.HOST, "field-2")
    for path in PATHS[:3]:
        response = await client.post(
            f"/server/{path}", json=said(host_api_url="odd"), headers=headers
        )
        assert response.status == 403, path
    assert lab.asked == []


async def test_without_a_credential_a_host_of_an_open_network_names_its_own_address(
    connect: Connect, lab: NotedLab
) -> None:
    client = await connect(host_open_networks=LOOPBACK)
    told = await registered(client, lab, None, said())
    assert told.credential is Credential.OPEN
    elsewhere = await registered(client, lab, None, said(host_url="https://lab.example"))
    assert elsewhere.page_url is None
    for change in ({"host_api_url": "http://10.0.0.9:6109"}, {"host_api_url": "http://evil.test"}):
        response = await client.post("/server/system/register", json=said(**change))
        assert response.status == 400


async def test_what_a_form_of_a_foreign_page_could_send_is_refused(
    client: Client, lab: NotedLab, joining: Any
) -> None:
    for path in PATHS:
        headers = {**joining, "Content-Type": "text/plain"}
        response = await client.post(f"/server/{path}", data=json.dumps(said()), headers=headers)
        assert response.status == 400
    assert lab.asked == []


REFUSED = {
    "no credential": (None, {}, "field-1", 401, "SERVER_URL=http://name:TOKEN@"),
    "a wrong token": (basic("wrong"), {}, "field-1", 401, "unknown, revoked or expired"),
    "a wrong token and no body": (basic("wrong"), None, "field-1", 401, "unknown, revoked"),
    "another host's": ("field-2", {}, "field-1", 403, "another host"),
    "an address that is refused": ("field-1", {"host_api_url": "http://169.254.169.254"}, "field-1",
        400, "host_api_url: "),
    "no name": (None, {"host_name": "a/b"}, None, 401, "No credential"),
}  # fmt: skip


@pytest.mark.parametrize("how", REFUSED)
async def test_a_registration_that_is_refused_is_one_warning_that_explains_it(
    client: Client, lab: NotedLab, how: str
) -> None:
    headers, change, name, status, reason = REFUSED[how]
    if isinstance(headers, str):
        headers = bearer(client, Role.HOST, headers)
    body = None if change is None else said(**change)
    for path in ("/server/system/register", "/api/hosts/register"):
        with capture_logs() as lines:
            response = await client.post(path, json=body, headers=headers)
        assert response.status in (status, 400), await response.text()
        if path.startswith("/server"):
            warnings = [line for line in lines if line["log_level"] == "warning"]
            assert [
                (line["event"], line["host_id"], line["status"], line["peer"]) for line in warnings
            ] == [("host_registration_refused", name, status, "127.0.0.1")]
            assert reason in warnings[0]["reason"]


async def test_a_name_that_is_taken_is_explained_in_the_log(
    client: Client, lab: NotedLab, joining: Any
) -> None:
    lab.refusal = ConflictError("A host of that name still answers at its old URL.")
    with capture_logs() as lines:
        response = await client.post("/server/system/register", json=said(), headers=joining)
    assert response.status == 409
    line = next(line for line in lines if line["event"] == "host_registration_refused")
    assert (line["host_id"], line["reason"]) == ("field-1", lab.refusal.message)


# --- pings and goodbye


async def test_a_ping_tells_of_the_machine_and_of_each_device(
    client: Client, lab: NotedLab, joining: Any
) -> None:
    response = await client.post("/server/system/ping", json=said("ping"), headers=joining)
    assert (response.status, await response.json()) == (
        200,
        {"status": "success", "host_id": "field-1"},
    )
    ((what, host_id, heard, credential),) = lab.asked
    assert (what, host_id, credential) == ("heartbeat", "field-1", Credential.JOIN)
    metrics = heard.device_metrics
    assert heard.stats == {
        "cpu_percent": 1.0,
        "memory_percent": 2.8,
        "disk_percent": 25.1,
        "load_1m": 1.21,
    }
    assert sorted(metrics) == ["device1", "device2", "device3"]
    assert metrics["device1"] == {
        "disk_usage": "20K",
        "ffmpeg_status": "stopped",
        "ffmpeg_working_uptime_seconds": 0,
        "monitor_status": "stopped",
        "monitor_working_uptime_seconds": 0,
        "has_running_deployment": False,
    }


async def test_a_ping_says_on_which_devices_the_host_works_by_itself(
    client: Client, lab: NotedLab, joining: Any
) -> None:
    body = said("ping", device={"has_running_deployment": True})
    odd = [5, {"device_id": 5}, {"device_id": "x", "has_running_deployment": "yes"}]
    body["devices"] += odd
    response = await client.post("/server/system/ping", json=body, headers=joining)
    assert response.status == 200
    works = {name: presence.at_work for name, presence in lab.asked[0][2].presences.items()}
    assert works == {"device1": True, "device2": False, "device3": False}
    assert {one.available for one in lab.asked[0][2].presences.values()} == {None}


async def test_a_ping_may_be_as_odd_as_it_likes(
    client: Client, lab: NotedLab, joining: Any
) -> None:
    metrics = [None, 5, {}, {"device_id": 5, "disk_usage": 1}, {"device_id": "a", "disk_usage": {}}]
    odd = [
        {"system_stats": None, "per_device_metrics": None, "devices": None},
        {"system_stats": [], "per_device_metrics": {}, "devices": "x"},
        {"system_stats": {"cpu_percent": "x"}, "per_device_metrics": metrics, "devices": metrics},
    ]
    for change in odd:
        body = {"host_name": "field-1", **change}
        response = await client.post("/server/system/ping", json=body, headers=joining)
        assert response.status == 200
    assert lab.asked == [("heartbeat", "field-1", Heartbeat(), Credential.JOIN)] * 3


async def test_who_is_not_registered_is_told_so_in_the_words_it_knows(
    client: Client, lab: NotedLab, joining: Any
) -> None:
    lab.refusal = NotRegisteredError()
    for path in PATHS[1:3]:
        response = await client.post(f"/server/{path}", json=said("ping"), headers=joining)
        assert (response.status, (await response.json())["status"]) == (404, "not_registered")


async def test_a_host_says_goodbye(client: Client, lab: NotedLab, joining: Any) -> None:
    body = {"host_name": "field-1", "timestamp": 1.5}
    response = await client.post("/server/system/unregister", json=body, headers=joining)
    assert response.status == 200
    assert lab.asked == [("unregister", "field-1", Credential.JOIN)]


# --- ends of scripts


async def ended(client: Client, headers: Any, body: bytes) -> int:
    """Tell that a script ended; give the status."""
    sent = {**headers, "Content-Type": "application/json"}
    url = "/server/script/taskComplete"
    async with client.post(url, data=io.BytesIO(body), headers=sent) as response:
        return response.status


async def test_the_end_of_a_script_is_handed_on_with_texts_of_1_mib(
    client: Client, lab: NotedLab, joining: Any
) -> None:
    result = {
        "stdout": "o" * 20 * 2**20,
        "stderr": "a\0\ud800b",
        "exit_code": 0,
        "script_success": None,
        "execution_time_ms": 12.5,
        "shots": ["a"],
        "\ud800": 1,
    }
    body = json.dumps({"task_id": "t1", "result": result, "more": 1}).encode()
    assert await ended(client, joining, body) == 200
    ((what, task_id, told, host_id),) = lab.asked
    assert (what, task_id, host_id, told["error"]) == ("task_complete", "t1", None, None)
    assert len(told["result"].pop("stdout")) < 2**20 + 100
    assert told["result"] == {
        "stderr": "a\ufffd\ufffdb",
        "exit_code": 0,
        "script_success": None,
        "execution_time_ms": 12.5,
        "shots": '["a"]',
    }
    assert await ended(client, joining, b'{"task_id": "t2", "error": "no such script"}') == 200
    assert lab.asked[1][2] == {"result": None, "error": "no such script"}


async def test_a_token_of_one_host_ends_that_hosts_scripts(client: Client, lab: NotedLab) -> None:
    headers = bearer(client, Role.HOST, "field-1")
    assert await ended(client, headers, b'{"task_id": "t", "result": 5}') == 200
    assert lab.asked == [("task_complete", "t", {"result": None, "error": None}, "field-1")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        b"{}",
        b'{"task_id": 5}',
        b'{"task_id": ""}',
        b'{"task_id": "\\ud800"}',
        b'{"task_id": "' + b"x" * 201 + b'"}',
        b'{"task_id": "t", "result": {"n": ' + b"1" * 5000 + b"}}",
    ],
)
async def test_an_end_that_makes_no_sense_is_refused(
    client: Client, lab: NotedLab, joining: Any, body: bytes
) -> None:
    assert await ended(client, joining, body) == 400
    assert lab.asked == []


async def test_an_end_of_a_script_has_a_limit_of_its_own(
    client: Client, lab: NotedLab, joining: Any, config: Config
) -> None:
    head = b'{"task_id": "t", "error": "'
    assert config.max_body < LONGEST_END
    within = head + b"x" * (LONGEST_END - len(head) - 2) + b'"}'
    assert await ended(client, joining, within) == 200
    assert await ended(client, joining, within + b" ") == 413
    sent = {**joining, "Content-Type": "application/json"}
    body = chunks(within + b" ")  # whose length nobody is told
    async with client.post("/server/script/taskComplete", data=body, headers=sent) as response:
        assert response.status == 413
    assert len(lab.asked) == 1


async def test_ends_of_scripts_have_a_limit_together(
    client: Client, joining: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "MOST_HELD", 150_000)
    first = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"task_id": "t", "error": "' + b"x" * 100_000
        await first.wait()
        yield b'"}'

    sent = {**joining, "Content-Type": "application/json"}
    url = "/server/script/taskComplete"
    waiting = asyncio.create_task(client.post(url, data=slow(), headers=sent))
    await until(lambda: held.held.size >= 100_000)
    body = b'{"task_id": "u", "error": "' + b"x" * 100_000 + b'"}'
    async with client.post(url, data=body, headers=sent) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "5")
    first.set()
    assert (await waiting).status == 200
    assert held.held.size == 0
    assert await ended(client, joining, body) == 200


async def test_an_end_of_too_many_values_is_refused_and_none_is_kept(
    client: Client, lab: NotedLab, joining: Any
) -> None:
    body = b'{"task_id": "t", "result": {"a": [' + b"[]," * 2**20 + b"0]}}"
    assert await ended(client, joining, body) == 413
    assert (lab.asked, held.held.size) == ([], 0)


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    """Return a body piece by piece."""
    for start in range(0, len(body), 2**20):
        yield body[start : start + 2**20]
