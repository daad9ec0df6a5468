"""vpt behind a real nginx, with the very configuration of docs/proxy.md."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import socketio
from aiohttp import TCPConnector
from playwright.async_api import Browser, Page, expect

from tests.actors.fake_host import FakeHost, until
from tests.client.test_network import certified
from tests.conftest import TEMPLATE, Postgres, other_database
from tests.page.kit import real_browser, token
from tests.system.kit import ROOT, Process, ask, free_port, joined, make, server
from vpt.model import Role

NGINX = next(filter(None, map(shutil.which, ("nginx", "/usr/sbin/nginx"))), None)
pytestmark = [
    real_browser,
    pytest.mark.skipif(NGINX is None, reason="needs nginx"),
    pytest.mark.asyncio(loop_scope="module"),
]
_NAME = "vpt_nginx"
_MAIN = """
{user}
daemon off;
pid nginx.pid;
error_log error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
{documented}
}}
"""


def configuration(folder: Path, below: int, root: int, target: str) -> str:
    """Return what docs/proxy.md says, with ports, paths and the server's address filled in."""
    text = (ROOT / "docs" / "proxy.md").read_text(encoding="utf-8")
    [documented] = re.findall(r"(?ms)^```nginx\n(.*?)^```", text)
    ports = iter((below, root))
    documented = re.sub(r"443 ssl", lambda _: f"127.0.0.1:{next(ports)} ssl", documented)
    documented = re.sub(r"(ssl_certificate(?:_key)?\s+)[^;]+", rf"\1{folder}/own.pem", documented)
    documented = documented.replace("127.0.0.1:5109", target.removeprefix("http://"))
    assert next(ports, None) is None
    user = "user nobody nogroup;" if os.geteuid() == 0 else ""
    return _MAIN.format(user=user, documented=documented)


