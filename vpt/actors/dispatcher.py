"""The dispatcher: who waits, what is free, and who gets it.

It is the memory of the queue, whose truth is in the database. It never waits, so it needs no
inbox: each method is one decision, whole before the next begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

from sortedcontainers import SortedKeyList

from vpt.actors import matching
from vpt.actors import messages as m
from vpt.model import DeviceView, HostView, Place, Wait, Waiting, Wish

_SECONDS_A_POINT = 10.0  # waiting that long is worth one point of priority

Tell = Callable[[str, m.Message], None]


def rank(waiting: Waiting) -> tuple[float, str]:
    """Order by priority + 1 for each 10 s waited: a rank that time does not change."""
    return (waiting.queued_at - waiting.priority * _SECONDS_A_POINT, waiting.execution_id)


def _position(waiting: Waiting, lines: list[SortedKeyList]) -> int:
    """Count who is before it in these lines, and itself."""
    before: int = sum(line.bisect_key_left(rank(waiting)) for line in lines)
    return before + 1


class Dispatcher:
    """Gives a free device to the execution that is first in line for it."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._views: dict[str, HostView] = {}
        self._free: dict[str, tuple[HostView, DeviceView]] = {}
        self._taken: dict[str, str] = {}  # device to the run sent there, until it shows
        self._sent: dict[
            str, tuple[str, str, Waiting]
        ] = {}  # run to host and device, until it began
        self._closed = False
        self._queues: dict[Wish, SortedKeyList] = {}
        self._waiting: dict[str, Waiting] = {}
        self._expiry: SortedKeyList = SortedKeyList(key=lambda w: (w.expires_at, w.execution_id))
        self._turns = count()
        self._used: dict[str, int] = {}  # device to its last turn: work is spread
        self.changes = 0  # goes up with whatever may change why somebody waits

    def __len__(self) -> int:
        """Count who waits."""
        return len(self._waiting)

    @property
    def known(self) -> int:
        """Count who waits or is on the way to a host."""
        return len(self._waiting) + len(self._sent)

    def close(self) -> None:
        """Send nothing more: what comes stays in line for the next start."""
        self._closed = True

    @property
    def views(self) -> list[HostView]:
        """All hosts as their actors announced them."""
        return list(self._views.values())

    @property
    def oldest(self) -> float | None:
        """Since when (seconds since the epoch) the longest waiting waits."""
        return min((w.queued_at for w in self._waiting.values()), default=None)

    def impossible(self, wish: Wish) -> str | None:
        """Say why no registered host could ever run that, or None."""
        return matching.impossible(wish, self._views.values())

    @property
    def wishes(self) -> list[Wish]:
        """What is waited for."""
        return list(self._queues)

    def why(self, wish: Wish) -> Wait | None:
        """Say why nothing that fits takes it now; None when something does."""
        return matching.why(wish, self._views.values())

    def in_line(self, wish: Wish) -> Iterator[tuple[str, int]]:
        """Give the executions that wait for it and their places, the first in line first.

        Those that leave the line while it is gone through are left out.
        """
        rivals = self._rivals(wish)
        for waiting in tuple(self._queues.get(wish, ())):
            if waiting.execution_id in self._waiting:
                yield waiting.execution_id, _position(waiting, rivals)

    def _rivals(self, wish: Wish) -> list[SortedKeyList]:
        """Give the lines of those who wait for a device that fits this, too."""
        mine = set(self._fitting(wish))
        return [
            queue
            for other, queue in self._queues.items()
            if other == wish or not mine.isdisjoint(self._fitting(other))
        ]

    def place(self, execution_id: str) -> Place:
        """Say where it stands in line and why; position 0 when it is on its way to a host."""
        waiting = self._waiting.get(execution_id)
        if waiting is None:
            return Place(None, 0, 0)
        able = sum(
            matching.is_up(view, device) and matching.fits(waiting.wish, view.host, device.device)
            for view in self._views.values()
            for device in view.devices
        )
        position = _position(waiting, self._rivals(waiting.wish))
        return Place(self.why(waiting.wish), position, able)

    def _fitting(self, wish: Wish) -> Iterator[str]:
        for view in self._views.values():
            for device in view.devices:
                if matching.fits(wish, view.host, device.device):
                    yield device.device.id

    def add(self, waiting: Waiting) -> bool:
        """Send it to a free device, or put it in line; True when it was sent."""
        best = self._best_device(waiting)
        if best is None:
            self._enqueue(waiting)
            return False
        self._send(waiting, *best)
        return True

    def knows(self, execution_id: str) -> bool:
        """True when it waits, or is on its way to a host."""
        return execution_id in self._waiting or execution_id in self._sent

    def waits(self, execution_id: str) -> bool:
        """True when it stands in line."""
        return execution_id in self._waiting

    def withdraw(self, execution_id: str) -> Waiting | None:
        """Take it out of the line; None when it is not there."""
        waiting = self._waiting.pop(execution_id, None)
        if waiting is None:
            return None
        queue = self._queues[waiting.wish]
        queue.remove(waiting)
        if not queue:
            del self._queues[waiting.wish]
        self._expiry.remove(waiting)
        return waiting

    @property
    def next_expiry(self) -> float | None:
        """When (seconds since the epoch) the first in line to give up will have waited too long."""
        return self._expiry[0].expires_at if self._expiry else None

    def expired(self, now: float) -> list[Waiting]:
        """Take out of the line all whose time is over."""
        over = []
        while self._expiry and self._expiry[0].expires_at <= now:
            over.append(self._expiry[0])
            self.withdraw(self._expiry[0].execution_id)
        return over

    def announce(self, view: HostView) -> None:
        """Learn how a host looks now, and use what became free."""
        self._forget_free(view.host.id)
        self._views[view.host.id] = view
        self.changes += 1
        for device in view.devices:
            if not matching.is_free(view, device):
                self._taken.pop(device.device.id, None)
            elif device.device.id not in self._taken:
                self._offer(view, device)

    def begun(self, execution_id: str) -> None:
        """Learn that a run which was sent to a host stands in the database."""
        self._sent.pop(execution_id, None)

    def not_taken(self, execution_id: str, device_id: str, *, gone: bool) -> None:
        """Learn that a run could not begin; unless it is gone for good it waits on."""
        sent = self._sent.pop(execution_id, None)
        if sent is None:
            return
        if self._taken.get(device_id) == execution_id:
            del self._taken[device_id]
        if not gone:  # this device is offered again when its host looks different
            self.add(sent[2])
        elif device_id not in self._taken:
            self._offer_again(device_id)

    def host_gone(self, host_id: str) -> None:
        """Learn that a host's actor ended: what was sent there and did not begin waits on."""
        self._forget_free(host_id)
        view = self._views.pop(host_id, None)
        self.changes += 1
        for device in view.devices if view else ():
            self._taken.pop(device.device.id, None)
            self._used.pop(device.device.id, None)
        for execution_id, (host, device_id, waiting) in tuple(self._sent.items()):
            if host == host_id:
                del self._sent[execution_id]
                self._taken.pop(device_id, None)
                self.add(waiting)

    # ------------------------------------------------------------ inside

    def _enqueue(self, waiting: Waiting) -> None:
        if waiting.execution_id in self._waiting:
            return
        queue = self._queues.setdefault(waiting.wish, SortedKeyList(key=rank))
        queue.add(waiting)
        self.changes += 1
        self._expiry.add(waiting)
        self._waiting[waiting.execution_id] = waiting

    def _candidates(self, wish: Wish) -> Iterator[tuple[HostView, DeviceView]]:
        for view, device in () if self._closed else self._free.values():
            if matching.fits(wish, view.host, device.device):
                yield view, device

    def _best_device(self, waiting: Waiting) -> tuple[HostView, DeviceView] | None:
        return min(
            self._candidates(waiting.wish),
            key=lambda found: (
                found[0].host.id == waiting.last_host,
                self._used.get(found[1].device.id, -1),
            ),
            default=None,
        )

    def _offer(self, view: HostView, device: DeviceView) -> None:
        """Give a free device to the first in line that it fits; else keep it free."""
        heads = (
            queue[0]
            for wish, queue in self._queues.items()
            if matching.fits(wish, view.host, device.device)
        )
        first = None if self._closed else min(heads, key=rank, default=None)
        if first is None:
            self._free[device.device.id] = (view, device)
            return
        self.withdraw(first.execution_id)
        self._send(first, view, device)

    def _offer_again(self, device_id: str) -> None:
        for view in self._views.values():
            for device in view.devices:
                if device.device.id == device_id and matching.is_free(view, device):
                    self._offer(view, device)
                    return

    def _send(self, waiting: Waiting, view: HostView, device: DeviceView) -> None:
        device_id = device.device.id
        self._free.pop(device_id, None)
        self._taken[device_id] = waiting.execution_id
        self._sent[waiting.execution_id] = (view.host.id, device_id, waiting)
        self._used[device_id] = next(self._turns)
        self._tell(view.host.id, m.Run(waiting.execution_id, device_id))

    def _forget_free(self, host_id: str) -> None:
        view = self._views.get(host_id)
        for device in view.devices if view else ():
            self._free.pop(device.device.id, None)
