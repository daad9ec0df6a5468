"""A device to see and touch, in a real Chromium, on a host of the field and on a reference host."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Response, expect

from tests.actors.fake_host import until
from tests.conftest import TEMPLATE, Postgres, other_database
from tests.system.kit import JOIN_TOKEN, Process, ask, client, process, server
from tests.virtualpytest.membership import Pace
from tests.virtualpytest.screens import HEIGHT, WIDTH, ScreenStandIn
from vpt.model import Role

from .kit import Seen, faults_of, real_browser, visit

pytestmark = [real_browser, pytest.mark.asyncio(loop_scope="module")]

KEY = "the-key-of-the-hosts-that-no-browser-sees"
_NAME = "vpt_screens"
_once = pytest_asyncio.fixture(scope="module", loop_scope="module")


@_once
async def vpt(postgres: Postgres, folder: Path) -> AsyncIterator[Process]:
    """Run a server whose hosts have a key."""
    await postgres.statement(f"CREATE DATABASE {_NAME} TEMPLATE {TEMPLATE}")
    settings = {
        "DATABASE_URL": other_database(postgres.dsn, _NAME),
        "HOST_PROBE_INTERVAL": 0.5,
        "API_KEY": KEY,
    }
    async with server(folder, **settings) as one:
        yield one
        assert "Traceback" not in one.said()
    await postgres.statement(f"DROP DATABASE {_NAME} WITH (FORCE)")


@_once
async def api(vpt: Process) -> AsyncIterator[aiohttp.ClientSession]:
    async with client(vpt) as session:
        yield session


@_once
async def pi(vpt: Process, api: aiohttp.ClientSession) -> AsyncIterator[ScreenStandIn]:
    """Let a host of the field join, with a phone."""
    url = vpt.url.replace("://", f"://x:{JOIN_TOKEN}@")
    pace = Pace(start=0.01, boundary=3600)
    host = ScreenStandIn(url, "pi", devices={"phone": "android_mobile"}, key=KEY, pace=pace)
    try:
        await host.start()

        async def available() -> bool:
            hosts = (await ask(api, "GET", "/api/hosts"))["items"]
            return [each["status"] for each in hosts] == ["available"]

        await until(available)
        yield host
    finally:
        host.work.release.set()
        await host.stop()
    assert not host.overlaps, host.overlaps


async def lease_of(api: aiohttp.ClientSession, device_id: str = "pi:phone") -> str | None:
    device = await ask(api, "GET", f"/api/devices/{device_id}")
    return device["lease"] and str(device["lease"]["holder"])


async def opened(seen: Seen, device_id: str = "pi:phone") -> Page:
    """Open a device's page and wait for its picture."""
    await seen.go(f"/devices/{device_id}")
    await expect(seen.page.get_by_role("img", name="The screen of")).to_be_visible()
    return seen.page


async def test_the_picture_renews_itself_while_somebody_looks(
    browser: Browser, vpt: Process, pi: ScreenStandIn
) -> None:
    async with visit(browser, vpt, Role.VIEWER) as seen:
        await expect(seen.page.get_by_role("link", name="android_mobile phone")).to_be_visible()
        await seen.page.get_by_role("link", name="android_mobile phone").click()
        await expect(seen.page.get_by_role("img", name="The screen of")).to_be_visible()
        before = pi.taken["phone"]
        await until(lambda: pi.taken["phone"] > before + 1)
        assert await seen.page.get_by_role("button", name="Take the device").count() == 0
        assert await seen.page.get_by_text("Actions").count() == 0
        assert await faults_of(seen.page) == []
        await seen.go("/results")
        await expect(seen.page.get_by_role("heading", name="Results")).to_be_visible()
        asked = len(pi.asked("/host/av/takeScreenshot"))
        probes = len(pi.asked("/host/system/health"))
        await until(lambda: len(pi.asked("/host/system/health")) > probes + 3)
        assert len(pi.asked("/host/av/takeScreenshot")) <= asked + 1


