"""A host that works one thing at a time, and one that names what it has begun, by values."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.actors.world import FAIL, PASS, World, serial_world, trouble
from vpt.actors import messages as m
from vpt.actors.machine import wake
from vpt.actors.matching import why
from vpt.actors.state import Link, Phase
from vpt.errors import ConflictError, LockedError
from vpt.model import HostStatus, Presence, StepProgress


def act(ask: int, device_id: str, user: str = "ann") -> m.RunAction:
    return m.RunAction(ask, device_id, {}, 1, f"k{ask}", user)


def busy(w: World) -> bool:
    assert w.state.view is not None
    return w.state.view.status is HostStatus.BUSY


def test_a_serial_host_runs_on_one_device_only() -> None:
    w = serial_world().up().run("e1", "h:d1").run("e2", "h:d2")
    assert busy(w)
    assert len(w.records) == 1
    w.settle().answer(PASS).settle().answer(PASS).settle()
    assert not busy(w)
    w.run("e2", "h:d2").settle()
    assert w.forwards.keys() == {"h:d2"}


def test_who_waits_for_another_device_of_it_is_told_so() -> None:
    w = serial_world().up().run("e1", "h:d1")
    assert w.state.view is not None
    wait = why([(w.state.view, w.state.view.devices[1])])
    assert (wait.reason, wait.names) == ("lane_busy", ("h",))


def test_manual_actions_on_all_its_devices_wait_for_each_other() -> None:
    w = serial_world().up().tell(act(1, "h:d1"), act(2, "h:d2"), act(3, "h:d1"))
    order = []
    while w.acts:
        doing = w.acts.pop()
        order.append(doing.command.ask)
        w.tell(m.ActionAnswered(doing.device.id, doing.command.ask, PASS, 1.0))
    assert order == [1, 2, 3]
    assert w.replies.keys() == {1, 2, 3}


def test_a_run_waits_for_actions_elsewhere_and_they_do_not_starve_it() -> None:
    w = serial_world().up().tell(act(1, "h:d1")).run("e1", "h:d2")
    assert busy(w)
    w.tell(act(2, "h:d1"), act(3, "h:d2"))
    assert all(isinstance(w.replies[ask], ConflictError) for ask in (2, 3))
    w.acts.pop()
    w.tell(m.ActionAnswered("h:d1", 1, PASS, 1.0))
    assert not busy(w)
    w.run("e1", "h:d2")
    assert w.records


def test_a_run_anywhere_refuses_actions_and_leases_everywhere() -> None:
    w = serial_world().up().run("e1", "h:d1")
    w.tell(act(1, "h:d2"), m.TakeLease(2, "h:d2", "l1", "ann", 600))
    assert all(isinstance(w.replies[ask], ConflictError) for ask in (1, 2))


def test_a_lease_of_one_device_is_the_right_to_the_whole_host() -> None:
    w = serial_world().up().tell(m.TakeLease(1, "h:d1", "l1", "ann", 600))
    w.run("e1", "h:d2")
    assert not w.records
    w.tell(m.TakeLease(2, "h:d2", "l2", "bob", 600), act(3, "h:d2", "bob"), act(4, "h:d2"))
    assert isinstance(w.replies[2], LockedError)
    assert isinstance(w.replies[3], ConflictError)
    assert len(w.acts) == 1
    w.tell(m.LeaseOver("h:d1", "l1"))
    w.acts.clear()
    w.tell(m.ActionAnswered("h:d2", 4, PASS, 1.0)).run("e1", "h:d2")
    assert w.records


def test_its_silence_during_a_call_of_ours_is_normal() -> None:
    w = serial_world().up().tell(m.ProbeDue())
    assert w.probing  # and now a step goes out
    w.run().settle()
    for _ in range(10):
        w.probe(good=False).tell(m.ProbeDue(), m.HeartbeatSeen())
        assert not w.probing
    assert w.state.link is Link.UP
    w.answer(PASS)
    w.tell(m.ProbeDue())
    assert w.probing


def test_a_step_that_was_begun_is_asked_for_its_end_after_the_connection_broke() -> None:
    w = serial_world().up().run().settle().begun("x1").settle()
    w.answer(trouble("BROKEN"))
    assert w.state.link is Link.SUSPECT
    w.ring("probe-soon").probe(good=True)
    assert w.forwards["h:d1"].handle == "x1"
    w.answer(PASS).settle()
    assert w.forwards["h:d1"].handle is None, "the next step has none"
    w.answer(PASS).settle()
    assert w.executions == {"e1": "completed"}


def test_one_that_has_no_name_yet_is_never_sent_again() -> None:
    w = serial_world().up().run().settle().answer(trouble("BROKEN")).settle()
    assert w.executions == {"e1": "queued"}
    assert w.attempts["e1", 1].status == "error"


def test_a_host_that_forgot_what_it_began_is_infrastructure() -> None:
    w = serial_world().up().run().settle().begun().settle()
    w.answer(trouble("FATE_UNKNOWN")).settle()
    assert (w.executions, w.attempts["e1", 1].status) == ({"e1": "queued"}, "error")


def test_another_try_is_begun_anew() -> None:
    w = serial_world(steps=({"command": "a", "retries": 1},)).up().run().settle().begun("x1")
    w.settle().answer(FAIL).settle()
    assert (w.forwards["h:d1"].key.tries, w.forwards["h:d1"].handle) == (2, None)


@pytest.mark.parametrize("handle", ["x1", None])
def test_after_a_restart_only_what_has_a_name_goes_on(handle: str | None) -> None:
    w = serial_world().up().run().settle()
    lane = w.state.lanes["h:d1"]
    assert lane.run is not None
    run = replace(lane.run, phase=Phase.PARKED, uncertain=True, handle=handle)
    state = replace(w.state, lanes={"h:d1": replace(lane, run=run)}, probing=False)
    again = World(state, attempts=w.attempts, executions=w.executions)
    again.state, effects = wake(state, [(run, 1.0)])
    again._take(effects)
    if handle is not None:
        again.handles[run.key] = handle
    again.settle()
    if handle is None:
        assert again.executions == {"e1": "queued"}
    else:
        assert again.probe(good=True).forwards["h:d1"].handle == handle


def test_the_device_is_left_when_the_attempt_is_over() -> None:
    w = serial_world().up().run().settle().answer(PASS).settle()
    assert w.left == []
    w.answer(PASS).settle()
    assert w.left == ["h:d1"]


def test_how_far_a_step_is_is_told_while_it_is_under_way() -> None:
    w = serial_world().up().run().settle()
    key = w.forwards["h:d1"].key
    w.tell(m.StepProgressed("h:d1", key, {"block": "b1"})).answer(PASS)
    w.tell(m.StepProgressed("h:d1", key, {"block": "b2"}))
    told = [event for event in w.published if isinstance(event, StepProgress)]
    assert told == [StepProgress("e1", 1, 1, {"block": "b1"})]


# ---------------------------------------------------------------- what the host does by itself

WORKS = m.DevicesReported({"d1": Presence(None, at_work=True)})
IDLE = m.DevicesReported({"d1": Presence(None, at_work=False)})


def shown(w: World, number: int = 0) -> tuple[str, str | None]:
    assert w.state.view is not None
    device = w.state.view.devices[number]
    return device.status, device.reason


def test_a_host_that_works_by_itself_gets_no_run_on_any_device() -> None:
    w = serial_world().up().tell(WORKS)
    assert (shown(w), shown(w, 1)) == (("busy", "host_works"), ("online", None))
    assert busy(w)
    w.run("e1", "h:d2").run("e2", "h:d1")
    assert not w.records
    w.tell(m.TakeLease(1, "h:d1", "l1", "ann", 600), m.TakeLease(2, "h:d2", "l2", "ann", 600))
    assert all(isinstance(w.replies[ask], ConflictError) for ask in (1, 2))
    w.tell(IDLE).run("e1", "h:d2")
    assert w.records


def test_its_word_for_that_is_believed_for_an_hour_only() -> None:
    w = serial_world().up().tell(WORKS).ring("works:h:d1").tell(WORKS)
    assert shown(w) == ("online", None)
    w.tell(IDLE, WORKS)
    assert shown(w) == ("busy", "host_works"), "it said once that it was over"


def test_its_registration_ends_what_it_did() -> None:
    w = serial_world().up().tell(WORKS)
    w.tell(m.Register(1, w.state.host, tuple(lane.device for lane in w.state.lanes.values())))
    assert shown(w) == ("online", None) and "works:h:d1" not in w.alarms


def test_a_device_in_doubt_is_looked_at_when_nothing_of_ours_is_under_way() -> None:
    away = m.DevicesReported({"d1": Presence(available=False, reason="no adb")})
    w = serial_world().up().tell(away).run("e1", "h:d2").settle()
    w.ring("look:h:d1")
    assert not w.looks, "a serial host has a call of ours"
    w.answer(PASS, "h:d2").settle().answer(PASS, "h:d2").settle().ring("look:h:d1")
    assert w.looks == ["h:d1"]
    w.tell(m.ProbeDue())
    assert not w.probing, "a look is a call, too"
    w.looked(None)
    assert shown(w) == ("offline", "away") and "look:h:d1" in w.alarms
    w.ring("look:h:d1").looked(Presence(at_work=False))
    assert shown(w) == ("online", None)


# ---------------------------------------------------------------- what outlives its attempt


def outlived() -> World:
    """Return a world in which a step that has a handle outlived its limit."""
    return serial_world().up().run().settle().begun("x1").settle().ring("step:h:d1").settle()


def test_a_step_with_a_handle_holds_the_device_without_a_limit_of_ours() -> None:
    w = outlived()
    assert shown(w) == ("busy", "host_works") and "cancel:h:d1" not in w.alarms
    w.answer(PASS).settle()
    assert shown(w) == ("online", None)


@pytest.mark.parametrize("name", ["IDLE", "FATE_UNKNOWN", "TIMEOUT", "HOST_ERROR"])
def test_the_device_is_given_out_when_the_host_is_known_to_be_done(name: str) -> None:
    w = outlived()
    w.answer(trouble(name)).settle()
    assert shown(w) == ("online", None)


def test_a_host_that_goes_away_meanwhile_is_asked_again_when_it_is_back() -> None:
    w = outlived()
    w.answer(trouble("BROKEN")).settle()
    assert not w.watches and w.state.link is Link.SUSPECT
    w.tell(m.ProbeDue()).probe(good=True).tell(m.ProbeDue()).probe(good=True)
    assert w.watches["h:d1"].handle == "x1" and not w.watches["h:d1"].anew
    w.watched(PASS).settle()
    assert shown(w) == ("online", None)


def test_a_host_that_registers_anew_is_asked_as_one_that_may_have_forgotten() -> None:
    w = outlived()
    w.tell(m.Register(1, w.state.host, tuple(lane.device for lane in w.state.lanes.values())))
    assert w.watches["h:d1"].anew and not w.forwards


def test_a_step_that_is_idle_ends_its_attempt_as_lost_and_holds_nothing() -> None:
    w = serial_world().up().run().settle().begun("x1").settle()
    w.answer(trouble("IDLE")).settle()
    assert (w.executions, w.attempts["e1", 1].released) == ({"e1": "queued"}, True)
    assert shown(w) == ("online", None)
