"""Every named query against a real PostgreSQL, and the migrations."""

from __future__ import annotations

import asyncio

import asyncpg

from vpt.db import migrate, read_queries


async def test_every_query_prepares_and_takes_what_its_header_says(dsn: str) -> None:
    wrong: dict[str, str] = {}
    connection = await asyncpg.connect(dsn)
    for name, query in read_queries().items():
        try:
            taken = len((await connection.prepare(query.sql)).get_parameters())
        except asyncpg.PostgresError as error:
            wrong[name] = str(error)
            continue
        if taken != len(query.args):
            wrong[name] = f"takes {taken}, says {len(query.args)}"
    await connection.close()
    assert wrong == {}


async def test_migrating_from_nothing_works_and_twice_is_harmless(empty_dsn: str) -> None:
    assert await migrate(empty_dsn)
    assert await migrate(empty_dsn) == []


async def test_two_starters_migrate_one_after_the_other(empty_dsn: str) -> None:
    first, second = await asyncio.gather(migrate(empty_dsn), migrate(empty_dsn))
    assert bool(first) != bool(second)


async def test_the_documents_own_queries_hold(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.fetchval(
            "SELECT COUNT(CASE WHEN status = 'completed' THEN 1 END)::numeric"
            " / NULLIF(COUNT(*), 0) * 100 FROM test_executions"
            " WHERE created_at >= NOW() - INTERVAL '24 hours'"
        )
    finally:
        await connection.close()
