"""Every named query against a real PostgreSQL, and the migrations."""

from __future__ import annotations

import asyncio

import asyncpg

from vpt.store.db import SQL, read_queries
from vpt.store.migrations import migrate


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


async def test_what_ended_before_the_replay_gets_its_final_event(empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    try:
        for name in ("0001_foundation", "0002_test_case_item"):
            await connection.execute((SQL / "migrations" / f"{name}.sql").read_text())
        await connection.execute(_OLD_HISTORY)
        await connection.execute((SQL / "migrations" / "0003_replay.sql").read_text())
        rows = await connection.fetch(
            "SELECT id, end_step, end_step_status FROM test_executions ORDER BY id"
        )
        assert [tuple(row) for row in rows] == [
            ("lost", 2, "error"),
            ("passed", 2, None),
            ("queued", 0, None),
            ("runs", 0, None),
        ]
    finally:
        await connection.close()


_OLD_HISTORY = """
    INSERT INTO test_executions (id, test_case_id, test_case_name, test_case_version, device_model,
        steps, actions, queue_timeout_s, requested_by, status, error_kind, attempt, host_id, seq,
        completed_at)
    SELECT id, 't', 't', 1, 'm', '[]', '{a,b}', 1, 'ann', status, kind, attempt, host, 1, ended
    FROM (VALUES
        ('lost', 'error', 'host_lost', 2, 'h', now()), ('passed', 'completed', NULL, 1, 'h', now()),
        ('queued', 'error', 'queue_timeout', 1, NULL, now()),
        ('runs', 'running', NULL, 1, 'h', NULL)
    ) AS e (id, status, kind, attempt, host, ended);
    INSERT INTO execution_attempts (execution_id, attempt, host_id, device_id, seq, status,
        completed_at, released_at)
    SELECT execution_id, attempt, 'h', 'd' || execution_id, 1, status, ended, ended
    FROM (VALUES
        ('lost', 1, 'error', now()), ('lost', 2, 'error', now()), ('passed', 1, 'completed', now()),
        ('queued', 1, 'error', now()), ('runs', 1, 'running', NULL)
    ) AS a (execution_id, attempt, status, ended);
    INSERT INTO execution_steps (execution_id, attempt, step, action, status, seq)
    VALUES ('lost', 1, 1, 'a', 'error', NULL), ('lost', 2, 1, 'a', 'passed', 3),
        ('lost', 2, 2, 'b', 'error', NULL), ('passed', 1, 1, 'a', 'passed', 2),
        ('passed', 1, 2, 'b', 'passed', 3), ('queued', 1, 1, 'a', 'error', NULL),
        ('runs', 1, 1, 'a', 'passed', 2), ('runs', 1, 2, 'b', 'running', NULL)
"""


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