async def test_a_device_is_taken_touched_and_given_back(
    browser: Browser, vpt: Process, pi: ScreenStandIn, api: aiohttp.ClientSession
) -> None:
    async with visit(browser, vpt) as seen:
        page = await opened(seen)
        await page.get_by_text(re.compile("^Remote")).click()
        picture = page.get_by_role("img", name="The screen of")
        await picture.click(position={"x": 5, "y": 5})
        assert pi.taps == []

        await page.get_by_role("button", name="Take the device").click()
        await expect(page.get_by_text("It is yours while this page is open.")).to_be_visible()
        assert await lease_of(api) == "ann"

        box = await picture.bounding_box()
        assert box is not None
        await picture.click(position={"x": box["width"] / 2, "y": box["height"] / 4})
        await until(lambda: pi.taps)
        tap = pi.taps[-1]
        assert (tap["device_id"], abs(tap["x"] - WIDTH / 2) < 3) == ("phone", True), tap
        assert abs(tap["y"] - HEIGHT / 4) < 3, tap

        await page.get_by_role("button", name="List the elements").click()
        await page.get_by_role("button", name="Home").click()
        await until(lambda: pi.taps[-1] == {"device_id": "phone", "x": 35, "y": 30})
        assert await faults_of(page) == []

        await _run_an_action(page, pi)
        await page.get_by_role("button", name="Give it back").click()
        await expect(page.get_by_role("button", name="Take the device")).to_be_visible()
        assert await lease_of(api) is None


async def _run_an_action(page: Page, pi: ScreenStandIn) -> None:
    """Run one action by its form, and see what the host was sent and what it said."""
    form = page.locator(".actions details").filter(has_text="Click element 0")
    await form.locator("summary").click()
    await form.get_by_label("Target").fill("Settings")
    await form.get_by_role("button", name="Run").click()
    await expect(form.get_by_text("succeeded")).to_be_visible()
    sent = pi.asked("/host/action/executeBatch")[-1].body
    assert (sent["device_id"], sent["actions"][0]) == (
        "phone",
        {
            "command": "click_element",
            "action_type": "remote",
            "params": {"target": "Settings", "wait_time": 500},
        },
    )


async def test_leaving_the_page_gives_the_device_back(
    browser: Browser, vpt: Process, pi: ScreenStandIn, api: aiohttp.ClientSession
) -> None:
    async def free() -> bool:
        return await lease_of(api) is None

    async with visit(browser, vpt) as seen:
        page = await opened(seen)
        for leave in ("elsewhere", "sign out", "close"):
            await page.get_by_role("button", name="Take the device").click()
            await expect(page.get_by_text("It is yours while")).to_be_visible()
            assert await lease_of(api) == "ann"
            if leave == "elsewhere":
                await page.get_by_role("link", name="Results").click()
            elif leave == "sign out":
                await page.reload()  # which closes the page first
            else:
                await page.goto("about:blank")
            await until(free)
            page = await opened(seen)


async def test_the_page_says_that_the_host_is_at_work(
    browser: Browser, vpt: Process, pi: ScreenStandIn, api: aiohttp.ClientSession
) -> None:
    pi.on("press_key", hang=True, times=1)
    steps = [{"command": "press_key", "params": {"key": "OK"}}]
    body = {"name": "Works", "device_model": "android_mobile", "steps": steps}
    case = await ask(api, "POST", "/api/testcases", body)
    async with visit(browser, vpt) as seen:
        page = await opened(seen)
        await ask(api, "POST", f"/api/testcases/{case['id']}/execute")
        await expect(page.get_by_text("The host is at work.")).to_be_visible()
        pi.work.release.set()
        await expect(page.get_by_text("The host is at work.")).to_be_hidden()
        pi.work.release.clear()


