"""Fixtures of the host's tests."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .kit import Caller, FakeServer, running


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    fake = FakeServer()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def host(server: FakeServer, tmp_path: Path) -> AsyncIterator[Caller]:
    async with running(server, tmp_path / "data") as caller:
        yield caller
    left = {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    assert not {name for name in left if name.startswith(("lane", "action", "key", "journal"))}
