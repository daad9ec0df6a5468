"""Leases: a person's exclusive right to a device for a while.

A lease stands on the lane first and in the database afterwards, so that a lease and a run never
meet. It does not interrupt anything; it refuses what others wait with, and runs wait for its end.
"""

from __future__ import annotations

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.machine.actions import LEASED, ONE_AT_A_TIME, acting
from vpt.actors.machine.transition import Transition
from vpt.actors.state import HOST_WORKS, Lane, Lease
from vpt.errors import ConflictError, LockedError, NotFoundError, VptError

HELD = "The device is held by an execution."


def take_lease(t: Transition, command: m.TakeLease) -> None:
    """Lease the device, or renew the holder's lease, which keeps its id."""
    lane = t.state.lanes.get(command.device_id)
    refusal = _why_not(t, lane, command.holder)
    if lane is None or refusal is not None:
        t.add(fx.Reject(command.ask, refusal or NotFoundError()))
        return
    # A renewed lease keeps its id: the database has it under that, and so has its holder.
    lease_id = lane.lease.id if lane.lease else command.lease_id
    lease = Lease(lease_id, command.holder, command.seconds)
    # Not wanted any more: the run waits for the lease now, and the holder may go on acting.
    start_alarm(t, t.put(lane, lease=lease, wanted=False), lease)
    _reject_others(t, lane, command.holder)
    t.add(fx.Resolve(command.ask, lease_id))


def _why_not(t: Transition, lane: Lane | None, holder: str) -> VptError | None:
    """Return why this holder cannot have the lease; on a serial host all its lanes count."""
    if lane is None or lane.gone:
        return NotFoundError("Its host has no such device any more.")
    if lane.lease is not None and lane.lease.holder != holder:
        return LockedError()
    if lane.run is not None or lane.hold is not None or lane.host_works:
        return ConflictError(HOST_WORKS if lane.host_works else HELD)
    for other in t.excluded_by(lane):
        if other.run is not None or other.hold is not None or other.host_works:
            return ConflictError(ONE_AT_A_TIME)
        if other.lease is not None and other.lease.holder != holder:
            return LockedError()
    return None


def _reject_others(t: Transition, lane: Lane, holder: str) -> None:
    """Keep the action that is under way and the holder's own; reject what others wait with."""
    # The one under way is at the host, whoever sent it, and cannot be taken back.
    lanes = acting(t, lane)
    under_way = min((each.actions[0].ask for each in lanes), default=None)
    for each in lanes:
        kept = [one for one in each.actions if under_way == one.ask or one.user_id == holder]
        for one in each.actions:
            if one not in kept:
                t.add(fx.Reject(one.ask, ConflictError(LEASED)))
        t.put(each, actions=tuple(kept))


def start_alarm(t: Transition, lane: Lane, lease: Lease) -> None:
    """Start the alarm that ends the lease."""
    over = m.LeaseOver(lane.device.id, lease.id)
    t.add(fx.Alarm(f"lease:{lane.device.id}", lease.seconds, over))


def lease_over(t: Transition, fact: m.LeaseOver) -> None:
    """End the lease; the end of an older one, whose device was leased anew, is ignored."""
    lane = t.state.lanes.get(fact.device_id)
    if lane is None or lane.lease is None or lane.lease.id != fact.lease_id:
        return
    t.put(lane, lease=None)
    t.add(fx.Alarm(f"lease:{fact.device_id}", 0, None))
    t.add(fx.Log("lease_ended", {"device_id": fact.device_id, "lease_id": fact.lease_id}))
