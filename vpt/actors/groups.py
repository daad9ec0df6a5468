"""A group of the queue: executions that ask for the same, and the devices that fit them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from sortedcontainers import SortedKeyList

from vpt.actors import matching
from vpt.model import DeviceRequest, HostView, Wait, Waiting, WaitReason

_SECONDS_A_POINT = 10.0  # ageing: so nobody waits for ever behind higher priorities

Rank = tuple[float, str]


def rank(waiting: Waiting) -> Rank:
    """Return the key to order by priority + 1 for each 10 s waited.

    Both sides age alike, so it needs no present time: the order of two never changes.
    """
    # The id makes it total: with two equal keys `remove` could take out the other one.
    return (waiting.queued_at - waiting.priority * _SECONDS_A_POINT, waiting.execution_id)


class QueueGroup:
    """Executions with equal requests, in order, with the devices that fit all of them.

    What fits is computed when a host changes, not each time a device becomes free.
    """

    def __init__(self, request: DeviceRequest, views: Iterable[HostView]) -> None:
        self.request = request
        self.fitting: dict[
            str, None
        ] = {}  # ids of devices, in the order in which they came; the order keeps answers stable
        self.reason: WaitReason | None = (
            None  # the reason that is published, or being published, for all of it
        )
        self.behind = False  # it is still to be published for some
        self.change: str | None = None  # what made that nothing fits any more, while nothing does
        self._told_up_to: Rank | None = None
        self._queue = SortedKeyList(key=rank)
        for view in views:
            self.learn(view)

    def __len__(self) -> int:
        """Count the executions in it."""
        return len(self._queue)

    @property
    def head(self) -> Waiting:
        """Return the first; a group is never empty."""
        head: Waiting = self._queue[0]
        return head

    def __iter__(self) -> Iterator[Waiting]:
        """Return the executions in their order."""
        return iter(self._queue)

    def add(self, waiting: Waiting) -> None:
        """Add an execution in its place."""
        self._queue.add(waiting)

    def remove(self, waiting: Waiting) -> None:
        """Remove an execution."""
        self._queue.remove(waiting)

    def before(self, waiting: Waiting) -> int:
        """Count those that go before it, whether it is in this group or not."""
        before: int = self._queue.bisect_key_left(rank(waiting))
        return before

    def tell_anew(self, reason: WaitReason) -> None:
        """Note that another reason is to be published for all of it."""
        self.reason, self.behind, self._told_up_to = reason, True, None

    def next_to_tell(self, most: int) -> list[Waiting]:
        """Return the next for which the reason is to be published, `most` at a time."""
        some = self._after(self._told_up_to, most)
        if some:  # a rank, not an index: others join and leave between two calls
            self._told_up_to = rank(some[-1])
        self.behind = len(some) == most
        return some

    def _after(self, last: Rank | None, most: int) -> list[Waiting]:
        if last is None:
            return list(self._queue.islice(0, most))
        behind: Iterator[Waiting] = self._queue.irange_key(last, inclusive=(False, True))
        return list(islice(behind, most))

    def learn(self, view: HostView) -> None:
        """Add those of a host's devices that fit."""
        for device in view.devices:
            if matching.fits(self.request, view.host, device.device):
                self.fitting[device.device.id] = None

    def forget(self, view: HostView) -> None:
        """Remove a host's devices."""
        for device in view.devices:
            self.fitting.pop(device.device.id, None)

    def relearn(self, old: HostView | None, new: HostView | None) -> None:
        """Replace what a host had by what it has, and note why nothing fits any more."""
        fitted = bool(self.fitting)
        if old is not None:
            self.forget(old)
        if new is not None:
            self.learn(new)
        if self.fitting:
            self.change = None
        elif fitted and old is not None:
            self.change = matching.change(self.request, old, new)

    @property
    def unfit(self) -> Wait:
        """Return why it waits while nothing fits, with the device or host that it asks for."""
        named = self.request.device_id or self.request.host_id
        return Wait(WaitReason.NOTHING_FITS, (named,) if named else ())

    def ahead_of(self, waiting: Waiting, most: int) -> list[Waiting]:
        """Return the first `most` of those that go before another one."""
        ahead = self._queue.irange_key(None, rank(waiting), inclusive=(True, False))
        return list(islice(ahead, most))

    def first(self, most: int) -> list[Waiting]:
        """Return the first `most` that wait in it."""
        return list(self._queue.islice(0, most))

    def rivals(self, groups: Iterable[QueueGroup]) -> list[QueueGroup]:
        """Return the groups that some device of this one fits, too; this one is among them."""
        # Their executions may get a device first, so they count for a position.
        mine = self.fitting.keys()
        return [group for group in groups if group is self or not mine.isdisjoint(group.fitting)]
