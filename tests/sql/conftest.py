"""One database for each module; no test leaves anything in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tests.conftest import Postgres
from tests.sql.kit import everything, make_database


@dataclass(frozen=True)
class Seeded:
    """A connection to a small lab with a row for each state, and the query of all its rows."""

    connection: Any
    everything: str


@pytest.fixture(scope="module")
def seeded_dsn(postgres: Postgres) -> str:
    """Return the DSN of that lab."""
    return make_database(postgres, "seed.sql")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seeded(seeded_dsn: str) -> AsyncIterator[Seeded]:
    """Return the lab, connected."""
    connection = await asyncpg.connect(seeded_dsn)
    yield Seeded(connection, await everything(connection))
    await connection.close()
