"""Why executions wait: each reason, and when it is told."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from time import thread_time

import pytest

from tests.held import looks
from vpt.actors import messages as m
from vpt.actors.dispatcher import Dispatcher
from vpt.actors.waits import Waits
from vpt.events import Events
from vpt.model import (
    Device,
    DeviceReason,
    DeviceRequest,
    DeviceStatus,
    DeviceView,
    Host,
    HostStatus,
    HostView,
    QueueChanged,
    Reason,
    Waiting,
)

BUSY, LEASED, ONLINE = DeviceStatus.BUSY, DeviceStatus.LEASED, DeviceStatus.ONLINE


def view(
    host: str = "h",
    *devices: DeviceStatus,
    status: HostStatus = HostStatus.BUSY,
    reason: Reason | None = None,
    why: DeviceReason | None = None,
) -> HostView:
    views = tuple(
        DeviceView(Device(f"{host}:d{n}", f"d{n}", "d", "tv"), one, why)
        for n, one in enumerate(devices or (BUSY,))
    )
    return HostView(Host(host, "http://h"), status, reason, views)


class Hall:
    """A dispatcher, and all that is told of why executions wait."""

    def __init__(self) -> None:
        self.told: list[QueueChanged] = []
        self.sent: list[m.Message] = []
        events = Events()
        events.subscribe(self._hear)
        self.dispatcher = Dispatcher(lambda _, message: self.sent.append(message))
        self._waits = Waits(self.dispatcher, events)
        self._numbers = itertools.count()

    def _hear(self, event: object) -> None:
        assert isinstance(event, QueueChanged)
        self.told.append(event)

    def add(
        self, name: str = "a", request: DeviceRequest | None = None, priority: int = 50
    ) -> None:
        at = float(next(self._numbers))
        self.dispatcher.add(Waiting(name, request or DeviceRequest("tv"), priority, at, at + 1e9))

    async def news(self) -> list[tuple[str, str, tuple[str, ...], int]]:
        """Give what is told now."""
        self.told.clear()
        await self._waits.tell()
        return [(e.execution_id, e.reason.value, e.names, e.position) for e in self.told]


@pytest.mark.parametrize(
    ("views", "reason", "names"),
    [
        ([view("h", BUSY, BUSY)], "all_busy", ("h:d0", "h:d1")),
        ([view("h", LEASED)], "leased", ("h:d0",)),
        ([view("h", LEASED, BUSY)], "all_busy", ("h:d1",)),
        ([view("h", ONLINE, status=HostStatus.DRAINING)], "draining", ("h",)),
        ([view("h", ONLINE, status=HostStatus.SUSPECT)], "host_suspect", ("h",)),
        (
            [view("h", ONLINE, status=HostStatus.SUSPECT, reason=Reason.FLAPPING)],
            "paused",
            ("h",),
        ),
        (
            [view("h", ONLINE, status=HostStatus.SUSPECT, reason=Reason.BROKEN)],
            "host_suspect",
            ("h",),
        ),
        ([view("h", DeviceStatus.OFFLINE, status=HostStatus.LOST)], "no_online_host", ("h",)),
        ([view("h", DeviceStatus.OFFLINE, status=HostStatus.OFFLINE)], "no_online_host", ("h",)),
        ([view("h", DeviceStatus.DISABLED)], "no_online_host", ("h",)),
        ([], "no_online_host", ()),
        ([view("h", DeviceStatus.OFFLINE, why=DeviceReason.AWAY)], "device_away", ("h:d0",)),
        (
            [
                view("h1", DeviceStatus.OFFLINE, why=DeviceReason.AWAY),
                view("h2", DeviceStatus.DISABLED),
            ],
            "device_away",
            ("h1:d0",),
        ),
        (
            [view("h", DeviceStatus.OFFLINE, status=HostStatus.LOST, why=DeviceReason.AWAY)],
            "no_online_host",
            ("h",),
        ),
        (
            [view("h1", ONLINE, status=HostStatus.DRAINING), view("h2", LEASED)],
            "leased",
            ("h2:d0",),
        ),
        (
            [view("h1", DeviceStatus.OFFLINE, status=HostStatus.LOST), view("h2", BUSY)],
            "all_busy",
            ("h2:d0",),
        ),
    ],
)
def test_the_reason_is_the_one_that_passes_soonest(
    views: list[HostView], reason: str, names: tuple[str, ...]
) -> None:
    hall = Hall()
    for one in views:
        hall.dispatcher.announce(one)
    hall.add()
    wait = hall.dispatcher.place("a").wait
    assert (wait.reason, wait.names) == (reason, names)


def test_only_what_fits_is_waited_for() -> None:
    hall = Hall()
    hall.dispatcher.announce(view("h", BUSY, LEASED))
    hall.add("any")
    hall.add("one", DeviceRequest("tv", device_id="h:d1"))
    assert hall.dispatcher.place("any").wait.reason == "all_busy"
    assert hall.dispatcher.place("one").wait.reason == "leased"


def test_a_place_counts_those_who_want_the_same_device_and_nobody_else() -> None:
    hall = Hall()
    hall.dispatcher.announce(view("h", BUSY, BUSY))
    hall.add("first", DeviceRequest("tv", device_id="h:d0"))
    hall.add("elsewhere", DeviceRequest("tv", device_id="h:d1"))
    hall.add("any")
    hall.add("urgent", DeviceRequest("tv", device_id="h:d0"), priority=100)
    places = {name: hall.dispatcher.place(name) for name in ("first", "elsewhere", "any", "urgent")}
    assert {name: place.position for name, place in places.items()} == {
        "urgent": 1,
        "first": 2,
        "elsewhere": 1,
        "any": 4,
    }
    assert [places["any"].able, places["first"].able] == [2, 1]


def test_what_is_on_its_way_has_no_place_but_its_device_is_named() -> None:
    hall = Hall()
    hall.dispatcher.announce(view("h", ONLINE, status=HostStatus.AVAILABLE))
    hall.add()
    place = hall.dispatcher.place("a")
    assert (place.wait.reason, place.wait.names, place.position) == ("all_busy", ("h:d0",), 0)


async def test_who_comes_into_line_is_told_why_and_only_once() -> None:
    hall = Hall()
    hall.dispatcher.announce(view())
    hall.add("a")
    hall.add("b")
    assert await hall.news() == [
        ("a", "all_busy", ("h:d0",), 1),
        ("b", "all_busy", ("h:d0",), 2),
    ]
    hall.add("c")
    assert await hall.news() == [("c", "all_busy", ("h:d0",), 3)]
    assert await hall.news() == []


async def test_a_change_of_reason_is_told_to_all_in_line_and_nothing_else_is() -> None:
    hall = Hall()
    hall.dispatcher.announce(view("h", BUSY, BUSY))
    hall.add("a")
    hall.add("b", priority=60)
    await hall.news()
    hall.dispatcher.announce(view("h", BUSY, LEASED))
    assert await hall.news() == [], "other names are no other reason"
    hall.dispatcher.announce(view("h", LEASED, LEASED))
    names = ("h:d0", "h:d1")
    assert await hall.news() == [("b", "leased", names, 1), ("a", "leased", names, 2)]
    hall.dispatcher.announce(view("h", BUSY, LEASED))
    hall.dispatcher.announce(view("h", LEASED, LEASED))
    assert await hall.news() == [], "it changed and changed back"


async def test_who_left_and_came_again_is_told_again() -> None:
    hall = Hall()
    hall.dispatcher.announce(view())
    hall.add("a")
    hall.add("b")
    await hall.news()
    hall.dispatcher.withdraw("a")
    assert await hall.news() == []
    hall.add("a")
    assert await hall.news() == [("a", "all_busy", ("h:d0",), 2)]
    hall.dispatcher.withdraw("a")
    hall.dispatcher.withdraw("b")
    assert hall.dispatcher.told == {}, "who left is remembered by nobody"


async def test_who_leaves_before_he_was_told_is_not_told() -> None:
    hall = Hall()
    hall.dispatcher.announce(view())
    hall.add("a")
    hall.dispatcher.withdraw("a")
    assert await hall.news() == []


async def test_a_long_line_is_told_whole_each_once_and_in_order() -> None:
    hall = Hall()
    hall.dispatcher.announce(view())
    names = [f"e{n}" for n in range(3500)]
    for name in names:
        hall.add(name)
    told = [one[0] for _ in range(8) for one in await hall.news()]
    assert told == names
    hall.dispatcher.announce(view("h", status=HostStatus.SUSPECT))
    first = await hall.news()
    hall.add("late", priority=100)  # it has a place before those who were told already
    hall.dispatcher.withdraw("e3000")
    told = [one[:2] for one in first] + [one[:2] for _ in range(8) for one in await hall.news()]
    expected = [(name, "host_suspect") for name in [*names, "late"] if name != "e3000"]
    assert sorted(told) == sorted(expected)
    hall.dispatcher.announce(view("h", LEASED))
    await hall.news()
    hall.dispatcher.announce(view("h", status=HostStatus.SUSPECT))  # before all were told
    told = [one[:2] for _ in range(8) for one in await hall.news()]
    assert 0 < len(told) < 3000
    assert {reason for _, reason in told} == {"host_suspect"}, "nobody hears what is over already"


@pytest.mark.alone
@pytest.mark.timeout(600)  # also on a loaded machine
async def test_a_line_of_a_hundred_thousand_holds_nobody_up() -> None:
    """Hosts announce themselves all the time, and the loop is never kept for long."""
    hall = Hall()
    views = [view(f"h{n}", *[BUSY] * 10) for n in range(100)]
    for one in views:
        hall.dispatcher.announce(one)
    for n in range(100_000):
        request = (
            DeviceRequest("tv", device_id=f"h{n % 100}:d{n % 7}") if n % 2 else DeviceRequest("tv")
        )
        hall.add(f"e{n}", request, priority=n % 101)
    await hall.news()
    async with looks() as found:
        for turn in range(3):
            status = HostStatus.SUSPECT if turn % 2 else HostStatus.BUSY
            for n in range(100):
                hall.dispatcher.announce(view(f"h{n}", *[BUSY] * 10, status=status))
            await hall.news()
    assert found[int(len(found) * 0.99)] < 0.02
    assert min(_seconds_of(lambda: hall.dispatcher.place("e500")) for _ in range(5)) < 0.02


def _seconds_of(work: Callable[[], object]) -> float:
    """Return the processor time of a call; one of several may include a garbage collection."""
    began = thread_time()
    work()
    return thread_time() - began
