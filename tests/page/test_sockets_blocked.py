"""A proxy that lets no live events through, and one whose server is away for a while."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from playwright.async_api import Browser, expect

from tests.actors.fake_host import FakeHost
from tests.page.kit import real_browser, token, visit
from tests.system.kit import Process

pytestmark = [real_browser, pytest.mark.asyncio(loop_scope="module")]


class Proxy:
    """Passes requests on, except live events; `status` answers in place of the server."""

    def __init__(self, target: str) -> None:
        self.target, self.status, self.url = target, 0, ""

    async def answer(self, request: web.Request) -> web.Response:
        if self.status:
            return web.Response(status=self.status, text="<html>Bad gateway</html>")
        if request.path.startswith("/socket.io/"):
            return web.Response(status=400, text="no")
        headers = {k: v for k, v in request.headers.items() if k in {"Authorization", "Accept"}}
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method, f"{self.target}{request.path_qs}", headers=headers
            ) as response,
        ):
            kept = {"Content-Type": response.headers["Content-Type"]}
            return web.Response(body=await response.read(), status=response.status, headers=kept)


@asynccontextmanager
async def proxy(target: str) -> AsyncIterator[Proxy]:
    one = Proxy(target)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", one.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield one
    finally:
        await runner.cleanup()


async def test_the_page_works_without_live_events_and_waits_at_errors_of_a_proxy(
    browser: Browser, vpt: Process, tv: FakeHost
) -> None:
    async with proxy(vpt.url) as between, visit(browser, vpt, None) as seen:
        page = seen.page
        seen.expected = ("400", "502", "503", "504", "status of 5", "WebSocket", "socket.io")
        await page.clock.install()
        await page.goto(f"{between.url}/#token={token()}")
        state, banner = page.locator("#live"), page.locator("#banner")
        await page.clock.run_for(3100)
        await expect(state).to_have_text("Read every 10 s")
        await expect(page.get_by_text("tvs", exact=True).first).to_be_visible()
        async with page.expect_response("**/api/hosts?*"):
            await page.clock.run_for(10_000)
        await expect(state).to_have_text("Read every 10 s")
        for status in (502, 503, 504, 520, 522, 524, 530):
            between.status = status
            await page.get_by_role("link", name="Results").click()
            await expect(banner).to_contain_text(f"does not answer ({status}). Retrying…")
            between.status = 0
            await page.clock.run_for(2100)
            await expect(banner).to_be_hidden()
            await expect(page.get_by_role("heading", name="Results")).to_be_visible()
            await page.get_by_role("link", name="Lab").click()
