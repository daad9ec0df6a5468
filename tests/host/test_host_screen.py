"""What a reference host shows of its devices, and what it says that they can do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from vpt.controls import abilities_of, actions_of, elements_of
from vpt.host.drivers import DesktopDriver, Driver

from .kit import Caller, FakeServer, running, until_actions
from .test_host_web import PAGE, ready, real_browser

SITE = f"data:text/html,{PAGE}"


@pytest.fixture
async def host(server: FakeServer, tmp_path: Path) -> AsyncIterator[Caller]:
    devices = ("web", "desktop") if ready else ("desktop",)
    async with running(server, tmp_path / "data", devices=devices) as caller:
        yield caller


async def screenshot(host: Caller, device_id: str, secret: str | None = None) -> tuple[int, bytes]:
    url = f"{host.url}/host/devices/{device_id}/screenshot"
    headers = {"Authorization": f"Bearer {secret or host.secret}"}
    async with host.session.get(url, headers=headers) as response:
        return response.status, await response.read()


async def done(host: Caller, command: str, **params: object) -> str:
    """Run a command of the browser, which succeeds; return its output."""
    status, answer = await host.act(command, params, device_id="web")
    assert (status, answer["success"]) == (200, True), answer
    return str(answer.get("output"))


@real_browser
async def test_the_open_page_is_shown_to_who_has_the_secret(host: Caller) -> None:
    assert (await screenshot(host, "web"))[0] == 404
    await done(host, "open_browser")
    status, content = await screenshot(host, "web")
    assert (status, content[:8]) == (200, b"\x89PNG\r\n\x1a\n")
    assert (await screenshot(host, "web", "another"))[0] == 401
    for name in ("desktop", "nothing"):
        status, content = await screenshot(host, name)
        assert (status, "code" in json.loads(content)) == (404, True)


async def test_no_picture_is_taken_while_the_device_is_at_work(host: Caller) -> None:
    acting = asyncio.create_task(
        host.bash("sleep 60", device_id="desktop", execution_id="e1", attempt=1)
    )
    await until_actions(host, 1)
    status, content = await screenshot(host, "desktop")
    assert (status, json.loads(content)["code"]) == (409, "device_busy")
    await host.cancel("e1")
    await acting


@real_browser
async def test_one_clicks_at_a_point_and_lists_what_is_there(host: Caller) -> None:
    await done(host, "open_browser")
    await done(host, "navigate_to_url", url=SITE)
    found = elements_of(json.loads(await done(host, "dump_elements")))
    greet = next(each for each in found if each["text"] == "Greet")
    assert greet["clickable"]
    sides = greet["bounds"]
    await done(
        host,
        "tap_coordinates",
        x=round((sides["left"] + sides["right"]) / 2),
        y=round((sides["top"] + sides["bottom"]) / 2),
    )
    await done(host, "wait_for_text", text="Hello", timeout=5)
    status, answer = await host.act("tap_coordinates", {"x": 1}, device_id="web")
    assert (status, answer["code"]) == (400, "bad_params")


def drivers() -> list[Driver]:
    found: list[Driver] = [
        DesktopDriver(allow_shell=shell, environment={}, work_folder=Path("/nowhere"))
        for shell in (True, False)
    ]
    if ready:
        from vpt.host.drivers.web import WebDriver

        found.append(WebDriver())
    return found


@pytest.mark.parametrize("driver", drivers(), ids=lambda each: type(each).__name__)
def test_each_command_is_described_and_nothing_else(driver: Driver) -> None:
    told = [each["command"] for each in driver.descriptions]
    shell = "shell" in driver.capabilities or "web" in driver.capabilities
    known = set(driver.commands) - (set() if shell else {"execute_bash_command"})
    assert sorted(told) == sorted(known)
    actions = actions_of({"action_types": {"any": list(driver.descriptions)}})
    assert [each["command"] for each in actions] == told
    abilities = abilities_of("document", driver.capabilities, told)
    web = "web" in driver.capabilities
    assert (abilities["picture"], abilities["tap"], abilities["elements"]) == (web, web, web)
    assert abilities["shell"] is ("shell" in driver.capabilities)


async def test_a_registration_has_the_descriptions(host: Caller, server: FakeServer) -> None:
    device = (await server.heard("register"))["devices"][-1]
    told = device["action_types"]["desktop"]
    assert {"execute_bash_command", "http_request", "wait"} == {each["command"] for each in told}
