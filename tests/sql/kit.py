"""Databases of these tests, and what a statement changed in one."""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from tests.conftest import TEMPLATE, Postgres, other_database
from vpt.store.db import Query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HERE = Path(__file__).parent
Rows = dict[str, dict[str, Any]]
_numbers = itertools.count(1)

_TABLES = """
    SELECT c.relname AS name, coalesce((
            SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.position)
            FROM pg_index i
            CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, position)
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
            WHERE i.indrelid = c.oid AND i.indisprimary
        ), 'ctid') AS key
    FROM pg_class c
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
    ORDER BY c.relname
"""


def make_database(postgres: Postgres, *files: str) -> str:
    """Create a migrated database with the rows of these files; return its DSN."""
    name = f"vpt_sql_{next(_numbers)}"
    dsn = other_database(postgres.dsn, name)

    async def make() -> None:
        await postgres.statement(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        connection = await asyncpg.connect(dsn)
        for file in files:
            await connection.execute((HERE / file).read_text(encoding="utf-8"))
        await connection.close()

    asyncio.run(make())
    return dsn


@asynccontextmanager
async def undone(connection: Any) -> AsyncIterator[None]:
    """Roll back what is changed within."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def run(connection: Any, query: Query, args: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Run a named query; return its rows."""
    return [tuple(row) for row in await connection.fetch(query.sql, *query.bind(args))]


async def everything(connection: Any) -> str:
    """Build the query of each row of each table, by the table's name and the row's primary key."""
    return " UNION ALL ".join(
        f"SELECT concat_ws(' ', '{table['name']}', {table['key']}), to_jsonb(t)::text"
        f' FROM "{table["name"]}" t'
        for table in await connection.fetch(_TABLES)
    )


async def all_rows(connection: Any, query: str) -> Rows:
    """Run the query that `everything` built."""
    return {key: json.loads(row) for key, row in await connection.fetch(query)}


async def changes(connection: Any, before: Rows, after: Rows) -> dict[str, Any]:
    """Compare two states: a changed row with its new values, "new" or "gone"."""
    now = await connection.fetchval("SELECT now()")
    differences: dict[str, Any] = dict.fromkeys(before.keys() - after.keys(), "gone")
    differences |= dict.fromkeys(after.keys() - before.keys(), "new")
    for key in before.keys() & after.keys():
        old, new = before[key], after[key]
        changed = {
            column: _told(value, now) for column, value in new.items() if value != old[column]
        }
        if changed:
            differences[key] = changed
    return differences


def _told(value: Any, now: datetime) -> Any:
    """Return a time as seconds from now, all else as it is."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return value
    return f"now {(moment - now).total_seconds():+.0f} s" if moment != now else "now"
