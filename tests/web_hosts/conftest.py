"""A web server with the routes of hosts, devices and the system, over a lab that takes notes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import socketio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from vpt.config import Config
from vpt.errors import NotFoundError, VptError
from vpt.events import Events
from vpt.measures import Tally
from vpt.model import Answer, Credential, Heartbeat, HostView, Json, Registration, Role
from vpt.store.db import Database
from vpt.store.disk import Disk
from vpt.store.tokens import issue_token
from vpt.web.api import devices, hosts, metrics, system, tokens, virtualpytest
from vpt.web.http.auth import secret_of
from vpt.web.http.keys import CONFIG, DB, EVENTS, LAB
from vpt.web.http.middlewares import gate
from vpt.web.live import sockets

Client = TestClient[web.Request, web.Application]
Connect = Callable[..., Awaitable[Client]]


@dataclass
class NotedLab:
    """Stands in for the actors: notes what it is asked, and answers what the test says."""

    hosts: list[HostView] = field(default_factory=list)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    refusal: VptError | None = None
    tally: Tally = field(default_factory=Tally)
    disk: Disk = field(default_factory=lambda: Disk(Path("/"), 0))
    answer: Answer = field(default_factory=lambda: Answer(True, raw={"success": True, "n": 1}))

    def _note(self, *what: Any) -> None:
        self.asked.append(what)
        if self.refusal is not None:
            raise self.refusal

    @property
    def registry(self) -> NotedLab:
        return self

    async def register(self, registration: Registration, *, peer: str) -> None:
        self._note("register", registration, peer)

    async def heartbeat(self, host_id: str, heartbeat: Heartbeat, credential: Credential) -> None:
        self._note("heartbeat", host_id, heartbeat, credential)

    async def host_edited(self, host_id: str) -> None:
        self._note("host_edited", host_id)

    def task_complete(self, task_id: str, said: Json, host_id: str | None) -> bool:
        self._note("task_complete", task_id, said, host_id)
        return False

    async def unregister(
        self, host_id: str, credential: Credential, instance_id: str | None = None
    ) -> None:
        self._note("unregister", host_id, credential)

    async def delete_host(self, host_id: str) -> None:
        self._note("delete_host", host_id)

    async def drain(self, host_id: str, *, on: bool) -> None:
        self._note("drain", host_id, on)

    async def act(
        self,
        host_id: str,
        device_id: str | None,
        action: Json,
        timeout_s: float | None,
        user_id: str,
        secrets: Sequence[str] = (),
    ) -> tuple[Answer, float]:
        assert not secrets, "no test of the routes names a secret"
        self._note("act", host_id, device_id, action, timeout_s, user_id)
        if all(view.host.id != host_id for view in self.hosts):
            raise NotFoundError
        return self.answer, 1.23456

    async def forget_errors(self, host_id: str, device_id: str) -> None:
        self._note("forget_errors", host_id, device_id)

    async def devices_changed(self, host_id: str) -> None:
        self._note("devices_changed", host_id)

    def views(self) -> list[HostView]:
        return self.hosts

    def measures(self) -> dict[str, Any]:
        return {"queue_length": 0, "queue_oldest_s": None, "inbox_depth": 0}


@pytest.fixture
def lab() -> NotedLab:
    return NotedLab()


@pytest.fixture
async def connect(
    config: Config, db: Database, lab: NotedLab, events: Events
) -> AsyncIterator[Connect]:
    """Start the web server with settings of the test's own; give a client of it."""
    clients: list[Client] = []

    async def start(**settings: Any) -> Client:
        app = web.Application(middlewares=[gate], client_max_size=config.max_body)
        app[CONFIG], app[DB], app[EVENTS] = replace(config, **settings), db, events
        tokens.setup(app)
        app[LAB] = lab  # type: ignore[misc]
        for module in (hosts, virtualpytest, devices, system, metrics, tokens):
            app.add_routes(module.routes)
        system.setup(app)
        metrics.setup(app)
        sockets.attach(app)
        clients.append(TestClient(TestServer(app)))
        await clients[-1].start_server()
        return clients[-1]

    yield start
    for client in clients:
        await client.close()


@pytest.fixture
async def client(connect: Connect) -> Client:
    return await connect()


def bearer(client: Client, role: Role = Role.ADMIN, user: str = "ann") -> dict[str, str]:
    """Return the headers of a user of that role."""
    token = issue_token(secret_of(client.app), user, role, 1)
    return {"Authorization": f"Bearer {token}"}


TOLD = ("test_progress", "device_status", "host_status", "campaign_progress")
ARRIVES = 5.0


class Page:
    """A Socket.IO client that keeps all it is told."""

    def __init__(self) -> None:
        self.io = socketio.AsyncClient(reconnection=False)
        self.told: list[tuple[str, Any]] = []
        self.gone = asyncio.Event()
        self._news = asyncio.Event()
        for name in TOLD:
            self.io.on(name, self._take(name))
        self.io.on("disconnect", self._went)

    def _take(self, name: str) -> Callable[[Any], Awaitable[None]]:
        async def take(payload: Any) -> None:
            self.told.append((name, payload))
            self._news.set()

        return take

    async def _went(self, reason: str) -> None:
        self.gone.set()

    async def until(self, number: int) -> list[tuple[str, Any]]:
        """Wait for that many events."""
        async with asyncio.timeout(ARRIVES):
            while len(self.told) < number:
                self._news.clear()
                await self._news.wait()
        return self.told


Visit = Callable[..., Awaitable[Page]]


@pytest.fixture
async def visit() -> AsyncIterator[Visit]:
    pages: list[Page] = []

    async def run(client: Client, token: str | None = None, **options: Any) -> Page:
        pages.append(Page())
        if token is None:
            token = bearer(client, Role.VIEWER)["Authorization"].split()[1]
        options = {"auth": {"token": token}, "transports": ["websocket"], **options}
        await pages[-1].io.connect(str(client.make_url("/")), **options)
        return pages[-1]

    yield run
    for page in pages:
        await page.io.disconnect()
