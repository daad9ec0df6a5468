"""The health of a device in the host machine: errors in a row hold it back, a verdict clears it."""

from __future__ import annotations

import pytest

from tests.actors.world import FAIL, LIMITS, PASS, World, device, host, trouble, world
from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.machine import health, wake
from vpt.actors.state import Health, HostState, Lane
from vpt.dialects.base import Trouble
from vpt.errors import UnprocessableError
from vpt.model import DeviceReason, DeviceStatus, DeviceView, HostStatus, Reason

ERROR = trouble("HOST_ERROR")


def broken(w: World, times: int, outcome: m.Outcome = ERROR) -> World:
    """Let runs of a step each fail on the first device."""
    for _ in range(times):
        w.run(f"e{len(w.executions) + 1}").settle().answer(outcome).settle()
    return w


def shown(w: World, number: int = 0) -> DeviceView:
    assert w.state.view is not None
    return w.state.view.devices[number]


def one_step(**more: object) -> World:
    return world(steps=({"command": "a"},), **more).up()  # type: ignore[arg-type]


def test_three_errors_in_a_row_hold_a_device_back_and_two_do_not() -> None:
    w = broken(one_step(devices=2), 2)
    assert shown(w) == DeviceView(device(1), DeviceStatus.ONLINE, doubtful=True)
    broken(w, 1)
    held = (DeviceStatus.OFFLINE, DeviceReason.HELD_BACK, "HOST_ERROR", 10, True)
    assert shown(w) == DeviceView(device(1), *held)
    assert shown(w, 1).status is DeviceStatus.ONLINE, "the other one is well"
    w.run("e9")
    assert not w.records, "a run on a device that is held back"


@pytest.mark.parametrize("verdict", [PASS, FAIL])
def test_a_verdict_between_the_errors_clears_them(verdict: m.Outcome) -> None:
    w = broken(one_step(), 2)
    broken(w, 1, verdict)
    broken(w, 2)
    assert shown(w).status is DeviceStatus.ONLINE


def test_the_first_run_after_the_pause_is_a_trial_and_its_error_doubles_the_pause() -> None:
    w = broken(one_step(), 3)
    for pause in (20, 40, 80):
        w.ring("pause:h:d1")
        assert shown(w) == DeviceView(device(1), DeviceStatus.ONLINE, doubtful=True)
        broken(w, 1)
        assert shown(w).pause_s == pause
    w.ring("pause:h:d1")
    broken(w, 1, PASS)
    broken(w, 2)
    assert shown(w).status is DeviceStatus.ONLINE, "the verdict cleared it"


def test_the_pause_is_an_hour_at_most() -> None:
    assert health.pause_of(10, 2) is None
    assert [health.pause_of(10, errors) for errors in (3, 4, 11, 12, 10_000)] == [
        *(10, 20, 2560),
        *(3600, 3600),
    ]


@pytest.mark.parametrize("kind", ["HOST_REFUSED", "FATE_UNKNOWN", "HOST_ERROR"])
def test_whatever_the_infrastructure_does_counts(kind: str) -> None:
    w = one_step(cancel=False)
    for _ in range(3):
        broken(w, 1, trouble(kind))
        while shown(w).status is DeviceStatus.BUSY:  # it was lost in the middle of a step
            w.tell(m.ProbeDue()).probe(good=True).settle()
    assert shown(w).reason is DeviceReason.HELD_BACK


def test_a_step_that_ends_too_late_counts() -> None:
    w = one_step(cancel=False)
    for number in range(3):
        w.run(f"e{number}").settle().ring("step:h:d1").settle().ring("cancel:h:d1").settle()
    assert shown(w).reason_text == "The step did not end in time."


def test_what_is_not_its_own_doing_does_not_count() -> None:
    w = broken(one_step(), 3, trouble("NO_SECRET"))
    assert shown(w).status is DeviceStatus.ONLINE
    for number in range(3):
        w.run(f"c{number}").settle().tell(m.Cancel(f"c{number}")).answer(ERROR).settle()
    assert shown(w).status is DeviceStatus.ONLINE


def test_a_host_all_of_whose_devices_are_held_back_is_suspect() -> None:
    w = broken(one_step(), 3)
    view = w.state.view
    assert view is not None
    assert (view.status, view.reason) == (HostStatus.SUSPECT, Reason.ERRORS)
    assert (view.reason_text, view.pause_s) == ("h:d1: HOST_ERROR", 10)
    w.ring("pause:h:d1")
    assert w.state.view is not None
    assert (w.state.view.status, w.state.view.reason) == (HostStatus.AVAILABLE, None)


