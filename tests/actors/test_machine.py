"""The host machine by values: each history is written out."""

from __future__ import annotations

import pytest

from tests.actors.world import FAIL, PASS, World, device, host, trouble, world
from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.state import Link
from vpt.dialects.base import Trouble
from vpt.errors import (
    ConflictError,
    HostUnreachableError,
    InvalidError,
    LockedError,
    NotFoundError,
    UnavailableError,
    UnprocessableError,
)
from vpt.model import Answer, Device, DeviceStatus, ExecutionStatus, HostStatus, StepStatus


def test_a_new_host_gets_no_work_before_its_first_good_probe() -> None:
    w = world()
    assert w.state.view and w.state.view.status is HostStatus.SUSPECT
    w.run()
    assert not w.records
    w.probe(good=True).run()
    assert w.state.view.status is HostStatus.BUSY
    assert isinstance(w.records[0], fx.StoreAttempt)


def test_a_run_passes_step_by_step_and_stores_each_before_the_next() -> None:
    w = world().up().run().settle()
    assert w.forwards["h:d1"].key.step == 1
    w.answer(PASS)
    assert not w.forwards
    w.settle()
    assert w.forwards["h:d1"].key.step == 2
    w.answer(PASS).settle()
    assert w.executions == {"e1": "completed"}
    assert w.state.view and w.state.view.devices[0].status is DeviceStatus.ONLINE
    assert [(e.step, e.status, e.seq) for e in w.published] == [  # type: ignore[attr-defined]
        (0, "running", 1),
        (1, "running", 2),
        (2, "running", 3),
        (2, "completed", 4),
    ]


def test_a_failed_step_ends_the_run_as_failed() -> None:
    w = world().up().run().settle().answer(FAIL).settle()
    assert w.executions == {"e1": "failed"}
    assert not w.forwards


def test_a_step_that_may_fail_lets_the_run_go_on_to_the_same_verdict() -> None:
    steps = ({"command": "a", "continue_on_failure": True}, {"command": "b"})
    w = world(steps=steps).up().run().settle().answer(FAIL).settle()
    assert w.forwards["h:d1"].key.step == 2
    w.answer(PASS).settle()
    assert w.executions == {"e1": "failed"}


def test_a_step_is_tried_as_often_as_it_says_under_a_new_key() -> None:
    w = world(steps=({"command": "a", "retries": 2},)).up().run().settle()
    for tries in (1, 2):
        assert w.forwards["h:d1"].key.tries == tries
        w.answer(FAIL).settle()
    w.answer(PASS).settle()
    assert w.executions == {"e1": "completed"}


def test_a_failed_test_is_tried_again_only_as_it_says() -> None:
    w = world(test_retries=1).up().run().settle().answer(FAIL).settle()
    assert w.executions == {"e1": "queued"}
    w.run().settle().answer(FAIL).settle()
    assert w.executions == {"e1": "failed"}


@pytest.mark.parametrize(
    ("name", "again"), [("HOST_ERROR", True), ("HOST_REFUSED", True), ("FATE_UNKNOWN", True)]
)
def test_infrastructure_is_never_a_failed_test(name: str, *, again: bool) -> None:
    w = world().up().run().settle().answer(trouble(name)).settle()
    assert w.executions == {"e1": "queued" if again else "error"}


def test_a_step_whose_secret_is_gone_was_never_sent_and_is_not_tried_again() -> None:
    w = world(idempotency=False).up().run().settle().answer(trouble("NO_SECRET")).settle()
    assert w.executions == {"e1": "error"}
    assert w.attempts["e1", 1].released


def test_a_step_whose_secrets_do_not_come_was_never_sent_and_is_tried_again() -> None:
    w = world(idempotency=False).up().run().settle().answer(trouble("NO_DATABASE")).settle()
    assert w.executions == {"e1": "queued"}
    assert w.attempts["e1", 1].released


def test_infrastructure_is_tried_again_within_its_limit() -> None:
    w = world().up()
    for _ in range(3):
        w.run().settle().answer(trouble("HOST_ERROR")).settle()
    assert w.executions == {"e1": "error"}
    assert len(w.attempts) == 3


