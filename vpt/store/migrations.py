"""The schema: brought up to date at the start, without making anybody wait for long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import structlog

from vpt.errors import DatabaseBusyError
from vpt.store.connect import SETTING, connect
from vpt.store.db import SQL, translated
from vpt.store.locks import LockWatch, holders_of_advisory_lock, in_words
from vpt.store.requirements import check_schema, check_server

log = structlog.get_logger(__name__)

GRAFANA_ROLE = "vpt_grafana"
#: Seconds in which all locks of the schema must have been got, and between two tries.
PATIENCE, _PAUSE = 120.0, 2.0
#: Who reads a table queues behind a migration that waits for it, so it waits for a moment only.
_LOCK_TIMEOUT = "2s"
_ADVISORY_LOCK = 0x767074  # "vpt": of versions of vpt that do not lock the table
_SETTINGS = """
    SET LOCAL lock_timeout = '{lock_timeout}';
    SET LOCAL statement_timeout = 0;
    SET LOCAL idle_in_transaction_session_timeout = 0
"""
_TABLE = (
    "CREATE TABLE IF NOT EXISTS schema_migrations ("
    " name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
)
_LOCK = "LOCK TABLE schema_migrations IN SHARE ROW EXCLUSIVE MODE"
_MADE_TWICE = (asyncpg.UniqueViolationError, asyncpg.DuplicateTableError)


class SchemaLockedError(Exception):
    """Another vpt is changing the schema; the message is who, as a part of a sentence."""


def migrations() -> list[Path]:
    """Return the files of sql/migrations in their order."""
    return sorted((SQL / "migrations").glob("*.sql"))


async def migrate(dsn: str, *, setting: str = SETTING) -> list[str]:
    """Apply new migrations, one process at a time; return the names applied.

    Raises UnsuitableDatabaseError, DatabaseAwayError, DatabaseBusyError that names who holds a
    lock, or PostgreSQL's own error. `setting` is the one that names the database.
    """
    connection = await connect(dsn, setting=setting, name="vpt migrations")
    try:
        async with translated():
            await check_server(connection, setting)
            return await _apply_patiently(dsn, connection, setting)
    finally:
        await connection.close(timeout=2)


async def _apply_patiently(dsn: str, connection: Any, setting: str) -> list[str]:
    """Apply migrations; give their locks back and try again while somebody else is in the way."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE
    while True:
        async with LockWatch(dsn, connection) as watch:
            try:
                return await _checked_and_applied(connection, setting)
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                held_by = watch.words()
            except SchemaLockedError as error:
                held_by = str(error)
        if loop.time() >= until:
            raise DatabaseBusyError(
                f"The schema could not be brought up to date within {PATIENCE:.0f} s, since a lock"
                f" is held by {held_by}: end that, then start again."
            )
        log.warning("migration_waits", held_by=held_by)
        await asyncio.sleep(_PAUSE)


async def _checked_and_applied(connection: Any, setting: str) -> list[str]:
    files = migrations()
    async with connection.transaction():
        await _bound_locks(connection)
        await check_schema(connection, {path.stem for path in files}, setting)
        return await apply(connection, files)


async def _bound_locks(connection: Any) -> None:
    """Let this transaction wait for a lock for a moment only."""
    await connection.execute(_SETTINGS.format(lock_timeout=_LOCK_TIMEOUT))


async def apply(connection: Any, files: Sequence[Path]) -> list[str]:
    """Apply those of `files` that the database does not have; return their names."""
    async with connection.transaction():
        await _bound_locks(connection)
        await lock_schema(connection)
        rows = await connection.fetch("SELECT name FROM schema_migrations")
        known = {row["name"] for row in rows}
        new = [path for path in files if path.stem not in known]
        for path in new:
            await connection.execute(path.read_text(encoding="utf-8"))
            await connection.execute("INSERT INTO schema_migrations VALUES ($1)", path.stem)
            log.info("migration_applied", migration=path.stem)
    return [path.stem for path in new]


async def lock_schema(connection: Any) -> None:
    """Lock the list of migrations until the end of the transaction; SchemaLockedError.

    Unlike an advisory lock it cannot be taken by roles that may only read.
    """
    try:
        async with connection.transaction():
            await connection.execute(_TABLE)
    except _MADE_TWICE:  # by another process at the same moment
        await connection.execute(_TABLE)
    await connection.execute(_LOCK)
    if await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _ADVISORY_LOCK):
        return
    holders = await holders_of_advisory_lock(connection, _ADVISORY_LOCK)
    if others := [holder for holder in holders if holder.user != GRAFANA_ROLE]:
        raise SchemaLockedError(in_words(others))
