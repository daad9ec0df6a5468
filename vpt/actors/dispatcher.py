"""The dispatcher: which executions wait, which devices are free, and which gets which.

It is the memory of the queue; the database decides. It never awaits, so it needs no inbox: each
method is one decision, whole before the next begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, islice

from sortedcontainers import SortedKeyList

from vpt.actors import matching
from vpt.actors import messages as m
from vpt.actors.free import Found, FreeDevices
from vpt.actors.groups import QueueGroup, rank
from vpt.actors.resting import Resting
from vpt.model import DeviceRequest, DeviceView, HostView, Place, Wait, Waiting, WaitReason

Tell = Callable[[str, m.Message], None]


def position(waiting: Waiting, groups: list[QueueGroup]) -> int:
    """Return its position: how many go before it in these groups, and itself."""
    return sum(group.before(waiting) for group in groups) + 1


class Dispatcher:
    """Gives a free device to the execution that is first in the queue for it."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._views: dict[str, HostView] = {}
        self._devices: dict[str, Found] = {}
        self._free = FreeDevices()
        self._sent: dict[str, tuple[str, str, Waiting]] = {}  # execution to host and device
        self._taken: dict[str, str] = {}  # device to execution; both until it began
        self._closed = False
        self._held = False
        self._groups: dict[DeviceRequest, QueueGroup] = {}
        self._failed: dict[DeviceRequest, QueueGroup] = {}  # those of them that failed somewhere
        self._waiting: dict[str, Waiting] = {}
        self._new: dict[str, Waiting] = {}  # queued, and its reason is not published yet
        self._resting = Resting()
        self._expiry: SortedKeyList = SortedKeyList(key=lambda w: (w.expires_at, w.execution_id))
        self._turns = count()
        self._used: dict[str, int] = {}  # device to its last turn
        self.changes = 0  # counts whatever may change why an execution waits
        self.told: dict[str, WaitReason] = {}  # the published reason of each that waits

    def __len__(self) -> int:
        """Count the executions that wait."""
        return len(self._waiting)

    @property
    def known(self) -> int:
        """Count the executions that wait or are on their way to a host."""
        return len(self._waiting) + len(self._sent)

    def close(self) -> None:
        """Send nothing more: what comes stays queued for the next start."""
        self._closed = True

    def hold(self) -> None:
        """Send nothing until `release`: which is first is known only when all are loaded."""
        self._held = True

    def release(self) -> None:
        """Send what is first to the devices that are free."""
        self._held = False
        self.offer_all()

    def offer_all(self) -> None:
        """Offer every free device again, in case the news of one was lost."""
        for view, device in tuple(self._devices.values()):
            if self._is_free(view, device):
                self._offer(view, device)

    @property
    def views(self) -> list[HostView]:
        """Return all hosts as their actors announced them."""
        return list(self._views.values())

    @property
    def oldest(self) -> float | None:
        """Return since when the longest waiting waits, by the database's clock."""
        return min((w.queued_at for w in self._waiting.values()), default=None)

    def impossible(self, request: DeviceRequest) -> str | None:
        """Return why no registered host could ever run that, or None."""
        return matching.impossible(request, self._views.values())

    @property
    def groups(self) -> list[QueueGroup]:
        """Return all groups: each waiting execution is in one."""
        return list(self._groups.values())

    def newcomers(self, most: int) -> list[Waiting]:
        """Return the first that were queued since, still are, and were not returned before."""
        some = list(islice(self._new.values(), most))
        for waiting in some:
            del self._new[waiting.execution_id]
        return some

    def group_of(self, waiting: Waiting) -> QueueGroup | None:
        """Return the group in which it waits, None when it left."""
        found = self._waiting.get(waiting.execution_id) is waiting
        return self._groups[waiting.request] if found else None

    def why(self, group: QueueGroup) -> Wait:
        """Return why no device that fits takes the first of a group now."""
        if not group.fitting and (self._views or group.change):
            return group.unfit
        awaited = self.awaited(group)
        if group.request.failed_on:  # what is free is not given out: it failed there just now
            ready = [item.device.id for view, item in awaited if self._is_free(view, item)]
            if ready:
                return Wait(WaitReason.BACKOFF, tuple(ready[: matching.MOST_NAMES]))
        return matching.why(awaited)

    def awaited(self, group: QueueGroup) -> list[Found] | Iterator[Found]:
        """Return the devices for which a group waits: all that fit, unless it failed on some."""
        known = self._fitting(group)
        return matching.preferred(group.request, known) if group.request.failed_on else known

    def _fitting(self, group: QueueGroup) -> Iterator[Found]:
        # An empty group learns of no host any more, so it may name devices that are gone.
        known = (self._devices.get(device_id) for device_id in group.fitting)
        return (found for found in known if found is not None)

    def place(self, execution_id: str) -> Place:
        """Return its position and why it waits; position 0 when it does not wait (any more)."""
        waiting = self._waiting.get(execution_id)
        if waiting is None:
            return Place(Wait(WaitReason.ALL_BUSY, self._sent.get(execution_id, ())[1:2]), 0, 0)
        group = self._groups[waiting.request]
        able = len(set(matching.at_work(self.awaited(group)).values()))
        return Place(self.why(group), position(waiting, group.rivals(self.groups)), able)

    @property
    def given(self) -> dict[str, str]:
        """Return the executions that are on their way to a host, with their devices."""
        return {execution_id: sent[1] for execution_id, sent in self._sent.items()}

    def add(self, waiting: Waiting) -> bool:
        """Send it to a free device, or queue it; True when it was sent.

        No-op for one that is queued or sent already: the sweep may load its row before `submit`
        adds it.
        """
        if self.knows(waiting.execution_id):
            return waiting.execution_id in self._sent
        best = self._best_device(waiting.request)
        if best is not None and not matching.failed(waiting.request, *best):
            self._send(waiting, *best)
            return True
        group = self._enqueue(waiting)
        if best is not None:  # it failed there: what else fits decides
            self._place(group)
        return waiting.execution_id in self._sent

    def knows(self, execution_id: str) -> bool:
        """Return True when it waits, or is on its way to a host."""
        return execution_id in self._waiting or execution_id in self._sent

    def waits(self, execution_id: str) -> bool:
        """Return True when it waits."""
        return execution_id in self._waiting

    def waiting(self, execution_id: str) -> Waiting | None:
        """Return its entry when it waits."""
        return self._waiting.get(execution_id)

    def withdraw(self, execution_id: str) -> Waiting | None:
        """Remove it from the queue and return it; None when it does not wait."""
        waiting = self._waiting.pop(execution_id, None)
        if waiting is None:
            return None
        group = self._groups[waiting.request]
        group.remove(waiting)
        if not group:  # else it would be matched against every new device, for nothing
            del self._groups[waiting.request]
            self._failed.pop(waiting.request, None)
        self._expiry.remove(waiting)
        self._resting.remove(execution_id)
        self._new.pop(execution_id, None)
        self.told.pop(execution_id, None)
        return waiting

    @property
    def next_expiry(self) -> float | None:
        """Return when the next one will have waited too long, by the database's clock."""
        return self._expiry[0].expires_at if self._expiry else None

    def expired(self, now: float) -> list[Waiting]:
        """Remove and return all that have waited too long."""
        over = []
        while self._expiry and self._expiry[0].expires_at <= now:
            over.append(self._expiry[0])
            self.withdraw(self._expiry[0].execution_id)
        return over

    @property
    def next_rested(self) -> float | None:
        """Return when the next back-off is over, by the database's clock."""
        return self._resting.next_end

    def rested(self, now: float) -> None:
        """Let devices have again what failed there, where its back-off is over."""
        for waiting in self._resting.over(now):
            self.changes += 1
            group = self.group_of(waiting)
            if group is not None:
                self._place(group)

    def announce(self, view: HostView) -> None:
        """Store a host's present view, and use what became free."""
        self._forget_free(view.host.id)
        old = self._views.get(view.host.id)
        self._learn(old, view)
        self._views[view.host.id] = view
        self.changes += 1
        for device in view.devices:
            if self._is_free(view, device):
                self._offer(view, device)
        self._place_failed(old, view)

    def begun(self, execution_id: str) -> Waiting | None:
        """Forget an execution that was sent and whose attempt is stored now; return its entry."""
        sent = self._sent.pop(execution_id, None)
        if sent is None:
            return None
        del self._taken[sent[1]]
        return sent[2]

    def not_taken(self, execution_id: str, device_id: str, *, gone: bool) -> None:
        """Queue again an execution whose run could not begin, unless it is `gone` for good."""
        sent = self._sent.pop(execution_id, None)
        if sent is None:
            return
        del self._taken[device_id]
        if gone:
            self._offer_again(device_id)
        else:  # this device is offered again when its host looks different, or by the sweep
            self.add(sent[2])

    def host_gone(self, host_id: str) -> None:
        """Queue again what was sent to a host whose actor ended and did not begin."""
        self._forget_free(host_id)
        view = self._views.pop(host_id, None)
        self._learn(view, None)
        self.changes += 1
        for device in view.devices if view else ():
            self._used.pop(device.device.id, None)
        # The host is gone from `_views` first, so none of them is sent there again.
        back = [sent for sent in self._sent.values() if sent[0] == host_id]
        for _, device_id, waiting in back:
            del self._sent[waiting.execution_id]
            del self._taken[device_id]
        for waiting in sorted((sent[2] for sent in back), key=rank):  # others may have a device
            self.add(waiting)
        self._place_failed(view, None)

    # ------------------------------------------------------------ inside

    def _learn(self, old: HostView | None, new: HostView | None) -> None:
        """Store a host's devices, and which groups they fit where that may have changed."""
        for device in old.devices if old else ():
            self._devices.pop(device.device.id, None)
        if new is not None:
            self._devices |= {device.device.id: (new, device) for device in new.devices}
        # Most views differ in a status only, and with many groups matching anew is what costs.
        if old is not None and new is not None and matching.same(old, new):
            return
        for group in self._groups.values():
            group.relearn(old, new)

    def _enqueue(self, waiting: Waiting) -> QueueGroup:
        group = self._groups.get(waiting.request)
        if group is None:
            group = self._groups[waiting.request] = QueueGroup(
                waiting.request, self._views.values()
            )
            if waiting.request.failed_on:
                self._failed[waiting.request] = group
        group.add(waiting)
        self.changes += 1
        self._expiry.add(waiting)
        self._resting.add(waiting)
        self._waiting[waiting.execution_id] = waiting
        self._new[waiting.execution_id] = waiting
        return group

    @property
    def _stands_still(self) -> bool:
        return self._closed or self._held

    def _is_free(self, view: HostView, device: DeviceView) -> bool:
        # A device that something was just sent to still looks free until its run begins.
        return matching.is_free(view, device) and device.device.id not in self._taken

    def _best_device(self, request: DeviceRequest) -> Found | None:
        return None if self._stands_still else self._free.first_for(request)

    def _place(self, group: QueueGroup) -> None:
        """Offer the best free device to a group that failed on some, as long as one is taken."""
        while group and (best := self._best_device(group.request)):
            self._offer(*best)
            if best[1].device.id not in self._taken:  # others may be before this group and have it
                return

    def _place_failed(self, old: HostView | None, new: HostView | None) -> None:
        """Offer free devices to what failed there and waited for one that is lost now."""
        if not self._failed or old is None:
            return
        if new is not None and matching.same(old, new) and _hopes(old) <= _hopes(new):
            return
        for group in tuple(self._failed.values()):
            self._place(group)

    def _candidate(self, group: QueueGroup, view: HostView, device: DeviceView) -> Waiting | None:
        """Return the first of a group that failed somewhere which may have this free device.

        Where it failed it does not go while another device that fits is worth waiting for, and
        after its back-off only; a host on which it failed comes before such a device.
        """
        request = group.request
        level = matching.failed(request, view, device)
        for other in self._fitting(group) if level else ():
            if matching.failed(request, *other) < level and matching.worth_waiting_for(*other):
                return None
        if level is not matching.Failed.ON_DEVICE:
            return group.head
        return next((one for one in group if one.execution_id not in self._resting), None)

    def _offer(self, view: HostView, device: DeviceView) -> None:
        """Send the first execution that a free device fits; else keep the device free."""
        device_id = device.device.id
        first = None if self._stands_still else self._first_for(view, device)
        if first is None:
            self._free.add((view, device), self._used.get(device_id, -1))
            return
        self.withdraw(first.execution_id)
        self._send(first, view, device)

    def _first_for(self, view: HostView, device: DeviceView) -> Waiting | None:
        # Each group is in order, so the first of all is among the heads.
        device_id = device.device.id
        heads = (
            self._candidate(group, view, device) if group.request.failed_on else group.head
            for group in self._groups.values()
            if device_id in group.fitting
        )
        return min((head for head in heads if head is not None), key=rank, default=None)

    def _offer_again(self, device_id: str) -> None:
        found = self._devices.get(device_id)
        if found is not None and matching.is_free(*found):
            self._offer(*found)

    def _send(self, waiting: Waiting, view: HostView, device: DeviceView) -> None:
        device_id = device.device.id
        # Kept until the run is stored or refused: if the host's actor dies in between it is queued
        # again, and the database refuses a second start.
        self._free.remove(device_id)
        self._taken[device_id] = waiting.execution_id
        self._sent[waiting.execution_id] = (view.host.id, device_id, waiting)
        self._used[device_id] = next(self._turns)
        self._tell(view.host.id, m.StartRun(waiting.execution_id, device_id))

    def _forget_free(self, host_id: str) -> None:
        view = self._views.get(host_id)
        for device in view.devices if view else ():
            self._free.remove(device.device.id)


def _hopes(view: HostView) -> set[tuple[str, bool]]:
    """Return the devices that are worth waiting for, and whether each is in doubt."""
    good = (item for item in view.devices if matching.worth_waiting_for(view, item))
    return {(item.device.id, item.doubtful) for item in good}
