"""`vpt demo`: database, server and host on this machine, and a campaign to watch."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shlex
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import click
import msgspec

from vpt import logs
from vpt.client.api import Api
from vpt.client.exits import ExitCode, InfrastructureError
from vpt.client.files import CampaignEntry, CampaignSpec, FileContent, TestCaseSpec
from vpt.client.interrupts import Interrupts
from vpt.client.run import RunRequest, run_until
from vpt.client.runnables import CAMPAIGN
from vpt.client.shutdown import cancel_all_tasks
from vpt.client.sync import ImportPlan, read_server
from vpt.commands.server_side import keep_private, set_home, user_token
from vpt.config import Config
from vpt.host.server import run_host
from vpt.host.settings import HostSettings
from vpt.model import Json, Role
from vpt.serve import Running, running

_HOST = "demo-host"
_CAMPAIGN = "Demo campaign"
_READY = 20.0  # seconds for the host to join
_LIMIT = 120.0  # seconds for the whole campaign
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


async def run_demo(config: Config, *, once: bool) -> int:
    """Run it all until Ctrl-C, or with `once` until its end; return the campaign's exit code."""
    os.environ["no_proxy"] = "*"  # server, host and client are all on this machine
    keep_private()
    set_home(config)
    with (
        _private_log(config.vpt_data_dir / "demo.log") as log,
        Interrupts(lambda: None) as interrupts,
    ):
        click.echo(f"vpt demo: data and log in {config.vpt_data_dir}")
        logs.setup("json", config.log_level, log)
        try:
            async with running(_with_free_port(config)) as server, _host(server, config):
                code = await _shown(interrupts, server, config)
                if not once and not interrupts.came.is_set():
                    _print_what_next(server)
                    await interrupts.came.wait()
                    click.echo("\nvpt demo is stopping; its data is kept.")
                return code
        finally:
            await cancel_all_tasks()  # while the log is open


def _private_log(path: Path) -> TextIO:
    """Open the log for appending, for its owner only: it has what is in URLs and errors."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.fdopen(os.open(path, flags, 0o600), "a", encoding="utf-8")


def _with_free_port(config: Config) -> Config:
    """Let the server use any free port when SERVER_PORT is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.server_host, config.server_port))
        except OSError:
            return replace(config, server_port=0, server_url=None)
    return replace(config, server_url=None)


def has_browser() -> bool:
    """Return whether a web device would work here."""
    found = any(shutil.which(name) for name in _BROWSERS)
    return found and importlib.util.find_spec("playwright") is not None


@asynccontextmanager
async def _host(server: Running, config: Config) -> AsyncIterator[None]:
    """Run the reference host beside the server."""
    settings = HostSettings(
        server.url,
        _HOST,
        ("desktop", "web") if has_browser() else ("desktop",),
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


async def _shown(interrupts: Interrupts, server: Running, config: Config) -> ExitCode:
    """Store the samples, run their campaign and show it, as anybody does with `vpt`."""
    token = user_token(config, "demo", Role.ADMIN, 1)
    async with Api(server.url, token) as api:
        await _until_host_is_up(interrupts, api)
        scratch = config.vpt_data_dir / "demo-file"
        web = bool([device async for device in api.items("/api/devices", model="web")])
        work = ImportPlan(api, await read_server(api), samples(server.url, scratch, web=web))
        for change in work.planned(prune=False):
            await work.apply(change)
        request = RunRequest(CAMPAIGN, _CAMPAIGN, wait_timeout_s=_LIMIT, may_ask=False)
        return await run_until(interrupts, api, request)


async def _until_host_is_up(interrupts: Interrupts, api: Api) -> None:
    try:
        async with asyncio.timeout(_READY):
            while not interrupts.came.is_set():
                async for host in api.items("/api/hosts", status="available"):
                    if host["id"] == _HOST:
                        return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise InfrastructureError(f"The host did not join within {_READY:.0f} s.") from None


def _print_what_next(server: Running) -> None:
    token = user_token(server.config, "demo", Role.ADMIN, 30)
    click.echo(
        "\nThe server runs until Ctrl-C. Its page, signed in for 30 days:\n"
        f"\n  {server.url}/#token={token}\n"
        "\nThe same token for the API:\n"
        f"\n  TOKEN={token}\n"
        f'  curl -H "Authorization: Bearer $TOKEN" "{server.url}/api/executions?limit=5"'
    )


# ---------------------------------------------------------------- the samples


def samples(url: str, scratch: Path, *, web: bool) -> FileContent:
    """Return five test cases, which do real actions, and their campaign."""
    cases = msgspec.convert(
        _test_cases(url, shlex.quote(str(scratch)), web=web), list[TestCaseSpec]
    )
    campaign = CampaignSpec(
        name=_CAMPAIGN,
        description="All samples of vpt demo.",
        test_cases=[CampaignEntry(test_case=case.name) for case in cases],
        parallelism=2,
    )
    return FileContent({case.name: case for case in cases}, {_CAMPAIGN: campaign})


def _test_cases(url: str, scratch: str, *, web: bool) -> list[Json]:

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