def test_an_unsent_step_goes_again_after_the_next_good_probe() -> None:
    w = world(idempotency=False).up().run().settle().answer(trouble("NOT_CONNECTED"))
    assert w.state.link is Link.SUSPECT
    assert not w.forwards
    w.ring("probe-soon").probe(good=True)
    assert w.forwards["h:d1"].key.step == 1


def test_a_broken_call_is_asked_again_only_where_the_host_can_tell() -> None:
    w = world().up().run().settle().answer(trouble("BROKEN"))
    w.ring("probe-soon").probe(good=True)
    assert w.forwards["h:d1"].key.tries == 1
    w = world(idempotency=False).up().run().settle().answer(trouble("BROKEN")).settle()
    assert w.executions == {"e1": "queued"}
    assert not w.attempts["e1", 1].released


def test_a_device_of_a_lost_run_is_given_out_after_good_probes_and_the_cancel() -> None:
    w = world(idempotency=False).up().run().settle().answer(trouble("BROKEN")).settle()
    w.ring("probe-soon").probe(good=True)
    assert not w.cancels
    w.tell(m.ProbeDue()).probe(good=True)
    assert not w.attempts["e1", 1].released
    w.cancel_answered(acknowledged=False).settle()
    assert not w.attempts["e1", 1].released
    w.tell(m.ProbeDue()).probe(good=True)
    w.cancel_answered(acknowledged=True).settle()
    assert w.attempts["e1", 1].released
    assert w.state.view and w.state.view.status is HostStatus.AVAILABLE


def test_a_lost_host_keeps_its_run_until_grace_is_over() -> None:
    w = world().up().run().settle()
    for _ in range(6):
        w.tell(m.ProbeDue()).probe(good=False)
    assert w.state.link is Link.LOST
    assert w.executions == {"e1": "running"}
    w.ring("grace").settle()
    assert w.executions == {"e1": "queued"}
    assert not w.attempts["e1", 1].released


def test_a_step_that_is_stored_after_grace_is_the_last_of_a_lost_host() -> None:
    w = world().up().run().settle().answer(PASS)
    for _ in range(6):
        w.tell(m.ProbeDue()).probe(good=False)
    w.ring("grace")
    assert w.executions == {"e1": "running"}
    w.settle()
    assert not w.forwards
    assert w.executions == {"e1": "queued"}


def test_a_lost_host_that_comes_back_in_time_goes_on() -> None:
    w = world().up().run().settle().answer(trouble("BROKEN"))
    for _ in range(6):
        w.tell(m.ProbeDue()).probe(good=False)
    w.tell(m.ProbeDue()).probe(good=True)
    assert "grace" in w.alarms
    w.answer(PASS).settle().tell(m.ProbeDue()).probe(good=True)
    assert "grace" not in w.alarms
    w.answer(PASS).settle()
    assert w.executions == {"e1": "completed"}


def test_a_late_step_keeps_the_device_until_its_answer() -> None:
    w = world(cancel=False).up().run().settle()
    late = w.forwards["h:d1"]
    w.ring("step:h:d1").settle()
    assert w.executions == {"e1": "error"}
    assert not w.attempts["e1", 1].released
    w.finish(late, PASS).settle()
    assert w.attempts["e1", 1].released
    assert w.executions == {"e1": "error"}


@pytest.mark.parametrize("way", ["acknowledged", "registered", "grace"])
def test_a_late_step_frees_the_device_at_last(way: str) -> None:
    w = world().up().run().settle().ring("step:h:d1").settle()
    assert w.executions == {"e1": "running"}, "the host may answer with what the step printed"
    if way == "acknowledged":
        w.cancel_answered(acknowledged=True)
    elif way == "registered":
        w.tell(m.Register(1, host(), (device(),)))
    else:
        w.ring("cancel:h:d1").settle()
        assert not w.attempts["e1", 1].released
        w.ring("cancel:h:d1")
    w.settle()
    assert w.executions == {"e1": "error"}
    assert w.attempts["e1", 1].released


@pytest.mark.parametrize("limit", ["step", "run"])
@pytest.mark.parametrize("success", [True, False])
def test_a_step_that_is_stopped_at_a_limit_keeps_its_output(limit: str, success: bool) -> None:
    w = world().up().run().settle().ring(f"{limit}:h:d1")
    assert [cancel.execution_id for cancel in w.cancels] == ["e1"]
    w.answer(Answer(success, output="so far"))
    end = w.records[0]
    assert isinstance(end, fx.StoreEnd)
    assert (end.kind, end.answer) == (f"{limit}_timeout", Answer(success, output="so far"))
    w.settle()
    assert w.executions == {"e1": "error"}
    assert w.attempts["e1", 1].released


