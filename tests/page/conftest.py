"""One server, one browser and the hosts of a lab for all tests of a module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest_asyncio
from playwright.async_api import Browser

from tests.actors.fake_host import FakeHost
from tests.conftest import TEMPLATE, Postgres, other_database
from tests.system.kit import Process, client, joined, open_folder, server

from .kit import chromium

_NAME = "vpt_page"
_once = pytest_asyncio.fixture(scope="module", loop_scope="module")


@_once
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as one:
        yield one


@_once
async def folder() -> AsyncIterator[Path]:
    with open_folder() as path:
        yield path


@_once
async def vpt(postgres: Postgres, folder: Path) -> AsyncIterator[Process]:
    """Run the server, on a database of its own."""
    await postgres.statement(f"CREATE DATABASE {_NAME} TEMPLATE {TEMPLATE}")
    settings = {
        "DATABASE_URL": other_database(postgres.dsn, _NAME),
        "HOST_PROBE_INTERVAL": 0.3,
        "HOST_PROBE_TIMEOUT": 0.6,
        "HOST_LOST_AFTER": 3,
        "CANCEL_GRACE": 1,
    }
    async with server(folder, **settings) as one:
        yield one
        assert "Traceback" not in one.said()
    await postgres.statement(f"DROP DATABASE {_NAME} WITH (FORCE)")


@_once
async def api(vpt: Process) -> AsyncIterator[aiohttp.ClientSession]:
    """Talk to the server as an admin."""
    async with client(vpt) as session:
        yield session


@_once
async def tv(api: aiohttp.ClientSession) -> AsyncIterator[FakeHost]:
    """Let a host join that does what a test says."""
    async with joined(api, FakeHost("tvs", ("tv1", "tv2"))) as host:
        yield host
        await asyncio.sleep(0)
