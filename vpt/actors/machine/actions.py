"""Manual actions: one at a time on a device, on a serial host one at a time at all.

They are not stored and not tried again: a person waits for each, and sees what came of it.
"""

from __future__ import annotations

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.machine import link, presence
from vpt.actors.machine.transition import Transition
from vpt.actors.state import HOST_WORKS, Lane, is_silenced, unreachable_words
from vpt.dialects.base import Trouble
from vpt.errors import (
    ActionTimeoutError,
    BadGatewayError,
    ConflictError,
    HostUnreachableError,
    InvalidError,
    LockedError,
    UnavailableError,
    UnprocessableError,
    VptError,
)
from vpt.model import Answer

LEASED = "The device is leased by somebody else."
ONE_AT_A_TIME = "The host works one thing at a time, and another device of it is at work."


def run_action(t: Transition, command: m.RunAction) -> None:
    """Send the action, or let it wait for those before it."""
    lane = _lane_for(t, command.device_id, command.user_id)
    # One of somebody else was refused above, with all actions.
    if command.needs_lease and isinstance(lane, Lane) and lane.lease is None:
        lane = LockedError("Lease the device first: what is done by hand there needs a lease.")
    if isinstance(lane, VptError):
        t.add(fx.Reject(command.ask, lane))
        return
    # It waits on the lane, not in a task: what waits is seen by leases and runs, and is bounded.
    actions = (*lane.actions, command)
    lane = t.put(lane, actions=actions)
    if len(acting(t, lane)) == len(actions) == 1:
        t.add(_send(t, lane))


def _lane_for(t: Transition, device_id: str | None, user_id: str) -> Lane | VptError:
    """Return the lane that has a place for the action, or why there is none."""
    lane = _named_lane(t, device_id)
    if isinstance(lane, VptError):
        return lane
    if t.state.link in link.DOWN or is_silenced(t.state):
        return HostUnreachableError(unreachable_words(t.state))
    if t.state.halted:
        return UnavailableError("The server is stopping.")
    if (reason := _taken_from(t, lane, user_id)) is not None:
        return ConflictError(reason)
    # Counted for the whole host: so much waits in memory, whatever the number of its devices.
    waiting = sum(len(other.actions) - 1 for other in t.state.lanes.values() if other.actions)
    if waiting >= t.state.limits.inbox_limit:
        return UnavailableError("Too many actions wait for this host.")
    return lane


def _named_lane(t: Transition, device_id: str | None) -> Lane | VptError:
    """Return the lane by vpt's id or by the host's own; no name will do for a single device."""
    lanes = t.state.lanes.values()
    if device_id is None:
        present = [lane for lane in lanes if not lane.absent]
        if len(present) == 1:
            return present[0]
        return InvalidError({"device_id": ["The host has several devices: name one."]})
    named = [
        lane
        for lane in lanes
        if device_id in (lane.device.id, lane.device.local_id) and not lane.absent
    ]
    if len(named) > 1:
        return UnprocessableError(f"The host has several devices of the name {device_id}.")
    return named[0] if named else UnprocessableError("The host has no such device.")


def _taken_from(t: Transition, lane: Lane, user_id: str) -> str | None:
    """Return what keeps this person's actions off the lane."""
    reason = _taken(lane, user_id)
    if reason is None and any(_taken(each, user_id) for each in t.excluded_by(lane)):
        return ONE_AT_A_TIME
    return reason


def _taken(lane: Lane, user_id: str) -> str | None:
    if lane.run is not None or lane.hold is not None or lane.wanted:
        return "The device is held by an execution."
    if lane.lease is not None and lane.lease.holder != user_id:
        return LEASED
    return HOST_WORKS if lane.host_works else None


def acting(t: Transition, lane: Lane) -> list[Lane]:
    """Return the lanes whose actions wait for each other; the oldest of all is under way."""
    # `ask` numbers grow, so the smallest first one is the oldest.
    lanes = [t.state.lanes.get(lane.device.id), *t.excluded_by(lane)]
    return [each for each in lanes if each is not None and each.actions]


def action_answered(t: Transition, fact: m.ActionAnswered) -> None:
    """Answer whoever asked, and send the action that waited longest."""
    # Whoever asked is answered even when the lane knows the action no more: a registration may
    # have removed the device while it ran.
    outcome = fact.outcome
    link.note_authority(t, outcome)
    presence.note_answer(t, fact.device_id, outcome)
    answer = _answer_in(outcome)
    if answer is not None:
        t.add(fx.Resolve(fact.ask, (answer, fact.duration_ms)))
    elif isinstance(outcome, m.NoAnswer):
        t.add(fx.Reject(fact.ask, error_of(t.state.host.id, outcome)))
        if outcome.trouble in link.NO_LINK:
            link.connection_failed(t, 0, outcome.reason)
    lane = t.state.lanes.get(fact.device_id)
    if lane is None or not lane.actions or lane.actions[0].ask != fact.ask:
        return
    # The end of the last action may free a wanted lane, or remove one that is gone: both show.
    t.view_kept = t.view_kept and not lane.wanted and not lane.gone
    lane = t.put(lane, actions=lane.actions[1:])
    if is_silenced(t.state):
        _reject_waiting(t, lane)
        return
    following = min(acting(t, lane), key=lambda each: each.actions[0].ask, default=None)
    if following is not None:
        t.add(_send(t, following))


def _send(t: Transition, lane: Lane) -> fx.SendAction:
    """Return the effect that sends the lane's first action."""
    lease_id = lane.lease.id if lane.lease else None
    return fx.SendAction(t.state.host, lane.device, lane.actions[0], lease_id)


def _answer_in(outcome: m.Outcome) -> Answer | None:
    """Return what the host answered: for a person, an error of it is an answer, too."""
    if isinstance(outcome, Answer):
        return outcome
    said = outcome.answer
    return said if said and said.raw and said.raw.get("outcome") == "error" else None


def _reject_waiting(t: Transition, lane: Lane) -> None:
    """Answer those whose actions waited behind one that just ended, as nothing may be sent now."""
    error = HostUnreachableError(unreachable_words(t.state))
    for each in acting(t, lane):
        t.add(*(fx.Reject(action.ask, error) for action in each.actions))
        t.put(each, actions=())
        t.view_kept = False


def error_of(host_id: str, outcome: m.NoAnswer) -> VptError:
    """Return the error for whoever asked, of a call that brought no answer."""
    match outcome.trouble:
        case Trouble.NOT_CONNECTED | Trouble.BROKEN | Trouble.SOMEBODY_ELSE:
            words = outcome.reason.text if outcome.reason else outcome.error
            return HostUnreachableError(f"{host_id} is not reachable: {words.rstrip('.')}.")
        case Trouble.HELD_BACK | Trouble.NO_DATABASE:
            return UnavailableError(outcome.error)
        case Trouble.NO_SECRET:
            return UnprocessableError(outcome.error)
        case Trouble.TIMEOUT:
            return ActionTimeoutError()
        case _:
            return BadGatewayError(outcome.error)
