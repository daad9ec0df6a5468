"""Instant hosts: they answer every action at once, so that only the server's own time shows.

As a program it listens, prints its URL, and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
import uvloop
from aiohttp import web

Acted = Callable[[dict[str, Any]], None]
SUCCESS = orjson.dumps({"success": True})
REGISTER_TIMEOUT = 60.0


async def listen(acted: Acted | None = None) -> tuple[web.AppRunner, str]:
    """Start an instant host on a free port; return its runner, which stops it, and its URL."""

    async def act(request: web.Request) -> web.Response:
        action = orjson.loads(await request.read())
        if acted is not None:
            acted(action)
        return web.Response(body=SUCCESS, content_type="application/json")

    async def well(request: web.Request) -> web.Response:  # noqa: ARG001
        return web.Response(body=SUCCESS, content_type="application/json")

    app = web.Application()
    app.router.add_post("/host/remote/executeAction", act)
    app.router.add_post("/host/cancel", well)
    app.router.add_get("/host/health", well)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=75, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    return runner, f"http://127.0.0.1:{port}"


def card(name: str, url: str, devices: int) -> dict[str, Any]:
    """Return the body of a registration; the model of the devices is the stem of the name."""
    model = name.partition("-")[0]
    return {
        "host_name": name,
        "host_url": url,
        "capabilities": [],
        "devices": [
            {"device_id": f"d{n}", "name": f"{name} {n}", "model": model}
            for n in range(1, devices + 1)
        ],
        "protocol": {"idempotency": True, "cancel": True},
    }


async def join(server: str, join_token: str, user_token: str, cards: list[dict[str, Any]]) -> None:
    """Register the hosts and wait until the server shows each of them as available."""
    async with aiohttp.ClientSession(server, raise_for_status=True) as session:
        headers = {"Authorization": f"Bearer {join_token}"}
        for item in cards:
            await session.post("/api/hosts/register", json=item, headers=headers)
        async with asyncio.timeout(REGISTER_TIMEOUT):
            await _available(session, user_token, {item["host_name"] for item in cards})


async def _available(session: aiohttp.ClientSession, token: str, names: set[str]) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    while True:
        async with session.get("/api/hosts?limit=1000", headers=headers) as answer:
            hosts = (await answer.json())["items"]
        if names <= {host["id"] for host in hosts if host["status"] == "available"}:
            return
        await asyncio.sleep(0.1)


async def _main() -> None:
    _, url = await listen()
    print(url, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        uvloop.run(_main())
    except KeyboardInterrupt:
        sys.exit(130)
