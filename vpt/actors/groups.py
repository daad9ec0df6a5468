"""A line: those who wait for the same, in order, and the devices that could run it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from sortedcontainers import SortedKeyList

from vpt.actors import matching
from vpt.model import HostView, Waiting, WaitReason, Wish

_SECONDS_A_POINT = 10.0  # waiting that long is worth one point of priority

Rank = tuple[float, str]


def rank(waiting: Waiting) -> Rank:
    """Order by priority + 1 for each 10 s waited: a rank that time does not change."""
    return (waiting.queued_at - waiting.priority * _SECONDS_A_POINT, waiting.execution_id)


class Line:
    """Equal wishes share a line; what fits is known beforehand, and not looked for each time."""

    def __init__(self, wish: Wish, views: Iterable[HostView]) -> None:
        self.wish = wish
        self.fitting: dict[str, None] = {}  # ids of devices, in the order in which they came
        self.reason: WaitReason | None = None  # what all in line were told, or are being told
        self.behind = False  # some are still to be told
        self._told_up_to: Rank | None = None
        self._queue = SortedKeyList(key=rank)
        for view in views:
            self.learn(view)

    def __len__(self) -> int:
        """Count who waits here."""
        return len(self._queue)

    @property
    def head(self) -> Waiting:
        """Who is first; there is always somebody."""
        head: Waiting = self._queue[0]
        return head

    def add(self, waiting: Waiting) -> None:
        """Put it in its place."""
        self._queue.add(waiting)

    def remove(self, waiting: Waiting) -> None:
        """Take it out."""
        self._queue.remove(waiting)

    def before(self, waiting: Waiting) -> int:
        """Count those who go before it, whether it stands here or not."""
        before: int = self._queue.bisect_key_left(rank(waiting))
        return before

    def tell_anew(self, reason: WaitReason) -> None:
        """Note that all in line are to hear of another reason."""
        self.reason, self.behind, self._told_up_to = reason, True, None

    def next_to_tell(self, most: int) -> list[Waiting]:
        """Give the next that are to hear of it; when there is none left, all did."""
        some = self._after(self._told_up_to, most)
        if some:
            self._told_up_to = rank(some[-1])
        self.behind = len(some) == most
        return some

    def _after(self, last: Rank | None, most: int) -> list[Waiting]:
        if last is None:
            return list(self._queue.islice(0, most))
        behind: Iterator[Waiting] = self._queue.irange_key(last, inclusive=(False, True))
        return list(islice(behind, most))

    def learn(self, view: HostView) -> None:
        """Take a host's devices in, as far as they fit."""
        for device in view.devices:
            if matching.fits(self.wish, view.host, device.device):
                self.fitting[device.device.id] = None

    def forget(self, view: HostView) -> None:
        """Leave a host's devices out."""
        for device in view.devices:
            self.fitting.pop(device.device.id, None)

    def rivals(self, lines: Iterable[Line]) -> list[Line]:
        """Give the lines that wait for a device which fits this one, too; itself among them."""
        mine = self.fitting.keys()
        return [line for line in lines if line is self or not mine.isdisjoint(line.fitting)]
