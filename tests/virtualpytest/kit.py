"""What these tests share: a server that only notes, calls as a server makes them, a process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from ..actors.fake_host import until
from .body import Json

TEAM = "7fdeb4bb-3639-4ec3-959f-b54769a219ce"


class NotingServer:
    """Takes `/server/*` and answers 200, or the next status that a test named for the call."""

    def __init__(self) -> None:
        self.say: dict[str, list[int]] = {}
        self.bodies: dict[str, list[Json]] = defaultdict(list)
        self.headers: list[dict[str, str]] = []
        self.sizes: list[int] = []
        self.answers = asyncio.Event()  # cleared: it hears all and answers nothing
        self.answers.set()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen on a free port."""
        app = web.Application()
        app.router.add_post("/server/{kind}/{call}", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Be gone."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def count(self, call: str) -> int:
        """Return how often it came."""
        return len(self.bodies[call])

    async def _take(self, request: web.Request) -> web.Response:
        raw, call = await request.read(), request.match_info["call"]
        self.sizes.append(len(raw))
        self.headers.append(dict(request.headers))
        self.bodies[call].append(json.loads(raw))
        await self.answers.wait()
        statuses = self.say.get(call) or [200]
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        said = {"status": "not_registered"} if status == 404 else {"status": "said"}
        return web.json_response(said, status=status)


@dataclass
class Caller:
    """Calls a host as a server does."""

    session: aiohttp.ClientSession
    url: str
    key: str | None = None

    async def get(self, path: str) -> tuple[int, Any]:
        """Ask; give the status and the JSON."""
        headers = {} if self.key is None else {"X-API-Key": self.key}
        async with self.session.get(self.url + path, headers=headers) as answer:
            return answer.status, await answer.json()

    async def post(self, path: str, **body: Any) -> tuple[int, Any]:
        """Send; give the status and the JSON."""
        headers = {} if self.key is None else {"X-API-Key": self.key}
        url = f"{self.url}{path}?team_id={TEAM}"
        async with self.session.post(url, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def begin(self, device: str, *commands: str) -> str:
        """Begin a batch of actions; its path for polls."""
        actions = [{"command": each, "params": {}} for each in commands]
        status, told = await self.post(
            "/host/action/executeBatch", device_id=device, actions=actions
        )
        assert status == 200, told
        return f"/host/action/execution/{told['execution_id']}/status?device_id={device}"

    async def ended(self, path: str) -> Json:
        """Poll until something is over; its state."""

        async def over() -> Json | None:
            status, told = await self.get(path)
            assert status == 200, told
            state: Json = told["status"] if "testcase" in path else told
            return None if state["status"] == "running" else state

        state: Json = await until(over)
        return state

    async def acts(self, device: str, *commands: str) -> Json:
        """Do a batch; its state at the end."""
        return await self.ended(await self.begin(device, *commands))


class StandInProcess:
    """A stand-in of its own process, to be killed; `lines` reads what it did."""

    def __init__(self, server: str, journal: Path, *options: str) -> None:
        self.url = ""
        self._journal = journal
        self._command = ("--server", server, "--journal", str(journal), *options)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start (again), on the port that it had."""
        port = ("--port", self.url.rpartition(":")[2]) if self.url else ()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.virtualpytest.stand_in", *self._command, *port),
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        self.url = (await self._process.stdout.readline()).decode().strip()
        assert self.url

    async def end(self, by: signal.Signals = signal.SIGKILL) -> int | None:
        """Send a signal and wait for the end; the exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.send_signal(by)
        await process.communicate()
        return process.returncode

    def lines(self, what: str = "act") -> list[Json]:
        """Return what it wrote down of a kind: act, overlap or callback."""
        text = self._journal.read_text() if self._journal.exists() else ""
        return [each for each in map(json.loads, text.splitlines()) if each["what"] == what]
