"""The host machine when a host's step is at work and somebody else has its address by now."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.actors.world import PASS, World, device, host, trouble, world
from vpt.actors import messages as m
from vpt.dialects.base import Trouble
from vpt.model import HostTrouble, TroubleKind

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
