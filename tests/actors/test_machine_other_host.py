"""The host machine when a host's step is at work and somebody else has its address by now."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.actors.world import PASS, World, device, host, serial_world, trouble, world
from vpt.actors import messages as m
from vpt.actors.state import Link, is_silenced, must_register
from vpt.dialects.base import Trouble
from vpt.errors import HostUnreachableError
from vpt.model import Host, HostTrouble, TroubleKind

NOT_ME = HostTrouble(TroubleKind.SOMEBODY_ELSE, "not me")
MOVED = replace(host(), url="http://127.0.0.1:9")


def refused(kind: TroubleKind) -> m.NoAnswer:
    """Return what a step brings that another host refused."""
    both = {
        TroubleKind.CREDENTIAL: Trouble.HOST_REFUSED,
        TroubleKind.SOMEBODY_ELSE: Trouble.SOMEBODY_ELSE,
    }
    return m.NoAnswer(both[kind], "not me", HostTrouble(kind, "not me"))


def broken(**more: object) -> World:
    """Return a world whose run was sent again after its connection broke."""
    w = world(**more).up().run().settle().answer(trouble("BROKEN"))  # type: ignore[arg-type]
    return w.tell(m.ProbeDue()).probe(good=True)


@pytest.mark.parametrize("kind", [TroubleKind.CREDENTIAL, TroubleKind.SOMEBODY_ELSE])
def test_a_step_that_may_be_at_work_waits_for_its_host_when_another_one_refuses_it(
    kind: TroubleKind,
) -> None:
    w = broken().answer(refused(kind)).settle()
    assert w.executions == {"e1": "running"}
    assert not w.forwards
    w.tell(m.Register(1, MOVED, (device(),))).probe(good=True)
    assert w.forwards["h:d1"].host.url == MOVED.url
    w.answer(PASS).settle().answer(PASS).settle()
    assert w.executions == {"e1": "completed"}
    assert w.attempts["e1", 1].released


@pytest.mark.parametrize("kind", [TroubleKind.CREDENTIAL, TroubleKind.SOMEBODY_ELSE])
def test_a_step_that_only_another_host_got_leaves_its_device_free(kind: TroubleKind) -> None:
    w = world().up().run().settle().answer(refused(kind)).settle()
    assert w.executions == {"e1": "queued"}
    assert w.attempts["e1", 1].released


@pytest.mark.parametrize("name", ["HOST_ERROR", "HOST_REFUSED"])
def test_what_refuses_a_repeated_step_does_not_free_the_device(name: str) -> None:
    w = broken().answer(trouble(name)).settle()
    assert w.executions == {"e1": "queued"}
    assert not w.attempts["e1", 1].released
    w.cancel_answered(acknowledged=True).settle()
    assert w.attempts["e1", 1].released


def test_a_registration_at_a_new_address_is_no_proof_of_a_new_process() -> None:
    w = world().up().run().settle().ring("step:h:d1").settle()
    w.cancel_answered(acknowledged=False)
    w.tell(m.Register(1, MOVED, (device(),))).settle()
    assert not w.attempts["e1", 1].released
    w.cancel_answered(acknowledged=True).settle()
    assert w.attempts["e1", 1].released


def test_a_registration_that_was_asked_for_is_no_proof_of_a_new_process() -> None:
    w = world().up().run().settle().ring("step:h:d1").settle()
    w.cancel_answered(acknowledged=False)
    for _ in range(6):
        w.tell(m.ProbeDue()).probe(good=False)
    w.tell(m.Register(1, host(), (device(),))).settle()
    assert not w.attempts["e1", 1].released
    w.cancel_answered(acknowledged=True).settle()
    assert w.attempts["e1", 1].released


# ---------------------------------------------------------------- nothing is sent there
# (`World` refuses every effect that would send something to somebody else.)


def somebody_else(w: World) -> World:
    """Let the next probe find somebody else."""
    return w.tell(m.ProbeDue()).probe(good=False, reason=NOT_ME)


def test_one_probe_that_finds_somebody_else_is_enough_and_one_of_the_host_ends_it() -> None:
    w = somebody_else(world().up())
    assert w.state.link is Link.SUSPECT
    assert (is_silenced(w.state), must_register(w.state)) == (True, True)
    w.tell(m.ProbeDue()).probe(good=True)
    assert (is_silenced(w.state), must_register(w.state)) == (False, False)


def test_a_step_that_becomes_due_waits_until_the_host_itself_answers() -> None:
    w = world(steps=({"command": "a", "delay_s": 5},)).up().run().settle()
    somebody_else(w).ring("step:h:d1")
    assert not w.forwards
    w.tell(m.ProbeDue()).probe(good=True)
    w.answer(PASS).settle()
    assert w.executions == {"e1": "completed"}


def test_the_end_of_an_attempt_is_no_reason_to_cancel_it_on_somebody_else() -> None:
    w = somebody_else(world().up().run().settle()).ring("step:h:d1").ring("cancel:h:d1").settle()
    assert (w.executions, w.cancels) == ({"e1": "error"}, [])
    w.tell(m.ProbeDue()).probe(good=True).tell(m.ProbeDue()).probe(good=True)
    w.cancel_answered(acknowledged=True).settle()
    assert w.attempts["e1", 1].released


def test_a_cancel_while_another_host_has_the_url_is_sent_once_the_host_is_back() -> None:
    w = world().up().run().settle().tell(m.Replaced("x registered with its URL."))
    assert must_register(w.state)
    w.tell(m.Cancel("e1")).settle()
    assert w.cancels == []
    w.tell(m.Register(1, MOVED, (device(),))).probe(good=True).settle()
    w.cancel_answered(acknowledged=True).settle()
    assert (w.executions, w.attempts["e1", 1].released) == ({"e1": "cancelled"}, True)


def test_actions_that_wait_behind_one_are_refused_when_that_ends() -> None:
    one, two = (m.RunAction(ask, "d1", {}, 1, "k", "u") for ask in (1, 2))
    w = somebody_else(world().up().tell(one, two))
    w.tell(m.ActionAnswered("h:d1", 1, PASS, 1.0))
    assert [act.command.ask for act in w.acts] == [1]
    assert isinstance(w.replies[2], HostUnreachableError)
    assert str(w.replies[2]) == "h is not reachable: not me."


def test_no_control_is_given_back_to_somebody_else() -> None:
    w = serial_world().up().run().settle().answer(refused(TroubleKind.SOMEBODY_ELSE)).settle()
    assert (w.executions, w.left) == ({"e1": "queued"}, [])


# ---------------------------------------------------------------- another installation

ONE, OTHER = (replace(MOVED, instance_id=word * 8) for word in ("a", "b"))


@pytest.mark.parametrize(("later", "status"), [(ONE, "running"), (OTHER, "queued")])
def test_a_step_in_flight_is_asked_for_at_the_installation_that_has_it(
    later: Host, status: str
) -> None:
    w = world().tell(m.Register(1, ONE, (device(),))).up().run().settle()
    w.answer(trouble("BROKEN"))
    w.tell(m.Register(2, later, (device(),))).probe(good=True).settle()
    assert bool(w.forwards) is (status == "running")
    assert w.executions == {"e1": status}


@pytest.mark.parametrize(("later", "status"), [(ONE, "running"), (OTHER, "queued")])
def test_the_rest_of_a_run_is_done_by_the_installation_that_began_it(
    later: Host, status: str
) -> None:
    w = world().tell(m.Register(1, ONE, (device(),))).up().run().settle()
    w.answer(PASS)  # its record is not stored yet, so nothing is in flight
    w.tell(m.Register(2, later, (device(),))).probe(good=True).settle()
    assert bool(w.forwards) is (status == "running")
    assert w.executions == {"e1": status}
