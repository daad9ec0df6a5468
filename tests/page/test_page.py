"""What people see and do, in a real Chromium, against a real server and real hosts."""

from __future__ import annotations

import re
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Browser, expect

from tests.actors.fake_host import FakeHost
from tests.faults.kit import continued, host_is, stopped
from tests.system.kit import Process, reference_host
from vpt.model import Role

from .kit import real_browser, token, visit

pytestmark = [real_browser, pytest.mark.asyncio(loop_scope="module")]


# ---------------------------------------------------------------- signing in


async def test_one_signs_in_with_a_pasted_token_and_out_again(
    browser: Browser, vpt: Process
) -> None:
    async with visit(browser, vpt, None) as seen:
        page = seen.page
        seen.expected = ("401",)
        await page.get_by_label("Token").fill("nonsense")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert").filter(has_text="not valid")).to_be_visible()
        await page.get_by_label("Token").fill(token())
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("heading", name="Lab")).to_be_visible()
        await expect(page.locator("#live")).to_have_text("Live")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("Token")).to_be_visible()
        assert await page.evaluate("sessionStorage.length") == 0


async def test_the_token_of_the_address_is_removed_at_once_and_kept_for_the_tab(
    browser: Browser, vpt: Process
) -> None:
    async with visit(browser, vpt) as seen:
        await expect(seen.page.get_by_role("heading", name="Lab")).to_be_visible()
        assert "token" not in seen.page.url
        await seen.page.reload()
        await expect(seen.page.locator("#live")).to_have_text("Live")


async def test_a_lab_without_hosts_says_how_one_joins(browser: Browser, vpt: Process) -> None:
    async with visit(browser, vpt) as seen:
        await expect(seen.page.get_by_text("No host has joined yet.")).to_be_visible()
        await expect(seen.page.get_by_text(f"vpt host --server {vpt.url}")).to_be_visible()


# ---------------------------------------------------------------- the lab


async def test_a_host_is_seen_to_come_to_go_and_to_come_back(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession, folder: Path
) -> None:
    async with visit(browser, vpt) as seen:
        await expect(seen.page.get_by_text("No host has joined yet.")).to_be_visible()
        card = seen.page.locator("[data-host=lab]")
        async with reference_host(vpt, folder) as host:
            await expect(card.locator(".pill").first).to_have_text("available")
            await expect(card.locator(".device .pill")).to_have_text("online")
            stopped(host)
            await expect(card.locator(".pill").first).to_have_text("lost")
            await expect(card).to_contain_text("misses probes")
            continued(host)
            await expect(card.locator(".pill").first).to_have_text("available")
        await expect(card.locator(".pill").first).to_have_text("offline")
        await api.delete("/api/hosts/lab")


async def test_a_host_is_drained_and_a_device_leased_by_hand(
    browser: Browser, vpt: Process, api: aiohttp.ClientSession, tv: FakeHost
) -> None:
    await host_is(api, "tvs", "available")
    async with visit(browser, vpt) as seen:
        page, card = seen.page, seen.page.locator("[data-host=tvs]")
        await card.get_by_role("button", name="Drain tvs").click()
        await expect(card.locator(".pill").first).to_have_text("draining")
        await card.get_by_role("button", name="Resume tvs").click()
        await expect(card.locator(".pill").first).to_have_text("available")
        await card.get_by_role("button", name="Use tv1").click()
        await page.get_by_role("button", name="Lease", exact=True).click()
        device = card.locator("[data-device='tvs:tv1']")
        await expect(device).to_contain_text("Leased to ann")
        await expect(device.locator(".pill")).to_have_text("leased")
        await page.get_by_label("Action (JSON)").fill('{"command": "look"}')
        await page.get_by_role("button", name="Run this action").click()
        await expect(page.get_by_role("dialog")).to_contain_text("succeeded")
        await page.get_by_role("button", name="Release").click()
        await expect(device.locator(".pill")).to_have_text("online")
        assert "look" in tv.commands()


async def test_a_viewer_sees_all_and_no_control_that_writes(
    browser: Browser, vpt: Process, tv: FakeHost
) -> None:
    async with visit(browser, vpt, Role.VIEWER) as seen:
        card = seen.page.locator("[data-host=tvs]")
        await expect(card.locator(".device")).to_have_count(2)
        await expect(card.get_by_role("button")).to_have_count(0)


# ---------------------------------------------------------------- the files


async def test_the_pages_files_are_kept_for_ever_and_the_page_is_asked_for_anew(
    vpt: Process, api: aiohttp.ClientSession
) -> None:
    async with api.get("/") as front:
        text, headers = await front.text(), front.headers
    assert headers["Cache-Control"] == "no-cache"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == (
        "nosniff",
        "no-referrer",
    )
    async with api.get("/", headers={"If-None-Match": headers["ETag"]}) as again:
        assert again.status == 304
    [script] = re.findall(r'src="([^"]+)"', text)
    async with api.get(script) as module:
        assert module.content_type == "text/javascript"
        assert "immutable" in module.headers["Cache-Control"]
    async with api.get(re.sub("/console/[0-9a-f]+/", "/console/older/", script)) as module:
        assert (module.status, module.headers["Cache-Control"]) == (200, "no-cache")
    for path in ("/console/x/../pages.py", "/console/x/%2e%2e/pages.py", "/console/x/"):
        async with api.get(path) as refused:
            assert refused.status == 404, path
