"""How an attempt ends: its status, whether it is tried again, and whether its device is held."""

from __future__ import annotations

from msgspec.structs import replace

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.machine import health, holds, link
from vpt.actors.machine.transition import Transition
from vpt.actors.state import CREDENTIAL_ENDED, Lane, Phase, RunState, is_silenced
from vpt.model import Answer, ErrorKind, ExecutionStatus, StepStatus, TestProgress

RUN_TIMEOUT = "The run did not end in time."
STEP_TIMEOUT = "The step did not end in time."

#: Errors of the infrastructure, which INFRA_RETRIES bounds. A timeout is none of them: most often
#: the test case itself is too slow, and trying it again would only take as long again.
_RETRIED = (
    ErrorKind.HOST_LOST,
    ErrorKind.HOST_ERROR,
    ErrorKind.HOST_REFUSED,
    ErrorKind.INTERNAL,
)
_SUBJECT = "The host "
#: The host itself said that the step is over, so it is not acting any more.
_SAID_SO = (ErrorKind.HOST_ERROR, ErrorKind.HOST_REFUSED)


def complete(t: Transition, lane: Lane, run: RunState) -> None:
    """End the attempt with the verdict of its steps."""
    spec = run.loaded
    if not run.failed:
        finish(t, lane, run, ExecutionStatus.COMPLETED)
        return
    again = spec.test_failures < spec.test_retries
    finish(t, lane, run, ExecutionStatus.FAILED, again=again)


def lose(t: Transition, lane: Lane, run: RunState) -> None:
    """End the attempt since its host is away longer than RUN_GRACE, or lost its credential."""
    if run.cancelled:
        finish(t, lane, run, ExecutionStatus.CANCELLED, uncertain=True)
    elif t.state.credential_ended:
        fail(t, lane, run, ErrorKind.HOST_LOST, CREDENTIAL_ENDED)
    else:
        fail(t, lane, run, ErrorKind.HOST_LOST, _lost_words(t))


def _lost_words(t: Transition) -> str:
    words = t.state.replaced or (t.state.trouble and t.state.trouble.text)
    why = f": {words.rstrip('.')}" if words else ""
    return f"{t.state.host.id} was lost and did not come back{why}."


def fail_late(
    t: Transition, lane: Lane, run: RunState, *, answer: Answer | None = None, over: bool = False
) -> None:
    """End an attempt whose time limit `run.late` is over."""
    error = STEP_TIMEOUT if run.late is ErrorKind.STEP_TIMEOUT else RUN_TIMEOUT
    fail(t, lane, run, run.late or ErrorKind.RUN_TIMEOUT, error, answer=answer, over=over)


def fail(
    t: Transition,
    lane: Lane,
    run: RunState,
    kind: ErrorKind,
    error: str,
    *,
    same_again: bool = False,
    invalid: bool = False,
    answer: Answer | None = None,
    over: bool = False,
) -> None:
    """End the attempt as `error`, for a reason that is not the product's.

    `same_again`: this device would answer the same, so only others may try. `invalid`: every device
    would, and the step says nothing of this one.
    With `over` the host is known to be done with the step; `answer` is what it said of it.
    """
    # After a restart of the server it is always tried again, without limit: that is nobody's
    # failure, and the number of restarts is no property of the execution.
    retries = t.state.limits.infra_retries
    # A step that is wrong in itself would end the same way everywhere.
    again = kind is ErrorKind.SERVER_RESTARTED or (
        kind in _RETRIED and not invalid and run.loaded.infra_failures < retries
    )
    sent = run.phase is Phase.SENT and kind not in _SAID_SO
    uncertain = not over and (run.uncertain or sent)
    did_nothing = run.step == 1 and not (uncertain or invalid) and _is_the_hosts(t, kind)
    finish(
        t,
        lane,
        run,
        ExecutionStatus.ERROR,
        kind=kind,
        error=error,
        again=again,
        uncertain=uncertain,
        avoid=None if invalid else _avoided(t, lane, kind, same_again=same_again),
        answer=answer,
        blames=not invalid,
        elsewhere=did_nothing and retries > 0,
    )


def _is_the_hosts(t: Transition, kind: ErrorKind) -> bool:
    """Return whether the host is to blame for a step that it did not do, or that was not sent."""
    # Such a run may go on to each other device, once: many broken ones are no reason to end it
    # beside a good one. Not what a host refuses for what it is, as the next one would, too; nor
    # what may have begun, or one run could break all devices, one after the other.
    if kind is ErrorKind.HOST_REFUSED:
        return t.state.call_refused
    return kind in (ErrorKind.HOST_ERROR, ErrorKind.HOST_LOST)


