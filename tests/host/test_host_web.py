"""The web driver on a real Chromium."""

import asyncio
import base64
import contextlib
import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from aiohttp import web

from .kit import Caller, FakeServer, alive, process, running, until, until_actions

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ready = importlib.util.find_spec("playwright") and any(map(shutil.which, BROWSERS))
real_browser = pytest.mark.skipif(not ready, reason="needs Playwright and a Chromium")

PAGE = """<title>Lab</title><h1>Welcome</h1>
<input id=who><button id="go:1" onclick="said.textContent='Hello ' + who.value">Greet</button>
<p id=said></p><form onsubmit="said.textContent='entered'; return false"><input id=line></form>
<p id=visits></p><script>
document.cookie = 'visits=' + (1 + Number(document.cookie.split('=')[1] || 0));
visits.textContent = document.cookie.replace('=', ': ');
</script>"""


@pytest.fixture
async def site() -> AsyncIterator[str]:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


@pytest.fixture
async def browser(server: FakeServer, tmp_path: Path) -> AsyncIterator[Caller]:
    before = set(browsers())
    async with running(server, tmp_path / "data", devices=("web",)) as caller:
        yield caller
    await until(lambda: not set(browsers()) - before)


def browsers(root: int | None = None) -> list[int]:
    """The Chromium processes below a process."""
    children = psutil.Process(root).children(recursive=True)
    return [child.pid for child in children if alive(child.pid) and "chrom" in child.name()]


async def opened(host: Caller, site: str, **more: object) -> None:
    assert (await host.act("open_browser", **more))[1]["success"] is True
    status, answer = await host.act("navigate_to_url", {"url": site}, **more)
    assert (status, answer["success"]) == (200, True)
    assert answer["output"] == f"HTTP 200 {site} Lab"


def is_picture(text: str) -> bool:
    return base64.b64decode(text).startswith(b"\x89PNG")


@real_browser
async def test_a_page_is_driven_like_a_person_does(browser: Caller, site: str) -> None:
    await opened(browser, site)
    assert (await browser.act("open_browser"))[1]["output"] == "the browser is open"
    for command, params in (
        ("wait_for_text", {"text": "Welcome"}),
        ("fill", {"selector": "#who", "value": "Ada"}),
        ("click_element", {"element_id": "go:1"}),
        ("wait_for_text", {"text": "Hello Ada"}),
        ("click_element", {"text": "Greet"}),
        ("click_element", {"selector": "#line"}),
        ("press_key", {"key": "Enter"}),
        ("wait_for_text", {"text": "entered", "timeout": 5}),
    ):
        assert (await browser.act(command, params))[1]["success"] is True, command
    assert is_picture((await browser.act("take_screenshot"))[1]["screenshot"])
    assert (await browser.act("close_browser"))[1]["success"] is True
    assert (await browser.act("close_browser"))[1]["success"] is True


@real_browser
async def test_a_failed_step_says_why_and_shows_the_page(browser: Caller, site: str) -> None:
    answer = (await browser.act("click_element", {"selector": "#who"}))[1]
    assert answer["error"] == "no browser is open: use open_browser first"
    await opened(browser, site)
    answer = (await browser.act("wait_for_text", {"text": "never", "timeout": 0.2}))[1]
    assert answer["success"] is False
    assert "200ms" in answer["error"]
    assert "\n" not in answer["error"]
    assert is_picture(answer["screenshot"])
    odd = "data:text/html,<script>document.title='a\\ud800b'</script>"
    answer = (await browser.act("navigate_to_url", {"url": odd}))[1]
    assert answer["success"] is True
    answer = (await browser.act("navigate_to_url", {"url": "http://127.0.0.1:1/"}))[1]
    assert "ERR_" in answer["error"]
    assert is_picture(answer["screenshot"])
    assert (await browser.act("press_key", {"key": "NoSuchKey"}))[1]["success"] is False


@real_browser
async def test_a_step_that_does_not_end_in_time_shows_the_page(browser: Caller, site: str) -> None:
    await opened(browser, site)
    answer = (await browser.act("wait_for_text", {"text": "never"}, limit_s=0.2))[1]
    assert (answer["outcome"], answer["kind"]) == ("error", "step_timeout")
    assert is_picture(answer["screenshot"])
    assert (await browser.act("take_screenshot"))[1]["success"] is False, "it is closed"


