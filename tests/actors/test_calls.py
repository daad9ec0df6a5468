"""Calls of hosts whose dialect fails by an error of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.actors.world import device, serial_host
from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.calls import show
from vpt.dialects.base import ScreenPart, ScreenRequest, Trouble


class BrokenDialect:
    """Fails as a program does that has a mistake."""

    async def show(self, *_: Any) -> bytes:
        raise RuntimeError("a mistake")


async def test_a_mistake_in_a_fetch_of_a_screen_is_told_and_ends_no_actor() -> None:
    """It would end the actor, and with it the host's runs; no probe is sent before it is told."""
    told: list[m.Fact] = []
    services: Any = SimpleNamespace(dialect=BrokenDialect())
    request = ScreenRequest(ScreenPart.PICTURE)
    await show(services, fx.FetchScreen(1, serial_host(), device(), request), told.append)
    [fact] = told
    assert isinstance(fact, m.ScreenShown)
    assert isinstance(fact.outcome, m.NoAnswer)
    assert fact.outcome.trouble is Trouble.HOST_ERROR
