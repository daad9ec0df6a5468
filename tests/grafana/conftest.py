"""A connection of Grafana's: the role that may only read, on the test's own database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import pytest

from vpt.config import Config
from vpt.store.grafana_role import ROLE, prepare

PASSWORD = 'it\'s $only to "read"'


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    """Give settings with the role's password."""
    return Config(vpt_data_dir=tmp_path, vpt_grafana_db_password=PASSWORD)


def as_role(dsn: str, password: str = PASSWORD) -> str:
    """Give the DSN with which Grafana would come."""
    parts = urlsplit(dsn)
    server = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{ROLE}:{quote(password, safe='')}@{server}"))


@pytest.fixture
async def owner(dsn: str) -> AsyncIterator[Any]:
    """Give a connection that may write."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def reader(dsn: str, settings: Config) -> AsyncIterator[Any]:
    """Give a connection as Grafana has it."""
    assert await prepare(dsn, replace(settings, server_url="https://vpt.example"))
    connection = await asyncpg.connect(as_role(dsn))
    yield connection
    await connection.close()
