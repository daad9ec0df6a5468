"""Who is cancelled while he waits for the database is cancelled: a stop must not hang."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from vpt.db import POOL_SIZE, Database


@pytest.mark.parametrize("ticks", range(6))
async def test_a_cancel_at_the_moment_of_a_turn_is_not_lost(db: Database, ticks: int) -> None:
    async def work() -> None:
        async with db.session():
            await asyncio.sleep(60)

    async with AsyncExitStack() as stack:
        first = AsyncExitStack()
        await first.enter_async_context(db.session())
        for _ in range(POOL_SIZE - 1):
            await stack.enter_async_context(db.session())
        task = asyncio.create_task(work())
        await asyncio.sleep(0.05)  # it waits for its turn
        db._turns.release()
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=2)
        lost = not done
        task.cancel()
        await asyncio.wait([task])
        await db._turns.acquire()
        await first.aclose()
    assert not lost
