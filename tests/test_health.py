"""The checks of external services, against a real server."""

from __future__ import annotations

import asyncio

import pytest
import structlog.testing
from aiohttp import web
from aiohttp.test_utils import TestServer

from vpt import health
from vpt.health import CheckTarget, ExternalChecks


async def test_a_check_that_raises_is_logged_and_all_checks_continue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "INTERVAL", 0.01)
    rounds = asyncio.Semaphore(0)

    async def answer(_: web.Request) -> web.Response:
        rounds.release()
        return web.Response()

    app = web.Application()
    app.router.add_get("/", answer)
    async with TestServer(app) as server:
        url = str(server.make_url("/"))
        wrong: dict[str, str] = {"apikey": 1}  # type: ignore[dict-item]  # aiohttp: TypeError
        checks = ExternalChecks(
            [CheckTarget("wrong", url, headers=wrong), CheckTarget("right", url)]
        )
        with structlog.testing.capture_logs() as events:
            async with checks.running(), asyncio.timeout(30):
                results = await checks.results()
                for _ in range(3):
                    await rounds.acquire()
    assert results["right"].ok
    assert results["wrong"].error == "TypeError"
    [event, *_] = [one for one in events if one["event"] == "external_check_crashed"]
    assert (event["log_level"], event["service"]) == ("error", "wrong")
