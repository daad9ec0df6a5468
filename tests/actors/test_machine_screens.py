"""Looks at a device: on a host that does one thing at a time they never delay steps or probes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.actors.world import PASS, World, serial_world, trouble, world
from vpt.actors import messages as m
from vpt.actors.state import Link
from vpt.dialects.base import ScreenPart, ScreenRequest
from vpt.errors import (
    ConflictError,
    HostUnreachableError,
    LockedError,
    NotFoundError,
    UnavailableError,
)
from vpt.model import Presence

PICTURE = ScreenRequest(ScreenPart.PICTURE)
BESIDE = ScreenRequest(ScreenPart.FILE, "http://h/a.ts", beside=True)
AT_WORK, SHOWN = b"", b"a picture"


def show(w: World, ask: int, device_id: str = "h:d1", what: ScreenRequest = PICTURE) -> World:
    return w.tell(m.ShowScreen(ask, device_id, what))


def end(w: World, outcome: bytes | m.NoAnswer = SHOWN) -> World:
    shown = w.screens.pop(0)
    return w.tell(m.ScreenShown(shown.ask, outcome, shown.request.beside))


def test_a_look_is_answered_with_what_is_shown() -> None:
    w = end(show(serial_world().up(), 1))
    assert w.replies == {1: SHOWN}


def test_one_look_at_a_time_on_a_serial_host_and_any_on_another() -> None:
    w = show(show(serial_world().up(), 1), 2, "h:d2")
    assert w.replies == {2: AT_WORK}
    assert len(w.screens) == 1
    w = show(show(world().up(), 1), 2)
    assert len(w.screens) == 2


def test_no_look_while_a_run_has_the_host_not_even_between_its_steps() -> None:
    w = serial_world().up().run("e1", "h:d2")
    for ask in range(1, 4):  # while the attempt is stored, in a step, while that is stored
        show(w, ask)
        if ask == 1:
            w.settle()
        elif ask == 2:
            w.answer(PASS, "h:d2")
    assert w.replies == dict.fromkeys((1, 2, 3), AT_WORK)
    assert w.screens == []


def test_no_look_while_a_probe_is_out_or_an_action_by_hand() -> None:
    w = show(serial_world().up().tell(m.ProbeDue()), 1)
    w.probe(good=True).tell(m.RunAction(2, "h:d1", {}, 1, "k", "ann"))
    show(w, 3)
    assert (w.replies[1], w.replies[3]) == (AT_WORK, AT_WORK)


def test_no_screen_is_fetched_while_the_host_works_by_itself() -> None:
    w = serial_world().up()
    w.tell(m.DevicesReported({"d2": Presence(at_work=True)}))
    show(w, 1)
    w.tell(m.DevicesReported({"d2": Presence(at_work=False)}))
    show(w, 2)
    assert w.replies == {1: AT_WORK}
    assert len(w.screens) == 1


def test_a_probe_that_is_due_waits_for_the_look_and_goes_before_the_next() -> None:
    w = show(serial_world().up(), 1).tell(m.ProbeDue())
    assert not w.probing
    end(w)
    assert w.probing
    show(w, 2)
    assert w.replies[2] == AT_WORK


def test_what_another_server_of_its_machine_shows_waits_for_nothing() -> None:
    w = show(serial_world().up().run().settle(), 1, what=BESIDE)
    assert len(w.screens) == 1
    end(w, trouble("NOT_CONNECTED"))
    assert w.state.link is Link.UP, "it says nothing of the host"


def test_a_look_that_cannot_connect_makes_the_host_suspect() -> None:
    w = end(show(serial_world().up(), 1), trouble("NOT_CONNECTED"))
    assert isinstance(w.replies[1], HostUnreachableError)
    assert w.state.link is Link.SUSPECT


def test_nobody_looks_at_what_is_not_there() -> None:
    w = show(serial_world().up(), 1, "h:d9")
    w.state = replace(w.state, halted=True)
    show(w, 2)
    w.state = replace(w.state, halted=False)
    w.tell(m.Unregister(3))
    show(w, 4)
    assert isinstance(w.replies[1], NotFoundError)
    assert isinstance(w.replies[2], UnavailableError)
    assert isinstance(w.replies[4], HostUnreachableError)
    assert w.screens == []


@pytest.mark.parametrize("holder", [None, "bob", "ann"])
def test_a_touch_needs_ones_own_lease(holder: str | None) -> None:
    w = world().up()
    if holder is not None:
        w.tell(m.TakeLease(1, "h:d1", "l1", holder, 60))
    w.tell(m.RunAction(2, "h:d1", {}, 1, "k", "ann", needs_lease=True))
    expected = {None: LockedError, "bob": ConflictError, "ann": type(None)}[holder]
    assert isinstance(w.replies.get(2), expected)
    assert len(w.acts) == (holder == "ann")
