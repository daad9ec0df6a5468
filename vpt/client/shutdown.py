"""Ending tasks, some of which swallow a cancel: Socket.IO's client has such."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

#: Seconds to wait for tasks that were cancelled; how often all that is left is cancelled.
_GOODBYE, _AGAIN, _TRIES = 1.0, 0.1, 10


async def end(tasks: Iterable[asyncio.Task[Any]], limit_s: float = _GOODBYE) -> None:
    """Cancel tasks and wait for them, but not for one that swallows its cancel."""
    ending = set(tasks)
    for task in ending:
        task.cancel()
    done, _ = await asyncio.wait(ending, timeout=limit_s)
    await asyncio.gather(*done, return_exceptions=True)


async def end_all() -> None:
    """End all tasks but this one, so that the loop can close: it would wait for ever for one that
    swallowed the only cancel it gets.
    """
    for _ in range(_TRIES):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left:
            return
        await end(left, _AGAIN)