def test_a_registration_does_not_clear_it() -> None:
    w = broken(one_step(), 3)
    w.tell(m.Register(1, host(), (device(1),))).up()
    assert shown(w).reason is DeviceReason.HELD_BACK


def test_a_device_that_comes_and_goes_keeps_its_errors() -> None:
    w = broken(one_step(devices=2), 3)
    w.tell(m.Register(1, host(), (device(2),))).up()
    assert w.state.view is not None
    assert [item.device.id for item in w.state.view.devices] == ["h:d2"]
    w.tell(m.RunAction(2, "h:d1", {}, 1, "k", "u"))
    assert isinstance(w.replies[2], UnprocessableError)
    w.tell(m.Register(3, host(), (device(1), device(2)))).up()
    assert shown(w, 0).reason is DeviceReason.HELD_BACK
    w.tell(m.Register(4, host(), (device(2),)), m.ForgetErrors(5, None)).up()
    assert list(w.state.lanes) == ["h:d2"]


def test_a_long_error_is_shown_in_part() -> None:
    w = broken(one_step(), 3, m.NoAnswer(Trouble.HOST_ERROR, "x" * 100_000))
    assert shown(w).reason_text == "x" * 500


@pytest.mark.parametrize(
    "message", [m.ForgetErrors(1, "h:d1"), m.ForgetErrors(1, None), m.Drain(1, on=False)]
)
def test_people_clear_it(message: m.Message) -> None:
    w = broken(one_step(), 3).tell(message)
    assert w.replies == {1: None}
    assert "pause:h:d1" not in w.alarms
    broken(w, 2)
    assert shown(w).status is DeviceStatus.ONLINE, "its errors are forgotten"


def test_people_clear_the_device_that_they_name_only() -> None:
    w = broken(one_step(devices=2), 3).tell(m.ForgetErrors(1, "h:d2"))
    assert shown(w).reason is DeviceReason.HELD_BACK


def test_it_is_leased_and_acted_on_meanwhile() -> None:
    w = broken(one_step(), 3)
    w.tell(m.RunAction(1, "h:d1", {}, 1, "k", "u"))
    assert len(w.acts) == 1
    w.run("e9").tell(m.RunAction(2, "h:d1", {}, 1, "k", "u"))
    assert not w.replies, "a run that cannot begin keeps no action off"
    w.tell(m.ActionAnswered("h:d1", 1, PASS, 1.0), m.ActionAnswered("h:d1", 2, PASS, 1.0))
    w.tell(m.TakeLease(3, "h:d1", "l", "u", 60))
    assert shown(w).status is DeviceStatus.LEASED
    assert shown(w).reason is DeviceReason.HELD_BACK


def test_its_errors_are_stored_with_the_end_of_the_attempt() -> None:
    w = one_step()
    ends = []
    for number in range(3):
        w.run(f"e{number}").settle().answer(ERROR)
        ends += [record for record in w.records if isinstance(record, fx.StoreEnd)]
        w.settle()
    assert [end.health for end in ends] == [
        Health(1, "HOST_ERROR"),
        Health(2, "HOST_ERROR"),
        Health(3, "HOST_ERROR", 10),
    ]


def test_a_restart_goes_on_with_what_is_left_of_the_pause() -> None:
    lane = Lane(device(1), health=Health(4, "no cable", 7.5))
    state, effects = wake(HostState(host(), LIMITS, good=1, lanes={"h:d1": lane}), [])
    alarms = [effect for effect in effects if isinstance(effect, fx.Alarm)]
    assert alarms == [fx.Alarm("pause:h:d1", 7.5, m.DevicePauseOver("h:d1"))]
    assert state.view is not None
    assert state.view.devices[0].reason_text == "no cable"


def test_a_host_that_breaks_each_connection_ends_the_attempt() -> None:
    w = one_step().run().settle()
    for _ in range(6):
        assert w.executions["e1"] == "running"
        w.answer(trouble(Trouble.BROKEN.name)).settle()
        w.tell(m.ProbeDue()).probe(good=True)
    w.settle()
    assert w.executions["e1"] == "queued", "to be tried elsewhere"
    assert w.state.lanes["h:d1"].health.errors == 1


def test_a_long_step_whose_connection_is_cut_now_and_then_goes_on() -> None:
    """As by a router that ends connections which are idle for some minutes."""
    w = one_step().run().settle()
    cut_after_ms = (LIMITS.probe_interval + 1) * 1000
    for _ in range(20):
        sent = w.forwards.pop("h:d1")
        w.tell(m.StepAnswered("h:d1", sent.key, trouble("BROKEN"), cut_after_ms))
        w.tell(m.ProbeDue()).probe(good=True)
    w.answer(PASS).settle()
    assert w.executions["e1"] == "completed"