@asynccontextmanager
async def nginx(folder: Path, text: str, url: str) -> AsyncIterator[None]:
    """Run nginx until the end of the block."""
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    child = await asyncio.create_subprocess_exec(
        *(str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf")),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(20):
            while not await listens(session, url):
                log = folder / "error.log"
                assert child.returncode is None, log.read_text() if log.exists() else "no log"
                await asyncio.sleep(0.02)
        yield
    finally:
        if child.returncode is None:
            child.terminate()
            await child.wait()


async def listens(session: aiohttp.ClientSession, url: str) -> bool:
    """Return whether something answers, whatever it is."""
    try:
        async with session.get(url, ssl=False):
            return True
    except aiohttp.ClientError:
        return False


def user(url: str, address: str = "127.0.0.1") -> aiohttp.ClientSession:
    """Return a session of an admin at `url`, which ends in a slash, from an address of loopback."""
    headers = {"Authorization": f"Bearer {token(Role.ADMIN)}"}
    connector = TCPConnector(ssl=False, local_addr=(address, 0))
    return aiohttp.ClientSession(url, headers=headers, connector=connector)


async def hears(url: str, prefix: str, transport: str) -> None:
    """See that an event arrives by one transport: that of a host that is drained."""
    heard = asyncio.Event()
    async with user(f"{url}/") as session:
        live = socketio.AsyncClient(http_session=session, ssl_verify=False, handle_sigint=False)
        live.on("host_status", lambda _: heard.set())
        await live.connect(
            url,
            auth={"token": token()},
            transports=[transport],
            headers={"Origin": url},
            socketio_path=f"{prefix}/socket.io",
        )
        assert live.transport() == transport
        await ask(session, "POST", f"{prefix}/api/hosts/tvs/drain")
        async with asyncio.timeout(20):
            await heard.wait()
        await ask(session, "POST", f"{prefix}/api/hosts/tvs/resume")
        await live.disconnect()


async def sees_the_lab(page: Page, url: str) -> None:
    """See that the page is live at `url`, and that the documents show its routes."""
    await page.goto(f"{url}/#token={token()}")
    await expect(page.locator("#live")).to_have_text("Live")
    await expect(page.get_by_text("tvs", exact=True).first).to_be_visible()


@asynccontextmanager
async def visited(browser: Browser) -> AsyncIterator[Page]:
    """Open a page that trusts any certificate; WebSocket and scripts must not fail."""
    context = await browser.new_context(ignore_https_errors=True)
    page = await context.new_page()
    page.set_default_timeout(20_000)
    yield page
    await context.close()


async def see_how_requests_arrive(url: str) -> None:
    """Check ETags after gzip, the client's address, and the origin, at the URL of the server."""
    async with user(f"{url}/", "127.0.0.2") as session:
        made = await make(session, "wait", description="long enough to be compressed " * 10)
        path = f"/api/testcases/{made}"
        async with session.get(path, headers={"Accept-Encoding": "gzip"}) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            tag = response.headers["ETag"]
        assert tag.startswith("W/")
        body = {"name": "new", "steps": [{"command": "wait"}], "device_model": "desktop"}
        async with session.put(path, json=body, headers={"If-Match": tag}) as response:
            assert response.status == 200, await response.text()
        async with session.put(path, json=body, headers={"If-Match": tag}) as response:
            assert response.status == 412

        async def peers() -> set[str]:  # entries are written a moment after their requests
            items = (await ask(session, "GET", "/api/audit"))["items"]
            return {entry["peer"] for entry in items if entry["path"].endswith(path)}

        assert await until(peers) == {"127.0.0.2"}
        polling = "/socket.io/?EIO=4&transport=polling"
        for origin, status in ((url, 200), ("https://evil.example", 400)):
            async with session.get(polling, headers={"Origin": origin}) as response:
                assert response.status == status, origin


async def test_vpt_works_behind_nginx_below_a_prefix_and_at_the_root(
    browser: Browser, folder: Path, postgres: Postgres
) -> None:
    below, root, port = free_port(), free_port(), free_port()
    with_prefix, without = f"https://127.0.0.1:{below}/vpt", f"https://127.0.0.1:{root}"
    await postgres.statement(f"CREATE DATABASE {_NAME} TEMPLATE {TEMPLATE}")
    settings = {
        "DATABASE_URL": other_database(postgres.dsn, _NAME),
        "SERVER_PORT": port,
        "TRUSTED_PROXIES": "127.0.0.1/32",
    }
    certified(folder)
    text = configuration(folder, below, root, f"http://127.0.0.1:{port}")
    async with nginx(folder, text, without), visited(browser) as page:
        async with server(folder, SERVER_URL=without, **settings) as vpt:
            await at_the_root(page, without, vpt)
        async with server(folder, SERVER_URL=with_prefix, **settings) as vpt:
            await below_the_prefix(page, with_prefix, without, vpt)
        await page.get_by_role("link", name="Results").click()
        await expect(page.locator("#banner")).to_contain_text("does not answer (502). Retrying…")
        async with server(folder, SERVER_URL=with_prefix, **settings):
            await expect(page.get_by_text("There are no results yet.")).to_be_visible()
            await expect(page.locator("#live")).to_have_text("Live")
            await expect(page.locator("#banner")).to_be_hidden()
    await postgres.statement(f"DROP DATABASE {_NAME} WITH (FORCE)")


async def at_the_root(page: Page, url: str, vpt: Process) -> None:
    """Use page and live events at the root; a host joins by way of nginx."""
    async with user(f"{url}/") as session, joined(session, FakeHost("tvs", ("tv1",))):
        await sees_the_lab(page, url)
        await hears(url, "", "websocket")
        await hears(url, "", "polling")
        await see_how_requests_arrive(url)
    assert "Traceback" not in vpt.said()


async def below_the_prefix(page: Page, url: str, other: str, vpt: Process) -> None:
    """Use page, documents and live events below the prefix; a host joins at the `other` URL."""
    origin = url.removesuffix("/vpt")
    async with aiohttp.ClientSession(origin) as stranger:
        async with stranger.get("/vpt", ssl=False, allow_redirects=False) as response:
            assert response.headers["Location"].endswith("/vpt/")
        async with stranger.get("/api/testcases", ssl=False) as response:
            assert response.status == 404  # of nginx: nothing of vpt is beside the prefix
    async with user(f"{other}/") as session, joined(session, FakeHost("tvs", ("tv1",))):
        await sees_the_lab(page, url)
        await expect(page.get_by_text("tv1").first).to_be_visible()
        await hears(origin, "/vpt", "websocket")
        await hears(origin, "/vpt", "polling")
        docs = await page.context.new_page()
        await docs.goto(f"{url}/api/docs")
        await docs.locator("#operations-tag-testcases").click()
        row = docs.locator("#operations-testcases-list_test_cases")
        await row.locator(".opblock-summary-control").click()
        await row.get_by_role("button", name="Try it out").click()
        async with docs.expect_response(f"{url}/api/testcases?*") as answer:
            await row.get_by_role("button", name="Execute").click()
        assert (await answer.value).status == 401  # of vpt: this page has no token
        await docs.close()
    assert "Traceback" not in vpt.said()
