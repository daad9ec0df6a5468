"""What the commands share: settings, the database, and one line for whatever is in the way."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg
import click

from vpt import config
from vpt.config import Config
from vpt.embedded import EmbeddedError
from vpt.embedded import start as start_embedded
from vpt.errors import DatabaseAwayError
from vpt.store.backup import BackupError
from vpt.store.instance import TakenError
from vpt.store.prune import PruningError

TROUBLE = 2  # infrastructure
USAGE = 4

Answer = TypeVar("Answer")
_TROUBLES = (
    BackupError,
    EmbeddedError,
    PruningError,
    DatabaseAwayError,
    TakenError,
    OSError,
    asyncpg.PostgresError,
)


class Trouble(click.ClickException):
    """Something around the command is in its way."""

    exit_code = TROUBLE


def run(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run to the end on the fastest loop there is; Trouble when something is in the way."""
    try:
        if sys.platform == "win32":
            return asyncio.run(work)
        import uvloop  # noqa: PLC0415 (not on Windows)

        return uvloop.run(work)
    except _TROUBLES as error:
        raise Trouble(str(error) or type(error).__name__) from error


def read_config() -> Config:
    """Read the settings and make the keys that are missing."""
    return config.with_keys(config.from_env())


@asynccontextmanager
async def database(settings: Config) -> AsyncIterator[str]:
    """Give the DSN of DATABASE_URL or of the own database, which a running server may have up."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    server = await start_embedded(settings.vpt_data_dir, bin_dir=settings.vpt_pg_bin)
    try:
        yield server.dsn
    finally:
        await server.stop()
