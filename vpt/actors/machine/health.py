"""The health of a device: after too many errors in a row it gets no runs for a while.

A host may answer its probes and still fail each run at once: a phone without its cable, a full
disk, a wrong secret. Such a device is always free, so it would get run after run, and each would
lose an attempt there. So `FAILS_AT` errors of the infrastructure in a row, with no verdict between
them, hold it back. The first run after the pause is a trial: one more error holds it back at once,
for twice as long; a verdict, be it a no, clears it. Whether other devices of the host fare well
says nothing of this one.

Only runs are held back: people may lease the device and act on it, to see what is wrong. A
registration changes nothing, since a host that fails may restart again and again.
"""

from __future__ import annotations

from msgspec.structs import replace

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.machine.transition import Transition
from vpt.actors.state import Health, Lane
from vpt.bounds import LONGEST_REASON
from vpt.model import ErrorKind, ExecutionStatus

#: A device that fails so often in a row is held back.
FAILS_AT = 3
#: The longest pause is so many times the first one, which doubles with each further error.
LONGEST = 360.0
#: Errors that say nothing of the device: nothing was sent there, or the server left it alone.
_NOT_ITS_OWN = (ErrorKind.SERVER_RESTARTED, ErrorKind.CONFIG, ErrorKind.QUEUE_TIMEOUT)
_VERDICTS = (ExecutionStatus.COMPLETED, ExecutionStatus.FAILED)
_CLEAR = Health()


def pause_of(first: float, errors: int) -> float | None:
    """Return for how long (s) a device gets no runs after so many errors in a row, None: it does.

    `first` is the pause after `FAILS_AT`.
    """
    if errors < FAILS_AT:
        return None
    return first * min(2.0 ** min(errors - FAILS_AT, 20), LONGEST)


def attempt_over(
    t: Transition, lane: Lane, status: ExecutionStatus, kind: ErrorKind | None, error: str | None
) -> Lane:
    """Count the end of an attempt on the device; it is stored with the attempt's end."""
    after = lane.health
    if status in _VERDICTS:
        after = _CLEAR
    elif status is ExecutionStatus.ERROR and kind not in _NOT_ITS_OWN:
        errors = after.errors + 1
        pause = pause_of(t.state.limits.device_pause, errors)
        after = Health(errors, None if error is None else error[:LONGEST_REASON], pause)
    if after == lane.health:
        return lane
    t.view_kept = False  # whether the device is in doubt shows
    lane = t.put(lane, health=after)
    start_alarm(t, lane)
    return lane


def start_alarm(t: Transition, lane: Lane) -> None:
    """Start the alarm that ends the device's pause, if it has one."""
    if lane.health.pause is not None:
        over = m.DevicePauseOver(lane.device.id)
        t.add(fx.Alarm(f"pause:{lane.device.id}", lane.health.pause, over))


def pause_over(t: Transition, fact: m.DevicePauseOver) -> None:
    """Let the device have a run again: the number of its errors stays, so it is a trial."""
    lane = t.state.lanes.get(fact.device_id)
    if lane is not None:
        t.put(lane, health=replace(lane.health, pause=None))


def forget_errors(t: Transition, command: m.ForgetErrors) -> None:
    """Clear a device, or all of the host: somebody mended it."""
    for lane in t.lanes():
        if command.device_id in (None, lane.device.id):
            clear(t, lane)
    t.add(fx.Resolve(command.ask))


def clear(t: Transition, lane: Lane) -> None:
    """Forget the errors of a device."""
    t.put(lane, health=_CLEAR)
    t.add(fx.Alarm(f"pause:{lane.device.id}", 0, None))
