"""Devices by hand, from the routes to a host of the field, over a real server and database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import ClientResponse

from tests.actors.fake_host import until
from tests.conftest import JOIN_TOKEN, Client, ClientFactory
from vpt.actors.lab import Lab
from vpt.config import Config
from vpt.dialects.both import Dialects
from vpt.dialects.document import DocumentDialect
from vpt.events import Events
from vpt.model import DeviceStatus, HostStatus, Role
from vpt.store.db import Database

from .conftest import QuickDialect
from .kit import TEAM
from .membership import Pace
from .screens import ELEMENT, ScreenStandIn, png

KEY = "the key of the lab that no browser sees"
PHONE, BOX = "/api/devices/pi:phone", "/api/devices/pi:box"


@pytest.fixture
def config(config: Config) -> Config:
    """Return settings of a server whose hosts have one key."""
    return replace(config, api_key=KEY, host_probe_interval=0.1)


@pytest.fixture
async def hosts() -> AsyncIterator[list[ScreenStandIn]]:
    """Return a list for hosts, which are stopped after the lab that calls them."""
    hosts: list[ScreenStandIn] = []
    yield hosts
    for host in hosts:
        await host.stop()
        assert not host.overlaps, host.overlaps


@pytest.fixture
async def lab(
    config: Config, db: Database, events: Events, hosts: list[ScreenStandIn]
) -> AsyncIterator[Lab]:
    """Return the real actors, with both dialects."""
    both = Dialects({"document": DocumentDialect(), "virtualpytest": QuickDialect(TEAM)})
    lab = Lab(config, db, events, both)
    await lab.start()
    yield lab
    await lab.stop()
    await both.close()


@pytest.fixture
async def operator(client: ClientFactory) -> Client:
    return await client(Role.OPERATOR)


@pytest.fixture
async def pi(
    operator: Client, lab: Lab, hosts: list[ScreenStandIn]
) -> AsyncIterator[ScreenStandIn]:
    """Let a host join with a phone and a set-top box."""
    url = str(operator.make_url("/")).rstrip("/").replace("://", f"://x:{JOIN_TOKEN}@")
    host = ScreenStandIn(
        url,
        "pi",
        devices={"phone": "android_mobile", "box": "stb"},
        key=KEY,
        pace=Pace(start=0.01, boundary=3600),
    )
    hosts.append(host)
    await host.start()
    await until(lambda: [v for v in lab.views() if v.status is HostStatus.AVAILABLE])
    yield host
    host.work.release.set()


async def picture(client: Client, path: str = PHONE, **headers: str) -> tuple[int, bytes]:
    async with client.get(f"{path}/screenshot", headers=headers) as response:
        return response.status, await response.read()


async def first_picture(client: Client, path: str = PHONE) -> bytes:
    """Return a picture, which the host takes when it has answered its probe."""

    async def taken() -> bytes | None:
        status, content = await picture(client, path)
        assert status in {200, 204}, content
        return content or None

    content: bytes = await until(taken)
    return content


async def post(client: Client, path: str, body: Any = None) -> tuple[int, Any]:
    response: ClientResponse
    async with client.post(path, json=body or {}) as response:
        return response.status, await response.json()


async def lease(client: Client, path: str = PHONE) -> None:
    status, told = await post(client, f"{path}/lease", {"ttl_s": 60})
    assert status == 200, told


# ---------------------------------------------------------------- seeing


async def test_a_picture_is_fetched_by_the_path_that_the_host_names_and_with_its_key(
    pi: ScreenStandIn, operator: Client
) -> None:
    assert await first_picture(operator) == png(1)
    asked = pi.asked("/host/av/images")[-1]
    assert asked.query == {"path": "/var/www/html/stream/phone/captures/verification_source.jpg"}
    assert asked.key == KEY


async def test_a_device_whose_capture_is_down_is_shown_by_its_remote(
    pi: ScreenStandIn, operator: Client
) -> None:
    pi.without_av.add("phone")
    assert await first_picture(operator) == png(1)
    before = len(pi.asked("/host/av/takeScreenshot"))
    await until(lambda: _is_newer(operator, png(1)))
    assert len(pi.asked("/host/av/takeScreenshot")) == before, "the way that worked is kept"


async def _is_newer(client: Client, old: bytes) -> bool:
    status, content = await picture(client)
    return status == 200 and content != old


async def test_all_who_look_share_one_picture(pi: ScreenStandIn, client: ClientFactory) -> None:
    viewers = [await client(Role.VIEWER) for _ in range(5)]
    await first_picture(viewers[0])
    before = pi.taken["phone"]
    answers = await asyncio.gather(*(picture(each) for each in viewers * 4))
    assert pi.taken["phone"] - before <= 1
    assert len({content for _, content in answers}) <= 2


async def test_nobody_who_looks_costs_nothing(pi: ScreenStandIn, operator: Client) -> None:
    await first_picture(operator)
    before = pi.taken["phone"]
    probes = len(pi.asked("/host/system/health"))
    await until(lambda: len(pi.asked("/host/system/health")) > probes + 12)
    assert pi.taken["phone"] == before


async def test_an_unchanged_picture_is_not_sent_again(pi: ScreenStandIn, operator: Client) -> None:
    pi.picture = png(7)
    await first_picture(operator)
    async with operator.get(f"{PHONE}/screenshot") as response:
        tag = response.headers["ETag"]
    assert (await picture(operator, **{"If-None-Match": tag})) == (304, b"")


async def test_no_picture_is_taken_while_the_host_is_at_work(
    pi: ScreenStandIn, operator: Client, lab: Lab
) -> None:
    await first_picture(operator)
    pi.on("press_key", hang=True)
    acting = asyncio.create_task(
        post(operator, "/api/hosts/pi/execute", {"device_id": "box", "command": "press_key"})
    )
    await until(lambda: pi.asked("/host/action/executeBatch"))

    async def skipped() -> bool:
        async with operator.get(f"{PHONE}/screenshot") as response:
            return response.status == 204 and "at work" in response.headers["Vpt-Skipped"]

    await until(skipped)
    before = pi.taken["phone"]
    for _ in range(5):
        await skipped()
    assert pi.taken["phone"] == before
    pi.work.release.set()
    assert (await acting)[0] == 200
    await until(lambda: _is_newer(operator, png(before)))


async def test_what_is_no_picture_is_refused(pi: ScreenStandIn, operator: Client) -> None:
    pi.picture = b"<html>log in</html>"
    await until(lambda: _answers(operator, 502))
    status, content = await picture(operator)
    assert (status, b"PNG or JPEG" in content) == (502, True)
    assert b"log in" not in content


async def _answers(client: Client, status: int) -> bool:
    return (await picture(client))[0] == status


async def test_a_device_that_is_nowhere_has_no_picture(pi: ScreenStandIn, operator: Client) -> None:
    assert (await picture(operator, "/api/devices/pi:nothing"))[0] == 404


async def test_a_lost_host_has_no_picture(pi: ScreenStandIn, operator: Client, lab: Lab) -> None:
    await pi.vanish()
    await until(lambda: [v for v in lab.views() if v.status is HostStatus.LOST])
    status, content = await picture(operator)
    assert status == 503, content
    await pi.appear()


# ---------------------------------------------------------------- the stream


async def test_a_stream_comes_through_the_server_without_address_and_key(
    pi: ScreenStandIn, operator: Client
) -> None:
    text = await _playlist(operator)
    assert "\nsegment_000000001.m4s\n" in text
    assert "\nsegment_000000002.m4s\n" in text
    assert 'URI="init.mp4"' in text
    assert "127.0.0.1" not in text
    async with operator.get(f"{PHONE}/stream/segment_000000002.m4s") as response:
        assert (response.status, response.content_type) == (200, "video/mp4")
        assert (await response.read())[4:8] == b"moof"
    assert {name for name, _ in pi.streams.asked} == {"output.m3u8", "segment_000000002.m4s"}
    assert not [headers for _, headers in pi.streams.asked if "X-API-Key" in headers]


async def _playlist(client: Client) -> str:
    async def found() -> str | None:
        async with client.get(f"{PHONE}/stream/index.m3u8") as response:
            text = await response.text()
            assert response.status in {200, 503}, text
            return text if response.status == 200 else None

    text: str = await until(found)
    return text


async def test_those_who_watch_share_each_segment(pi: ScreenStandIn, operator: Client) -> None:
    await _playlist(operator)
    for _ in range(4):
        async with operator.get(f"{PHONE}/stream/segment_000000001.m4s") as response:
            assert response.status == 200
    assert [name for name, _ in pi.streams.asked].count("segment_000000001.m4s") == 1


@pytest.mark.parametrize(
    "line",
    ["http://127.0.0.2/a.ts", "../../other/secret.ts", "/etc/passwd", "http://[", "a.ts?b=c%2f"],
)
async def test_a_playlist_that_names_something_elsewhere_is_refused(
    pi: ScreenStandIn, operator: Client, line: str
) -> None:
    pi.streams.playlist = f"#EXTM3U\n#EXTINF:1,\n{line}\n"

    async def refused() -> str | None:
        async with operator.get(f"{PHONE}/stream/index.m3u8") as response:
            text = await response.text()
            return text if response.status == 502 else None

    if line.startswith("a.ts"):  # the query of a static file means nothing
        assert "\na.ts\n" in await _playlist(operator)
    else:
        assert "not beside it" in await until(refused)


@pytest.mark.parametrize(
    "named",
    ["http://example.org/x/output.m3u8", "http://127.0.0.1:6379/a.m3u8", "vnc://127.0.0.1/", ""],
)
async def test_a_stream_that_is_not_the_hosts_own_is_not_fetched(
    pi: ScreenStandIn, operator: Client, named: str
) -> None:
    pi.named = named or "http://127.0.0.1/vnc.html"

    async def refused() -> str | None:
        async with operator.get(f"{PHONE}/stream/index.m3u8") as response:
            text = await response.text()
            return text if response.status == 502 else None

    assert "no HLS stream" in await until(refused)
    assert pi.streams.asked == []


async def test_who_asks_for_many_files_at_a_time_is_refused(
    pi: ScreenStandIn, operator: Client
) -> None:
    await _playlist(operator)
    pi.streams.answers.clear()

    async def status(number: int) -> int:
        async with operator.get(f"{PHONE}/stream/segment_{number}_1.m4s") as response:
            return response.status

    asked = [asyncio.create_task(status(number)) for number in range(20)]
    await until(lambda: sum(each.done() for each in asked) == 14)
    assert {each.result() for each in asked if each.done()} == {503}
    pi.streams.answers.set()
    assert [await each for each in asked].count(200) == 6


@pytest.mark.parametrize("name", ["..%2f..%2fetc", ".hidden", "a//b", "a/b/c/d/e"])
async def test_a_file_of_no_stream_is_not_asked_for(
    pi: ScreenStandIn, operator: Client, name: str
) -> None:
    async with operator.get(f"{PHONE}/stream/{name}") as response:
        assert response.status == 404
    assert pi.streams.asked == []


# ---------------------------------------------------------------- touching


async def test_a_touch_needs_a_lease(pi: ScreenStandIn, operator: Client) -> None:
    for path, body in (
        ("tap", {"x": 1, "y": 2}),
        ("elements", None),
        ("actions/press_key", {"params": {"key": "OK"}}),
    ):
        status, told = await post(operator, f"{PHONE}/{path}", body)
        assert (status, told["code"]) == (423, "locked"), path
    assert pi.taps == []


async def test_a_viewer_touches_nothing(pi: ScreenStandIn, client: ClientFactory) -> None:
    viewer = await client(Role.VIEWER)
    for path in ("tap", "elements", "actions/press_key", "care/reboot"):
        assert (await post(viewer, f"{PHONE}/{path}"))[0] == 403


async def test_taps_actions_and_elements_reach_the_leased_device_and_the_audit(
    pi: ScreenStandIn, operator: Client, client: ClientFactory
) -> None:
    await lease(operator)
    status, told = await post(operator, f"{PHONE}/tap", {"x": 12, "y": 34})
    assert (status, told["success"]) == (200, True), told
    assert pi.taps == [{"device_id": "phone", "x": 12, "y": 34}]

    status, told = await post(operator, f"{PHONE}/elements")
    assert status == 200, told
    assert told["elements"] == [
        {
            "id": "3",
            "text": "Home",
            "description": None,
            "type": ELEMENT["className"],
            "bounds": ELEMENT["bounds"],
            "clickable": True,
        }
    ]

    body = {"kind": "action", "type": "remote", "params": {"key": "HOME"}}
    status, told = await post(operator, f"{PHONE}/actions/press_key", body)
    assert (status, told["success"]) == (200, True), told
    sent = pi.asked("/host/action/executeBatch")[-1].body
    assert sent["device_id"] == "phone"
    assert sent["actions"][0] == {
        "command": "press_key",
        "action_type": "remote",
        "params": {"key": "HOME"},
    }
    admin = await client(Role.ADMIN)
    done = {"tap", "elements", "actions/press_key", "lease"}
    await until(lambda: _are_in_the_audit(admin, {f"{PHONE}/{each}" for each in done}))


async def _are_in_the_audit(admin: Client, paths: set[str]) -> bool:
    async with admin.get("/api/audit") as response:
        items = (await response.json())["items"]
    return paths <= {item["path"] for item in items}


async def test_a_host_that_cannot_list_elements_says_so(
    pi: ScreenStandIn, operator: Client
) -> None:
    await lease(operator, BOX)
    status, told = await post(operator, f"{BOX}/elements")
    assert (status, told["error"]) == (502, "UI dump not supported by this remote controller")


# ---------------------------------------------------------------- the care of a host


async def test_an_admin_cares_for_a_host(pi: ScreenStandIn, client: ClientFactory) -> None:
    admin = await client(Role.ADMIN)
    for care, path, sent in (
        ("restart_stream", "/host/system/restartHostStreamService", {"device_id": "phone"}),
        ("restart_service", "/host/system/restartHostService", {}),
        ("reboot", "/host/system/rebootHost", {}),
        (
            "power_off",
            "/host/power/executeCommand",
            {"device_id": "phone", "command": "power_off", "params": {}},
        ),
    ):
        status, told = await post(admin, f"{PHONE}/care/{care}")
        assert (status, told["success"]) == (200, True), told
        assert pi.cared[-1] == (path, sent)
    assert (await post(admin, f"{PHONE}/care/explode"))[0] == 404


async def test_care_is_refused_while_something_runs_and_to_operators(
    pi: ScreenStandIn, operator: Client, client: ClientFactory, lab: Lab
) -> None:
    admin = await client(Role.ADMIN)
    assert (await post(operator, f"{PHONE}/care/reboot"))[0] == 403
    pi.on("press_key", hang=True)
    case = {"name": "a", "device_model": "stb", "steps": [{"command": "press_key"}]}
    status, made = await post(operator, "/api/testcases", case)
    assert status == 201, made
    await post(operator, f"/api/testcases/{made['id']}/execute")
    await until(
        lambda: [d for v in lab.views() for d in v.devices if d.status is DeviceStatus.BUSY]
    )
    assert (await post(admin, f"{PHONE}/care/reboot"))[0] == 409
    assert pi.cared == []
    pi.work.release.set()


# ---------------------------------------------------------------- what the page can offer


async def test_the_controls_are_forms_of_what_the_host_declared(
    pi: ScreenStandIn, operator: Client
) -> None:
    async with operator.get(f"{PHONE}/controls") as response:
        controls = await response.json()
    assert {name: controls[name] for name in ("picture", "stream", "tap", "elements", "care")} == {
        "picture": True,
        "stream": True,
        "tap": True,
        "elements": True,
        "care": True,
    }
    commands = {each["command"] for each in controls["actions"]}
    assert {"press_key", "click_element"} <= commands


async def test_nothing_that_is_answered_names_the_hosts_address_or_key(
    pi: ScreenStandIn, operator: Client
) -> None:
    await first_picture(operator)
    await lease(operator)
    await _playlist(operator)
    answers = []
    for path in ("controls", "screenshot", "stream/index.m3u8", "stream/init.mp4", "stream/no"):
        async with operator.get(f"{PHONE}/{path}") as response:
            answers += [await response.read(), str(response.headers).encode()]
    for path, body in (("tap", {"x": 1, "y": 1}), ("elements", None), ("actions/press_key", None)):
        answers.append(str(await post(operator, f"{PHONE}/{path}", body)).encode())
    secrets = (KEY.encode(), pi.url.encode(), pi.streams.url.encode())
    for content in answers:
        assert not [secret for secret in secrets if secret in content], content
