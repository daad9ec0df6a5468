"""Both dialects as one: each host is called in its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from vpt.dialects.base import Call, Dialect, Identity, ScreenRequest
from vpt.model import Answer, Device, Host, Json, Presence


class Dialects:
    """Passes each call to the dialect of its host."""

    def __init__(self, by_name: Mapping[str, Dialect]) -> None:
        self._by_name = by_name

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(dialect.close() for dialect in self._by_name.values()))

    async def probe(self, host: Host, limit: float) -> Identity:
        """Return who a host says it is that is alive and is itself, else raise HostTroubleError."""
        return await self._by_name[host.dialect].probe(host, limit)

    async def send(self, call: Call) -> Answer:
        """Run an action on the host; raise HostTroubleError when there is no answer."""
        return await self._by_name[call.host.dialect].send(call)

    async def show(self, host: Host, device: Device, request: ScreenRequest, limit: float) -> bytes:
        """Return what the host shows, or nothing while it is at work; else HostTroubleError."""
        return await self._by_name[host.dialect].show(host, device, request, limit)

    async def cancel(self, host: Host, execution_id: str, attempt: int, limit: float) -> bool:
        """Ask the host to stop an attempt; return whether it acknowledged that."""
        return await self._by_name[host.dialect].cancel(host, execution_id, attempt, limit)

    async def look(self, host: Host, device: Device, limit: float) -> Presence | None:
        """Return what a host says of a device when it is asked; None when it cannot say."""
        return await self._by_name[host.dialect].look(host, device, limit)

    async def check_key(self, host: Host, limit: float) -> None:
        """Raise HostTroubleError when a host does not accept the server's key."""
        await self._by_name[host.dialect].check_key(host, limit)

    async def leave(self, host: Host, device: Device, limit: float) -> None:
        """Notify the host that an attempt needs the device no more."""
        await self._by_name[host.dialect].leave(host, device, limit)

    def task_complete(self, task_id: str, report: Json, host_id: str | None) -> bool:
        """Deliver a host's report on a task to the call that waits for it; False when none does."""
        return any(
            dialect.task_complete(task_id, report, host_id) for dialect in self._by_name.values()
        )
