"""How long the loop was held: measured by the processor time of its thread.

So what other processes take of a loaded machine does not count.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import thread_time

SHORTEST = 0.001  # seconds between two looks


@asynccontextmanager
async def looks() -> AsyncIterator[list[float]]:
    """Collect how long (s) the loop's thread worked between two looks, sorted at the end."""
    found: list[float] = []

    async def look() -> None:
        while True:
            before = thread_time()
            await asyncio.sleep(SHORTEST)
            found.append(thread_time() - before)

    looking = asyncio.create_task(look())
    try:
        yield found
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        found.sort()
