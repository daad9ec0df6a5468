"""Devices that are away: what a host says of them in registrations, heartbeats and answers.

A device that is away gets no run and keeps what it has: the run that is on it goes on, and its end
is judged like any other, since the host may be wrong about the device, or it may be back before the
next step. Leases and manual actions are not refused: people mend the device with them.

The newest word counts; a heartbeat that came while a registration was under way is newer than that.
A host that does not speak of a device changes nothing; only its registration speaks of all of them.
"""

from __future__ import annotations

from msgspec.structs import replace

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.machine.transition import Transition
from vpt.actors.state import Lane
from vpt.model import Presence

_MOST_NAMED = 10  # in the log


def devices_reported(t: Transition, fact: m.DevicesReported) -> None:
    """Store what a heartbeat says of devices; names that the host does not have are logged once."""
    named = {_local_name(lane): lane for lane in t.lanes()}
    for name, presence in fact.presences.items():
        if name in named:
            note_presence(t, named[name], presence)
    unknown = [name for name in fact.presences if name not in named]
    if unknown and not t.state.unknown_reported:
        t.state = replace(t.state, unknown_reported=True)
        t.add(fx.Log("unknown_devices_reported", {"names": unknown[:_MOST_NAMED]}, warning=True))


def _local_name(lane: Lane) -> str:
    """Return the host's name for a device; without declared devices it is one, of its own name."""
    return lane.device.local_id or lane.device.id


def note_answer(t: Transition, device_id: str, outcome: m.Outcome) -> None:
    """Store what an answer says of its device."""
    lane = t.state.lanes.get(device_id)
    if lane is not None and outcome.presence is not None:
        note_presence(t, lane, outcome.presence)


def note_presence(t: Transition, lane: Lane, presence: Presence) -> None:
    """Store whether the device is available, and why it is not."""
    if presence.away != lane.away:
        t.put(lane, away=presence.away)
        t.view_kept = False