@pytest.mark.parametrize("name", ["STOPPED", "HOST_ERROR"])
def test_an_answer_without_a_verdict_keeps_its_output_and_frees_the_device(name: str) -> None:
    said = Answer(False, output="so far")
    outcome = m.NoAnswer(Trouble[name], "because", answer=said)
    for tell in ((), (m.Cancel("e1"),)):
        w = world().up().run().settle().tell(*tell).answer(outcome)
        end = w.records[0]
        assert isinstance(end, fx.StoreEnd)
        kind, after = {
            "STOPPED": ("step_timeout", "error"),
            "HOST_ERROR": ("host_error", "queued"),
        }[name]
        if tell:
            kind, after = None, "cancelled"
        assert (end.kind, end.answer, end.release) == (kind, said, True)
        w.settle()
        assert w.executions == {"e1": after}


def test_a_host_that_cannot_stop_a_step_is_not_waited_for_at_its_limit() -> None:
    w = world(cancel=False).up().run().settle().ring("step:h:d1").settle()
    assert w.executions == {"e1": "error"}
    w = world().up().run().settle()
    for _ in range(6):
        w.tell(m.ProbeDue()).probe(good=False)
    w.ring("step:h:d1").settle()
    assert w.executions == {"e1": "error"}


def test_a_run_over_its_time_ends_and_nothing_more_is_sent() -> None:
    w = world().up().run().settle().ring("run:h:d1").ring("cancel:h:d1").settle()
    assert w.executions == {"e1": "error"}
    w = world().up().run().settle().answer(PASS).ring("run:h:d1").settle()
    assert w.executions == {"e1": "error"}
    assert w.attempts["e1", 1].released


def test_cancel_tells_the_host_and_ends_when_it_acknowledges() -> None:
    w = world().up().run().settle().tell(m.Cancel("e1"))
    assert w.executions == {"e1": "running"}
    w.cancel_answered(acknowledged=True).settle()
    assert w.executions == {"e1": "cancelled"}
    assert w.attempts["e1", 1].released


def test_cancel_gives_up_the_run_but_not_the_device_after_its_grace() -> None:
    w = world(cancel=False).up().run().settle().tell(m.Cancel("e1")).ring("cancel:h:d1").settle()
    assert w.executions == {"e1": "cancelled"}
    assert not w.attempts["e1", 1].released
    w.ring("cancel:h:d1").settle()
    assert w.attempts["e1", 1].released


def test_an_answer_to_a_cancelled_step_is_kept_but_gives_no_verdict() -> None:
    w = world().up().run().settle().tell(m.Cancel("e1")).answer(FAIL)
    stored = w.records[0]
    assert isinstance(stored, fx.StoreStep)
    assert stored.status is StepStatus.ERROR
    w.settle()
    assert w.executions == {"e1": "cancelled"}


def test_a_device_of_a_lost_host_needs_good_probes_in_a_row() -> None:
    w = world().up().run().settle()
    for _ in range(6):
        w.tell(m.ProbeDue()).probe(good=False)
    w.ring("grace").settle()
    for good in (True, False, True):
        w.tell(m.ProbeDue()).probe(good=good)
    assert not w.cancels, "the host was not yet well, whatever it answers"
    w.tell(m.CancelAnswered("h:d1", "e1", 1, True))
    assert not w.records
    w.tell(m.ProbeDue()).probe(good=True)
    assert [type(one) for one in w.records] == [fx.StoreRelease]


def test_a_cancel_of_an_old_attempt_frees_nothing() -> None:
    w = world().up().run().settle()
    w.answer(trouble("HOST_ERROR")).settle()
    w.run().settle()
    w.ring("step:h:d1").ring("cancel:h:d1").settle()
    assert w.state.lanes["h:d1"].hold
    w.tell(m.CancelAnswered("h:d1", "e1", 1, True), m.CancelGraceOver("h:d1", "e1", 1))
    assert not w.records
    w.cancel_answered(acknowledged=True)
    assert [type(one) for one in w.records] == [fx.StoreRelease]


