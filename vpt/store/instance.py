"""One server a database: a row with the server's id and expiry, renewed while it lives.

Its clock also runs while the machine is suspended: a server that wakes up after its claim ran out
does nothing until it knows whether another one took over.
"""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import structlog

from vpt.errors import DatabaseAwayError
from vpt.store.db import Database
from vpt.upkeep import attempt

log = structlog.get_logger(__name__)

TTL = 12.0  # seconds; a killed server's row is free after that
WAIT = 15.0  # seconds that a second start waits
RENEW = 5.0  # seconds
AWAY = 0.5  # seconds between tries while the database is away
ENDING = 0.05  # seconds between looks whether the sessions of servers before have ended
MARGIN = 1.0  # seconds before the row runs out from which on nothing more is done


#: The clock that runs while the machine is suspended: on macOS it is CLOCK_MONOTONIC.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


class TakenError(Exception):
    """Another vpt server uses this database: stop it first, or give this one its own."""


class Instance:
    """The claim of this server on its database.

    `db` must not depend on `held`, or a claim that ran out could never be renewed.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._id = uuid4().hex
        self._until = 0.0  # of _CLOCK, in seconds
        self._taken = False
        self._pause = RENEW  # seconds to the next renewal

    @property
    def session_name(self) -> str:
        """The application_name of this server's sessions, by which a successor ends them."""
        return f"vpt server {self._id}"

    def held(self) -> bool:
        """Return whether no other server can have taken the database over."""
        return _now() < self._until

    async def claim(self, *, alone: bool) -> None:
        """Acquire the row and end the sessions of servers before; TakenError when that takes long.

        `alone`: no other server can be alive.
        """
        if alone:
            await self._db.row("clear_instance")
        loop = asyncio.get_running_loop()
        until = loop.time() + WAIT
        while not await self._ask("claim_instance"):
            if loop.time() >= until:
                raise TakenError(TakenError.__doc__)
            await asyncio.sleep(0.25)
        # What the server before sent in time may still be on its way, and must not arrive now. A
        # session is only asked to end: one that waits for the disk may still commit.
        while await self._db.rows("end_other_servers", name=self.session_name):
            if not self.held():
                raise TakenError(TakenError.__doc__)
            await asyncio.sleep(ENDING)

    async def keep(self) -> None:
        """Renew the row until cancelled; TakenError when another server has it.

        Nothing else ends it: a claim that is not renewed in time makes `held` False, and when it
        is renewed after all, nobody else can have had it.
        """
        while not self._taken:
            await asyncio.sleep(self._pause)
            self._pause = AWAY  # unless it succeeds: when the database is back, another server
            await attempt(self._renew)  # may be quicker
        raise TakenError(TakenError.__doc__)

    async def _renew(self) -> None:
        try:
            self._taken = not await self._ask("renew_instance")
        except DatabaseAwayError:
            log.warning("database_away")
        else:
            self._pause = RENEW

    async def drop(self) -> None:
        """Delete the row, so that another server need not wait."""
        await self._db.row("drop_instance", id=self._id)

    async def _ask(self, query: str) -> bool:
        asked = _now()
        if await self._db.row(query, id=self._id, ttl_s=TTL) is None:
            return False
        self._until = asked + TTL - MARGIN
        return True


def _now() -> float:
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)
