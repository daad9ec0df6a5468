"""The dispatcher by hypothesis: in any history the first in line gets what is free, and only it.

The invariants: a device has one run at most; whatever is sent was first, by priority + 1 for each
10 s waited, of all that may have the device; nothing waits while a device that it may have is free;
and everybody's turn comes. What failed somewhere may have a device there only when no better one is
worth waiting for, and the very device only after its back-off.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vpt.actors import matching
from vpt.actors import messages as m
from vpt.actors.dispatcher import Dispatcher
from vpt.model import (
    Device,
    DeviceRequest,
    DeviceStatus,
    DeviceView,
    Host,
    HostStatus,
    HostView,
    Waiting,
)

HOSTS = {"h1": ("tv", "tv", "phone"), "h2": ("tv",)}
DEVICES = {
    f"{host}:d{n}": Device(f"{host}:d{n}", f"d{n}", "d", model)
    for host, models in HOSTS.items()
    for n, model in enumerate(models)
}
REQUESTS = [
    DeviceRequest("tv"),
    DeviceRequest("phone"),
    DeviceRequest("tv", host_id="h1"),
    DeviceRequest("tv", device_id="h1:d0"),
    DeviceRequest("tv", refused_by=frozenset({"h2"})),
]
_ONLINE = DeviceStatus.ONLINE


class DispatcherHistories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.number = 0
        self.up = dict.fromkeys(HOSTS, True)
        self.status = dict.fromkeys(DEVICES, _ONLINE)
        self.known = dict.fromkeys(HOSTS, HostStatus.LOST)  # as the dispatcher knows them
        self.shown = dict.fromkeys(DEVICES, _ONLINE)
        self.shown_busy: set[str] = set()
        self.doubtful = dict.fromkeys(DEVICES, False)
        self.known_doubtful = dict.fromkeys(DEVICES, False)
        self.resting: set[str] = set()
        self.down = dict.fromkeys(HOSTS, HostStatus.SUSPECT)
        self.in_line: dict[str, Waiting] = {}
        self.sent: dict[str, tuple[Waiting, str]] = {}  # on the way to a host
        self.running: dict[str, str] = {}  # device to execution
        self.failed: dict[str, tuple[str, ...]] = {}
        self.dispatcher = Dispatcher(self.tell)
        for host in HOSTS:
            self.announce(host)

    # ------------------------------------------------------------ the world

    def tell(self, host_id: str, message: m.Message) -> None:
        assert isinstance(message, m.StartRun)
        device_id, waiting = message.device_id, self.in_line.pop(message.execution_id)
        assert self.is_free(device_id), "a run for a device that is not free"
        assert device_id.startswith(host_id)
        assert self.may_have(waiting, device_id)
        for other in self.in_line.values():
            if self.may_have(other, device_id):
                assert self.points(other) <= self.points(waiting) + 1e-6, "out of order"
        self.sent[message.execution_id] = (waiting, device_id)

    def points(self, waiting: Waiting) -> float:
        return waiting.priority + (self.now - waiting.queued_at) / 10

    def fits(self, waiting: Waiting, device_id: str) -> bool:
        host = Host(device_id[:2], "http://h")
        return matching.fits(waiting.request, host, DEVICES[device_id])

    def may_have(self, waiting: Waiting, device_id: str) -> bool:
        """Whether it fits, no better one runs again soon, and its back-off is over."""
        if not self.fits(waiting, device_id):
            return False
        level = self.level(waiting, device_id)
        others = (one for one in DEVICES if self.fits(waiting, one) and self.is_hope(one))
        if any(self.level(waiting, one) < level for one in others):
            return False
        return level < 2 or waiting.execution_id not in self.resting

    def level(self, waiting: Waiting, device_id: str) -> int:
        request = waiting.request
        if device_id in request.failed_on:
            return 2
        doubtful = bool(request.failed_on) and self.known_doubtful[device_id]
        return int(doubtful or device_id[:2] in request.failed_hosts)

    def is_hope(self, device_id: str) -> bool:
        host = device_id[:2]
        # A lease may last as long as its holder likes: it is no hope.
        gone = (DeviceStatus.OFFLINE, DeviceStatus.DISABLED, DeviceStatus.LEASED)
        running = device_id in self.shown_busy  # as it was announced
        return self.known[host] is not HostStatus.LOST and (
            running or self.shown[device_id] not in gone
        )

    def is_free(self, device_id: str) -> bool:
        taken = {device for _, device in self.sent.values()} | set(self.running)
        return (
            self.up[device_id[:2]]
            and self.status[device_id] is _ONLINE
            and (device_id not in taken)
        )

    def announce(self, host: str) -> None:
        views = tuple(
            DeviceView(
                device,
                DeviceStatus.BUSY if name in self.running else self.status[name],
                doubtful=self.doubtful[name],
            )
            for name, device in DEVICES.items()
            if name.startswith(host)
        )
        status = HostStatus.AVAILABLE if self.up[host] else self.down[host]
        self.known[host] = status
        for name in (name for name in DEVICES if name.startswith(host)):
            self.shown[name] = self.status[name]
            self.known_doubtful[name] = self.doubtful[name]
            self.shown_busy.discard(name)
            self.shown_busy |= {name} & self.running.keys()
        self.dispatcher.announce(HostView(Host(host, "http://h"), status, None, views))

    # ------------------------------------------------------------ what happens

    @rule(seconds=st.floats(0.1, 500))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @rule(priority=st.integers(0, 100), request=st.sampled_from(REQUESTS))
    def somebody_comes(self, priority: int, request: DeviceRequest) -> None:
        self.number += 1
        waiting = Waiting(f"e{self.number}", request, priority, self.now, self.now + 1e9)
        self.in_line[waiting.execution_id] = waiting
        assert self.dispatcher.add(waiting) == (waiting.execution_id in self.sent)

    @precondition(lambda self: self.sent)
    @rule(pick=st.integers(0, 9))
    def a_run_begins(self, pick: int) -> None:
        execution_id, (_, device_id) = list(self.sent.items())[pick % len(self.sent)]
        if self.up[device_id[:2]] and self.status[device_id] is _ONLINE:
            self.running[device_id] = execution_id
            self.announce(device_id[:2])
            del self.sent[execution_id]
            self.dispatcher.begun(execution_id)
        else:
            self.refuse(execution_id)

    @precondition(lambda self: self.sent)
    @rule(pick=st.integers(0, 9))
    def a_run_is_gone(self, pick: int) -> None:
        """It was cancelled while it was on its way: the device is given to the next."""
        execution_id, (_, device_id) = list(self.sent.items())[pick % len(self.sent)]
        if self.up[device_id[:2]] and self.status[device_id] is _ONLINE:
            del self.sent[execution_id]
            self.dispatcher.not_taken(execution_id, device_id, gone=True)
        else:
            self.refuse(execution_id)

    def refuse(self, execution_id: str) -> None:
        waiting, device_id = self.sent.pop(execution_id)
        self.in_line[execution_id] = waiting
        self.rest_again(waiting)
        self.dispatcher.not_taken(execution_id, device_id, gone=False)

    def rest_again(self, waiting: Waiting) -> None:
        """Until the clock rings, whatever the time: the dispatcher has none."""
        if waiting.not_before:
            self.resting.add(waiting.execution_id)

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 9), again=st.booleans())
    def a_run_ends(self, pick: int, again: bool) -> None:
        device_id = list(self.running)[pick % len(self.running)]
        execution_id = self.running.pop(device_id)
        self.doubtful[device_id] = again
        self.announce(device_id[:2])
        if again:
            failed = (*self.failed.get(execution_id, ()), device_id)
            self.failed[execution_id] = failed
            hosts = frozenset(one[:2] for one in failed)
            model = DEVICES[device_id].model or ""
            request = DeviceRequest(model, failed_on=failed, failed_hosts=hosts)
            waiting = Waiting(execution_id, request, 50, self.now, self.now + 1e9, self.now + 5)
            self.in_line[execution_id] = waiting
            self.resting.add(execution_id)
            self.dispatcher.add(waiting)

    @rule()
    def the_clock_rings(self) -> None:
        """The back-off of some is over."""
        for waiting in self.in_line.values():
            if waiting.not_before <= self.now:
                self.resting.discard(waiting.execution_id)
        self.dispatcher.rested(self.now)

    @rule(device_id=st.sampled_from(sorted(DEVICES)), status=st.sampled_from(DeviceStatus))
    def a_device_is_leased_or_disabled_or_back(self, device_id: str, status: DeviceStatus) -> None:
        self.status[device_id] = status
        self.announce(device_id[:2])

    @rule(
        host=st.sampled_from(sorted(HOSTS)),
        down=st.sampled_from([HostStatus.SUSPECT, HostStatus.LOST]),
    )
    def a_host_goes_or_comes(self, host: str, down: HostStatus) -> None:
        self.up[host], self.down[host] = not self.up[host], down
        self.announce(host)

    @rule(host=st.sampled_from(sorted(HOSTS)))
    def an_actor_dies_and_is_started_anew(self, host: str) -> None:
        self.up[host] = False
        for execution_id, (waiting, device_id) in tuple(self.sent.items()):
            if device_id.startswith(host):
                del self.sent[execution_id]
                self.in_line[execution_id] = waiting
                self.rest_again(waiting)
        self.known[host] = HostStatus.LOST
        self.dispatcher.host_gone(host)
        self.up[host] = True
        self.announce(host)

    @precondition(lambda self: self.in_line)
    @rule(pick=st.integers(0, 9))
    def somebody_leaves(self, pick: int) -> None:
        execution_id = list(self.in_line)[pick % len(self.in_line)]
        del self.in_line[execution_id]
        assert self.dispatcher.withdraw(execution_id) is not None

    @rule()
    def the_sweep(self) -> None:
        self.dispatcher.offer_all()

    # ------------------------------------------------------------ what always holds

    @invariant()
    def nobody_waits_while_a_device_that_fits_is_free(self) -> None:
        free = [device_id for device_id in DEVICES if self.is_free(device_id)]
        for waiting in self.in_line.values():
            assert not [one for one in free if self.may_have(waiting, one)]
            assert self.dispatcher.waits(waiting.execution_id)
        assert len(self.dispatcher) == len(self.in_line)

    @invariant()
    def places_are_those_of_the_points(self) -> None:
        for name, waiting in self.in_line.items():
            mine = {device for device in DEVICES if self.fits(waiting, device)}
            rivals = [
                self.points(other)
                for other in self.in_line.values()
                if other is not waiting and any(self.fits(other, device) for device in mine)
            ]
            surely = sum(points > self.points(waiting) + 1e-6 for points in rivals)
            perhaps = sum(points > self.points(waiting) - 1e-6 for points in rivals)
            assert surely < self.dispatcher.place(name).position <= perhaps + 1

    def teardown(self) -> None:
        """When all is well again, everybody's turn comes."""
        for host in HOSTS:
            self.up[host] = True
        self.status = dict.fromkeys(DEVICES, _ONLINE)
        for host in HOSTS:
            self.announce(host)
        self.now += 5
        self.the_clock_rings()
        while self.sent or self.running:
            while self.sent:
                self.a_run_begins(0)
            while self.running:
                self.a_run_ends(0, again=False)
            self.now += 5
            self.the_clock_rings()
            self.nobody_waits_while_a_device_that_fits_is_free()
        assert self.in_line == {}


TestDispatcherHistories = DispatcherHistories.TestCase
TestDispatcherHistories.settings = settings(
    max_examples=150 * int(os.environ.get("VPT_HISTORIES", "1")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
