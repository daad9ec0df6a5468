"""`vpt demo`: everything on one machine, with a campaign to watch."""

from __future__ import annotations

import asyncio
import importlib.util
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import socketio
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from vpt import logs
from vpt.config import Config
from vpt.host.server import run_host
from vpt.host.settings import HostSettings
from vpt.model import Json, Role
from vpt.serve import Running, running
from vpt.web.http.auth import issue_token

_HOST = "demo-host"
_CAMPAIGN = "Demo campaign"
_EXIT = {"completed": 0, "failed": 1}
_INFRASTRUCTURE, _WAITED = 2, 3
_READY = 20.0  # seconds for the host to join
_LIMIT = 120.0  # seconds for the whole campaign
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_MARKS = {
    "completed": "[green]✔ completed[/]",
    "failed": "[red]✘ failed[/]",
    "error": "[magenta]! error[/]",
    "cancelled": "[yellow]- cancelled[/]",
    "skipped": "[dim]skipped[/]",
    "running": "[cyan]running[/]",
    "queued": "[dim]waits[/]",
}


async def run_demo(config: Config, *, once: bool) -> int:
    """Run it all; give the campaign's exit code."""
    console = Console()
    log_file = config.vpt_data_dir / "demo.log"
    console.print(f"vpt demo: data and log in {config.vpt_data_dir}", highlight=False)
    with log_file.open("a", encoding="utf-8") as log:
        logs.setup("json", config.log_level, log)
        stopped = _stop_signal()
        async with running(_with_free_port(config)) as server, _host(server, config):
            work = asyncio.create_task(_show(console, server, config), name="demo")
            await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                return _INFRASTRUCTURE
            code = work.result()
            if not once:
                _say_where_to_go_on(console, server)
                await stopped
    return code


def _stop_signal() -> asyncio.Task[bool]:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return asyncio.create_task(stop.wait(), name="stop signal")


