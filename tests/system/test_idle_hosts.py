"""Hosts that do nothing cost next to nothing."""

from __future__ import annotations

import asyncio
import json
import time
from itertools import pairwise
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.actors.fake_host import until
from tests.system.kit import JOIN_TOKEN, ask, client, process, server

pytestmark = pytest.mark.alone

HOSTS = 200
INTERVAL = 10.0  # seconds
WINDOW = INTERVAL * 1.2 + 0.3  # by then every host was probed again
#: Bare requests that a probe may cost, with all that the server does in between; 10 to 14 are seen.
MOST_BARE = 20
SLACK = 0.25  # seconds: this machine has other work


async def test_two_hundred_idle_hosts_take_under_five_percent_of_a_core(
    tmp_path: Path, dsn: str
) -> None:
    settings = {"DATABASE_URL": dsn, "HOST_PROBE_INTERVAL": INTERVAL}
    async with (
        process(tmp_path, "-m", "tests.system.idle_hosts", str(HOSTS)) as hosts,
        server(tmp_path, **settings) as one,
        client(one) as session,
    ):
        await until(lambda: hosts.said().endswith("\n"))
        reporter, *ports = json.loads(hosts.said())
        await asyncio.gather(*(_join(session, number, p) for number, p in enumerate(ports)))
        await _all_available(session)

        bare = await _bare_request(ports)
        watched = psutil.Process(one.pid)
        began, before = time.monotonic(), watched.cpu_times()
        await asyncio.sleep(WINDOW)  # what is measured is time
        ended, after = time.monotonic(), watched.cpu_times()
        seconds = (after.user + after.system) - (before.user + before.system)
        share = seconds / (ended - began)

        probes = await _probes(reporter)
        # The first one of each proved its registration; the actor's own follow.
        gaps = [later - earlier for moments in probes for earlier, later in pairwise(moments[1:])]
        assert len(gaps) >= HOSTS, "every host was probed at least twice"
        assert min(gaps) > INTERVAL * 0.8 - SLACK
        assert max(gaps) < INTERVAL * 1.2 + SLACK
        seen = sum(began <= moment <= ended for moments in probes for moment in moments)
        steady = share * (HOSTS / INTERVAL) / (seen / (ended - began))
        per_probe = steady / (HOSTS / INTERVAL)
        told = f"{share:.3f} of a core for {seen} probes, {per_probe / bare:.2f} bare requests each"
        # A machine that is slow just now is slow in both; of one that is fast 5 % are less.
        assert steady < 0.05 or per_probe < MOST_BARE * bare, told
        await _all_available(session)


async def _bare_request(ports: list[int]) -> float:
    """Return the processor seconds of a request to a host's health without anything around it."""
    began = time.process_time()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        for port in ports:
            async with session.get(f"http://127.0.0.1:{port}/bare") as response:
                await response.read()
    return (time.process_time() - began) / len(ports)


async def _join(session: aiohttp.ClientSession, number: int, port: int) -> None:
    card = {
        "host_name": f"idle-{number}",
        "host_url": f"http://127.0.0.1:{port}",
        "devices": [{"device_id": "d1", "name": "d1", "model": "tv"}],
        "protocol": {"idempotency": True, "cancel": True},
    }
    headers = {"Authorization": f"Bearer {JOIN_TOKEN}"}
    async with session.post("/api/hosts/register", json=card, headers=headers) as response:
        assert response.status == 200, await response.text()


async def _all_available(session: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(30):
        while True:
            items = (await ask(session, "GET", "/api/hosts?limit=1000"))["items"]
            if [item["status"] for item in items] == ["available"] * HOSTS:
                return
            await asyncio.sleep(0.2)


async def _probes(port: int) -> list[list[float]]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/report") as response,
    ):
        moments: list[list[float]] = await response.json()
        return moments
