"""What the host tells the server of itself, found out anew for each registration and heartbeat."""

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from yarl import URL

from vpt.host.device_worker import DeviceWorker
from vpt.host.devices import HostDevices
from vpt.host.settings import HostSettings
from vpt.host.stats import hardware


class HostDescription:
    """Describes one host; its address may change while it runs, and so may its devices."""

    def __init__(
        self, settings: HostSettings, devices: HostDevices, secret: str, instance_id: str
    ) -> None:
        """Describe these `devices`; `port` is 0 until the host listens."""
        self.name = settings.name
        self.instance_id = instance_id
        self.port = 0
        self._settings = settings
        self._workers = tuple(devices.workers.values())
        self._secret = secret
        self._last: str | None = None

    async def registration(self) -> Mapping[str, Any]:
        """Return the body of a registration: the host, its devices, and what it supports."""
        workers = self._workers
        return {
            "host_name": self.name,
            "host_url": await self._url(),
            "instance_id": self.instance_id,
            "status": "available",
            "capabilities": sorted(
                {word for worker in workers for word in worker.driver.capabilities}
            ),
            "hardware": hardware(),
            "devices": [await self._device(worker) for worker in workers],
            "protocol": {"idempotency": True, "cancel": True},
            "host_secret": self._secret,
        }

    async def heartbeat(self) -> Mapping[str, Any]:
        """Return what a heartbeat says besides the load of the machine."""
        health = await asyncio.gather(*(worker.health() for worker in self._workers))
        devices = {
            worker.spec.local_id: item.described()
            for worker, item in zip(self._workers, health, strict=True)
        }
        return {
            "host_url": await self._url(),
            "instance_id": self.instance_id,
            "devices": devices,
        }

    async def _device(self, worker: DeviceWorker) -> Mapping[str, Any]:
        return {
            "device_id": worker.spec.local_id,
            "name": f"{self.name} {worker.spec.local_id}",
            "model": worker.spec.model,
            "capabilities": list(worker.driver.capabilities),
            "action_types": {worker.spec.kind: list(worker.driver.descriptions)},
            **(await worker.health()).described(),
        }

    async def _url(self) -> str:
        if self._settings.advertise is not None:
            return self._settings.advertise
        found = await asyncio.to_thread(own_url, self._settings, self.port)
        # Without a network nothing is found: that is no new address, and the last one stays.
        self._last = found or self._last or _url_of(socket.gethostname(), self.port)
        return self._last


def own_url(settings: HostSettings, port: int) -> str | None:
    """Return the URL at which the server can reach this host; None when it cannot be found out."""
    address: str | None = settings.listen
    if address in {"", "0.0.0.0", "::"}:  # noqa: S104 (compared, not bound)
        address = _address_towards(URL(settings.server))
    return None if address is None else _url_of(address, port)


def _url_of(address: str, port: int) -> str:
    return str(URL.build(scheme="http", host=address, port=port))


def _address_towards(server: URL) -> str | None:
    """Return the address of the interface that routes to the server; sends nothing."""
    with suppress(OSError):
        family, kind, protocol, _, target = socket.getaddrinfo(
            server.host, server.port, type=socket.SOCK_DGRAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    return None
