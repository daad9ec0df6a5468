"""One server a database: a row with the server's id and expiry, renewed while it lives.

Its clock also runs while the machine is suspended: a server that wakes up after its claim ran out
does nothing until it knows whether another one took over.
"""

from __future__ import annotations

import asyncio
import math
import time
from uuid import uuid4

import structlog

from vpt.errors import DatabaseAwayError
from vpt.store.db import Database
from vpt.store.locks import holders_of, in_words
from vpt.upkeep import attempt

log = structlog.get_logger(__name__)

TTL = 12.0  # seconds; a killed server's row is free after that
WAIT = 15.0  # seconds that a second start waits
RENEW = 5.0  # seconds
AWAY = 0.5  # seconds between tries while the database is away
AWAY_LIMIT = 30.0  # seconds in which a database that went away while a claim waits must be back
_LOOK = 0.25  # seconds between looks whether the claim is free
_TAKEN = "Another vpt server uses this database"
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
        self._refused: TakenError | None = None
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

        `alone`: no other server can be alive. A database that goes away meanwhile is waited for:
        it may be that of the server before, whose PostgreSQL stops with it.
        """
        loop = asyncio.get_running_loop()
        until, back_by, told = loop.time() + WAIT, math.inf, False
        while True:
            try:
                if await self._claimed(alone=alone):
                    return
                pause, back_by = _LOOK, math.inf
                if loop.time() >= until:
                    raise await self._taken()
                if not told:
                    log.warning("claim_waits", held_by=await self._holders())
                    told = True
            except DatabaseAwayError:
                pause, back_by = AWAY, min(back_by, loop.time() + AWAY_LIMIT)
                if loop.time() >= back_by:
                    raise
                log.warning("database_away")
            await asyncio.sleep(pause)

    async def _claimed(self, *, alone: bool) -> bool:
        if alone:
            await self._db.row("clear_instance")
        if not await self._ask("claim_instance"):
            return False
        await self._end_others()
        return True

    async def _holders(self) -> str:
        return in_words(holders_of(await self._db.rows("claim_holders")))

    async def _taken(self) -> TakenError:
        """Return the error that says who has the claim."""
        words = f"{_TAKEN} ({await self._holders()})"
        return TakenError(f"{words}: stop it first, or give this one its own.")

    async def _end_others(self) -> None:
        """End the sessions of servers before; TakenError when the claim runs out meanwhile."""
        # What the server before sent in time may still be on its way, and must not arrive now. A
        # session is only asked to end: one that waits for the disk may still commit.
        while await self._db.rows("end_other_servers", name=self.session_name):
            if not self.held():
                raise await self._taken()
            await asyncio.sleep(ENDING)

    async def keep(self) -> None:
        """Renew the row until cancelled; TakenError when another server has it.

        Nothing else ends it: a claim that is not renewed in time makes `held` False, and when it
        is renewed after all, nobody else can have had it.
        """
        while self._refused is None:
            await asyncio.sleep(self._pause)
            self._pause = AWAY  # unless it succeeds: when the database is back, another server
            await attempt(self._renew)  # may be quicker
        raise self._refused

    async def _renew(self) -> None:
        try:
            if not await self._ask("renew_instance"):
                self._refused = await self._taken()
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
