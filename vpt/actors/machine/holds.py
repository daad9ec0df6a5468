"""Holds: when a device is given out again after an attempt that left it in the middle of a step.

An attempt can be over for vpt while its host still acts on the device: its step timed out, its
connection broke, it was cancelled, the host was lost. The next run would meet the old one's taps.
So the end of such an attempt is stored without releasing the device, and the lane keeps a `Hold`
until the host is known to have stopped. There are two kinds, and they wait for different things:

`lost` is false: the host is there, its answer is late. Whatever comes first releases the device:
- the step's late answer, since then the host is done with it;
- the host's acknowledgement of the cancel, which is sent when the host can cancel;
- a registration: the host's process began anew, and nothing of the old one runs. But one that was
  asked to register, or has another address, may be the same process: it is asked to cancel again;
- CANCEL_GRACE. A host that is alive and says nothing for so long never will, and a device must not
  be out of use for ever because of one answer that went missing.

A serial host, which cannot cancel, and mixes up what it does when two things overlap, is watched
instead of CANCEL_GRACE where it gave the step a handle (`watch`): it is asked for the end of that
step until it is known to be over, for LONGEST_STEP at most. Is it away meanwhile, the hold becomes
one of a lost host, and the host is asked again when it is well.

`lost` is true: the host went away with the step. No timer releases the device, since the host may
act on it for as long as it is away. It needs `recover_after` good probes in a row, or a
registration, and, when the host can cancel, its acknowledgement of that. A late answer is not
enough: the host was given up because its link could not be trusted, and one answer does not make it
well.

Either way the release is stored after the attempt's end, so that the database never has a device
that is free while a running attempt names it.
"""

from __future__ import annotations

from msgspec.structs import replace

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.machine import link
from vpt.actors.machine.transition import Transition
from vpt.actors.state import Hold, Lane, RunState, is_silenced
from vpt.dialects.base import Trouble
from vpt.model import Answer, ErrorKind

#: The host is done with the step, though it brought no verdict.
DONE = (
    Trouble.HOST_ERROR,
    Trouble.HOST_REFUSED,
    Trouble.INVALID_STEP,
    Trouble.STOPPED,
    Trouble.IDLE,
)
#: What ends the watch of a step, too: the host forgot it, or it ran for too long to be true.
_WATCH_OVER = (*DONE, Trouble.FATE_UNKNOWN, Trouble.TIMEOUT)
#: Seconds after which a step that a serial host began is over whatever it says: it ends scripts
#: after an hour.
LONGEST_STEP = 3600.0


def hold_for(t: Transition, run: RunState, kind: ErrorKind | None) -> Hold | None:
    """Return the hold of an attempt whose host may still be acting on the device."""
    # None when the server itself broke the attempt off and the host cannot cancel: the call died
    # with the server, so no answer will come, and there is nothing to wait for. The next run may
    # meet what the host still does; the price of waiting would be every such device out of use
    # for CANCEL_GRACE after each restart.
    by_server = kind in (ErrorKind.SERVER_RESTARTED, ErrorKind.INTERNAL)
    if by_server and not t.state.host.cancel:
        return None
    return Hold(
        run.execution_id,
        run.loaded.attempt,
        lost=kind is ErrorKind.HOST_LOST,
        key=run.key,
        handle=run.handle if t.state.host.serial else None,
    )


def await_late(t: Transition, lane: Lane, hold: Hold, *, is_open: bool = False) -> None:
    """Start what ends a hold that is not lost; `is_open`: the call of its step is open still."""
    if hold.handle is not None and is_open:
        return
    if hold.handle is not None and not is_silenced(t.state):
        watch(t, lane, hold)
        return
    over = m.CancelGraceOver(lane.device.id, hold.execution_id, hold.attempt)
    t.add(fx.Alarm(f"cancel:{lane.device.id}", t.state.limits.cancel_grace, over))
    if t.state.host.cancel:
        cancel_on_host(t, lane, hold.execution_id, hold.attempt)


def watch(t: Transition, lane: Lane, hold: Hold, *, anew: bool = False) -> None:
    """Wait for the end of the step, for which the host is asked by its handle."""
    if hold.key is None or hold.handle is None:
        return
    t.put(lane, hold=replace(hold, lost=False, good=0))
    call = (t.state.host, lane.device, hold.key, hold.handle, LONGEST_STEP, anew)
    t.add(fx.AbortCall(lane.device.id), fx.WatchStep(*call))


