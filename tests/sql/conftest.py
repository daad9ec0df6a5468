"""One database for each module; no test leaves anything in it."""

from __future__ import annotations

import pytest

from tests.conftest import Postgres
from tests.sql.kit import make_database


@pytest.fixture(scope="module")
def seeded(postgres: Postgres) -> str:
    """Return the DSN of a small lab with a row for each state."""
    return make_database(postgres, "seed.sql")
