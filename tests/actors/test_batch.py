"""Records of many hosts share a statement; one that the database refuses fails alone."""

from __future__ import annotations

import asyncio

import asyncpg

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.ledger import Shared, StepRecord
from vpt.actors.saved_pictures import SavedPictures
from vpt.model import Answer, StepStatus
from vpt.store.db import Database

MANY, BAD = 20, 7

_RUNNING = f"""
    INSERT INTO test_executions (id, test_case_id, test_case_name, test_case_version, device_model,
        steps, actions, queue_timeout_s, requested_by, status, attempt)
    SELECT 'e' || n, 't', 't', 1, 'tv', '[]', '{{a,b}}', 60, 'ann', 'running', 1
    FROM generate_series(0, {MANY - 1}) AS n
"""
_ATTEMPTS = """
    INSERT INTO execution_attempts (execution_id, attempt, host_id, device_id, seq)
    SELECT id, 1, 'h', 'd-' || id, 1 FROM test_executions
"""
_STEPS = """
    INSERT INTO execution_steps (execution_id, attempt, step, action)
    SELECT id, 1, 1, 'a' FROM test_executions
"""


def passed(number: int) -> StepRecord:
    """Build the record of the first step; the bad one's output cannot be stored."""
    output = "a \0 that no dialect lets through" if number == BAD else "fine"
    effect = fx.StoreStep(
        device_id=f"d-e{number}",
        key=m.StepKey(f"e{number}", 1, 1, 1),
        status=StepStatus.PASSED,
        answer=Answer(True, output),
        error=None,
        duration_ms=1.0,
        seq=2,
        next_action="b",
    )
    return StepRecord(effect, SavedPictures())


async def test_a_record_that_the_database_refuses_fails_alone(dsn: str, db: Database) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(_RUNNING)
    await connection.execute(_ATTEMPTS)
    await connection.execute(_STEPS)
    steps = Shared(db).steps
    results = await asyncio.gather(
        *(steps.put(passed(number)) for number in range(MANY)), return_exceptions=True
    )
    refused = [number for number, result in enumerate(results) if result is not None]
    assert refused == [BAD]
    assert isinstance(results[BAD], asyncpg.CharacterNotInRepertoireError)
    stored = await connection.fetch(
        "SELECT execution_id, step, status FROM execution_steps ORDER BY execution_id, step"
    )
    await connection.close()
    wanted = {(f"e{n}", 1, "running" if n == BAD else "passed") for n in range(MANY)}
    wanted |= {(f"e{n}", 2, "running") for n in range(MANY) if n != BAD}
    assert {tuple(row) for row in stored} == wanted
