"""The path of a run: from the dispatcher's command to each step that is sent.

The first step goes out only after the attempt is stored (`StoreAttempt`), and each next one after
the step before it is stored. Two reasons. The execution may have been cancelled, or taken by
another start, since the dispatcher sent it here, and the database decides that in one statement.
And the row that stands as `running` names the very step that may be at the host, so that after a
crash of the server nothing is begun twice and nothing is forgotten.

`RunState.uncertain` decides what may follow a step that brought no answer: true means that the host
may be acting on it. Then it is sent again only to a host that can tell (by the repeated key, or by
the handle it gave), and when the run ends instead, its device is held (`holds.py`).
"""

from __future__ import annotations

from msgspec.structs import replace

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.machine import ends
from vpt.actors.machine.holds import LONGEST_STEP
from vpt.actors.machine.link import DOWN
from vpt.actors.machine.transition import Transition
from vpt.actors.state import CONNECT_SHARE, Lane, Link, Phase, RunState, is_silenced
from vpt.model import ErrorKind, ExecutionStatus, RunSpec

_OTHER_INSTANCE = "Another installation has the host's name now, and knows nothing of the run."

# ---------------------------------------------------------------- the start


def start_run(t: Transition, command: m.StartRun) -> None:
    """Reserve the lane and store the attempt; return the run when the lane cannot have it."""
    # The dispatcher chose the device by the last view that it had; it may have changed since.
    lane = t.state.lanes.get(command.device_id)
    state = t.state
    held_back = state.draining or state.halted or state.paused
    ready = lane is not None and state.link is Link.UP and not held_back
    if lane is None or not ready or not _can_run(t, lane):
        if lane is not None and lane.away is None and not lane.held_back:  # else people mend it
            _want(t, lane)
        t.add(fx.ReturnRun(command.execution_id, command.device_id, gone=False))
        return
    # From here the lane is taken, though nothing is stored: the next run must not get it, too.
    t.put(lane, run=RunState(command.execution_id, Phase.STARTING))
    t.add(fx.StoreAttempt(command.execution_id, command.device_id))


def _can_run(t: Transition, lane: Lane) -> bool:
    lanes = (lane, *t.excluded_by(lane))
    free = (each.idle and each.lease is None and not each.host_works for each in lanes)
    return all(free) and not (
        lane.gone or lane.device.disabled or lane.away is not None or lane.held_back
    )


def _want(t: Transition, lane: Lane) -> None:
    """Let no more manual actions come before a run, or they could keep it waiting for ever."""
    # Not under a lease: whoever has it may go on acting, and the run waits for its end.
    for each in (lane, *t.excluded_by(lane)):
        if each.actions and each.lease is None:
            t.put(each, wanted=True)


def _starting(t: Transition, device_id: str, execution_id: str) -> Lane | None:
    """Return the lane whose attempt is being stored for just this execution."""
    lane = t.state.lanes.get(device_id)
    if lane and lane.run and lane.run.execution_id == execution_id:
        return lane if lane.run.phase is Phase.STARTING else None
    return None


def attempt_refused(t: Transition, fact: m.AttemptRefused) -> None:
    """Free the lane: the execution was cancelled or expired before it could start."""
    lane = _starting(t, fact.device_id, fact.execution_id)
    if lane is not None:
        t.put(lane, run=None)
    t.add(fx.ReturnRun(fact.execution_id, fact.device_id, gone=True))


def attempt_stored(t: Transition, fact: m.AttemptStored) -> None:
    """Publish the start and send the first step."""
    spec = fact.spec
    lane = _starting(t, fact.device_id, spec.execution_id)
    if lane is None or lane.run is None:
        return
    run = replace(lane.run, spec=spec, seq=spec.seq, phase=Phase.STORING)
    lane = t.put(lane, run=run)
    t.add(
        fx.Log(
            "test_execution_started",
            {
                "execution_id": spec.execution_id,
                "test_case_id": spec.test_case_id,
                "user_id": spec.requested_by,
                "device_id": lane.device.id,
                "attempt": spec.attempt,
            },
        ),
        fx.Publish(ends.progress(t, lane, run, 0, None)),
    )
    run_alarm(t, lane, spec, 0.0)
    go_on(t, lane, run)


