"""Executions that no registered device fits any more: they wait for a while, then they end."""

from __future__ import annotations

import time
from collections.abc import Callable

from vpt.actors import matching
from vpt.actors.dispatcher import Dispatcher
from vpt.actors.groups import QueueGroup
from vpt.model import DeviceRequest, Waiting

_REMEMBERED = 10.0  # seconds
_MOST = 500  # executions that one look ends


class Unfit:
    """Ends executions for which nothing fits for longer than FIT_GRACE.

    What fits may come back: a host that restarts withdraws its devices and declares them again. The
    time is counted from when this server noticed, so a restart of the server begins it anew. It is
    a request's and not an execution's, since the next entry of a campaign asks for the same.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        end: Callable[[Waiting, str], None],
        *,
        grace: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dispatcher = dispatcher
        self._end = end
        self._grace = grace
        self._now = now
        self._since: dict[DeviceRequest, tuple[float, float]] = {}  # noticed, and last seen so

    async def look(self) -> None:
        """End what waited too long for something that fits."""
        now, groups = self._now(), self._dispatcher.groups
        # There is nothing to forget most of the time, and making a set of all requests costs.
        fit = {group.request: bool(group.fitting) for group in groups} if self._since else {}
        self._since = {
            request: (since, seen)
            for request, (since, seen) in self._since.items()
            if not fit.get(request, now - seen >= _REMEMBERED)
        }
        for group in groups:
            if not group.fitting:
                self._look_at(group, now)

    def _look_at(self, group: QueueGroup, now: float) -> None:
        since, _ = self._since.get(group.request, (now, now))
        self._since[group.request] = since, now
        if now - since < self._grace:
            return
        # A few at a time: each end is a statement, and the rest comes with the next look.
        words = self._words(group)
        for waiting in group.first(_MOST):
            self._end(waiting, words)

    def _words(self, group: QueueGroup) -> str:
        """Return what was asked for, and what changed, or what the nearest device lacks."""
        why = group.change or self._dispatcher.impossible(group.request)
        wanted = matching.wanted(group.request)
        return f"No registered device fits any more: it wants {wanted}; {why or 'nothing has it'}"
