"""Work that must reach the database, however long it is away."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg
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
#: The same ten minutes for a statement that the database refuses at once: privileges, a trigger, a
#: column or a file that is missing can be put right meanwhile, and nothing is lost.
_REFUSED_TRIES = 600
#: These stay as they are, however often they are sent.
_OF_THE_VALUES = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)


async def patiently(
    what: str | None,
    work: Callable[[], Awaitable[T]],
    *,
    limit_s: float = math.inf,
    **fields: object,
) -> T:
    """Return what `work` returns, trying again while the database is away or refuses.

    `work` must be harmless when it is repeated. `what` and `fields` go to the log; with None it is
    not logged, where so many wait that their lines would hide the others. Raises what no repeat
    can cure: an error that is none of the database's, one of the values themselves, and what is
    too slow or refused for ten minutes. After `limit_s` seconds it raises whatever it is.
    """
    tries = _Tries(asyncio.get_running_loop().time() + limit_s)
    while True:
        try:
            return await work()
        except (DatabaseAwayError, asyncpg.PostgresError) as error:
            if not tries.may_go_on(error):
                raise
            if what is not None:
                told = {} if type(error) is DatabaseAwayError else {"error": str(error)}
                log.warning("record_waits_for_database", record=what, **told, **fields)
        await asyncio.sleep(tries.pause())


class _Tries:
    """How often something was tried in vain, and whether another try makes sense."""

    def __init__(self, until: float) -> None:
        self._until = until
        self._pause = _FIRST / 2
        self._slow = self._refused = 0

    def may_go_on(self, error: Exception) -> bool:
        """Count the error of a try; return whether there is to be another one."""
        if isinstance(error, _OF_THE_VALUES) or asyncio.get_running_loop().time() >= self._until:
            return False
        slow = isinstance(error, SlowStatementError)
        refused = isinstance(error, asyncpg.PostgresError)
        self._slow = self._slow + 1 if slow else 0
        self._refused = self._refused + 1 if refused else 0
        return self._slow < _SLOW_TRIES and self._refused < _REFUSED_TRIES

    def pause(self) -> float:
        """Return the seconds until the next try."""
        self._pause = min(2 * self._pause, _LONGEST)
        return self._pause
