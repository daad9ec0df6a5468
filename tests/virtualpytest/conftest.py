"""A lab with stand-ins on a real database, and the little server that they call back."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.actors.conftest import FAST, PEER, Kit
from tests.actors.fake_host import until
from vpt.config import Config
from vpt.dialects.both import Dialects
from vpt.dialects.document import DocumentDialect
from vpt.dialects.virtualpytest import VirtualPyTestDialect
from vpt.model import Credential, Device, Host, HostStatus, Registration, StepProgress

from .kit import TEAM, NotingServer
from .membership import Pace
from .stand_in import StandIn

KEY = "the lab's key"
CALM = Pace(start=0.02, boundary=3600, retry=0.02, again=0.02)


class QuickDialect(VirtualPyTestDialect):
    """As in the field, with less patience."""

    AGAIN = (0.05, 0.1)
    LOOKS = (0.1, 0.05)


class Wilful(StandIn):
    """A stand-in whose answers get lost, or are others than its own, when a test says so."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.cuts: Counter[str] = Counter()  # so many answers of a path: acted on, then cut
        self.says: dict[str, tuple[int, bytes]] = {}  # by path
        self.unwell = 0  # so many polls get a 500
        self.declares: frozenset[str] = frozenset()  # capabilities of its devices
        self.patient = False  # a script is over before its start is answered

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        response = await super()._answer(request)
        if self.cuts[request.path] > 0 and request.transport is not None:
            self.cuts[request.path] -= 1
            request.transport.abort()  # type: ignore[attr-defined]
        if self.unwell and request.path.endswith("/status"):
            self.unwell -= 1
            return web.json_response({"error": "out of memory"}, status=500)
        if request.path in self.says:
            status, content = self.says[request.path]
            headers = {"Location": "/elsewhere"} if status // 100 == 3 else {}
            return web.Response(status=status, body=content, headers=headers)
        return response

    async def _script(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        response = await super()._script(request, body)
        if self.patient:
            await until(lambda: self.callbacks)
        return response


class LabServer(NotingServer):
    """Hands the ends of scripts to the lab."""

    def __init__(self) -> None:
        super().__init__()
        self.lab: VKit
        self.speaks_for: str | None = None
        self.taken: list[bool] = []

    async def _take(self, request: web.Request) -> web.Response:
        response = await super()._take(request)
        if request.path.endswith("taskComplete"):
            said = self.bodies["taskComplete"][-1]
            self.taken.append(self.lab.lab.task_complete(said["task_id"], said, self.speaks_for))
        return response


class VKit(Kit):
    """A lab under test with hosts of both dialects."""

    server: LabServer
    stand_ins: list[Wilful]
    may_overlap = False  # a server that was killed left a request with the host

    async def pi(self, name: str = "pi", *devices: str, key: str = KEY, **more: Any) -> Any:
        """Start a stand-in that wants `key`, let it join and wait until it is available."""
        models = dict.fromkeys(devices or ("d1",), more.pop("model", "tv"))
        host = Wilful(self.server.url, name, devices=models, key=key, pace=CALM)
        host.declares = frozenset(more.pop("capabilities", ()))
        self.stand_ins.append(host)
        await host.start()
        await self.join_pi(host)
        await self.is_now(name, HostStatus.AVAILABLE)
        return host

    async def join_pi(self, host: StandIn) -> None:
        known = Host(host.name, host.url, dialect="virtualpytest")
        declares = getattr(host, "declares", frozenset())
        devices = tuple(
            Device(f"{host.name}:{name}", name, name, model, declares)
            for name, model in host.devices.items()
        )
        implicit = (Device(host.name, None, host.name, "tv"),)
        await self.lab.registry.register(
            Registration(known, devices or implicit, {}, None, Credential.JOIN), peer=PEER
        )

    def moves(self) -> list[StepProgress]:
        return [event for event in self.told if isinstance(event, StepProgress)]

    async def crash(self) -> None:
        self.may_overlap = True
        await super().crash()

    async def close(self) -> None:
        for host in self.stand_ins:
            host.work.release.set()
        await super().close()
        for host in self.stand_ins:
            await host.stop()
        await self.server.stop()
        for host in self.stand_ins:
            assert self.may_overlap or not host.overlaps, host.overlaps
            assert not host.work.mixed_up, host.work.mixed_up


StartLab = Callable[..., Awaitable[VKit]]


@pytest.fixture
async def start_lab(tmp_path: Path, dsn: str) -> AsyncIterator[StartLab]:
    """Return a maker of labs with settings of the test's own; one a test."""
    before = asyncio.all_tasks()
    async with contextlib.AsyncExitStack() as stack:

        async def start(**settings: Any) -> VKit:
            quick = FAST | {"run_grace": 5.0, "host_lost_after": 50, "api_key": KEY}
            config = Config(vpt_data_dir=tmp_path, secret_key="s" * 40, **(quick | settings))
            kit = VKit(config, dsn, dsn, both)
            kit.server, kit.stand_ins = LabServer(), []
            kit.server.lab = kit
            await kit.server.start()
            await kit.start()
            stack.push_async_callback(kit.close)
            return kit

        yield start
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:  # what ends by itself may take a moment
        await asyncio.wait(left, timeout=1)
    assert not {task for task in left if not task.done()}


def both() -> Dialects:
    """Return what a server speaks."""
    return Dialects({"document": DocumentDialect(), "virtualpytest": QuickDialect(TEAM)})


@pytest.fixture
async def lab(start_lab: StartLab) -> VKit:
    """Return a lab in a hurry."""
    return await start_lab()