def begun_late(t: Transition, fact: m.StepBegun) -> None:
    """Note the handle of a step whose attempt ended before the host named it."""
    lane = t.state.lanes.get(fact.device_id)
    hold = lane.hold if lane else None
    if lane and hold and hold.key == fact.key and t.state.host.serial and not hold.lost:
        t.put(lane, hold=replace(hold, handle=fact.handle))
        t.add(fx.Alarm(f"cancel:{lane.device.id}", 0, None))


def cancel_on_host(t: Transition, lane: Lane, execution_id: str, attempt: int) -> None:
    """Ask the host to stop an attempt, unless nothing may be sent there."""
    if not is_silenced(t.state):
        t.add(fx.CancelOnHost(t.state.host, lane.device.id, execution_id, attempt))


def count_good(t: Transition, lane: Lane, hold: Hold, good: int) -> None:
    """Store how many good probes there were since the hold began, and what follows."""
    # The cancel is sent again at each good probe until it is acknowledged: it may get lost, and
    # it is harmless twice. Only once the host is well: before that an acknowledgement would not
    # release the device of a lost host anyway, and calls to a host that comes and goes mostly
    # fail.
    hold = replace(hold, good=good)
    lane = t.put(lane, hold=hold)
    well = good >= t.state.limits.recover_after
    if t.state.host.cancel and well and not hold.acknowledged:
        cancel_on_host(t, lane, hold.execution_id, hold.attempt)
    try_release(t, lane)


def acknowledged(t: Transition, lane: Lane, hold: Hold) -> None:
    """Note that the host acknowledged the cancel."""
    try_release(t, t.put(lane, hold=replace(hold, acknowledged=True)))


def try_release(t: Transition, lane: Lane) -> None:
    """Release the device when its attempt's end is stored and its hold has what it waits for."""
    hold = lane.hold
    if hold is None or lane.run is not None:
        return
    if hold.lost:
        well = hold.good >= t.state.limits.recover_after
        free = well and (hold.acknowledged or not t.state.host.cancel)
    else:
        free = hold.acknowledged
    if free and hold.lost and hold.handle is not None and not hold.releasing:
        if not is_silenced(t.state):  # else the next good probe asks again
            watch(t, lane, hold)
    elif free:
        release(t, lane, hold)


def release(t: Transition, lane: Lane, hold: Hold) -> None:
    """Release the device now, or as soon as the attempt's end is stored."""
    # The call may be open yet (its answer did not come): it is given up, or the next run's call
    # would find it there. `releasing` stays true until the release is stored, since the device
    # can be freed twice before that, by an answer and by an acknowledgement.
    if lane.run is not None:
        t.put(lane, hold=replace(hold, acknowledged=True))
    elif not hold.releasing:
        t.put(lane, hold=replace(hold, releasing=True))
        t.add(
            fx.AbortCall(lane.device.id),
            fx.Alarm(f"cancel:{lane.device.id}", 0, None),
            fx.StoreRelease(lane.device.id, hold.execution_id, hold.attempt),
        )


def release_stored(t: Transition, fact: m.ReleaseStored) -> None:
    """Remove the hold, so that the device is given out again; ignore another execution's."""
    lane = t.state.lanes.get(fact.device_id)
    if lane and lane.hold and lane.hold.execution_id == fact.execution_id:
        t.put(lane, hold=None)


def late_answer(t: Transition, fact: m.StepAnswered) -> None:
    """Drop an answer that nobody waits for, but let it release the device that it is about."""
    # It is normal that answers are late: a call is left open for CANCEL_GRACE beyond the step's
    # time, just so that its answer can release the device early. The answer changes nothing of
    # the attempt, whose end is decided. Only one by which the host is done with the step counts;
    # a broken connection says nothing of what the host does.
    key = fact.key
    t.add(
        fx.Log(
            "late_answer_dropped",
            {"execution_id": key.execution_id, "attempt": key.attempt, "step": key.step},
            warning=True,
        )
    )
    lane = t.state.lanes.get(fact.device_id)
    hold = lane.hold if lane else None
    if lane is None or hold is None or hold.lost or not hold.is_of(key):
        return
    watched = hold.handle is not None
    done = _WATCH_OVER if watched else DONE
    if isinstance(fact.outcome, Answer) or fact.outcome.trouble in done:
        release(t, lane, hold)
    elif watched:
        t.put(lane, hold=replace(hold, lost=True, good=0))
        link.connection_failed(t, 0, fact.outcome.reason)
