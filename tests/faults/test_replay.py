"""Who follows what happens misses nothing and is told nothing twice, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import socketio
from socketio.exceptions import SocketIOError

from tests.actors.fake_host import FakeHost, Reply, fails, passes, until
from tests.system.kit import JOIN_TOKEN, SECRET, Process, ask, client, free_port, server
from vpt.model import Json, Role
from vpt.store.tokens import issue_token

STEPS = 60
FINAL = {"completed", "failed", "error", "cancelled"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that PostgreSQL may use, which as root is another user."""
    folder = Path(tempfile.mkdtemp(prefix="vpt-faults-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


class Follower:
    """A client that comes and goes, and asks for what it does not know yet."""

    def __init__(self, url: str, dice: random.Random) -> None:
        self.url = url
        self.dice = dice
        self.topics: list[tuple[str, str]] = []
        self.told: dict[str, list[Json]] = defaultdict(list)
        self.visits = 0

    def over(self) -> bool:
        ends = [self.told[topic][-1:] for _, topic in self.topics]
        return all(end and end[0]["status"] in FINAL for end in ends)

    async def follow(self, longest: float = 0.3) -> None:
        """Come and go until all is over."""
        while not self.over():
            with suppress(SocketIOError, OSError, TimeoutError):
                await self._visit(longest)

    async def _visit(self, longest: float) -> None:
        io = socketio.AsyncClient(reconnection=False)
        io.on("test_progress", self._take)
        io.on("campaign_progress", self._take)
        token = issue_token(SECRET, "ann", Role.VIEWER, 1)
        try:
            await io.connect(self.url, auth={"token": token}, transports=["websocket"])
            for noun, topic in self.topics:
                wish = {noun: topic, "after_seq": len(self.told[topic])}
                answer = await io.call("subscribe", wish, timeout=10)
                assert answer["ok"] is False or answer["seq"] <= len(self.told[topic])
            self.visits += 1
            end = asyncio.get_running_loop().time() + self.dice.uniform(0, longest)
            with suppress(TimeoutError):
                await until(
                    lambda: self.over() or not io.connected,
                    end - asyncio.get_running_loop().time(),
                )
        finally:
            await io.disconnect()

    async def _take(self, payload: Json) -> None:
        noun = "execution_id" if "execution_id" in payload else "campaign_execution_id"
        self.told[payload[noun]].append(payload)


@asynccontextmanager
async def joined(session: Any, *devices: str) -> AsyncIterator[FakeHost]:
    """Give a host of this process, which outlives the server."""
    host = FakeHost("h", devices)
    await host.appear()
    card = {
        "host_name": host.name,
        "host_url": host.url,
        "devices": [{"device_id": d, "name": d, "model": "desktop"} for d in devices],
        "protocol": {"idempotency": True, "cancel": True},
    }
    headers = {"Authorization": f"Bearer {JOIN_TOKEN}"}
    try:
        async with session.post("/api/hosts/register", json=card, headers=headers) as response:
            assert response.status == 200, await response.text()
        yield host
    finally:
        await host.close()


async def start(session: Any, steps: list[Json]) -> tuple[str, str]:
    """Run a test and a campaign of it; give both ids."""
    body = {"name": "t", "device_model": "desktop", "steps": steps, "test_retries": 1}
    test_case_id = (await ask(session, "POST", "/api/testcases", body))["id"]
    entries = [{"test_case_id": test_case_id}] * 4
    body = {"name": "c", "test_cases": entries, "parallelism": 2}
    campaign_id = (await ask(session, "POST", "/api/campaigns", body))["id"]
    one = await ask(session, "POST", f"/api/testcases/{test_case_id}/execute", {})
    all_of_it = await ask(session, "POST", f"/api/campaigns/{campaign_id}/execute", {})
    return one["execution_id"], all_of_it["campaign_execution_id"]


def slowly(dice: random.Random) -> Any:
    """Take a moment; fail now and then."""

    async def behave(host: FakeHost, action: Json) -> Reply:
        await asyncio.sleep(dice.uniform(0, 0.06))
        how = fails() if dice.random() < 0.02 else passes()
        return await how(host, action)

    return behave


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_across_kill_9_and_restart_every_follower_gets_each_event_once_and_in_order(
    folder: Path,
) -> None:
    dice = random.Random(3)
    settings = {
        "SERVER_PORT": free_port(),
        "VPT_DATA_DIR": folder / "data",
        "HOST_PROBE_INTERVAL": 0.5,
    }
    async with AsyncExitStack() as stack:
        one: Process = await stack.enter_async_context(server(folder, **settings))
        session = await stack.enter_async_context(client(one))
        host = await stack.enter_async_context(joined(session, "d1", "d2", "d3"))
        host.on("a", slowly(dice))
        step = {"command": "a", "continue_on_failure": True}
        execution_id, campaign_id = await start(session, [step] * STEPS)
        followers = [Follower(one.url, dice) for _ in range(3)]
        for follower in followers:
            follower.topics = [
                ("execution_id", execution_id),
                ("campaign_execution_id", campaign_id),
            ]
        following = [asyncio.create_task(follower.follow()) for follower in followers]
        for share in (0.2, 0.5, 0.8):
            await until(lambda s=share: len(host.acted) > s * STEPS * 5, 60)
            await one.kill()
            one = await stack.enter_async_context(server(folder, **settings))
        await asyncio.wait_for(asyncio.gather(*following), 90)

        late = Follower(one.url, dice)
        late.topics = followers[0].topics
        await late.follow(longest=10)
        for follower in followers:
            for noun, topic in follower.topics:
                numbers = [event["seq"] for event in follower.told[topic]]
                assert numbers == list(range(1, len(numbers) + 1)), noun
                assert follower.told[topic] == late.told[topic], noun
                assert not any(e["status"] in FINAL for e in late.told[topic][:-1])
            assert follower.visits > 5
        steps = [event["step"] for event in late.told[execution_id] if event["step_status"]]
        assert steps == [*range(1, STEPS + 1)] * (len(steps) // STEPS)
        done = [event["done"] for event in late.told[campaign_id]]
        assert done == [0, 1, 2, 3, 4]
