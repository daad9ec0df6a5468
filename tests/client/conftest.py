"""Fixtures of the command line: a server with one host, and a token for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import TestServer

from tests.client.kit import Cli
from tests.conftest import Client, ClientFactory, token
from tests.web.kit import FakeHost
from vpt.model import Json, Role


@pytest.fixture
async def operator(client: ClientFactory) -> Client:
    """Return a client with the role operator."""
    return await client(Role.OPERATOR)


def _answer(action: Json) -> Json:
    """Return the response that the step asks for."""
    return {"success": action.get("success", True), **action.get("answers", {})}


@pytest.fixture
async def host(operator: Client) -> AsyncIterator[FakeHost]:
    """Yield a registered host with one device, which answers as its steps ask for."""
    host = FakeHost(answer=_answer)
    host.gate.set()
    server = await host.join(operator)
    yield host
    host.gate.set()
    await server.close()


@pytest.fixture
def vpt(server: TestServer) -> Cli:
    """Return the command line for this server, with the role operator."""
    return Cli(str(server.make_url("/")).rstrip("/"), token())
