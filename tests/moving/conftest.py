"""Fixtures: a server that speaks to VirtualPyTest hosts, one such host, and the command line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
from aiohttp.test_utils import TestServer

from tests.actors.fake_host import until
from tests.client.kit import Cli
from tests.conftest import JOIN_TOKEN, Client, ClientFactory, token
from tests.moving.other_system import KEY
from tests.virtualpytest.membership import Pace
from tests.virtualpytest.stand_in import StandIn
from tests.web.kit import got
from vpt.actors.lab import Lab
from vpt.config import Config
from vpt.dialects.both import Dialects
from vpt.dialects.document import DocumentDialect
from vpt.dialects.virtualpytest import VirtualPyTestDialect
from vpt.events import Events
from vpt.model import Role
from vpt.store.db import Database

_PACE = Pace(start=0.02, boundary=3600, retry=0.02, again=0.02)


class _QuickDialect(VirtualPyTestDialect):
    """As in the field, with less patience."""

    AGAIN = (0.05, 0.1)
    LOOKS = (0.1, 0.05)


@pytest.fixture
async def lab(config: Config, db: Database, events: Events) -> AsyncIterator[Lab]:
    """Yield the real actors, started, which speak both dialects."""
    dialects = Dialects({"document": DocumentDialect(), "virtualpytest": _QuickDialect("team")})
    lab = Lab(config, db, events, dialects)
    await lab.start()
    yield lab
    await lab.stop()
    await dialects.close()


@pytest.fixture
async def operator(client: ClientFactory) -> Client:
    """Return a client with the role operator."""
    return await client(Role.OPERATOR)


@pytest.fixture
async def admin(client: ClientFactory) -> Client:
    """Return a client with the role admin."""
    return await client(Role.ADMIN)


@pytest.fixture
async def pi(server: TestServer, operator: Client) -> AsyncIterator[StandIn]:
    """Yield a VirtualPyTest host that joined by itself."""
    url = str(server.make_url("/")).replace("://", f"://pi:{quote(JOIN_TOKEN)}@")
    host = StandIn(url, "pi", pace=_PACE)
    await host.start()

    async def is_up() -> bool:
        hosts = (await got(operator, "/api/hosts"))["items"]
        return [one["status"] for one in hosts] == ["available"]

    try:
        await until(is_up)
        yield host
    finally:
        await host.stop()


@pytest.fixture
def vpt(server: TestServer) -> Cli:
    """Return the command line for this server, with the role operator."""
    return Cli(str(server.make_url("/")).rstrip("/"), token())


@pytest.fixture
def as_admin(server: TestServer) -> Cli:
    """Return the command line with the role admin, and the key of the other system."""
    key = {"VPT_SUPABASE_KEY": KEY}
    return Cli(str(server.make_url("/")).rstrip("/"), token(Role.ADMIN), key)
