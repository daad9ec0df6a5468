"""Devices that are away, as their host says, by values."""

from __future__ import annotations

from msgspec.structs import replace as with_changes

from tests.actors.world import FAIL, PASS, World, device, host, world
from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.machine import transition
from vpt.dialects.base import Trouble
from vpt.model import Answer, DeviceReason, DeviceStatus, DeviceView, HostStatus, Presence

AWAY = Presence(available=False, reason="no cable")
THERE = Presence()


def says(name: str = "d1", presence: Presence = AWAY) -> m.DevicesReported:
    return m.DevicesReported({name: presence})


def seen(w: World, number: int = 0) -> DeviceView:
    assert w.state.view
    return w.state.view.devices[number]


def shown(w: World, number: int = 0) -> tuple[str, str | None, str | None]:
    view = seen(w, number)
    return view.status, view.reason, view.reason_text


AS_AWAY = (DeviceStatus.OFFLINE, DeviceReason.AWAY, "no cable")
AS_ONLINE = (DeviceStatus.ONLINE, None, None)


def test_a_device_that_is_away_gets_no_run_until_its_host_says_that_it_is_back() -> None:
    w = world(devices=2).up().tell(says())
    assert (shown(w), shown(w, 1)) == (AS_AWAY, AS_ONLINE)
    w.run()
    assert not w.records
    w.tell(says(presence=THERE)).run()
    assert shown(w)[1:] == (None, None)
    assert isinstance(w.records[0], fx.StoreAttempt)


def test_silence_about_a_device_changes_nothing() -> None:
    w = world(devices=2).up().tell(says(), m.HeartbeatSeen(), says("d2", THERE))
    assert shown(w) == AS_AWAY


def test_without_a_reason_it_is_away_all_the_same() -> None:
    w = world().up().tell(says(presence=Presence(available=False)))
    assert shown(w) == (
        DeviceStatus.OFFLINE,
        DeviceReason.AWAY,
        "Its host says that it is not available.",
    )


def test_a_new_reason_is_shown_and_the_same_one_is_no_news() -> None:
    w = world().up().tell(says(), says(presence=Presence(available=False, reason="no power")))
    assert shown(w)[2] == "no power"
    same = m.DevicesReported({"d1": Presence(available=False, reason="no power")})
    assert transition(w.state, same) == (w.state, ())


def test_a_device_that_is_away_keeps_its_run_which_ends_as_usual() -> None:
    w = world().up().run().settle().tell(says())
    assert shown(w) == AS_AWAY
    w.answer(PASS).settle().answer(FAIL).settle()
    assert w.executions == {"e1": "failed"}
    assert shown(w) == AS_AWAY
    w.run("e2")
    assert not w.records


def test_an_answer_of_a_step_may_say_it() -> None:
    w = world().up().run().settle()
    w.answer(Answer(success=False, error="no", presence=AWAY))
    assert shown(w) == AS_AWAY
    w.settle()
    assert w.executions == {"e1": "failed"}


def test_a_refusal_and_an_error_of_a_step_may_say_it() -> None:
    w = world().up().run().settle()
    w.answer(m.NoAnswer(Trouble.HOST_ERROR, "no", presence=AWAY))
    assert shown(w) == AS_AWAY
    w.settle().run()
    assert w.executions == {"e1": "queued"}
    assert not w.records, "tried again on the device that is away"


def test_a_late_answer_may_say_it() -> None:
    w = world(cancel=False).up().run().settle()
    late = w.forwards["h:d1"]
    w.ring("step:h:d1").settle()
    w.finish(late, Answer(success=True, presence=AWAY)).settle()
    assert shown(w) == AS_AWAY


def test_an_answer_of_an_action_may_say_it() -> None:
    w = world().up().tell(m.RunAction(1, "h:d1", {}, 1, "k", "u"))
    act = w.acts.pop(0)
    w.tell(m.ActionAnswered("h:d1", act.command.ask, Answer(success=True, presence=AWAY), 1.0))
    assert shown(w) == AS_AWAY
    assert w.replies[1] == (Answer(success=True, presence=AWAY), 1.0)


