"""Cancelling tasks, some of which suppress a cancel: python-socketio's client has such tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

#: Seconds to wait for cancelled tasks; seconds between the rounds of `cancel_all_tasks`, rounds.
_TIMEOUT, _BETWEEN_ROUNDS, _ROUNDS = 1.0, 0.1, 10


async def cancel_and_wait(tasks: Iterable[asyncio.Task[Any]], limit_s: float = _TIMEOUT) -> None:
    """Cancel tasks and wait for them, `limit_s` seconds at most: one may suppress its cancel."""
    ending = set(tasks)
    for task in ending:
        task.cancel()
    done, _ = await asyncio.wait(ending, timeout=limit_s)
    await asyncio.gather(*done, return_exceptions=True)


async def cancel_all_tasks() -> None:
    """Cancel all other tasks, several times, so that the loop can close.

    asyncio.run cancels once and would wait for ever for a task that suppressed it.
    """
    for _ in range(_ROUNDS):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left:
            return
        await cancel_and_wait(left, _BETWEEN_ROUNDS)