def _with_free_port(config: Config) -> Config:
    """Take another port when SERVER_PORT is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.server_host, config.server_port))
        except OSError:
            return replace(config, server_port=0, server_url=None)
    return replace(config, server_url=None)


def has_browser() -> bool:
    """True when a web device would work here."""
    found = any(shutil.which(name) for name in _BROWSERS)
    return found and importlib.util.find_spec("playwright") is not None


@asynccontextmanager
async def _host(server: Running, config: Config) -> AsyncIterator[None]:
    """Run the reference host beside the server."""
    devices = ("desktop", "web") if has_browser() else ("desktop",)
    settings = HostSettings(
        server.url,
        _HOST,
        devices,
        join_token=server.config.host_join_token,
        data_dir=config.vpt_data_dir / "host",
        allow_shell=True,
    )
    task = asyncio.create_task(run_host(settings), name="demo host")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# ---------------------------------------------------------------- what is shown


@dataclass
class Line:
    """One test case of the campaign, as it is now."""

    name: str
    status: str = "queued"
    step: int = 0
    total: int = 0
    device: str = ""
    seconds: float | None = None


@dataclass
class Board:
    """The table on the terminal."""

    names: dict[str, str]
    lines: dict[str, Line] = field(default_factory=dict)

    def progress(self, event: Json) -> None:
        """Take a test_progress event."""
        line = self.lines.setdefault(event["execution_id"], Line(""))
        line.step, line.total = max(line.step, event["step"]), event["total_steps"]
        line.status = event["status"]

    def results(self, results: list[Json]) -> None:
        """Take what the API says of the campaign."""
        for number, result in enumerate(results):
            key = result["execution_id"] or f"entry {number}"
            name = self.names.get(result["test_case_id"], "")
            line = self.lines.setdefault(key, Line(name))
            line.name = name
            line.status = result["status"]
            line.device = result["device_id"] or ""
            line.seconds = result["duration_s"]

    def table(self) -> Table:
        """Draw it."""
        table = Table(title=_CAMPAIGN, title_justify="left")
        for title in ("test case", "device", "steps", "", "verdict", "time"):
            table.add_column(title)
        for line in self.lines.values():
            bar = ProgressBar(line.total or 1, line.step, width=12)
            done = f"{line.step}/{line.total}" if line.total else ""
            time = "" if line.seconds is None else f"{line.seconds:.2f} s"
            table.add_row(line.name, line.device, bar, done, _MARKS[line.status], time)
        return table


async def _show(console: Console, server: Running, config: Config) -> int:
    """Make the samples, run the campaign, show each step; give the exit code."""
    token = issue_token(str(config.secret_key), "demo", Role.ADMIN, 1)
    headers = {"Authorization": f"Bearer {token}"}
    timeout = aiohttp.ClientTimeout(total=90)
    async with aiohttp.ClientSession(server.url, headers=headers, timeout=timeout) as api:
        await _until_host_is_up(api)
        web = any(d["model"] == "web" for d in await _items(api, "/api/devices"))
        scratch = shlex.quote(str(config.vpt_data_dir / "demo-file"))
        ids = {}
        for case in sample_test_cases(server.url, scratch, web=web):
            ids[await _keep(api, "/api/testcases", case)] = case["name"]
        campaign = await _keep(
            api,
            "/api/campaigns",
            {
                "name": _CAMPAIGN,
                "description": "All samples of vpt demo.",
                "test_cases": [{"test_case_id": test_case_id} for test_case_id in ids],
                "parallelism": 2,
            },
        )
        return await _follow(console, api, server.url, token, campaign, Board(ids))


async def _follow(
    console: Console,
    api: aiohttp.ClientSession,
    url: str,
    token: str,
    campaign: str,
    board: Board,
) -> int:
    client = socketio.AsyncClient(logger=False)
    client.on("test_progress", board.progress)
    await client.connect(url, auth={"token": token}, transports=["websocket"])
    try:
        started = await _call(api, "POST", f"/api/campaigns/{campaign}/execute", {})
        path = f"/api/campaign-executions/{started['campaign_execution_id']}"
        with Live(console=console, refresh_per_second=10, get_renderable=board.table):
            async with asyncio.timeout(_LIMIT):
                result = started
                while result["status"] == "running":
                    result = await _call(api, "GET", f"{path}?wait=0.2")
                    board.results(result["results"])
    except TimeoutError:
        console.print("The campaign did not end in time.")
        return _WAITED
    finally:
        await client.disconnect()
    if not console.is_terminal:  # there the table ends its last line itself
        console.line()
    summary = result["summary"]
    console.print(
        f"{summary['completed']} of {summary['total']} completed,"
        f" {summary['failed']} failed, {summary['error']} infrastructure errors"
        f" in {summary['duration_s']:.1f} s"
    )
    return _EXIT.get(result["status"], _INFRASTRUCTURE)


def _say_where_to_go_on(console: Console, server: Running) -> None:
    token = issue_token(str(server.config.secret_key), "demo", Role.ADMIN, 30)
    console.print("\nThe server stays up until Ctrl-C. Its page, signed in for 30 days:")
    console.out(f"\n  {server.url}/#token={token}", highlight=False)
    console.print("\nThe same token for the API:")
    console.out(f"\n  TOKEN={token}", highlight=False)
    console.out(f'  curl -H "Authorization: Bearer $TOKEN" {server.url}/api/executions?limit=5')


# ---------------------------------------------------------------- the API, as anybody uses it


async def _call(api: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> Json:
    async with api.request(method, path, json=body) as response:
        answer: Json = await response.json()
        if response.status >= 400:  # noqa: PLR2004
            raise OSError(f"{method} {path}: {answer}")
        return answer


async def _items(api: aiohttp.ClientSession, path: str) -> list[Json]:
    answer = await _call(api, "GET", path)
    items: list[Json] = answer["items"]
    return items


async def _keep(api: aiohttp.ClientSession, path: str, thing: Json) -> str:
    """Create the sample, or bring the one of an earlier demo up to date; give its id."""
    known = [i["id"] for i in await _items(api, path) if i["name"] == thing["name"]]
    if known:
        await _call(api, "PUT", f"{path}/{known[0]}", thing)
        return str(known[0])
    return str((await _call(api, "POST", path, thing))["id"])


async def _until_host_is_up(api: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(_READY):
        while True:
            for host in await _items(api, "/api/hosts"):
                if host["id"] == _HOST and host["status"] == "available":
                    return
            await asyncio.sleep(0.05)


# ---------------------------------------------------------------- the samples


def sample_test_cases(url: str, scratch: str, *, web: bool) -> list[Json]:
    """Give the five test cases: real actions against real things. `scratch` is a file's name."""

    def shell(command: str, **expected: Any) -> Json:
        params = {"command": command, **expected}
        return {"command": "execute_bash_command", "action_type": "desktop", "params": params}

    def http(path: str, **expected: Any) -> Json:
        params = {"url": f"{url}{path}", **expected}
        return {"command": "http_request", "action_type": "desktop", "params": params}

    def page(command: str, **params: Any) -> Json:
        return {"command": command, "action_type": "web", "params": params}

    healthy = [
        http("/api/health/live"),
        http("/api/health/ready"),
        http("/api/health", expected_text="healthy"),
    ]
    closed = [
        http("/api/testcases", expected_status=401, expected_text="No token provided"),
        http("/nothing-here", expected_status=404),
    ]
    files = [
        shell(f"echo hello > {scratch}"),
        shell(f"cat {scratch}", expected_output="hello"),
        shell(f"rm {scratch}"),
        shell(f"test -e {scratch}", expected_exit_code=1),
    ]
    processes = [
        shell("sleep 30 & kill $!; wait $! || echo stopped", expected_output="stopped"),
        {"command": "wait", "action_type": "desktop", "params": {"seconds": 0.2}},
        shell(f"{shlex.quote(sys.executable)} -c 'print(6 * 7)'", expected_output="42"),
    ]
    browser = [
        page("open_browser"),
        page("navigate_to_url", url=f"{url}/"),
        page("wait_for_text", text="vpt"),
        page("take_screenshot"),
        page("close_browser"),
    ]
    front = [http("/", expected_text="vpt")]
    last = ("The page opens in Chromium", browser, "web")
    cases = [
        ("The server is healthy", healthy, "desktop"),
        ("The API is closed to strangers", closed, "desktop"),
        ("Files come and go", files, "desktop"),
        ("Processes come and go", processes, "desktop"),
        last if web else ("The page is served", front, "desktop"),
    ]
    return [
        {"name": name, "steps": steps, "device_model": model, "tags": ["demo"]}
        for name, steps, model in cases
    ]
