"""Devices that are away: what a host says of them in registrations, heartbeats and answers.

A device that is away gets no run and keeps what it has: the run that is on it goes on, and its end
is judged like any other, since the host may be wrong about the device, or it may be back before the
next step. Leases and manual actions are not refused: people mend the device with them.

The newest word counts; a heartbeat that came while a registration was under way is newer than that.
A host that does not speak of a device changes nothing; only its registration speaks of all of them.

A serial host (VirtualPyTest) never says by itself that a device is back, and says in its pings,
each five minutes, that it runs a deployment of its own on a device. So while such a device is away,
or the host works there, it is asked again and again (`Look`), when nothing of ours is under way.
That the host works there is believed for LONGEST_STEP: its word is a row of a database of its own,
which stays when the host dies in the middle.
"""

from __future__ import annotations

from msgspec.structs import replace

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.machine import link
from vpt.actors.machine.holds import LONGEST_STEP
from vpt.actors.machine.transition import Transition
from vpt.actors.state import Lane, Link, is_silenced
from vpt.model import Presence

_MOST_NAMED = 10  # in the log
#: Probe intervals between two looks at a device that is away: each may take the host seconds.
_LOOKS = 3


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
    """Store whether the device is available, and whether its host works there by itself."""
    away = lane.away if presence.available is None else presence.away
    works, ignored = _host_work(lane, presence.at_work)
    if ignored is not lane.host_work_ignored:
        lane = t.put(lane, host_work_ignored=ignored)
    if (away, works) == (lane.away, lane.host_works):
        return
    if works is not lane.host_works:
        too_long = m.HostWorkTooLong(lane.device.id) if works else None
        t.add(fx.Alarm(f"works:{lane.device.id}", LONGEST_STEP, too_long))
    start_look(t, t.put(lane, away=away, host_works=works))
    t.view_kept = False


def begin_anew(t: Transition, lane: Lane, away: str | None) -> None:
    """Store what a registration says of a device; what its host did by itself ended with it.

    A VirtualPyTest host says that again with the ping that follows its registration.
    """
    t.add(fx.Alarm(f"works:{lane.device.id}", 0, None))
    start_look(t, t.put(lane, away=away, host_works=False, host_work_ignored=False))


def _host_work(lane: Lane, said: bool | None) -> tuple[bool, bool]:
    """Return whether the host works on a device, and whether its word for that is ignored."""
    if said is None:
        return lane.host_works, lane.host_work_ignored
    return said and not lane.host_work_ignored, said and lane.host_work_ignored


def host_work_too_long(t: Transition, fact: m.HostWorkTooLong) -> None:
    """Let the device have runs again, whatever its host says, until it says otherwise."""
    lane = t.state.lanes.get(fact.device_id)
    if lane is not None and lane.host_works:
        t.put(lane, host_works=False, host_work_ignored=True)
        t.add(fx.Log("host_work_ignored", {"device_id": fact.device_id}, warning=True))


# ---------------------------------------------------------------- looks


def start_look(t: Transition, lane: Lane) -> None:
    """Start the alarm of the next look at a device that is away, or at which its host works."""
    if not t.state.host.serial or not (lane.away or lane.host_works) or lane.looking:
        return
    pause = t.state.limits.probe_interval * (1 if lane.host_works else _LOOKS)
    t.add(fx.Alarm(f"look:{lane.device.id}", pause, m.LookDue(lane.device.id)))


def look_due(t: Transition, fact: m.LookDue) -> None:
    """Ask the host how the device is, unless it is at work or is not there."""
    lane = t.state.lanes.get(fact.device_id)
    if lane is None or lane.looking or not (lane.away or lane.host_works):
        return
    if t.state.link is not Link.UP or t.state.halted or is_silenced(t.state) or link.occupied(t):
        start_look(t, lane)
        return
    t.put(lane, looking=True)
    t.add(fx.Look(t.state.host, lane.device))


def device_looked(t: Transition, fact: m.DeviceLooked) -> None:
    """Store what the host said of the device; it is asked again while that is no good news."""
    lane = t.state.lanes.get(fact.device_id)
    if lane is None:
        return
    lane = t.put(lane, looking=False)
    if fact.presence is not None:
        note_presence(t, lane, fact.presence)
    start_look(t, t.state.lanes.get(fact.device_id, lane))