@real_browser
async def test_the_files_of_the_host_cannot_be_read(browser: Caller) -> None:
    status, answer = await browser.act("navigate_to_url", {"url": "file:///etc/passwd"})
    assert (status, answer["code"]) == (400, "bad_params")
    status, answer = await browser.act("click_element", {})
    assert (status, answer["code"]) == (400, "bad_params")


@real_browser
async def test_cancel_closes_the_page(browser: Caller, site: str) -> None:
    await opened(browser, site, execution_id="e", attempt=1)
    waiting = asyncio.create_task(
        browser.act("wait_for_text", {"text": "never"}, execution_id="e", attempt=1)
    )
    await until_actions(browser, 1, "web")
    assert await browser.cancel("e") == (200, {"success": True, "cancelled": 1})
    assert (await waiting)[1]["error"] == "cancelled"
    answer = (await browser.act("take_screenshot"))[1]
    assert answer["error"] == "no browser is open: use open_browser first"
    await opened(browser, site)


@real_browser
async def test_a_browser_that_is_being_opened_can_be_cancelled(browser: Caller, site: str) -> None:
    opening = asyncio.create_task(browser.act("open_browser", execution_id="e", attempt=1))
    await until_actions(browser, 1, "web")
    assert (await browser.cancel("e"))[1]["cancelled"] == 1
    assert (await opening)[1]["error"] == "cancelled"
    answer = (await browser.act("take_screenshot"))[1]
    assert answer["error"] == "no browser is open: use open_browser first"
    await opened(browser, site)


@real_browser
async def test_a_crashed_browser_is_started_again(browser: Caller, site: str) -> None:
    await opened(browser, site)
    waiting = asyncio.create_task(browser.act("wait_for_text", {"text": "never"}))
    await until_actions(browser, 1, "web")
    for pid in browsers():
        os.kill(pid, signal.SIGKILL)
    assert (await waiting)[1]["success"] is False
    assert (await browser.act("take_screenshot"))[1]["success"] is False
    await opened(browser, site)


@real_browser
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_no_browser_outlives_the_host(
    server: FakeServer,
    tmp_path: Path,
    site: str,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("API_KEY", "must-not-be-seen")
    async with process(server, tmp_path / "data", "--device", "web") as (child, host):
        await opened(host, site)
        pids = browsers(child.pid)
        assert pids
        for one in psutil.Process(child.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it ended, or hides its own
                assert "API_KEY" not in one.environ()
        os.kill(child.pid, number)
        await child.wait()
    await until(lambda: not any(alive(pid) for pid in pids))


async def test_a_web_device_without_playwright_is_refused_in_one_line(tmp_path: Path) -> None:
    code = "import sys; sys.modules['playwright'] = None; import vpt.host.__main__ as m; m.main()"
    options = ("--server", "http://s", "--device", "web", "--data-dir", str(tmp_path))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, *options), stderr=asyncio.subprocess.PIPE
    )
    said = (await child.communicate())[1].decode()
    assert child.returncode == 4
    assert "Error: a web device needs Playwright: pip install 'vpt[web]'" in said
    assert "Traceback" not in said


@real_browser
async def test_another_attempt_gets_a_browser_without_page_or_cookies(
    browser: Caller, site: str
) -> None:
    first, second = ({"execution_id": "e", "attempt": number} for number in (1, 2))
    await opened(browser, site, **first)
    answer = (await browser.act("press_key", {"key": "Enter"}, **second))[1]
    assert answer["error"] == "no browser is open: use open_browser first"
    await opened(browser, site, **second)
    visits = {"text": "visits: 1", "timeout": 2}
    assert (await browser.act("wait_for_text", visits, **second))[1]["success"] is True
    assert (await browser.act("navigate_to_url", {"url": site}, **second))[1]["success"] is True
    visits["text"] = "visits: 2"
    assert (await browser.act("wait_for_text", visits, **second))[1]["success"] is True


@real_browser
async def test_a_browser_that_does_not_start_is_no_verdict(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho no display >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with running(server, tmp_path / "data", devices=("web",)) as host:
        status, answer = await host.act("open_browser")
        assert (status, answer["success"], answer["kind"]) == (200, False, "host_error")
        assert answer["error"].startswith("the browser did not start: ")
        broken.unlink()
        status, answer = await host.act("open_browser", limit_s=30)
        assert (answer["success"], answer["kind"]) == (False, "host_error")
