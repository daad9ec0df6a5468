"""Everything breaks at random; at the end everything is over and nothing was done twice."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.actors.conftest import Kit, StartLab, execution
from tests.actors.fake_host import Behaviour, FakeHost, Reply, Wire, fails, passes, replies
from vpt.errors import VptError
from vpt.model import DeviceStatus, HostStatus, Json

RUNS = 60
SECONDS = float(os.environ.get("CHAOS_SECONDS", "2.5"))
SEEDS = [int(seed) for seed in os.environ.get("CHAOS_SEEDS", "17").split(",")]
KINDS = [(True, True), (True, False), (False, True), (False, False)]  # idempotency, cancel


@pytest.fixture
async def wire(tmp_path: Path, dsn: str) -> AsyncIterator[Wire]:
    """Give a way to the database that breaks now and then."""
    wire = Wire(tmp_path, dsn)
    await wire.mend()
    yield wire
    await wire.cut()


def _anything(dice: random.Random) -> Behaviour:
    """Take a moment, then pass, mostly."""

    async def behave(host: FakeHost, action: Json) -> Reply:
        await asyncio.sleep(dice.uniform(0, 0.1))
        chance = dice.random()
        how = replies(500) if chance < 0.03 else fails() if chance < 0.06 else passes()
        return await how(host, action)

    return behave


async def _host_trouble(lab: Kit, host: FakeHost, dice: random.Random) -> None:
    kind = dice.choice(["vanish", "die", "lose", "register", "unwell"])
    pause = dice.uniform(0, 0.6)
    if kind == "lose":
        host.loses += 1
    elif kind == "register":
        with suppress(VptError):
            await lab.join(host)
    elif kind == "unwell":
        host.health = replies(500)
        await asyncio.sleep(pause)
        host.health = replies(200)
    else:
        await (host.vanish() if kind == "vanish" else host.die())
        await asyncio.sleep(pause)
        await host.appear()


async def _server_trouble(lab: Kit, wire: Wire, dice: random.Random) -> None:
    kind = dice.choice(["crash", "stop", "wire"])
    if kind == "wire":
        await wire.cut()
        await asyncio.sleep(dice.uniform(0, 0.3))
        await wire.mend()
    elif kind == "crash":
        await lab.restart()
    else:
        await lab.stop(grace=dice.uniform(0, 0.1))
        await lab.start()


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_breaks_all_ends_and_nothing_is_done_twice(
    seed: int, wire: Wire, start_lab: StartLab
) -> None:
    dice = random.Random(seed)
    lab = await start_lab(lab_dsn=wire.dsn, infra_retries=50, cancel_grace=1.0)
    lab.crashed = True  # what nobody heard is replayed from the database
    hosts = [
        await lab.host(f"h{n}", "d1", "d2", idempotency=idempotency, cancel=cancel)
        for n, (idempotency, cancel) in enumerate(KINDS)
    ]
    for host in hosts:
        host.may_overlap = True
        for name in "abc":
            host.on(name, _anything(dice))
    ids = [await lab.run("a", "b", "c") for _ in range(RUNS)]
    campaign = await lab.campaign(*(execution("a", "b") for _ in range(8)), parallelism=3)

    loop = asyncio.get_running_loop()
    end = loop.time() + SECONDS
    while loop.time() < end:
        chance = dice.random()
        if chance < 0.3:
            await _server_trouble(lab, wire, dice)
        elif chance < 0.45:
            with suppress(VptError):
                await lab.lab.executions.cancel(dice.choice(ids), "ann")
        else:
            await _host_trouble(lab, dice.choice(hosts), dice)
        await asyncio.sleep(dice.uniform(0, 0.1))

    for host in hosts:
        host.loses = 0
        await lab.join(host)
        await lab.is_now(host.name, HostStatus.AVAILABLE, HostStatus.BUSY)
    for execution_id in ids:
        await lab.final(execution_id)
    await lab.campaign_final(campaign)
    for host in hosts:
        await lab.device_is(f"{host.name}:d1", DeviceStatus.ONLINE)
        await lab.device_is(f"{host.name}:d2", DeviceStatus.ONLINE)
        keys = [call.key for call in host.acted]
        assert len(keys) == len(set(keys)), "no key was acted twice"
    incomplete = """
        SELECT a.execution_id FROM execution_attempts a
        JOIN test_executions e ON e.id = a.execution_id
        WHERE a.status = 'completed' AND cardinality(e.actions) <> (
            SELECT count(*) FROM execution_steps s
            WHERE (s.execution_id, s.attempt) = (a.execution_id, a.attempt)
                AND s.status = 'passed')
    """
    assert await lab.fetch(incomplete) == [], "a verdict nobody gave"
