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

    def first_for(self, request: DeviceRequest) -> Found | None:
        """Return the first device that fits; of those on which it failed the one longest ago."""
        best: Found | None = None
        least = (matching.Failed.ON_DEVICE + 1, 0)
        for view, device in self._order.values():
            last = _last_failure(request, device.device.id)
            level = (matching.failed(request, view, device), last)
            if level < least and matching.fits(request, view.host, device.device):
                best, least = (view, device), level
                if level[0] is matching.Failed.NOT_HERE:
                    break
        return best


def _last_failure(request: DeviceRequest, device_id: str) -> int:
    """Return the number of the last failure on this device, 0 for none."""
    numbers = (n for n, name in enumerate(request.failed_on, 1) if name == device_id)
    return max(numbers, default=0)