def test_actions_and_leases_are_not_refused_so_that_people_can_mend_it() -> None:
    w = world().up().tell(says())
    w.tell(m.RunAction(1, "h:d1", {}, 1, "k", "u")).run("e1")
    w.tell(m.RunAction(2, "h:d1", {}, 1, "k", "u"))
    assert len(w.state.lanes["h:d1"].actions) == 2, "a run that cannot start keeps no action off"
    w.tell(m.TakeLease(3, "h:d1", "l", "u", 600))
    assert w.replies == {3: "l"}
    assert shown(w) == AS_AWAY


def test_a_registration_speaks_of_all_devices() -> None:
    declared = (device(1), device(2))
    w = world(devices=2).up().tell(says())
    w.tell(m.Register(1, host(), declared, {"h:d2": "no power"}))
    assert shown(w) == AS_ONLINE
    assert shown(w, 1) == (DeviceStatus.OFFLINE, DeviceReason.AWAY, "no power")


def test_what_people_change_of_a_device_does_not_bring_it_back() -> None:
    w = world().up().tell(says(), m.ChangeDevices(1, (device(1),)))
    assert shown(w) == AS_AWAY


def test_a_device_that_its_host_declares_no_more_is_gone_and_not_away() -> None:
    w = world(devices=2, idempotency=False).up().run().settle().tell(says())
    w.tell(m.Register(1, host(idempotency=False), (device(2),)))
    assert shown(w, 1) == (DeviceStatus.OFFLINE, None, None)
    w.answer(Answer(success=True, presence=AWAY))
    assert shown(w, 1) == (DeviceStatus.OFFLINE, None, None)


def test_it_stays_away_while_its_host_is_lost() -> None:
    w = world().up().tell(says())
    for _ in range(6):
        w.tell(m.ProbeDue()).probe(good=False)
    assert w.state.view
    assert (w.state.view.status, shown(w)) == (HostStatus.LOST, AS_AWAY)
    w.up()
    assert shown(w) == AS_AWAY


def test_the_only_device_of_a_host_has_its_name() -> None:
    only = device(1)
    w = world().up()
    w.tell(m.Register(1, host(), (type(only)("h", None, "h", None),)), says("h"))
    assert shown(w) == AS_AWAY


def test_unknown_names_are_ignored_and_logged_once_until_it_registers() -> None:
    w = world().up()
    state, effects = transition(w.state, m.DevicesReported({"d9": AWAY, "d1": AWAY}))
    logs = [each for each in effects if isinstance(each, fx.Log)]
    assert [(log.event, log.fields) for log in logs] == [
        ("unknown_devices_reported", {"names": ["d9"]})
    ]
    assert state.lanes["h:d1"].away == "no cable"
    again, effects = transition(state, says("d8"))
    assert (again, effects) == (state, ())
    registered, _ = transition(again, m.Register(1, host(), (device(1),)))
    _, effects = transition(registered, says("d8"))
    assert [type(each) for each in effects] == [fx.Log]


def test_a_message_that_keeps_the_view_tells_of_a_device_that_went_away() -> None:
    """An answer of an action changes nothing that others see, unless it says so."""
    w = world().up()
    w.tell(m.RunAction(1, "h:d1", {}, 1, "k", "u"))
    answered = m.ActionAnswered("h:d1", 1, m.NoAnswer(Trouble.HOST_ERROR, "no", presence=AWAY), 1)
    _, effects = transition(w.state, answered)
    assert isinstance(effects[0], fx.Announce)
    _, effects = transition(
        w.state, with_changes(answered, outcome=m.NoAnswer(Trouble.HOST_ERROR, "no"))
    )
    assert not any(isinstance(each, fx.Announce) for each in effects)