def _avoided(t: Transition, lane: Lane, kind: ErrorKind, *, same_again: bool) -> str | None:
    """Return the host or device that is out for all further attempts of the execution."""
    if kind is ErrorKind.HOST_REFUSED:
        return t.state.host.id
    return lane.device.id if same_again else None


def _words_of(lane: Lane, kind: ErrorKind | None, error: str | None) -> str | None:
    """Return the error of an attempt, where the host answered with the device as its subject."""
    # An execution shows the error of its first attempt, which may have been on any device.
    if error is None or kind not in _SAID_SO:
        return error
    device_id, said = lane.device.id, error.removeprefix(_SUBJECT)
    return f"{device_id}: {error}" if said == error else f"{device_id} {said.rstrip('.')}"


def finish(
    t: Transition,
    lane: Lane,
    run: RunState,
    status: ExecutionStatus,
    *,
    kind: ErrorKind | None = None,
    error: str | None = None,
    again: bool = False,
    uncertain: bool = False,
    avoid: str | None = None,
    answer: Answer | None = None,
    blames: bool = True,
    elsewhere: bool = False,
) -> None:
    """Store the attempt's end; with `uncertain` the device is held, not released.

    With `blames` an error counts against the device (`health.py`).
    """
    # The run stays on the lane in phase ENDING until the end is stored, so that nothing else
    # begins there. Whatever comes for the attempt meanwhile is late: no phase but ENDING has its
    # key.
    spec = run.loaded
    hold = holds.hold_for(t, run, kind) if uncertain else None
    in_flight, is_open = run.phase in (Phase.SENT, Phase.PARKED), run.phase is Phase.SENT
    lane = t.put(lane, run=replace(run, phase=Phase.ENDING), hold=hold)
    if blames:
        lane = health.attempt_over(t, lane, status, kind, error)
    if t.state.host.serial and hold is not None and hold.lost:
        # The open call keeps the host's turn: the good probes that this hold waits for would
        # stand behind it for as long as the host is silent.
        t.add(fx.AbortCall(lane.device.id))
    t.add(
        no_step_alarm(lane),
        fx.Alarm(f"run:{lane.device.id}", 0, None),
        fx.Alarm(f"cancel:{lane.device.id}", 0, None),
        fx.StoreEnd(
            lane.device.id,
            spec,
            status,
            kind,
            _words_of(lane, kind, error),
            again,
            hold is None,
            run.step,
            run.key if in_flight else None,
            run.seq + 1,
            lane.health,
            avoid,
            answer,
            elsewhere,
        ),
    )
    if t.state.host.serial and not is_silenced(t.state):
        t.add(fx.Leave(t.state.host, lane.device))
    if hold is not None and not hold.lost:
        holds.await_late(t, lane, hold, is_open=is_open)


def no_step_alarm(lane: Lane) -> fx.Alarm:
    """Return the effect that ends the lane's step alarm: delay or timeout."""
    return fx.Alarm(f"step:{lane.device.id}", 0, None)


def end_stored(t: Transition, fact: m.EndStored) -> None:
    """Let the run leave its lane, and publish its end when it is not tried again."""
    lane = t.state.lanes.get(fact.device_id)
    run = lane.run if lane else None
    if lane is None or run is None or run.execution_id != fact.execution_id:
        return
    if fact.status.final:
        at = run.step if run.spec else 0
        t.add(fx.Publish(progress(t, lane, run, at, fact.step_status, None, fact.status)))
    # A verdict, and be it a no, needs a host that worked all the time.
    if fact.status in (ExecutionStatus.COMPLETED, ExecutionStatus.FAILED):
        link.proved_good(t)
    holds.try_release(t, t.put(lane, run=None))


def progress(
    t: Transition,
    lane: Lane,
    run: RunState,
    step: int,
    step_status: StepStatus | None,
    screenshot: str | None = None,
    status: ExecutionStatus = ExecutionStatus.RUNNING,
) -> TestProgress:
    """Return the event of a run's start, of a stored step, or (with a final `status`) of its end.

    `seq` is the number of its row in the database; the end has the one after the last step's.
    """
    spec = run.loaded
    return TestProgress(
        run.execution_id,
        spec.attempt,
        step,
        len(spec.steps),
        status,
        step_status,
        screenshot,
        run.seq + 1 if status.final else run.seq,
        spec.campaign_execution_id,
        t.state.host.id,
        lane.device.id,
    )