def test_alarms_and_cancels_of_an_old_attempt_do_not_end_the_present_one() -> None:
    w = world().up().run().settle()
    w.answer(trouble("HOST_ERROR")).settle()
    w.run().settle()
    old = m.CancelAnswered("h:d1", "e1", 1, True), m.CancelGraceOver("h:d1", "e1", 1)
    w.tell(m.RunTimedOut("h:d1", "e1", 1), *old, m.Cancel("e1"), *old)
    assert not w.records
    assert "h:d1" in w.forwards
    w.cancel_answered(acknowledged=True).settle()
    assert w.executions["e1"] == "cancelled"


def test_a_late_answer_of_an_old_attempt_changes_nothing() -> None:
    w = world().up().run().settle()
    old = w.forwards["h:d1"]
    w.answer(trouble("HOST_ERROR")).settle().run().settle()
    w.finish(old, FAIL)
    assert w.forwards["h:d1"].key.attempt == 2
    assert not w.records


def test_a_step_that_is_stored_sends_the_next_one_once() -> None:
    w = world(steps=({"command": "a"}, {"command": "b"}, {"command": "c"})).up().run().settle()
    first = w.forwards["h:d1"].key
    w.answer(PASS).settle()
    told, again = len(w.published), m.StepStored("h:d1", first, StepStatus.PASSED)
    early = m.StepStored("h:d1", w.forwards["h:d1"].key, StepStatus.PASSED)
    w.tell(again).tell(early)  # while the second step is under way
    assert (w.forwards["h:d1"].key.step, len(w.published), w.records) == (2, told, [])
    w.answer(PASS).tell(again)  # while the second step is being stored
    assert (len(w.forwards), len(w.published)) == (0, told)
    w.settle()
    assert w.forwards["h:d1"].key.step == 3


def test_a_draining_host_finishes_and_takes_nothing_new() -> None:
    w = world(devices=2).up().run().settle().tell(m.Drain(1, on=True)).run("e2", "h:d2")
    assert not w.records
    w.answer(PASS).settle().answer(PASS).settle()
    assert w.executions == {"e1": "completed", "e2": "queued"}
    assert w.state.view and w.state.view.status is HostStatus.DRAINING


def test_manual_actions_wait_for_each_other_and_yield_to_no_run() -> None:
    w = (
        world()
        .up()
        .tell(m.RunAction(1, None, {}, 1, "k1", "u"), m.RunAction(2, "d1", {}, 1, "k2", "u"))
    )
    assert [a.command.ask for a in w.acts] == [1]
    w.run()
    assert not w.records
    w.tell(m.ActionAnswered("h:d1", 1, PASS, 1.0))
    assert [a.command.ask for a in w.acts] == [1, 2]
    w.tell(m.ActionAnswered("h:d1", 2, PASS, 1.0))
    assert w.state.view and w.state.view.devices[0].status is DeviceStatus.ONLINE
    assert set(w.replies) == {1, 2}


def test_manual_actions_are_refused_for_a_reason() -> None:
    w = world(devices=2).up()
    w.tell(m.RunAction(1, None, {}, 1, "k", "u"))
    assert isinstance(w.replies[1], InvalidError)
    w.run().tell(m.RunAction(2, "h:d1", {}, 1, "k", "u"))
    assert isinstance(w.replies[2], ConflictError)
    w.tell(*(m.RunAction(n, "d2", {}, 1, "k", "u") for n in range(3, 8)))
    assert isinstance(w.replies[7], UnavailableError)
    for _ in range(6):
        w.tell(m.ProbeDue()).probe(good=False)
    w.tell(m.RunAction(8, "d2", {}, 1, "k", "u"))
    assert isinstance(w.replies[8], HostUnreachableError)


def test_actions_that_wait_are_counted_for_the_whole_host() -> None:
    w = world(devices=3).up()
    w.tell(*(m.RunAction(n, f"d{1 + n % 3}", {}, 1, "k", "u") for n in range(1, 7)))
    assert (w.replies, len(w.acts)) == ({}, 3), "three are under way, three wait"
    w.tell(m.RunAction(7, "d1", {}, 1, "k", "u"))
    assert isinstance(w.replies[7], UnavailableError)


