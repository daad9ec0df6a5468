"""The dispatcher and matching by values and by hypothesis."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpt.actors import matching
from vpt.actors import messages as m
from vpt.actors.dispatcher import Dispatcher, rank
from vpt.actors.resting import backoff
from vpt.model import (
    Device,
    DeviceRequest,
    DeviceStatus,
    DeviceView,
    Host,
    HostStatus,
    HostView,
    Reason,
    Wait,
    Waiting,
    WaitReason,
)


def view(
    host: str = "h",
    status: DeviceStatus = DeviceStatus.ONLINE,
    *,
    model: str | None = "phone",
    capabilities: frozenset[str] = frozenset(),
    host_status: HostStatus = HostStatus.AVAILABLE,
) -> HostView:
    device = Device(f"{host}:d" if model else host, "d" if model else None, "d", model)
    return HostView(
        Host(host, "http://h", capabilities=capabilities),
        host_status,
        None,
        (DeviceView(device, status),),
    )


def waiting(
    name: str, *, at: float = 0.0, priority: int = 50, request: DeviceRequest | None = None
) -> Waiting:
    return Waiting(name, request or DeviceRequest("phone"), priority, at, at + 1000)


class Lab:
    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.dispatcher = Dispatcher(self._tell)

    def _tell(self, host_id: str, message: m.Message) -> None:
        assert isinstance(message, m.StartRun)
        self.sent.append((host_id, message.execution_id))


def test_a_free_device_takes_the_run_at_once_and_only_one() -> None:
    lab = Lab()
    lab.dispatcher.announce(view())
    assert lab.dispatcher.add(waiting("a"))
    assert not lab.dispatcher.add(waiting("b"))
    lab.dispatcher.announce(view())  # the actor has not taken the message yet
    assert lab.sent == [("h", "a")]


def test_a_free_device_is_found_without_a_look_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab()
    for number in range(1000):
        lab.dispatcher.announce(view(f"h{number}"))
    looks: list[str] = []
    lacks = matching.lacks

    def counted(request: DeviceRequest, host: Host, device: Device) -> list[str]:
        looks.append(device.id)
        return lacks(request, host, device)

    monkeypatch.setattr(matching, "lacks", counted)
    assert lab.dispatcher.add(waiting("a"))
    failed = DeviceRequest("phone", failed_on=("h1:d",), failed_hosts=frozenset({"h1"}))
    assert lab.dispatcher.add(waiting("b", request=failed))
    assert lab.sent == [("h0", "a"), ("h2", "b")]
    assert len(looks) <= 3


def test_a_run_that_is_added_twice_takes_one_device_and_leaves_the_other_free() -> None:
    lab = Lab()
    for name in "hi":
        lab.dispatcher.announce(view(name))
    assert lab.dispatcher.add(waiting("a"))  # by the sweep, which found its row
    assert lab.dispatcher.add(waiting("a"))  # by who submitted it
    assert [execution for _, execution in lab.sent] == ["a"]
    lab.dispatcher.begun("a")
    for name in "hi":
        lab.dispatcher.announce(view(name))
    assert lab.dispatcher.add(waiting("b"))
    assert lab.dispatcher.add(waiting("c"))


def test_why_a_line_waits_can_be_asked_when_all_have_left_it_and_its_host_is_gone() -> None:
    lab = Lab()
    lab.dispatcher.announce(view(status=DeviceStatus.BUSY))
    lab.dispatcher.add(waiting("a"))
    [group] = lab.dispatcher.groups
    lab.dispatcher.withdraw("a")
    lab.dispatcher.host_gone("h")
    assert lab.dispatcher.why(group).names == ()


def test_the_first_in_line_gets_what_becomes_free() -> None:
    lab = Lab()
    for name, at in (("late", 2.0), ("early", 1.0)):
        lab.dispatcher.add(waiting(name, at=at))
    lab.dispatcher.announce(view())
    assert lab.sent == [("h", "early")]


def test_priority_goes_before_age_but_age_catches_up() -> None:
    lab = Lab()
    lab.dispatcher.add(waiting("old", at=0.0, priority=50))
    lab.dispatcher.add(waiting("urgent", at=99.0, priority=60))
    lab.dispatcher.announce(view())
    assert lab.sent == [("h", "urgent")]
    assert rank(waiting("old", at=0.0, priority=50)) < rank(
        waiting("urgent", at=101.0, priority=60)
    )


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 100)), min_size=2, max_size=20))
def test_nobody_starves(requests: list[tuple[float, int]]) -> None:
    """Whoever waits longer by 10 s for each point of priority goes first, for ever."""
    ranks = [(rank(waiting("x", at=at, priority=p)), at, p) for at, p in requests]
    for one, at, p in ranks:
        for other, other_at, other_p in ranks:
            if other_at - at > (other_p - p) * 10 + 1e-6:
                assert one < other


def test_a_constant_stream_of_urgent_runs_starves_nobody() -> None:
    """Two of priority 100 come for each that is served; whoever waited 1000 s is before them."""
    lab = Lab()
    lab.dispatcher.add(waiting("patient", at=0.0, priority=0))
    for turn in range(1000):
        now = turn * 10.0
        lab.dispatcher.add(waiting(f"{now} a", at=now, priority=100))
        lab.dispatcher.add(waiting(f"{now} b", at=now, priority=100))
        lab.dispatcher.announce(view())
        served = lab.sent[-1][1]
        if served == "patient":
            break
        lab.dispatcher.begun(served)
        lab.dispatcher.announce(view(status=DeviceStatus.BUSY))
        assert float(served.split()[0]) <= 1000, "who came 1000 s later is not before it"
    assert lab.sent[-1] == ("h", "patient")


def test_a_run_that_could_not_begin_waits_on_in_its_place() -> None:
    lab = Lab()
    lab.dispatcher.announce(view())
    lab.dispatcher.add(waiting("a", at=0.0))
    lab.dispatcher.add(waiting("b", at=1.0))
    lab.dispatcher.announce(view(host_status=HostStatus.SUSPECT))
    lab.dispatcher.not_taken("a", "h:d", gone=False)
    lab.dispatcher.announce(view())
    assert lab.sent == [("h", "a"), ("h", "a")]
    assert lab.dispatcher.waits("b")


def test_a_device_is_not_given_again_before_its_host_said_what_became_of_the_run() -> None:
    lab = Lab()
    lab.dispatcher.announce(view())
    lab.dispatcher.add(waiting("a"))
    lab.dispatcher.add(waiting("b"))
    lab.dispatcher.announce(view(status=DeviceStatus.LEASED))
    lab.dispatcher.announce(view())
    assert lab.sent == [("h", "a")]
    lab.dispatcher.not_taken("a", "h:d", gone=False)
    lab.dispatcher.offer_all()
    assert lab.sent == [("h", "a"), ("h", "a")], "the sweep finds what was free all the time"


def test_nothing_is_sent_before_all_are_in_line() -> None:
    lab = Lab()
    lab.dispatcher.hold()
    lab.dispatcher.announce(view())
    lab.dispatcher.add(waiting("first to come", at=1.0))
    lab.dispatcher.add(waiting("first in line", at=2.0, priority=90))
    assert lab.sent == []
    lab.dispatcher.release()
    assert lab.sent == [("h", "first in line")]


def test_a_host_that_changes_its_devices_changes_who_fits() -> None:
    lab = Lab()
    lab.dispatcher.announce(view(model="tv"))
    lab.dispatcher.add(waiting("a"))
    assert lab.dispatcher.place("a").wait.names == ()
    lab.dispatcher.announce(view(status=DeviceStatus.BUSY))
    assert lab.dispatcher.place("a").wait.names == ("h:d",)
    lab.dispatcher.announce(view())
    assert lab.sent == [("h", "a")]


def test_what_a_dead_actor_had_not_begun_goes_elsewhere() -> None:
    lab = Lab()
    lab.dispatcher.announce(view("h1"))
    lab.dispatcher.add(waiting("a"))
    lab.dispatcher.announce(view("h2"))
    lab.dispatcher.host_gone("h1")
    assert lab.sent == [("h1", "a"), ("h2", "a")]


def test_a_refused_start_leaves_the_device_to_the_next() -> None:
    lab = Lab()
    lab.dispatcher.announce(view())
    lab.dispatcher.add(waiting("gone"))
    lab.dispatcher.add(waiting("next"))
    lab.dispatcher.not_taken("gone", "h:d", gone=True)
    assert lab.sent == [("h", "gone"), ("h", "next")]
    assert not lab.dispatcher.knows("gone")


def test_a_stopping_server_sends_nothing_and_does_not_spin() -> None:
    lab = Lab()
    lab.dispatcher.announce(view())
    lab.dispatcher.add(waiting("a"))
    lab.dispatcher.add(waiting("b"))
    lab.dispatcher.close()
    lab.dispatcher.not_taken("a", "h:d", gone=False)
    lab.dispatcher.announce(view())
    assert lab.sent == [("h", "a")]
    assert len(lab.dispatcher) == 2


def test_a_device_that_refused_is_offered_again_when_its_host_looks_different() -> None:
    lab = Lab()
    lab.dispatcher.announce(view())
    lab.dispatcher.add(waiting("a"))
    lab.dispatcher.not_taken("a", "h:d", gone=False)
    assert lab.sent == [("h", "a")]
    lab.dispatcher.announce(view())
    assert lab.sent == [("h", "a"), ("h", "a")]


def test_a_lost_run_prefers_another_host() -> None:
    lab = Lab()
    lab.dispatcher.announce(view("h1"))
    lab.dispatcher.announce(view("h2"))
    failed = DeviceRequest("phone", failed_on=("h1:d",), failed_hosts=frozenset({"h1"}))
    lab.dispatcher.add(waiting("a", request=failed))
    assert lab.sent == [("h2", "a")]


def test_work_is_spread_over_the_devices() -> None:
    lab = Lab()
    for name in ("a", "b"):
        lab.dispatcher.announce(view("h1"))
        lab.dispatcher.announce(view("h2"))
        lab.dispatcher.add(waiting(name))
        lab.dispatcher.announce(view(lab.sent[-1][0], DeviceStatus.BUSY))
        lab.dispatcher.announce(view(lab.sent[-1][0]))
    assert [host for host, _ in lab.sent] == ["h1", "h2"]


def test_time_over_leaves_the_line() -> None:
    lab = Lab()
    lab.dispatcher.add(waiting("a", at=0.0))
    lab.dispatcher.add(waiting("b", at=500.0))
    assert [w.execution_id for w in lab.dispatcher.expired(1000.0)] == ["a"]
    lab.dispatcher.announce(view())
    assert lab.sent == [("h", "b")]


def test_an_implicit_device_fits_by_its_hosts_capabilities() -> None:
    implicit = view(model=None, capabilities=frozenset({"phone"}))
    device = implicit.devices[0].device
    assert matching.fits(DeviceRequest("phone"), implicit.host, device)
    assert not matching.fits(DeviceRequest("tv"), implicit.host, device)
    declared = view(model="tv", capabilities=frozenset({"phone"}))
    assert not matching.fits(DeviceRequest("phone"), declared.host, declared.devices[0].device)


def test_any_of_several_models_fits() -> None:
    several = DeviceRequest(("tv", "phone"))
    phone, oven = view(), view(model="oven")
    implicit = view(model=None, capabilities=frozenset({"tv"}))
    fits = [matching.fits(several, v.host, v.devices[0].device) for v in (phone, implicit, oven)]
    assert fits == [True, True, False]
    assert matching.lacks(several, oven.host, oven.devices[0].device) == [
        "device model tv or phone"
    ]
    assert matching.wanted(several) == "tv or phone"


def test_requirements_are_met_by_host_device_and_model_together() -> None:
    v = view(capabilities=frozenset({"hdmi"}))
    device = v.devices[0].device
    assert matching.fits(DeviceRequest("phone", frozenset({"hdmi", "phone"})), v.host, device)
    assert matching.lacks(DeviceRequest("phone", frozenset({"nfc"})), v.host, device) == ["nfc"]


def test_an_impossible_wish_names_what_is_missing_and_who_is_nearest() -> None:
    lab = Lab()
    assert "register one first" in str(lab.dispatcher.impossible(DeviceRequest("phone")))
    lab.dispatcher.announce(view("h1", host_status=HostStatus.LOST))
    assert lab.dispatcher.impossible(DeviceRequest("phone")) is None
    words = lab.dispatcher.impossible(DeviceRequest("phone", frozenset({"nfc"})))
    assert words is not None
    assert "nfc" in words
    assert "h1:d" in words


def test_a_named_device_that_does_not_fit_is_told_and_not_one_that_would() -> None:
    lab = Lab()
    lab.dispatcher.announce(view("h1"))
    lab.dispatcher.announce(view("h2", model="oven"))
    asked = {
        DeviceRequest("phone", device_id="h2:d"): "h2:d is an oven; the test wants phone.",
        DeviceRequest(("tv", "phone"), device_id="h2:d"): (
            "h2:d is an oven; the test wants tv or phone."
        ),
        DeviceRequest("phone", device_id="h3:d"): (
            "h3:d is not registered any more: its host does not declare it."
        ),
        DeviceRequest("phone", host_id="h2"): (
            "No registered host can run this; the nearest, h2:d, lacks device model phone."
        ),
    }
    assert {request: lab.dispatcher.impossible(request) for request in asked} == asked


def test_of_those_who_come_back_from_a_dead_actor_the_first_in_line_goes_first() -> None:
    lab = Lab()
    two = (*view("h").devices, DeviceView(Device("h:e", "e", "e", "phone"), DeviceStatus.ONLINE))
    lab.dispatcher.announce(replace(view("h"), devices=two))
    lab.dispatcher.add(waiting("low", priority=0))
    lab.dispatcher.add(waiting("high", priority=90))
    lab.dispatcher.announce(view("i"))
    lab.sent.clear()
    lab.dispatcher.host_gone("h")
    assert lab.sent == [("i", "high")]


# ---------------------------------------------------------------- where it failed


def failed_on(*devices: str, name: str = "a", rest_until: float = 0.0) -> Waiting:
    """Return an execution that failed on devices, each of a host."""
    hosts = frozenset(device.partition(":")[0] for device in devices)
    request = DeviceRequest("phone", failed_on=devices, failed_hosts=hosts)
    return replace(waiting(name, request=request), not_before=rest_until)


HELD = DeviceStatus.OFFLINE


def test_a_retry_waits_for_a_busy_device_beside_the_free_one_where_it_failed() -> None:
    lab = Lab()
    lab.dispatcher.announce(view("bad"))
    lab.dispatcher.announce(view("good", DeviceStatus.BUSY))
    assert not lab.dispatcher.add(failed_on("bad:d"))
    lab.dispatcher.announce(view("bad"))
    lab.dispatcher.offer_all()
    assert lab.sent == []
    assert lab.dispatcher.place("a").wait == Wait(WaitReason.ALL_BUSY, ("good:d",))
    assert lab.dispatcher.add(waiting("b")), "the free device is for those who did not fail there"
    lab.dispatcher.announce(view("good"))
    assert lab.sent == [("bad", "b"), ("good", "a")]


@pytest.mark.parametrize(
    "lost",
    [
        view("good", DeviceStatus.DISABLED),
        view("good", DeviceStatus.OFFLINE),
        view("good", DeviceStatus.DISABLED, host_status=HostStatus.SUSPECT),
        view("good", host_status=HostStatus.LOST),
        view("good", host_status=HostStatus.DRAINING),
        replace(view("good", host_status=HostStatus.SUSPECT), reason=Reason.FLAPPING),
        replace(view("good", host_status=HostStatus.SUSPECT), reason=Reason.BROKEN),
        replace(view("good", HELD, host_status=HostStatus.SUSPECT), reason=Reason.ERRORS),
        view("good", model="tv"),
        None,
    ],
)
def test_the_same_device_is_taken_when_no_other_is_worth_waiting_for(lost: HostView | None) -> None:
    lab = Lab()
    lab.dispatcher.announce(view("bad"))
    lab.dispatcher.announce(view("good", DeviceStatus.BUSY))
    lab.dispatcher.add(failed_on("bad:d"))
    assert lab.sent == []
    if lost is None:
        lab.dispatcher.host_gone("good")
    else:
        lab.dispatcher.announce(lost)
    assert lab.sent == [("bad", "a")], "at once, not with the next sweep"


def test_what_is_back_soon_is_waited_for() -> None:
    lab = Lab()
    lab.dispatcher.announce(view("bad"))
    away = replace(view("good", host_status=HostStatus.SUSPECT), reason=Reason.PROBES)
    lab.dispatcher.announce(away)
    lab.dispatcher.add(failed_on("bad:d"))
    assert lab.sent == []


@pytest.mark.parametrize("ends", [True, False])
def test_a_leased_device_is_waited_for_during_the_back_off(ends: bool) -> None:
    """A lease may last for hours."""
    lab = Lab()
    lab.dispatcher.announce(view("bad"))
    lab.dispatcher.announce(view("good", DeviceStatus.LEASED))
    lab.dispatcher.add(failed_on("bad:d", rest_until=5.0))
    lab.dispatcher.offer_all()
    assert lab.sent == []
    if ends:
        lab.dispatcher.announce(view("good"))
    lab.dispatcher.rested(5.0)
    assert lab.sent == [("good" if ends else "bad", "a")]


def test_who_leases_the_last_good_device_lets_the_retry_have_the_other_one() -> None:
    lab = Lab()
    lab.dispatcher.announce(view("bad"))
    lab.dispatcher.announce(view("good", DeviceStatus.BUSY))
    lab.dispatcher.add(failed_on("bad:d"))
    assert lab.sent == []
    lab.dispatcher.announce(view("good", DeviceStatus.LEASED))
    assert lab.sent == [("bad", "a")], "at once, not with the next sweep"


def test_the_same_device_is_taken_after_a_back_off_only() -> None:
    lab = Lab()
    lab.dispatcher.announce(view("bad"))
    lab.dispatcher.add(failed_on("bad:d", rest_until=5.0))
    lab.dispatcher.add(failed_on("bad:d", name="b", rest_until=7.0))
    lab.dispatcher.rested(4.9)
    lab.dispatcher.offer_all()
    assert lab.sent == []
    assert lab.dispatcher.place("a").wait == Wait(WaitReason.BACKOFF, ("bad:d",))
    assert lab.dispatcher.next_rested == 5.0
    lab.dispatcher.rested(5.0)
    assert lab.sent == [("bad", "a")]
    assert lab.dispatcher.next_rested == 7.0
    lab.dispatcher.withdraw("b")
    assert lab.dispatcher.next_rested is None


def test_another_device_is_taken_during_the_back_off() -> None:
    lab = Lab()
    lab.dispatcher.announce(view("bad"))
    lab.dispatcher.add(failed_on("bad:d", rest_until=5.0))
    lab.dispatcher.announce(view("good"))
    assert lab.sent == [("good", "a")]
    assert lab.dispatcher.next_rested is None


def test_another_device_of_the_host_comes_before_the_same_one_and_after_other_hosts() -> None:
    lab = Lab()
    two = tuple(
        DeviceView(Device(f"bad:{n}", n, n, "phone"), DeviceStatus.ONLINE) for n in ("d", "e")
    )
    lab.dispatcher.announce(HostView(Host("bad", "http://h"), HostStatus.AVAILABLE, None, two))
    lab.dispatcher.announce(view("good", DeviceStatus.BUSY))
    lab.dispatcher.add(failed_on("bad:d"))
    assert lab.sent == []
    lab.dispatcher.host_gone("good")
    assert lab.dispatcher._sent["a"][1] == "bad:e"


def test_a_retry_goes_to_where_the_last_attempt_of_others_did_not_fail() -> None:
    lab = Lab()
    lab.dispatcher.announce(view("good", DeviceStatus.BUSY))
    third = view("third")
    doubtful = replace(third, devices=(replace(third.devices[0], doubtful=True),))
    lab.dispatcher.announce(doubtful)
    lab.dispatcher.add(failed_on("bad:d"))
    assert lab.sent == []
    assert lab.dispatcher.add(waiting("b")), "a first attempt may"
    lab.dispatcher.begun("b")
    lab.dispatcher.announce(doubtful)
    busy = view("good", DeviceStatus.BUSY)
    lab.dispatcher.announce(replace(busy, devices=(replace(busy.devices[0], doubtful=True),)))
    assert lab.sent == [("third", "b"), ("third", "a")], "none is better by now"


def test_what_failed_everywhere_goes_to_where_it_failed_longest_ago() -> None:
    lab = Lab()
    for name in ("one", "two"):
        lab.dispatcher.announce(view(name))
    lab.dispatcher.add(failed_on("two:d", "one:d"))
    assert lab.sent == [("two", "a")]


def test_the_back_off_grows_with_each_failure() -> None:
    assert [backoff(1.0, failures) for failures in (0, 1, 2, 3, 4, 5, 50)] == [
        *(0, 1, 4, 16),
        *(64, 64, 64),
    ]


def test_what_rested_as_long_gets_each_device_that_is_free() -> None:
    """One gets the device that the other would have had, which takes the next one."""
    lab = Lab()
    for name in ("one", "two"):
        lab.dispatcher.announce(view(name))
    lab.dispatcher.add(failed_on("one:d", "two:d", name="a", rest_until=5.0))
    first = failed_on("two:d", "one:d", "one:d", name="b", rest_until=5.0)
    lab.dispatcher.add(replace(first, priority=90))
    lab.dispatcher.rested(5.0)
    assert sorted(name for _, name in lab.sent) == ["a", "b"]
