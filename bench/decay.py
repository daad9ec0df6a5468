"""Whether the records of executions become slower while a new database fills.

All that a run stores goes through the product's own ledger, from the queue to the end, for as many
devices at once as there are lanes; no host, no server. A plan that was made while the tables were
empty and reads one whole shows as a rate that falls.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil
import structlog
from cpu import used

from vpt import embedded
from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.ledger import Ledger, Shared
from vpt.model import Answer, ExecutionStatus, RunSpec, StepStatus
from vpt.store.db import Database
from vpt.store.migrations import migrate

STEPS = 10
SPAN = 20.0  # seconds; the last span is compared with the first
MOST = (
    1.5  # times the processor time of the first span; more fails. The rate depends on the machine
)
PASSED = Answer(success=True, output="ok")


@dataclass(frozen=True)
class Span:
    """Executions that ended in a second, and what each cost the database (ms of processor)."""

    rate: float
    db_ms: float


async def queue(db: Database, execution_id: str) -> None:
    """Store an execution as a client's request does."""
    await db.row(
        "insert_execution",
        id=execution_id,
        test_case_id="case",
        test_case_name="case",
        test_case_version=1,
        device_model="phone",
        requirements=[],
        steps=[{"command": "tap"}] * STEPS,
        actions=["tap"] * STEPS,
        parameters={},
        timeout_s=None,
        test_retries=0,
        wanted_device_id=None,
        wanted_host_id=None,
        priority=50,
        queue_timeout_s=60.0,
        requested_by="bench",
        campaign_execution_id=None,
        secret_steps=None,
        sealed_values=None,
        device_models=[],
    )


def finished(device_id: str, spec: RunSpec, step: int) -> fx.StoreStep:
    """Build the record of a step that passed."""
    return fx.StoreStep(
        device_id=device_id,
        key=m.StepKey(spec.execution_id, spec.attempt, step, 1),
        status=StepStatus.PASSED,
        answer=PASSED,
        error=None,
        duration_ms=1.0,
        seq=spec.seq + step,
        next_action="tap" if step < STEPS else None,
    )


async def execute(db: Database, ledger: Ledger, device_id: str) -> None:
    """Store one execution from the queue to its end."""
    execution_id = uuid4().hex
    await queue(db, execution_id)
    begun = await ledger.start_attempt(fx.StoreAttempt(execution_id, device_id))
    if not isinstance(begun, m.AttemptStored):
        raise TypeError(begun)
    for step in range(1, STEPS + 1):
        await ledger.finish_step(finished(device_id, begun.spec, step), None)
    end = fx.StoreEnd(
        device_id=device_id,
        spec=begun.spec,
        status=ExecutionStatus.COMPLETED,
        kind=None,
        error=None,
        again=False,
        release=True,
        at=STEPS,
        step=None,
        seq=begun.spec.seq + STEPS + 1,
    )
    await ledger.end_attempt(end)


async def postmaster(db: Database) -> int:
    """Return the process id of the server, below which all its processes are."""
    async with db.session() as session:
        backend = await session._connection.fetchval("SELECT pg_backend_pid()")  # noqa: SLF001
    return int(psutil.Process(backend).ppid())


async def measure(dsn: str, lanes: int, spans: int) -> list[Span]:
    """Run executions in all lanes; return what each span of `SPAN` seconds brought."""
    db = Database(dsn)
    await db.open()
    pid = await postmaster(db)
    shared, ended = Shared(db), 0

    async def work(number: int) -> None:
        nonlocal ended
        ledger = Ledger(shared, f"host-{number}")
        while True:
            await execute(db, ledger, f"device-{number}")
            ended += 1

    workers = [asyncio.create_task(work(number)) for number in range(lanes)]
    found, before = [], (0, used(pid))
    for _ in range(spans):
        await asyncio.wait(workers, timeout=SPAN)
        now = (ended, used(pid))
        count = now[0] - before[0]
        found.append(Span(count / SPAN, 1000 * (now[1] - before[1]) / count))
        print(f"{found[-1].rate:6.1f} executions/s, {found[-1].db_ms:5.2f} db ms each")
        before = now
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    await db.close()
    return found


async def main(lanes: int, spans: int) -> int:
    """Measure on a database of its own; return the exit code."""
    structlog.configure(processors=[], logger_factory=structlog.ReturnLoggerFactory())
    folder = Path(tempfile.mkdtemp(prefix="vpt-decay-"))
    server = await embedded.start(folder)
    try:
        await migrate(server.dsn)
        found = await measure(server.dsn, lanes, spans)
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    rate, cost = found[-1].rate / found[0].rate, found[-1].db_ms / found[0].db_ms
    print(f"last beside first {SPAN:.0f} s: {rate:.2f} of the rate, {cost:.2f} of the db ms each")
    return 0 if cost <= MOST else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=4, help=f"of {SPAN:.0f} s each")
    parser.add_argument("--lanes", type=int, default=50)
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.lanes, options.spans)))