def test_a_run_that_waits_for_a_manual_action_is_next() -> None:
    w = world().up().tell(m.RunAction(1, None, {}, 1, "k1", "u")).run()
    w.tell(m.RunAction(2, None, {}, 1, "k2", "u"))
    assert isinstance(w.replies[2], ConflictError)


def test_a_host_that_began_anew_may_still_be_acting() -> None:
    w = world().up().run().settle().tell(m.Register(1, host(), (device(),)))
    assert not w.forwards
    w.tell(m.Cancel("e1")).settle()
    assert w.executions == {"e1": "cancelled"}
    assert w.cancels
    assert not w.attempts["e1", 1].released


def test_a_step_that_we_held_back_goes_out_later_and_its_host_is_not_to_blame() -> None:
    w = world(idempotency=False).up().run().settle().answer(trouble("HELD_BACK"))
    assert (w.state.link, w.state.missed, len(w.forwards)) == (Link.UP, 0, 0)
    w.probe(good=True)
    assert w.forwards["h:d1"].key.step == 1
    w.answer(PASS).settle().answer(PASS).settle()
    assert w.executions == {"e1": "completed"}


def test_a_step_that_may_have_acted_is_not_sent_to_a_host_that_cannot_tell() -> None:
    w = world().up().run().settle().answer(trouble("BROKEN"))
    w.tell(m.Register(1, host(idempotency=False), (device(),)))
    w.probe(good=True).settle()
    assert not w.forwards
    assert w.executions == {"e1": "queued"}


def test_a_host_that_died_in_the_middle_can_be_deleted() -> None:
    w = world(idempotency=False).up().run().settle().answer(trouble("BROKEN")).settle()
    w.tell(m.Retire(1))
    assert w.stopped


def test_a_host_is_not_deleted_under_its_run() -> None:
    w = world().up().run().settle().tell(m.Retire(1))
    assert isinstance(w.replies[1], ConflictError)
    w.answer(PASS).settle().answer(PASS).settle().tell(m.Retire(2))
    assert w.stopped


def test_a_device_no_longer_declared_keeps_its_run_and_goes_after_it() -> None:
    w = world(devices=2).up().run("e1", "h:d2").settle()
    w.tell(m.Register(1, host(), (device(1),))).up()
    w.ring("probe-soon") if "probe-soon" in w.alarms else None
    if "h:d2" not in w.forwards:
        w.probe(good=True)
    w.answer(PASS, "h:d2").settle().answer(PASS, "h:d2").settle()
    assert w.executions == {"e1": "completed"}
    assert set(w.state.lanes) == {"h:d1"}


def test_a_stopping_server_stores_what_ends_and_sends_nothing_more() -> None:
    w = world().up().run().settle().tell(m.ShutdownBegun()).answer(PASS).settle()
    assert not w.forwards
    assert w.executions == {"e1": "running"}
    assert w.attempts["e1", 1].stored_steps == {1}


def test_a_host_that_left_loses_its_run_only_after_grace() -> None:
    w = world().up().run().settle().tell(m.Unregister(1))
    assert w.state.view and w.state.view.status is HostStatus.OFFLINE
    w.answer(PASS).settle()
    assert not w.forwards
    w.ring("grace").settle()
    assert w.executions == {"e1": ExecutionStatus.QUEUED}


def test_a_lease_keeps_the_device_for_its_holder() -> None:
    w = world(devices=2).up()
    w.tell(m.TakeLease(1, "h:d1", "l1", "ann", 600))
    assert w.replies[1] == "l1"
    assert w.state.view is not None
    assert [d.status for d in w.state.view.devices] == ["leased", "online"]
    w.tell(m.TakeLease(2, "h:d1", "l2", "bob", 600), m.TakeLease(3, "h:d1", "l3", "ann", 900))
    assert isinstance(w.replies[2], LockedError)
    assert w.replies[3] == "l1", "asking again renews"
    w.tell(m.RunAction(4, "d1", {}, 1, "k", "bob"), m.RunAction(5, "d1", {}, 1, "k", "ann"))
    assert isinstance(w.replies[4], ConflictError)
    assert w.acts[0].command.ask == 5
    w.run()
    assert not w.records, "a run waits for the lease, though it would wait for the action only"


