"""A host that hangs is nobody else's trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from statistics import median

import pytest

from tests.actors.conftest import PEER, Kit, StartLab
from tests.actors.fake_host import BlackHole, FakeHost, hangs, until
from vpt.model import HostStatus

pytestmark = pytest.mark.alone

HOSTS = 20
INTERVAL = 0.25
ROUNDS = 3


@pytest.fixture
def hole() -> Iterator[BlackHole]:
    """Return a place where nobody ever answers."""
    hole = BlackHole()
    yield hole
    hole.close()


async def _step_times(lab: Kit, hosts: list[FakeHost]) -> list[float]:
    """Run on all hosts at once; give the times from one step of a run to its next (s)."""
    for host in hosts:
        host.actions.clear()
    steps = ("a", "b", "c")
    for _ in range(ROUNDS):
        ids = await asyncio.gather(*(lab.run(*steps, host_id=host.name) for host in hosts))
        for execution_id in ids:
            assert (await lab.final(execution_id))["status"] == "completed"
    return [
        later.at - earlier.at
        for host in hosts
        for earlier, later in pairwise(host.actions)
        if later.body["execution_id"] == earlier.body["execution_id"]
    ]


async def _probe_gaps(hosts: list[FakeHost]) -> list[float]:
    """Return the times between the probes of each host (s)."""
    for host in hosts:
        host.probes.clear()
    await until(lambda: all(len(host.probes) >= 5 for host in hosts))
    return [later.at - earlier.at for host in hosts for earlier, later in pairwise(host.probes)]


async def test_one_hung_and_one_black_holed_host_of_twenty_delay_nobody(
    start_lab: StartLab, hole: BlackHole
) -> None:
    lab = await start_lab(host_probe_interval=INTERVAL, host_lost_after=1000)
    hung, *hosts = [await lab.host(f"h{number}") for number in range(HOSTS - 1)]
    times, gaps = await _step_times(lab, hosts), await _probe_gaps(hosts)

    registration = hung.registration()
    lost = replace(registration.host, id="lost", url=f"http://127.0.0.1:{hole.port}")
    device = replace(registration.devices[0], id="lost:d1")
    await lab.lab.registry.register(replace(registration, host=lost, devices=(device,)), peer=PEER)
    hung.on("a", hangs())
    in_flight = await lab.run("a", host_id=hung.name)
    await until(lambda: hung.actions)
    probes = len(hung.probes)
    hung.health = hangs()
    await until(lambda: len(hung.probes) > probes)
    by_hand = asyncio.create_task(lab.lab.act("lost", None, {"command": "a"}, 60, "ann"))

    times_beside, gaps_beside = await _step_times(lab, hosts), await _probe_gaps(hosts)
    assert len(times_beside) == len(times) == len(hosts) * ROUNDS * 2
    assert median(times_beside) < 2 * median(times) + 0.01
    assert max(times_beside) < 2 * max(times) + 0.2
    assert median(gaps_beside) < 1.5 * median(gaps)
    assert max(gaps_beside) < INTERVAL * 1.2 + 0.5
    assert (await lab.execution(in_flight))["status"] == "running"
    assert all(lab.status(host.name) is HostStatus.AVAILABLE for host in hosts)
    by_hand.cancel()
    await asyncio.gather(by_hand, return_exceptions=True)
