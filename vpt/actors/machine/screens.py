"""Screens of devices: pictures and streams for people, which never delay a step or a probe.

A serial host is asked only while it has nothing else to do, and for one screen at a time. What is
due meanwhile goes first: a probe waits for the fetch that is under way, and no other fetch is begun
before it. Only a run or an action that begins during a fetch waits for the rest of it.
"""

from __future__ import annotations

from msgspec.structs import replace

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.machine import link
from vpt.actors.machine.actions import error_of
from vpt.actors.machine.transition import Transition
from vpt.actors.state import Lane, is_silenced, unreachable_words
from vpt.errors import HostUnreachableError, NotFoundError, UnavailableError, VptError

AT_WORK = b""


def show_screen(t: Transition, command: m.ShowScreen) -> None:
    """Fetch what somebody wants to see, or answer with nothing while the host is at work."""
    lane = _lane_to_see(t, command.device_id)
    # Neither a lease nor a disabled device keeps anybody from looking: that changes nothing there.
    if isinstance(lane, VptError):
        t.add(fx.Reject(command.ask, lane))
        return
    alone = t.state.host.serial and not command.request.beside
    if alone and _at_work(t):
        t.add(fx.Resolve(command.ask, AT_WORK))
        return
    if alone:
        t.state = replace(t.state, showing=command.ask)
    t.add(fx.FetchScreen(command.ask, t.state.host, lane.device, command.request))


def _lane_to_see(t: Transition, device_id: str) -> Lane | VptError:
    lane = t.state.lanes.get(device_id)
    if lane is None or lane.absent:
        return NotFoundError("The host has no such device.")
    if t.state.link in link.DOWN or is_silenced(t.state):
        return HostUnreachableError(unreachable_words(t.state))
    if t.state.halted:
        return UnavailableError("The server is stopping.")
    return lane


def _at_work(t: Transition) -> bool:
    # A run counts between its steps, too: its next one must not wait for a picture. So does what
    # the host does by itself.
    lanes = t.state.lanes.values()
    busy = any(lane.run or lane.hold or lane.actions or lane.host_works for lane in lanes)
    return busy or t.state.probing or link.occupied(t)


def screen_shown(t: Transition, fact: m.ScreenShown) -> None:
    """Answer whoever asked, and begin the probe that was due meanwhile."""
    if fact.ask == t.state.showing:
        owed = t.state.probe_owed
        t.state = replace(t.state, showing=None, probe_owed=False)
        if owed:
            link.probe(t)
    if isinstance(fact.outcome, bytes):
        t.add(fx.Resolve(fact.ask, fact.outcome))
        return
    t.add(fx.Reject(fact.ask, error_of(t.state.host.id, fact.outcome)))
    # The other server of its machine says nothing of the host.
    if fact.outcome.trouble in link.NO_LINK and not fact.beside:
        link.connection_failed(t, 0, fact.outcome.reason)
