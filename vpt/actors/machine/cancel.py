"""What ends a run from outside: a cancel, and the time limits of a step and of the run."""

from __future__ import annotations

from msgspec.structs import replace

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.machine import ends, holds
from vpt.actors.machine.link import DOWN
from vpt.actors.machine.transition import Transition
from vpt.actors.state import Lane, Phase, RunState
from vpt.model import ErrorKind, ExecutionStatus

#: Seconds that a host which is asked to stop a step gets to answer with what the step printed.
STOP_GRACE = 5.0


def step_timed_out(t: Transition, fact: m.StepTimedOut) -> None:
    """End the attempt, unless its answer came meanwhile."""
    # The alarm may ring while the answer is in the inbox before it: then it names a try whose call
    # is closed. So it is with each alarm; cancelling it does not take back what it sent.
    found = t.open_call(fact.device_id, fact.key)
    if found is None:
        return
    lane, run = found
    if run.cancelled:
        ends.finish(t, lane, run, ExecutionStatus.CANCELLED, uncertain=True)
    else:
        _stop(t, lane, run, ErrorKind.STEP_TIMEOUT)


def run_timed_out(t: Transition, fact: m.RunTimedOut) -> None:
    """End the attempt, after the present record if one is being stored."""
    # A cancel keeps its status: it came first, and it has a grace of its own.
    lane = t.state.lanes.get(fact.device_id)
    run = lane.run if lane else None
    if lane is None or run is None or not run.is_of(fact):
        return
    if run.phase is Phase.STORING:
        t.put_run(lane, run, overdue=True)
    elif run.phase is Phase.SENT and not run.cancelled:
        _stop(t, lane, run, ErrorKind.RUN_TIMEOUT)
    elif run.phase is not Phase.ENDING and not run.cancelled:
        ends.fail(t, lane, run, ErrorKind.RUN_TIMEOUT, ends.RUN_TIMEOUT)


def _stop(t: Transition, lane: Lane, run: RunState, kind: ErrorKind) -> None:
    """Ask the host to stop the step whose time is over, and wait a moment for what it printed."""
    # A host that cannot stop it, or is away, would have nothing to say.
    host = t.state.host
    if run.late is not None:
        return
    run = replace(run, late=kind)
    if host.serial or not host.cancel or t.state.link in DOWN:
        ends.fail_late(t, lane, run)
        return
    lane = t.put(lane, run=run)
    attempt = run.loaded.attempt
    over = m.CancelGraceOver(lane.device.id, run.execution_id, attempt)
    grace = min(t.state.limits.cancel_grace, STOP_GRACE)
    t.add(fx.Alarm(f"cancel:{lane.device.id}", grace, over))
    holds.cancel_on_host(t, lane, run.execution_id, attempt)


def cancel(t: Transition, command: m.Cancel) -> None:
    """Cancel the execution's run, wherever it is; a second cancel changes nothing."""
    # The database may report the same cancel again and again, since a sweep looks for those that
    # nobody carried out; none must start the grace anew.
    for lane in t.lanes():
        run = lane.run
        if run is None or run.execution_id != command.execution_id or run.cancelled:
            continue
        _cancel_run(t, lane, replace(run, cancelled=True))


def _cancel_run(t: Transition, lane: Lane, run: RunState) -> None:
    """End what has no open call at once; what is being stored ends after that (`run.go_on`)."""
    lane = t.put(lane, run=run)
    if run.phase is Phase.DELAYED:
        ends.finish(t, lane, run, ExecutionStatus.CANCELLED)
    elif run.phase is Phase.PARKED:
        ends.finish(t, lane, run, ExecutionStatus.CANCELLED, uncertain=run.uncertain)
    elif run.phase is Phase.SENT:
        _cancel_sent(t, lane, run)


def _cancel_sent(t: Transition, lane: Lane, run: RunState) -> None:
    """Let the step end: by its answer, the host's acknowledgement, or after CANCEL_GRACE."""
    # The run does not end at once, because the step's answer is worth having: it is stored.
    attempt = run.loaded.attempt
    over = m.CancelGraceOver(lane.device.id, run.execution_id, attempt)
    t.add(fx.Alarm(f"cancel:{lane.device.id}", t.state.limits.cancel_grace, over))
    if t.state.host.cancel:
        holds.cancel_on_host(t, lane, run.execution_id, attempt)


def cancel_answered(t: Transition, fact: m.CancelAnswered) -> None:
    """End the run, or the wait for its device, that the host acknowledged to have stopped."""
    # A host that did not acknowledge is asked again at the next good probe, when there is a hold.
    lane = t.state.lanes.get(fact.device_id)
    if lane is None or not fact.acknowledged:
        return
    run, hold = lane.run, lane.hold
    if run and run.phase is Phase.SENT and run.cancelled and run.is_of(fact):
        t.add(fx.AbortCall(lane.device.id))
        ends.finish(t, lane, run, ExecutionStatus.CANCELLED)
    elif run and run.phase is Phase.SENT and run.late and run.is_of(fact):
        t.add(fx.AbortCall(lane.device.id))
        ends.fail_late(t, lane, run, over=True)
    elif hold and hold.is_of(fact):
        holds.acknowledged(t, lane, hold)


def cancel_grace_over(t: Transition, fact: m.CancelGraceOver) -> None:
    """End a cancelled run whose host said nothing, or release a device whose answer never came."""
    # First the one, then, after another CANCEL_GRACE, the other: the run's end starts the alarm
    # anew for its hold. A hold of a lost host never gets here, since only a cancelled run and a
    # hold that is not lost have this alarm, and a cancelled run ends as cancelled, not as lost.
    lane = t.state.lanes.get(fact.device_id)
    if lane is None:
        return
    run, hold = lane.run, lane.hold
    if run and run.phase is Phase.SENT and run.cancelled and run.is_of(fact):
        ends.finish(t, lane, run, ExecutionStatus.CANCELLED, uncertain=True)
    elif run and run.phase is Phase.SENT and run.late and run.is_of(fact):
        ends.fail_late(t, lane, run)
    elif hold and hold.is_of(fact):
        holds.release(t, lane, hold)
