"""Fixtures of the web tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conftest import Client, ClientFactory
from tests.web.kit import FakeHost
from vpt.model import Role


@pytest.fixture
async def operator(client: ClientFactory) -> Client:
    """Return a client who writes and executes."""
    return await client(Role.OPERATOR)


@pytest.fixture
async def viewer(client: ClientFactory) -> Client:
    """Return a client who reads."""
    return await client(Role.VIEWER)


@pytest.fixture
async def nobody(client: ClientFactory) -> Client:
    """Return a client without token."""
    return await client(None)


@pytest.fixture
async def host(operator: Client) -> AsyncIterator[FakeHost]:
    """Return a registered host with one device that answers at once."""
    host = FakeHost()
    host.gate.set()
    server = await host.join(operator)
    yield host
    host.gate.set()
    await server.close()
