"""The host of the documentation is a host."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from tests.actors.fake_host import until
from tests.conftest import Client
from tests.system.kit import environment, free_port
from tests.web_hosts.conftest import bearer
from vpt.actors.lab import Lab
from vpt.config import Config
from vpt.dialects.document import DocumentDialect
from vpt.events import Events
from vpt.model import Role
from vpt.store.db import Database
from vpt.web.app import make_app

SCRIPT = Path(__file__).parents[2] / "docs" / "smallest_host.py"


@dataclass
class Server:
    """A whole server and a client of it."""

    client: Client
    config: Config

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """Do something as an operator."""
        headers = bearer(self.client, Role.OPERATOR)
        async with self.client.request(method, path, json=body, headers=headers) as response:
            assert response.status < 300, await response.text()
            return await response.json()


@pytest.fixture
async def whole(config: Config, db: Database, events: Events) -> AsyncIterator[Server]:
    """Return a whole server that speaks to real hosts."""
    config, dialect = replace(config, host_probe_timeout=5.0), DocumentDialect()
    lab = Lab(config, db, events, dialect)
    await lab.start()
    client = TestClient(TestServer(make_app(config, db, lab, events)))
    await client.start_server()
    yield Server(client, config)
    await client.close()
    await lab.stop()
    await dialect.close()


@pytest.fixture
async def smallest(whole: Server) -> AsyncIterator[str]:
    """Run the script; give its URL."""
    url = f"http://127.0.0.1:{free_port()}"
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, str(SCRIPT), str(whole.client.make_url("")).rstrip("/"), "pc-1", url),
        env=environment(HOST_JOIN_TOKEN=whole.config.host_join_token),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    yield url
    child.kill()
    await child.wait()


def test_it_has_30_lines() -> None:
    lines = [line for line in SCRIPT.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 31  # the first says what it is


async def test_the_smallest_host_joins_and_runs_a_test(whole: Server, smallest: str) -> None:
    async def is_up() -> bool:
        hosts = (await whole.call("GET", "/api/hosts"))["items"]
        return [(host["id"], host["status"]) for host in hosts] == [("pc-1", "available")]

    await until(is_up)
    verdicts = {}
    for command in ("echo hello", "exit 3"):
        case = {"name": command, "device_model": "pc", "steps": [{"command": command}]}
        made = await whole.call("POST", "/api/testcases", case)
        run = await whole.call("POST", f"/api/testcases/{made['id']}/execute", {})
        path = f"/api/executions/{run['execution_id']}?wait=30"
        execution = await whole.call("GET", path)
        verdicts[command] = (execution["status"], execution["steps"][0]["output"])
    assert verdicts == {"echo hello": ("completed", "hello\n"), "exit 3": ("failed", "")}
    unsigned = whole.client.session.post(
        f"{smallest}/host/remote/executeAction", json={"command": "true"}
    )
    async with unsigned as response:
        assert response.status == 401
    async with whole.client.session.get(f"{smallest}/host/health") as response:
        assert response.status == 401
