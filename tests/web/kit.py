"""A host on loopback whose answers the test decides, and bodies that tests send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.conftest import JOIN_TOKEN, Client

Json = dict[str, Any]
#: The smallest PNG: one pixel.
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJg"
    "gg=="
)


def test_case(**changes: Any) -> Json:
    """Make the body of a test case that a `pixel` can run."""
    return {
        "name": "Start the app",
        "steps": [{"command": "launch_app", "params": {"app": "tv"}}, {"command": "press_key"}],
        "device_model": "pixel",
        **changes,
    }


test_case.__test__ = False  # type: ignore[attr-defined]


@dataclass
class FakeHost:
    """Speaks the document dialect; `gate` closed, it does not answer."""

    name: str = "host-1"
    devices: tuple[str, ...] = ("tv-1",)
    answer: Callable[[Json], Json] = lambda _: {"success": True}
    seen: list[Json] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    status: int = 200  # of its answers to actions

    async def join(self, client: Client) -> TestServer:
        """Listen and register with the server of `client`."""
        app = web.Application()
        app.router.add_get("/host/health", self._health)
        app.router.add_post("/host/remote/executeAction", self._act)
        app.router.add_post("/host/cancel", self._health)
        server = TestServer(app)
        await server.start_server()
        body = {
            "host_name": self.name,
            "host_url": str(server.make_url("/")).rstrip("/"),
            "capabilities": ["wifi"],
            "devices": [{"device_id": d, "name": d, "model": "pixel"} for d in self.devices],
            "protocol": {"idempotency": True, "cancel": True},
        }
        headers = {"Authorization": f"Bearer {JOIN_TOKEN}"}
        response = await client.post("/api/hosts/register", json=body, headers=headers)
        assert response.status == 200, await response.text()
        return server

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({})

    async def _act(self, request: web.Request) -> web.Response:
        action = await request.json()
        self.seen.append(action)
        await self.gate.wait()
        return web.json_response(self.answer(action), status=self.status)


async def made(client: Client, path: str, body: Json) -> Json:
    """POST and give the new object."""
    response = await client.post(path, json=body)
    assert response.status in {201, 202}, await response.text()
    answer: Json = await response.json()
    return answer


async def got(client: Client, path: str, **params: Any) -> Json:
    """GET and give the object."""
    response = await client.get(path, params=params)
    assert response.status == 200, await response.text()
    answer: Json = await response.json()
    return answer


async def refused(client: Client, method: str, path: str, **options: Any) -> tuple[int, Json]:
    """Return the status and the JSON of a refusal."""
    async with client.request(method, path, **options) as response:
        assert response.content_type == "application/json", await response.text()
        return response.status, await response.json()
