"""Who is cancelled while he waits for the database is cancelled: a stop must not hang."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from tests.actors.fake_host import until
from vpt.store.db import POOL_SIZE, Database


async def test_a_cancel_at_the_moment_of_a_turn_is_not_lost(db: Database) -> None:
    lost = [ticks for ticks in range(4) if await _is_lost(db, ticks)]
    assert lost == []


async def _is_lost(db: Database, ticks: int) -> bool:
    """Cancel somebody so many rounds of the loop after his turn has come."""

    async def work() -> None:
        async with db.session():
            await asyncio.Event().wait()

    async with AsyncExitStack() as others:
        for _ in range(POOL_SIZE):
            await others.enter_async_context(db.session())
        task = asyncio.create_task(work())
        await until(lambda: db._pool._turns._waiters)
        db._pool._turns.release()
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=0.5)
        task.cancel()
        await asyncio.wait([task])
        await db._pool._turns.acquire()
    return not done
