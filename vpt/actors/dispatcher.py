"""The dispatcher: who waits, what is free, and who gets it.

It is the memory of the queue, whose truth is in the database. It never waits, so it needs no
inbox: each method is one decision, whole before the next begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, islice

from sortedcontainers import SortedKeyList

from vpt.actors import matching
from vpt.actors import messages as m
from vpt.actors.groups import Line, rank
from vpt.model import DeviceView, HostView, Place, Wait, Waiting, WaitReason, Wish

Tell = Callable[[str, m.Message], None]
Found = tuple[HostView, DeviceView]


def position(waiting: Waiting, lines: list[Line]) -> int:
    """Count who is before it in these lines, and itself."""
    return sum(line.before(waiting) for line in lines) + 1


class Dispatcher:
    """Gives a free device to the execution that is first in line for it."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._views: dict[str, HostView] = {}
        self._devices: dict[str, Found] = {}
        self._free: dict[str, Found] = {}
        self._sent: dict[str, tuple[str, str, Waiting]] = {}  # run to host and device
        self._taken: dict[str, str] = {}  # device to the run sent there; both until it began
        self._closed = False
        self._held = False
        self._lines: dict[Wish, Line] = {}
        self._waiting: dict[str, Waiting] = {}
        self._new: dict[str, Waiting] = {}  # in line, and nobody was told why
        self._expiry: SortedKeyList = SortedKeyList(key=lambda w: (w.expires_at, w.execution_id))
        self._turns = count()
        self._used: dict[str, int] = {}  # device to its last turn: work is spread
        self.changes = 0  # goes up with whatever may change why somebody waits
        self.told: dict[str, WaitReason] = {}  # why it waits, as was told; who leaves is forgotten

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

    def hold(self) -> None:
        """Send nothing until `release`: who comes first is known only when all are in line."""
        self._held = True

    def release(self) -> None:
        """Give what is free to those who are first."""
        self._held = False
        self.offer_all()

    def offer_all(self) -> None:
        """Give whatever is free to those who wait, should news of it have been lost."""
        for view, device in tuple(self._devices.values()):
            if matching.is_free(view, device) and device.device.id not in self._taken:
                self._offer(view, device)

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
    def lines(self) -> list[Line]:
        """All lines: nobody waits outside of one."""
        return list(self._lines.values())

    def newcomers(self, most: int) -> list[Waiting]:
        """Give the first of those who came into line, are still there, and were not yet given."""
        some = list(islice(self._new.values(), most))
        for waiting in some:
            del self._new[waiting.execution_id]
        return some

    def line_of(self, waiting: Waiting) -> Line | None:
        """Give the line in which it stands, None when it left."""
        found = self._waiting.get(waiting.execution_id) is waiting
        return self._lines[waiting.wish] if found else None

    def why(self, line: Line) -> Wait:
        """Say why nothing that fits takes the first of a line now.

        A line that everybody left while somebody looked through all learns of no host any more.
        """
        known = (self._devices.get(device_id) for device_id in line.fitting)
        return matching.why(found for found in known if found is not None)

    def place(self, execution_id: str) -> Place:
        """Say where it stands in line and why; position 0 when it does not, or not any more."""
        waiting = self._waiting.get(execution_id)
        if waiting is None:
            sent = self._sent.get(execution_id)
            return Place(Wait(WaitReason.ALL_BUSY, (sent[1],) if sent else ()), 0, 0)
        line = self._lines[waiting.wish]
        able = matching.able(self._devices[device_id] for device_id in line.fitting)
        return Place(self.why(line), position(waiting, line.rivals(self.lines)), able)

    def add(self, waiting: Waiting) -> bool:
        """Send it to a free device, or put it in line; True when it was sent.

        Who is known stays where he is: the sweep may find a row before its submitter does.
        """
        if self.knows(waiting.execution_id):
            return waiting.execution_id in self._sent
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
        line = self._lines[waiting.wish]
        line.remove(waiting)
        if not line:
            del self._lines[waiting.wish]
        self._expiry.remove(waiting)
        self._new.pop(execution_id, None)
        self.told.pop(execution_id, None)
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
        self._learn(self._views.get(view.host.id), view)
        self._views[view.host.id] = view
        self.changes += 1
        for device in view.devices:
            if matching.is_free(view, device) and device.device.id not in self._taken:
                self._offer(view, device)

    def begun(self, execution_id: str) -> Waiting | None:
        """Learn that a run which was sent to a host stands in the database; give its entry."""
        sent = self._sent.pop(execution_id, None)
        if sent is None:
            return None
        del self._taken[sent[1]]
        return sent[2]

    def not_taken(self, execution_id: str, device_id: str, *, gone: bool) -> None:
        """Learn that a run could not begin; unless it is gone for good it waits on."""
        sent = self._sent.pop(execution_id, None)
        if sent is None:
            return
        del self._taken[device_id]
        if gone:
            self._offer_again(device_id)
        else:  # this device is offered again when its host looks different, or by the sweep
            self.add(sent[2])

    def host_gone(self, host_id: str) -> None:
        """Learn that a host's actor ended: what was sent there and did not begin waits on."""
        self._forget_free(host_id)
        view = self._views.pop(host_id, None)
        self._learn(view, None)
        self.changes += 1
        for device in view.devices if view else ():
            self._used.pop(device.device.id, None)
        back = [sent for sent in self._sent.values() if sent[0] == host_id]
        for _, device_id, waiting in back:
            del self._sent[waiting.execution_id]
            del self._taken[device_id]
        for waiting in sorted((sent[2] for sent in back), key=rank):  # others may have a device
            self.add(waiting)

    # ------------------------------------------------------------ inside

    def _learn(self, old: HostView | None, new: HostView | None) -> None:
        """Know a host's devices, and which lines they fit where that may have changed."""
        for device in old.devices if old else ():
            self._devices.pop(device.device.id, None)
        if new is not None:
            self._devices |= {device.device.id: (new, device) for device in new.devices}
        if old is not None and new is not None and matching.same(old, new):
            return
        for line in self._lines.values():
            if old is not None:
                line.forget(old)
            if new is not None:
                line.learn(new)

    def _enqueue(self, waiting: Waiting) -> None:
        line = self._lines.get(waiting.wish)
        if line is None:
            line = self._lines[waiting.wish] = Line(waiting.wish, self._views.values())
        line.add(waiting)
        self.changes += 1
        self._expiry.add(waiting)
        self._waiting[waiting.execution_id] = waiting
        self._new[waiting.execution_id] = waiting

    @property
    def _stands_still(self) -> bool:
        return self._closed or self._held

    def _candidates(self, wish: Wish) -> Iterator[Found]:
        for view, device in () if self._stands_still else self._free.values():
            if matching.fits(wish, view.host, device.device):
                yield view, device

    def _best_device(self, waiting: Waiting) -> Found | None:
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
        device_id = device.device.id
        heads = (line.head for line in self._lines.values() if device_id in line.fitting)
        first = None if self._stands_still else min(heads, key=rank, default=None)
        if first is None:
            self._free[device_id] = (view, device)
            return
        self.withdraw(first.execution_id)
        self._send(first, view, device)

    def _offer_again(self, device_id: str) -> None:
        found = self._devices.get(device_id)
        if found is not None and matching.is_free(*found):
            self._offer(*found)

    def _send(self, waiting: Waiting, view: HostView, device: DeviceView) -> None:
        device_id = device.device.id
        self._free.pop(device_id, None)
        self._taken[device_id] = waiting.execution_id
        self._sent[waiting.execution_id] = (view.host.id, device_id, waiting)
        self._used[device_id] = next(self._turns)
        self._tell(view.host.id, m.StartRun(waiting.execution_id, device_id))

    def _forget_free(self, host_id: str) -> None:
        view = self._views.get(host_id)
        for device in view.devices if view else ():
            self._free.pop(device.device.id, None)
