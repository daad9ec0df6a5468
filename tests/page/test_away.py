"""A server of one's own, with nothing in it, that goes away and comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.system.kit import Process, server

from .kit import real_browser, visit

pytestmark = [real_browser, pytest.mark.asyncio(loop_scope="module")]


async def test_an_empty_lab_says_what_to_do_and_a_server_that_is_away_is_waited_for(
    browser: Browser, vpt: Process, folder: Path
) -> None:
    async with visit(browser, vpt) as seen:
        page = seen.page
        seen.expected = ("ERR_CONNECTION", "WebSocket", "503")
        banner = page.locator("#banner")
        await expect(page.get_by_text("No host has registered yet.")).to_be_visible()
        await expect(page.get_by_text(f"vpt host --server {vpt.url}")).to_be_visible()
        assert await vpt.stop() == 0
        await expect(banner).to_contain_text("The connection is lost")
        await expect(page.locator("#live")).to_have_text("Connection lost")
        await page.get_by_role("link", name="Results").click()
        await expect(banner).to_have_text("The server does not answer. Retrying…")
        kept = {"DATABASE_URL": vpt.settings["DATABASE_URL"]}
        async with server(folder, **kept, SERVER_PORT=vpt.url.rpartition(":")[2]):
            await expect(page.get_by_text("There are no results yet.")).to_be_visible()
            await expect(page.locator("#live")).to_have_text("Live")
            await expect(banner).to_be_hidden()
