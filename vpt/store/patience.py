"""Work that must reach the database, however long it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from vpt.errors import DatabaseAwayError, SlowStatementError

log = structlog.get_logger(__name__)

T = TypeVar("T")
#: Seconds between tries: the first pause, and the longest, as each is twice the one before.
_FIRST, _LONGEST = 0.05, 1.0
#: Tries in a row of a statement that is too slow while others are not: no repeat will cure it. In a
#: row, since a database that comes and goes makes any statement look slow now and then. Ten minutes
#: of them, since a disk may stand still for long, while what is in memory is still read.
_SLOW_TRIES = 100


async def patiently(what: str | None, work: Callable[[], Awaitable[T]], **fields: object) -> T:
    """Return what `work` returns, trying again while the database is away.

    `work` must be harmless when it is repeated. `what` and `fields` go to the log; with None it is
    not logged, where so many wait that their lines would hide the others. Raises what no repeat
    can cure: any other error, and SlowStatementError when it stays too slow.
    """
    pause, slow = _FIRST, 0
    while True:
        try:
            return await work()
        except SlowStatementError:
            slow += 1
            if slow == _SLOW_TRIES:
                raise
        except DatabaseAwayError:
            slow = 0
        if what is not None:
            log.warning("record_waits_for_database", record=what, **fields)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST)
