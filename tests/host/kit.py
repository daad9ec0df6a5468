"""Shared by the tests of the host: a small server to register at, and hosts to talk to."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from aiohttp import web

from vpt.host.server import run_host
from vpt.host.settings import HostSettings

TOKEN = "join-" + "j" * 40


@dataclass
class FakeServer:
    """Takes registrations like a vpt server; `say` maps a call to the status it shall answer."""

    calls: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    say: dict[str, int] = field(default_factory=dict)
    status: str = "said"
    url: str = ""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_post("/api/hosts/register", self.take)
        app.router.add_post("/api/hosts/{name}/{call}", self.take)
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    async def take(self, request: web.Request) -> web.Response:
        call = request.match_info.get("call", "register")
        async with self.changed:
            self.calls.append((call, await request.json(), dict(request.headers)))
            self.changed.notify_all()
        status = self.say.get(call, 200)
        headers = {"Location": "/api/hosts/x/redirected"} if status == 307 else {}
        return web.json_response({"status": self.status}, status=status, headers=headers)

    def count(self, call: str) -> int:
        return sum(1 for name, _, _ in self.calls if name == call)

    async def heard(self, call: str, times: int = 1) -> dict[str, Any]:
        """Wait until a call came so often; its last body."""
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: self.count(call) >= times)
        return [body for name, body, _ in self.calls if name == call][-1]


@dataclass
class Caller:
    """Calls a host as the server does."""

    session: aiohttp.ClientSession
    url: str
    secret: str

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {self.secret}", **headers}
        async with self.session.post(self.url + path, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def act(
        self,
        command: str,
        params: dict[str, Any] | None = None,
        *,
        key: str | None = None,
        **more: Any,
    ) -> tuple[int, dict[str, Any]]:
        body = {"command": command, "action_type": "desktop", "params": params or {}, **more}
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.post("/host/remote/executeAction", body, **headers)

    async def bash(self, command: str, **more: Any) -> tuple[int, dict[str, Any]]:
        return await self.act("execute_bash_command", {"command": command}, **more)

    async def cancel(self, execution_id: str, attempt: int = 1) -> tuple[int, dict[str, Any]]:
        return await self.post("/host/cancel", {"execution_id": execution_id, "attempt": attempt})

    async def actions(self, device_id: str = "desktop") -> int:
        """How many actions run or wait on a device."""
        headers = {"Authorization": f"Bearer {self.secret}"}
        async with self.session.get(self.url + "/host/health", headers=headers) as response:
            devices = (await response.json())["devices"]
        return next(item["actions"] for item in devices if item["device_id"] == device_id)


async def until(true: Callable[[], Any], limit_s: float = 10) -> Any:
    """Wait until something holds; what it gave."""
    async with asyncio.timeout(limit_s):
        while not (value := true()):  # noqa: ASYNC110 (the world outside tells nobody)
            await asyncio.sleep(0.01)
        return value


async def until_actions(caller: Caller, count: int, device_id: str = "desktop") -> None:
    """Wait until so many actions run or wait."""
    async with asyncio.timeout(10):
        while await caller.actions(device_id) != count:  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0.01)


async def written(path: Path) -> str:
    """Wait until a command has written a file; its text."""
    text: str = await until(lambda: path.exists() and path.read_text().strip())
    return text


def alive(pid: int) -> bool:
    """Return True when a process runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.asynccontextmanager
async def running(server: FakeServer, folder: Path, **settings: Any) -> AsyncIterator[Caller]:
    """A host in this process, registered."""
    ready, before = asyncio.Event(), server.count("register")
    settings = {"join_token": TOKEN, "allow_shell": True, "heartbeat_s": 0.05, **settings}
    chosen = HostSettings(server=server.url, name="lab", data_dir=folder, **settings)
    task = asyncio.create_task(run_host(chosen, ready=ready))
    try:
        await asyncio.wait(
            {task, asyncio.ensure_future(ready.wait())}, return_when="FIRST_COMPLETED"
        )
        if task.done():
            await task
        card = await server.heard("register", before + 1)
        async with aiohttp.ClientSession() as session:
            yield Caller(session, card["host_url"], card["host_secret"])
    finally:
        task.cancel()
        await asyncio.wait({task})


@contextlib.asynccontextmanager
async def process(
    server: FakeServer, folder: Path, *options: str, prefix: tuple[str, ...] = ()
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Caller]]:
    """A host as a process of its own, registered; killed at the end when it still runs."""
    before = server.count("register")
    with (folder.parent / "host.log").open("ab") as log:
        child = await asyncio.create_subprocess_exec(
            *(
                *prefix,
                sys.executable,
                "-W",
                "error",
                "-m",
                "vpt.host",
                "--server",
                server.url,
                "--name",
                "lab",
            ),
            *("--data-dir", str(folder), "--allow-shell", "--join-token", TOKEN, *options),
            stderr=log,
        )
    try:
        card = await server.heard("register", before + 1)
        async with aiohttp.ClientSession() as session:
            yield child, Caller(session, card["host_url"], card["host_secret"])
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # killed by the test, not yet noticed
                os.kill(child.pid, signal.SIGKILL)
        await child.wait()
