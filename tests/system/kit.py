"""Real processes of vpt, and what is needed to talk to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import aiohttp

from tests.actors.fake_host import FakeHost
from tests.clusters import copy_cluster
from tests.forks import Forked, start
from vpt.model import Json, Role
from vpt.store.tokens import issue_token

ROOT = Path(__file__).parents[2]
SECRET = "the secret key of the system tests, long enough"
JOIN_TOKEN = "join-token-of-the-system-tests"
LIMIT = 60.0


@contextmanager
def open_folder() -> Iterator[Path]:
    """Give a folder that PostgreSQL may use, which as root is another user."""
    folder = Path(tempfile.mkdtemp(prefix="vpt-system-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


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

    child: asyncio.subprocess.Process | Forked
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
    with log.open("ab") as output:  # several may write: supervisord opens it again
        child = await _start(command, env, cwd, output)
    one = Process(child, log, settings=env)
    try:
        yield one
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.terminate()
                child.send_signal(signal.SIGCONT)  # it may stand still
            try:
                await one.ended(20)
            except TimeoutError:
                child.kill()
                await one.ended()


async def _start(
    command: tuple[str, ...], env: dict[str, str], cwd: Path, output: IO[bytes]
) -> asyncio.subprocess.Process | Forked:
    files: dict[str, Any] = {"stdout": output, "stderr": output}
    if command[:2] == ("-m", "vpt"):
        return await start(*command[2:], env=env, cwd=cwd, **files)
    command = (sys.executable, *command)
    files["stdin"] = asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(*command, env=env, cwd=cwd, **files)


@asynccontextmanager
async def server(
    folder: Path, *, cwd: Path = ROOT, wait: bool = True, first: bool = False, **settings: Any
) -> AsyncIterator[Process]:
    """Start `vpt serve`, and wait until it answers; `first`: without a cluster made before."""
    defaults = {
        "SERVER_PORT": free_port(),
        "SECRET_KEY": SECRET,
        "HOST_JOIN_TOKEN": JOIN_TOKEN,
        "VPT_DATA_DIR": folder,
        "LOG_FORMAT": "json",
    }
    settings = defaults | settings
    data = Path(settings["VPT_DATA_DIR"])
    if not (first or settings.get("DATABASE_URL") or (data / "pg").exists()):
        copy_cluster(data)
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
async def client(
    one: Process, role: Role = Role.ADMIN, user: str = "ann"
) -> AsyncIterator[aiohttp.ClientSession]:
    """Talk to the server as a user."""
    headers = {"Authorization": f"Bearer {issue_token(SECRET, user, role, 1)}"}
    async with aiohttp.ClientSession(one.url, headers=headers) as session:
        yield session


async def ask(session: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> Any:
    """Ask, and give the JSON of a good answer."""
    more = {} if body is None else {"json": body}
    async with session.request(method, path, **more) as response:
        answer = await response.json(content_type=None)
        assert response.ok, (response.status, answer)
        return answer


# ---------------------------------------------------------------- what it has to do


def shell(command: str) -> Json:
    """Give a step that runs this on a desktop."""
    return {
        "command": "execute_bash_command",
        "action_type": "desktop",
        "params": {"command": command},
    }


async def make(
    session: aiohttp.ClientSession, *steps: str | Json, model: str = "desktop", **more: Any
) -> str:
    """Store a test case of these steps, of which a word is the command; give its id."""
    said = [{"command": step} if isinstance(step, str) else step for step in steps]
    body = {"name": "t", "device_model": model, "steps": said, **more}
    test_case_id: str = (await ask(session, "POST", "/api/testcases", body))["id"]
    return test_case_id


async def execute(session: aiohttp.ClientSession, test_case_id: str, **body: Any) -> str:
    """Run it as soon as a host can; give the execution's id."""
    path = f"/api/testcases/{test_case_id}/execute"
    async with asyncio.timeout(30):
        while True:
            async with session.post(path, json=body) as response:
                if response.status == 202:
                    execution_id: str = (await response.json())["execution_id"]
                    return execution_id
                assert response.status == 422, await response.text()  # no host has joined yet
            await asyncio.sleep(0.05)


async def final(session: aiohttp.ClientSession, execution_id: str) -> Any:
    """Wait until an execution is over; give it."""
    execution = await ask(session, "GET", f"/api/executions/{execution_id}?wait=30")
    assert execution["completed_at"] is not None, f"still {execution['status']}"
    return execution


# ---------------------------------------------------------------- hosts


def reference_host(
    server: Process, folder: Path, name: str = "lab", **settings: Any
) -> AbstractAsyncContextManager[Process]:
    """Start `vpt host` with a desktop; its journal is below `folder`/`name`."""
    options = ("--server", server.url, "--name", name, "--allow-shell", "--data-dir")
    command = ("-m", "vpt", "host", *options, str(folder / name))
    return process(folder, *command, HOST_JOIN_TOKEN=JOIN_TOKEN, **settings)


def journal(folder: Path) -> list[Json]:
    """Read what a reference host wrote before it acted, and after, the first one first."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    files.sort(key=lambda path: path.stat().st_mtime_ns)
    lines = [line for path in files for line in path.read_text(errors="replace").splitlines()]
    return [json.loads(line) for line in lines if line.startswith('{"do":')]


def begun(folder: Path) -> list[str]:
    """Give the keys on which a reference host acted, in their order."""
    return [line["key"] for line in journal(folder) if line["do"] == "begin"]


@asynccontextmanager
async def joined(session: aiohttp.ClientSession, host: FakeHost) -> AsyncIterator[FakeHost]:
    """Let a host of this process join the server."""
    await host.appear()
    card = {
        "host_name": host.name,
        "host_url": host.url,
        "devices": [{"device_id": d, "name": d, "model": host.model} for d in host.devices],
        "protocol": {"idempotency": host.idempotency, "cancel": host.cancel},
    }
    headers = {"Authorization": f"Bearer {JOIN_TOKEN}"}
    try:
        async with session.post("/api/hosts/register", json=card, headers=headers) as response:
            assert response.status == 200, await response.text()
        yield host
    finally:
        await host.close()
