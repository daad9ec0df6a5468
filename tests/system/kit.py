"""Real processes of vpt, and what is needed to talk to them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from vpt.model import Role
from vpt.web.auth import issue_token

ROOT = Path(__file__).parents[2]
SECRET = "the secret key of the system tests, long enough"
JOIN_TOKEN = "join-token-of-the-system-tests"
LIMIT = 60.0


def free_port() -> int:
    """Give a port of 127.0.0.1 that nobody uses now, below those that clients are given."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def environment(**settings: Any) -> dict[str, str]:
    """Give what a process of ours needs, and no setting of this machine."""
    keep = {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "XDG_RUNTIME_DIR"}
    kept = {name: value for name, value in os.environ.items() if name in keep}
    return kept | {name: str(value) for name, value in settings.items()}


@dataclass
class Process:
    """A process of ours; what it says on standard error is in a file."""

    child: asyncio.subprocess.Process
    log: Path
    url: str = ""
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.child.pid

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    async def ended(self, limit_s: float = LIMIT) -> int:
        """Wait for its end; give its exit code."""
        return await asyncio.wait_for(self.child.wait(), limit_s)

    async def stop(self, limit_s: float = LIMIT) -> int:
        self.child.send_signal(signal.SIGTERM)
        return await self.ended(limit_s)

    async def kill(self) -> None:
        self.child.send_signal(signal.SIGKILL)
        await self.ended()


@asynccontextmanager
async def process(
    folder: Path, *command: str, cwd: Path = ROOT, **settings: Any
) -> AsyncIterator[Process]:
    """Start a command of ours; whatever happens it is gone at the end."""
    env = environment(PYTHONPATH=ROOT, **settings) if cwd == ROOT else environment(**settings)
    log = folder / f"{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, *command),
            env=env,
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    one = Process(child, log, settings=env)
    try:
        yield one
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
            try:
                await one.ended(20)
            except TimeoutError:
                child.kill()
                await one.ended()


@asynccontextmanager
async def server(
    folder: Path, *, cwd: Path = ROOT, wait: bool = True, **settings: Any
) -> AsyncIterator[Process]:
    """Start `vpt serve`, and wait until it answers."""
    defaults = {
        "SERVER_PORT": free_port(),
        "SECRET_KEY": SECRET,
        "HOST_JOIN_TOKEN": JOIN_TOKEN,
        "VPT_DATA_DIR": folder,
        "LOG_FORMAT": "json",
    }
    settings = defaults | settings
    async with process(folder, "-m", "vpt", "serve", cwd=cwd, **settings) as one:
        one.url = f"http://127.0.0.1:{settings['SERVER_PORT']}"
        if wait:
            await answers(one)
        yield one


async def answers(one: Process, limit_s: float = LIMIT) -> None:
    """Wait until the server is ready; AssertionError when it ends instead."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(limit_s):
        while True:
            assert one.child.returncode is None, one.said()
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{one.url}/api/health/ready") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def client(one: Process, role: Role = Role.ADMIN) -> AsyncIterator[aiohttp.ClientSession]:
    """Talk to the server as a user."""
    headers = {"Authorization": f"Bearer {issue_token(SECRET, 'ann', role, 1)}"}
    async with aiohttp.ClientSession(one.url, headers=headers) as session:
        yield session


async def ask(session: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> Any:
    """Ask, and give the JSON of a good answer."""
    more = {} if body is None else {"json": body}
    async with session.request(method, path, **more) as response:
        answer = await response.json(content_type=None)
        assert response.ok, (response.status, answer)
        return answer