def run_alarm(t: Transition, lane: Lane, spec: RunSpec, elapsed: float) -> None:
    """Start the alarm of the run's time limit, of which `elapsed` seconds are over."""
    limit = t.state.limits.run_timeout if spec.timeout_s is None else spec.timeout_s
    fact = m.RunTimedOut(lane.device.id, spec.execution_id, spec.attempt)
    t.add(fx.Alarm(f"run:{lane.device.id}", max(0.0, limit - elapsed), fact))


# ---------------------------------------------------------------- the step that is due


def go_on(t: Transition, lane: Lane, run: RunState) -> None:
    """Send the step that is due, unless something ends the run here."""
    # A cancel or the run's time limit that came while a record was being stored is carried out
    # here: the record had to be whole first, and no step goes out after it.
    if run.cancelled:
        ends.finish(t, lane, run, ExecutionStatus.CANCELLED)
    elif run.overdue:
        ends.fail(t, lane, run, ErrorKind.RUN_TIMEOUT, ends.RUN_TIMEOUT)
    elif t.state.credential_ended:  # also before a delay: nothing will ever be sent after it
        ends.lose(t, lane, run)
    elif run.action.get("delay_s"):
        delay(t, t.put_run(lane, run, phase=Phase.DELAYED), run)
    else:
        send(t, lane, run)


def delay(t: Transition, lane: Lane, run: RunState) -> None:
    """Start the alarm of a step's `delay_s`."""
    due = m.StepDue(lane.device.id, run.key)
    t.add(fx.Alarm(f"step:{lane.device.id}", float(run.action["delay_s"]), due))


def step_due(t: Transition, fact: m.StepDue) -> None:
    """Send the step whose delay is over; the run may have ended during it."""
    lane = t.state.lanes.get(fact.device_id)
    run = lane.run if lane else None
    if lane and run and run.phase is Phase.DELAYED and run.key == fact.key:
        send(t, lane, run)


def send(t: Transition, lane: Lane, run: RunState, *, alive: bool = False) -> None:
    """Send the step that is due, or park it; `alive` when a probe has just been answered."""
    # `alive` lets it out though the link is still LOST: the link is UP again only after
    # `recover_after` good probes, but a run that is under way need not wait for all of them.
    if t.state.grace_over:  # it was being stored or delayed when RUN_GRACE ended
        ends.lose(t, lane, run)
        return
    # It was parked when the host could tell, and a registration said since that it cannot.
    if run.uncertain and not can_tell(t, run):
        error = "The connection broke, and the host cannot tell what became of the step."
        ends.fail(t, lane, run, ErrorKind.HOST_LOST, error)
        return
    begun = run.step > 1 or run.uncertain
    if begun and _has_other_instance(t, run):
        ends.fail(t, lane, run, ErrorKind.HOST_LOST, _OTHER_INSTANCE)
        return
    away = t.state.link in DOWN and not alive
    if t.state.halted or away or is_silenced(t.state):
        t.put_run(lane, run, phase=Phase.PARKED)
        return
    instance_id = run.instance_id if begun else t.state.host.instance_id
    t.put_run(lane, run, phase=Phase.SENT, instance_id=instance_id)
    _send_now(t, lane, run)


def _has_other_instance(t: Transition, run: RunState) -> bool:
    """Return whether another installation has the host's name since the run began."""
    # It has its own devices and no record of the run: it would do the same step once more, or the
    # rest of a run whose beginning another device did.
    return None not in (run.instance_id, t.state.host.instance_id) and (
        run.instance_id != t.state.host.instance_id
    )


def _send_now(t: Transition, lane: Lane, run: RunState) -> None:
    """Add the call and the alarm of its timeout."""
    # The call may take CANCEL_GRACE longer than the step: it is over for the run then, but its
    # late answer releases the device sooner than the grace does. A serial host is asked for as long
    # as its step may go on.
    action, key = run.action, run.key
    limit = action.get("timeout_s")
    seconds = t.state.limits.step_timeout if limit is None else float(limit)
    t.add(
        fx.Alarm(f"step:{lane.device.id}", seconds, m.StepTimedOut(lane.device.id, key)),
        fx.SendStep(
            t.state.host,
            lane.device,
            run.loaded.device_model,
            key,
            action,
            seconds + (LONGEST_STEP if t.state.host.serial else t.state.limits.cancel_grace),
            seconds * CONNECT_SHARE,
            run.handle,
            run.loaded.secret_steps,
            run.loaded.sealed_values,
            seconds,
            run.anew,
        ),
    )


def can_tell(t: Transition, run: RunState) -> bool:
    """Return whether the host can say what became of the step when it is asked again."""
    return t.state.host.idempotency or run.handle is not None
