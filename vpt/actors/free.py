"""The devices that are free, in the order in which they are to be used."""

from __future__ import annotations

from itertools import count

from sortedcontainers import SortedDict

from vpt.actors import matching
from vpt.model import DeviceRequest, DeviceView, HostView

Found = tuple[HostView, DeviceView]


class FreeDevices:
    """Free devices, the one that had no run for the longest time first: so work is spread.

    Most requests fit most devices of a lab, so the first that fits is found after a look at one or
    two, however many are free. Going through all took 11 ms with 10,000.
    """

    def __init__(self) -> None:
        self._order: SortedDict = SortedDict()
        self._keys: dict[str, tuple[int, int]] = {}
        self._entries = count()  # among devices that were never used the first comer is first

    def add(self, found: Found, last_turn: int) -> None:
        """Add a device, or replace its view; `last_turn` is when it was used last, -1 for never."""
        device_id = found[1].device.id
        key = self._keys.setdefault(device_id, (last_turn, next(self._entries)))
        self._order[key] = found

    def remove(self, device_id: str) -> None:
        """Remove a device; no-op when it is not free."""
        key = self._keys.pop(device_id, None)
        if key is not None:
            del self._order[key]

    def first_for(self, request: DeviceRequest, last_host: str | None) -> Found | None:
        """Return the first device that fits, on `last_host` only when no other host has one.

        What failed on that host may be the host's fault.
        """
        second_best = None
        for found in self._order.values():
            view, device = found
            if second_best is not None and view.host.id == last_host:
                continue
            if matching.fits(request, view.host, device.device):
                if view.host.id != last_host:
                    return (view, device)
                second_best = (view, device)
        return second_best