async def test_live_video_comes_through_the_server(
    browser: Browser, vpt: Process, pi: ScreenStandIn
) -> None:
    asked: list[str] = []
    async with visit(browser, vpt, Role.VIEWER) as seen:
        seen.page.on("request", lambda request: asked.append(request.url))
        page = await opened(seen)
        assert not [url for url in asked if "hls" in url], "it is loaded for live video only"
        await page.get_by_role("button", name="Live video").click()
        await expect(page.locator("video")).to_be_visible()
        await until(lambda: page.evaluate("document.querySelector('video').currentTime > 0.1"))
        await expect(page.get_by_role("img", name="The screen of")).to_be_hidden()
        await page.get_by_role("button", name="Pictures").click()
        await expect(page.get_by_role("img", name="The screen of")).to_be_visible()
        await expect(page.locator("video")).to_be_hidden()
    fetched = {url.rpartition("/")[2] for url in asked if "/stream/" in url}
    assert {"index.m3u8", "init.mp4", "segment_000000001.m4s"} <= fetched
    assert not [url for url in asked if not url.startswith((vpt.url, "blob:", "ws:"))]


async def test_an_admin_restarts_the_stream_and_no_answer_names_the_key(
    browser: Browser, vpt: Process, pi: ScreenStandIn
) -> None:
    bodies: list[bytes] = []

    async def keep(response: Response) -> None:
        if response.status == 200:
            bodies.append(await response.body())

    async with visit(browser, vpt, Role.ADMIN) as seen:
        seen.page.on("response", keep)
        page = await opened(seen)
        await page.get_by_role("button", name="Restart the stream").click()
        dialog = page.get_by_role("dialog")
        await dialog.get_by_role("button", name="Restart the stream").click()
        await expect(dialog).to_be_hidden()
        assert pi.cared[-1] == ("/host/system/restartHostStreamService", {"device_id": "phone"})
        await page.get_by_role("button", name="Take the device").click()
        await page.get_by_role("button", name="List the elements").click()
        await expect(page.get_by_role("button", name="Home")).to_be_visible()
    assert len(bodies) > 5
    assert not [body for body in bodies if KEY.encode() in body]
    assert KEY not in vpt.said()


async def test_the_browser_of_a_reference_host_is_opened_and_clicked_on(
    browser: Browser, vpt: Process, folder: Path, api: aiohttp.ClientSession
) -> None:
    command = ("-m", "vpt", "host", "--server", vpt.url, "--name", "lab", "--device", "web")
    options = ("--data-dir", str(folder / "lab"))
    async with process(folder, *command, *options, HOST_JOIN_TOKEN=JOIN_TOKEN):

        async def there() -> bool:
            devices = (await ask(api, "GET", "/api/devices?host_id=lab"))["items"]
            return [each["status"] for each in devices] == ["online"]

        await until(there, 30)
        async with visit(browser, vpt) as seen:
            seen.expected = ("502",)  # it shows nothing before its browser is open
            await seen.go("/devices/lab:web")
            page = seen.page
            await expect(page.get_by_text("the device shows nothing now")).to_be_visible()
            await page.get_by_role("button", name="Take the device").click()
            await page.get_by_text(re.compile("^web ")).click()
            await page.get_by_role("button", name="Open the browser").click()
            await expect(page.get_by_role("img", name="The screen of")).to_be_visible()
            form = page.locator(".actions details").filter(has_text="Open a page")
            await form.locator("summary").click()
            await form.get_by_label("url").fill("data:text/html,<button onclick='x()'>Hit</button>")
            await form.get_by_role("button", name="Run").click()
            await expect(form.get_by_text("succeeded")).to_be_visible()
            await page.get_by_role("button", name="List the elements").click()
            await page.get_by_role("button", name="Hit").click()
            assert await page.get_by_role("heading", name="Care").count() == 0
            assert await faults_of(page) == []
            await page.get_by_role("button", name="Give it back").click()
