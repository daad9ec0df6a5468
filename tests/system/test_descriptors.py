"""A server with few file descriptors: silent connections take none that others need."""

from __future__ import annotations

import asyncio
import resource
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.actors.fake_host import FakeHost, until
from tests.faults.kit import events, host_is
from tests.system.kit import (
    JOIN_TOKEN,
    SECRET,
    Process,
    answers,
    client,
    free_port,
    joined,
    process,
)

SOFT, HARD, SILENT = 128, 256, 400
LAUNCH = f"""
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({SOFT}, {HARD}))
sys.argv = ["vpt", "serve"]
runpy.run_module("vpt", run_name="__main__")
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prlimit, and all of 127.0.0.0/8")


async def test_more_silent_connections_than_descriptors_stop_nobody(
    tmp_path: Path, dsn: str
) -> None:
    settings = {
        "SERVER_PORT": free_port(),
        "DATABASE_URL": dsn,
        "SECRET_KEY": SECRET,
        "HOST_JOIN_TOKEN": JOIN_TOKEN,
        "VPT_DATA_DIR": tmp_path,
        "LOG_FORMAT": "json",
        "HOST_PROBE_INTERVAL": 0.1,
    }
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(process(tmp_path, "-c", LAUNCH, **settings))
        one.url = f"http://127.0.0.1:{settings['SERVER_PORT']}"
        await answers(one)
        assert resource.prlimit(one.pid, resource.RLIMIT_NOFILE) == (HARD, HARD), "raised"
        session = await stack.enter_async_context(client(one))
        await stack.enter_async_context(joined(session, FakeHost("calm", model="calm")))
        await host_is(session, "calm", "available")
        changes, before = len(events(one, "host_status_changed")), await probed(session)
        for _ in range(SILENT):
            stack.push_async_callback(closed, await silent(one))
        for source in ("127.0.0.1", "127.0.0.2"):  # who is silent has another connection, too
            assert await statuses(one, source, 20) == [200] * 20
        await until(lambda: has_probed(session, before + 10), 30)
        assert len(events(one, "host_status_changed")) == changes, "suspect"
        (line,) = events(one, "connections_closed")
        assert line["peer"] == "127.0.0.2"
        assert await one.stop() == 0


async def silent(one: Process) -> asyncio.StreamWriter:
    """Begin a request and do not end it."""
    port = int(one.url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
    writer.write(b"GET / HTTP/1.1\r\n")
    return writer


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def statuses(one: Process, source: str, times: int) -> list[int]:
    """Ask over a new connection each time."""
    connector = aiohttp.TCPConnector(local_addr=(source, 0), force_close=True)
    async with aiohttp.ClientSession(one.url, connector=connector) as session:
        found = []
        for _ in range(times):
            async with session.get("/api/health/ready") as response:
                found.append(response.status)
    return found


async def probed(session: aiohttp.ClientSession) -> float:
    """Return how many probes were answered so far."""
    async with session.get("/metrics") as response:
        text = await response.text()
    return next(
        float(line.split()[1])
        for line in text.splitlines()
        if line.startswith("vpt_probe_duration_seconds_count")
    )


async def has_probed(session: aiohttp.ClientSession, count: float) -> bool:
    return await probed(session) >= count
