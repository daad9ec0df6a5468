"""Leases: a person has a device for a while, and no run or other person gets it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any
from uuid import uuid4

import structlog

from vpt.actors import messages as m
from vpt.actors.supervisor import Supervisor
from vpt.background import each
from vpt.errors import ConflictError, LockedError, NotFoundError
from vpt.store.db import Database

log = structlog.get_logger(__name__)


class Leases:
    """Leases devices to people.

    A lease is on the device's lane first and in the database second: the actor decides who gets a
    device, so a run and a lease never meet. Where the database did not answer, the two may differ
    until `sweep` has made them equal.
    """

    def __init__(
        self, db: Database, supervisor: Supervisor, *, check_open: Callable[[], None]
    ) -> None:
        self._db = db
        self._supervisor = supervisor
        self._check_open = check_open
        self._unwanted: set[str] = set()  # may be in the database, and must not
        #: Lease to host and device: may end on the lane at another time than in the database.
        self._unclear: dict[str, tuple[str, str]] = {}

    async def take(self, device_id: str, holder: str, ttl_s: float) -> Any:
        """Lease a device to a person, or renew their lease; return the lease's row.

        Raises NotFoundError, LockedError when another person has it, ConflictError while a run
        holds it.
        """
        self._check_open()
        host_id = await self._host_of(device_id)
        # An actor that is started again meanwhile must not read the leases before this is stored.
        async with self._supervisor.lock(host_id):
            row = await self._take(host_id, device_id, holder, ttl_s)
        log.info("device_leased", device_id=device_id, holder=holder, ttl_s=ttl_s)
        return row

    async def _take(self, host_id: str, device_id: str, holder: str, ttl_s: float) -> Any:
        lease_id = new = f"lease_{uuid4().hex}"
        try:
            lease_id = await self._supervisor.ask(
                host_id, lambda ask: m.TakeLease(ask, device_id, new, holder, ttl_s)
            )
            row = await self._db.row(
                "store_lease", id=lease_id, device_id=device_id, holder=holder, ttl_s=ttl_s
            )
        except BaseException:  # a lease that is not stored must not hold a device
            if lease_id == new:
                self._supervisor.tell(host_id, m.LeaseOver(device_id, new))
                self._unwanted.add(new)
            else:
                self._unclear[lease_id] = (host_id, device_id)
            raise
        if row is None:  # the database knows of another holder
            self._supervisor.tell(host_id, m.LeaseOver(device_id, new))
            raise LockedError
        return row

    async def end(self, device_id: str, user_id: str, *, anybodys: bool) -> None:
        """End a lease; NotFoundError without one, LockedError when it is another person's."""
        host_id = await self._host_of(device_id)
        row = await self._db.row("lease_of", device_id=device_id)
        if row is None:
            raise NotFoundError("Nobody leases the device.")
        if row["holder"] != user_id and not anybodys:
            raise LockedError
        # An actor that is being started may have read the row: it must not miss its end.
        async with self._supervisor.lock(host_id):
            await self._end(host_id, device_id, row["id"])

    async def _end(self, host_id: str, device_id: str, lease_id: str) -> None:
        try:
            await self._db.row("end_lease", id=lease_id)
        except BaseException:  # the row may be gone, and then nothing could end the lease again
            self._unwanted.add(lease_id)
            raise
        finally:
            self._supervisor.tell(host_id, m.LeaseOver(device_id, lease_id))

    async def _host_of(self, device_id: str) -> str:
        row = await self._db.row("device_host", id=device_id)
        if row is None:
            raise NotFoundError("There is no such device.")
        if row["host_id"] is None:
            raise ConflictError("The device has no host: nothing could drive it.")
        host_id: str = row["host_id"]
        return host_id

    async def sweep(self) -> None:
        """Delete leases that ran out, and those whose holders were told that they have none."""
        await self._db.row("drop_old_leases")
        for lease_id in tuple(self._unwanted):
            await self._db.row("end_lease", id=lease_id)
            self._unwanted.discard(lease_id)
        await each(
            partial(self._clear_up, lease_id, *place)
            for lease_id, place in tuple(self._unclear.items())
        )

    async def _clear_up(self, lease_id: str, host_id: str, device_id: str) -> None:
        # A renewal between this read and the lane would be overwritten by what was read.
        async with self._supervisor.lock(host_id):
            await self._set_as_stored(lease_id, host_id, device_id)
        self._unclear.pop(lease_id, None)

    async def _set_as_stored(self, lease_id: str, host_id: str, device_id: str) -> None:
        """Set on the lane how long a lease lasts in the database: its renewal may not be stored."""
        row = await self._db.row("lease_of", device_id=device_id)
        if row is None or row["id"] != lease_id:
            self._supervisor.tell(host_id, m.LeaseOver(device_id, lease_id))
            return
        holder, seconds = row["holder"], row["seconds"]
        with suppress(NotFoundError, ConflictError, LockedError):
            await self._supervisor.ask(
                host_id, lambda ask: m.TakeLease(ask, device_id, lease_id, holder, seconds)
            )
