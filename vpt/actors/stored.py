"""Sends the actors of hosts what the database has of these."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from vpt.actors import messages as m
from vpt.actors.restore import Keys, away_of, device_of, host_of
from vpt.actors.supervisor import Supervisor
from vpt.model import Device, Host
from vpt.store.db import Database


@dataclass(frozen=True, slots=True)
class StoredHost:
    """A host as the database has it."""

    host: Host
    devices: tuple[Device, ...]
    away: Mapping[str, str]  # why, by id, of those that the host says are not available
    draining: bool
    credential_ended: bool


class StoredHosts:
    """Reads hosts, and sends their actors what it read, under the host's lock."""

    def __init__(self, db: Database, supervisor: Supervisor, keys: Keys) -> None:
        self._db = db
        self._supervisor = supervisor
        self._keys = keys

    async def send_registration(self, host_id: str) -> None:
        """Send an actor that its host registered, with all that is stored of it."""
        async with self.reading(host_id) as stored:
            # A new actor begins with the rows, so it need not be told of them.
            if stored is not None and not await self._supervisor.load(host_id):
                await self._supervisor.inform(
                    host_id, lambda ask: m.Register(ask, stored.host, stored.devices, stored.away)
                )
                self._tell_ended(host_id, stored)

    async def send_all(self, host_id: str) -> None:
        """Send an actor all that is stored, some time after the host registered.

        It does not get `Register` any more: that means that the host has just started, so that
        nothing acts on its devices, and one might be given out on which a step still acts.
        """
        async with self.reading(host_id) as stored:
            if stored is not None and not await self._supervisor.load(host_id):
                self._supervisor.tell(host_id, m.ChangeHost(stored.host))
                await self._supervisor.inform(
                    host_id, lambda ask: m.ChangeDevices(ask, stored.devices)
                )

    def _tell_ended(self, host_id: str, stored: StoredHost) -> None:
        """Put a host out again whose token was revoked while it registered with it."""
        if stored.credential_ended:
            self._supervisor.tell(host_id, m.CredentialEnded())

    async def send_host(self, host_id: str) -> None:
        """Send an actor what people changed of the host."""
        async with self.reading(host_id) as stored:
            if stored is not None:
                self._supervisor.tell(host_id, m.ChangeHost(stored.host))

    async def send_devices(self, host_id: str) -> None:
        """Send an actor the devices as they are stored."""
        async with self.reading(host_id) as stored:
            if stored is not None:
                await self._supervisor.inform(
                    host_id, lambda ask: m.ChangeDevices(ask, stored.devices)
                )

    async def send_draining(self, host_id: str) -> None:
        """Send an actor whether its host drains."""
        async with self.reading(host_id) as stored:
            if stored is not None:
                await self._supervisor.inform(host_id, lambda ask: m.Drain(ask, stored.draining))

    @asynccontextmanager
    async def reading(self, host_id: str) -> AsyncIterator[StoredHost | None]:
        """Read a host, under its lock until the caller has sent its actor what it read.

        So of two changes the actor never gets the older one last.
        """
        async with self._supervisor.lock(host_id):
            async with self._db.session() as session:
                row = await session.row("lab_host", id=host_id)
                devices = await session.rows("lab_devices", host_ids=[host_id])
            if row is None:
                yield None
            else:
                yield StoredHost(
                    host_of(row, self._keys),
                    tuple(map(device_of, devices)),
                    {item["id"]: away for item in devices if (away := away_of(item)) is not None},
                    row["draining"],
                    row["credential_ended"],
                )
