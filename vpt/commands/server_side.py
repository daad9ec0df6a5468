"""What the commands of a server do; `cli.py` and `db.py` declare them.

This module needs `vpt[server]`: import it inside of `server_part()` only.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import IO, Any, TypeVar

import asyncpg

from vpt import logs
from vpt import serve as serving
from vpt.client.exits import InfrastructureError
from vpt.config import Config
from vpt.config.data_folder import has_home
from vpt.embedded import EmbeddedError
from vpt.embedded import start as start_embedded
from vpt.errors import DatabaseAwayError
from vpt.model import Role
from vpt.store import backup, grafana_role
from vpt.store.artifacts import Artifacts
from vpt.store.backup import BackupError, Content, Loaded
from vpt.store.db import Database
from vpt.store.instance import TakenError
from vpt.store.migrations import migrate as migrate_schema
from vpt.store.prune import Ages, Pruned, Pruning, PruningError
from vpt.store.requirements import UnsuitableDatabaseError
from vpt.store.seal import Sealer
from vpt.store.tokens import (
    HOST_NAME,
    is_dots,
    issue_token,
    listed_tokens,
    make_token,
    revoke_tokens,
)

T = TypeVar("T")
_EXPECTED = (
    BackupError,
    EmbeddedError,
    PruningError,
    DatabaseAwayError,
    TakenError,
    UnsuitableDatabaseError,
    OSError,
    asyncpg.PostgresError,
)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on uvloop where there is one; InfrastructureError when it cannot be done."""
    try:
        if sys.platform == "win32":
            return asyncio.run(work)
        import uvloop  # noqa: PLC0415 (not on Windows)

        return uvloop.run(work)
    except _EXPECTED as error:
        raise InfrastructureError(str(error) or type(error).__name__) from error


@asynccontextmanager
async def _database(settings: Config) -> AsyncIterator[str]:
    """Provide the DSN of DATABASE_URL, or of vpt's own database, which may be running already."""
    logs.setup(settings.log_format, "warning")
    set_home(settings)
    if settings.database_url is not None:
        yield settings.database_url
        return
    server = await start_embedded(settings.vpt_data_dir, bin_dir=settings.vpt_pg_bin)
    try:
        yield server.dsn
    finally:
        await server.stop()


@asynccontextmanager
async def _opened(settings: Config) -> AsyncIterator[Database]:
    """Provide the database with its schema up to date."""
    async with _database(settings) as dsn:
        await migrate_schema(dsn)
        db = Database(dsn, name=f"vpt command {os.getpid()}")
        await db.open()
        try:
            yield db
        finally:
            await db.close()


def serve(settings: Config, started: Callable[[str], None]) -> None:
    """Run the server until it is stopped; `started` is called with its URL."""
    logs.setup(settings.log_format, settings.log_level)
    keep_private()
    set_home(settings)
    run(serving.serve(settings, lambda server: started(server.url)))


def keep_private() -> None:
    """Let no other user read what this process writes from now on."""
    os.umask(0o077)


def set_home(settings: Config) -> None:
    """Set HOME when there is none: asyncpg looks for its files there, and fails without."""
    if not has_home():
        os.environ["HOME"] = str(settings.vpt_data_dir)


def user_token(settings: Config, user: str, role: Role, days: float) -> str:
    """Return a token that is signed with SECRET_KEY."""
    return issue_token(str(settings.secret_key), user, role, days)


# ---------------------------------------------------------------- migrate, prune


def migrate(settings: Config) -> int:
    """Bring the schema up to date; return how many migrations were applied."""
    return run(_migrate(settings))


async def _migrate(settings: Config) -> int:
    async with _database(settings) as dsn:
        applied = await migrate_schema(dsn)
        await grafana_role.prepare(dsn, settings)
        return len(applied)


def prune(settings: Config, *, dry_run: bool) -> list[str]:
    """Delete what is too old, or only count it; return a line for each kind."""
    counts = asdict(run(_prune(settings, dry_run=dry_run)))
    counts["megabytes"] = round(counts.pop("bytes") / 1e6, 1)
    return [f"{count:>14,} {name.replace('_', ' ')}" for name, count in counts.items()]


async def _prune(settings: Config, *, dry_run: bool) -> Pruned:
    async with _opened(settings) as db:
        pruning = Pruning(db, Artifacts(settings.vpt_data_dir), Ages.of(settings))
        return await (pruning.preview() if dry_run else pruning.prune())


# ---------------------------------------------------------------- host-token


def is_host_name(name: str) -> bool:
    """Return whether a host may have this name."""
    return HOST_NAME.fullmatch(name) is not None and not is_dots(name)


def make_host_token(settings: Config, name: str) -> str:
    """Store one more token of the host and return it."""
    return run(_with_database(settings, lambda db: make_token(db, name)))


def revoke_host_tokens(settings: Config, name: str) -> int:
    """Delete all tokens of the host; return how many there were."""
    return run(_with_database(settings, lambda db: revoke_tokens(db, name)))


def host_tokens(settings: Config) -> list[str]:
    """Return a line for each host that has tokens of its own."""
    return [
        f"{row['host_id']}  {row['tokens']}  newest {row['newest']:%Y-%m-%dT%H:%M:%SZ}"
        for row in run(_with_database(settings, listed_tokens))
    ]


async def _with_database(settings: Config, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    async with _opened(settings) as db:
        return await work(db)


# ---------------------------------------------------------------- db dump, db load


def dump(settings: Config, out: IO[bytes], *, screenshots: bool) -> Content:
    """Write all rows and, unless told otherwise, the screenshots to `out`."""
    return run(_dump(settings, out, screenshots=screenshots))


async def _dump(settings: Config, out: IO[bytes], *, screenshots: bool) -> Content:
    async with _database(settings) as dsn:
        artifacts = Artifacts(settings.vpt_data_dir)
        return await backup.dump(dsn, artifacts, out, screenshots=screenshots)


def load(settings: Config, source: IO[bytes], *, force: bool) -> Loaded:
    """Replace rows and screenshots by those of a dump, all or nothing."""
    return run(_load(settings, source, force=force))


async def _load(settings: Config, source: IO[bytes], *, force: bool) -> Loaded:
    async with _database(settings) as dsn:
        artifacts, sealer = Artifacts(settings.vpt_data_dir), Sealer(str(settings.secret_key))
        loaded = await backup.load(dsn, artifacts, source, sealer, force=force)
        await grafana_role.prepare(dsn, settings)
        return loaded