def test_a_lease_that_ran_out_frees_the_device() -> None:
    w = world().up()
    w.tell(m.TakeLease(1, "h:d1", "l1", "ann", 600))
    w.tell(m.LeaseOver("h:d1", "another"))
    assert w.state.lanes["h:d1"].lease
    w.ring("lease:h:d1")
    assert w.state.view is not None
    assert w.state.view.devices[0].status == "online"
    assert not w.alarms.keys() & {"lease:h:d1"}
    w.run()
    assert w.records


def test_a_lease_ends_what_others_wait_with_and_keeps_what_is_under_way() -> None:
    w = world().up()
    users = ("bob", "bob", "ann")
    w.tell(*(m.RunAction(n, "d1", {}, 1, "k", user) for n, user in enumerate(users, 1)))
    w.tell(m.TakeLease(9, "h:d1", "l1", "ann", 600))
    assert isinstance(w.replies[2], ConflictError)
    assert 1 not in w.replies
    w.tell(m.ActionAnswered("h:d1", 1, PASS, 1.0))
    assert [act.command.ask for act in w.acts] == [1, 3]


def test_a_lease_outlives_a_registration_without_its_device() -> None:
    w = world(devices=2).up()
    w.tell(m.TakeLease(1, "h:d2", "l1", "ann", 600))
    w.tell(m.Register(2, host(), (device(1),)))
    w.tell(m.Register(3, host(), (device(1), device(2))))
    assert w.state.lanes["h:d2"].lease
    w.tell(m.Register(4, host(), (device(1),)))
    w.ring("lease:h:d2")
    assert "h:d2" not in w.state.lanes


def test_a_lease_of_a_host_that_is_away_holds_when_it_is_back() -> None:
    w = lose(world().up())
    while w.state.link is not Link.LOST:
        w.tell(m.ProbeDue()).probe(good=False)
    w.tell(m.TakeLease(1, "h:d1", "l1", "ann", 600))
    assert w.replies[1] == "l1"
    w.up()
    w.run()
    assert not w.records
    assert w.state.view is not None
    assert w.state.view.devices[0].status == "leased"


def test_no_lease_while_a_run_or_its_hold_has_the_device() -> None:
    w = world().up().run()
    w.tell(m.TakeLease(1, "h:d1", "l1", "ann", 600))
    assert isinstance(w.replies[1], ConflictError)
    w.tell(m.TakeLease(2, "h:d9", "l1", "ann", 600))
    assert isinstance(w.replies[2], NotFoundError)


def lose(w: World) -> World:
    while w.state.link is not Link.LOST:
        w.tell(m.ProbeDue()).probe(good=False)
    return w.up()


def test_a_host_that_flaps_gets_no_work_for_ever_longer_until_a_run_finishes() -> None:
    w = lose(lose(world().up()))
    assert "pause" not in w.alarms
    pauses = []
    for _ in range(12):
        lose(w)
        assert w.state.view is not None
        assert (w.state.view.status, w.state.view.reason) == ("suspect", "flapping")
        pauses.append(w.state.view.pause_s)
        w.run()
        assert not w.records
        w.ring("pause")
        assert w.state.view.status == "available"
        assert w.state.view.reason is None
    assert pauses[:3] == [10, 20, 40]
    assert pauses[-1] == 3600
    w.run().store()
    for _ in w.steps:
        w.answer(PASS).settle()
    w.settle()
    assert w.executions["e1"] == "completed"
    lose(lose(w))
    assert w.state.view is not None
    assert w.state.view.status == "available", "it begins anew"


def test_losses_long_ago_do_not_count() -> None:
    w = lose(lose(world().up()))
    w.ring("loss:1")
    lose(w)
    assert w.state.view is not None
    assert w.state.view.status == "available"


def test_an_action_is_refused_for_a_name_that_two_devices_of_the_host_have() -> None:
    w = world().up()
    both = (Device("h", None, "h", "model"), Device("h:h", "h", "h", "model"))
    w.tell(m.Register(1, w.state.host, both), m.RunAction(2, "h", {}, 1, "k", "u"))
    assert isinstance(w.replies[2], UnprocessableError)
    w.tell(m.RunAction(3, "h:h", {}, 1, "k", "u"))
    assert [act.device.id for act in w.acts] == ["h:h"]
