"""What comes of a step: its answer, no answer, and the record of it.

An answer is stored before anything follows from it. The order holds after a crash, too: what the
database has is what was published, and the next step was not sent before this one stood there.
"""

from __future__ import annotations

from msgspec.structs import replace

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.machine import ends, holds, link, presence
from vpt.actors.machine.run import can_tell, go_on
from vpt.actors.machine.transition import Transition
from vpt.actors.state import Lane, Phase, RunState, action_name
from vpt.dialects.base import Trouble, may_be_another_host
from vpt.model import Answer, ErrorKind, ExecutionStatus, Json, StepProgress, StepStatus

REFUSED = "The database refused to store what the step brought: see the server's log."
#: Nothing reached the host: the step can be sent again to any host, and proves nothing of this one.
_NOT_SENT = (Trouble.HELD_BACK, Trouble.NOT_CONNECTED)
#: Nothing reached the host, either, and it does not go out with the next good probe.
_NEVER_SENT = (*_NOT_SENT, Trouble.NO_SECRET, Trouble.NO_DATABASE, Trouble.SOMEBODY_ELSE)
#: The host is known to do nothing of it any more.
_OVER = (Trouble.STOPPED, Trouble.IDLE)
#: A step whose connection broke so often, with a good probe each time before it, is not sent again:
#: the host does not fail by chance.
MOST_PARKS = 6
_KINDS = {
    Trouble.HOST_ERROR: ErrorKind.HOST_ERROR,
    Trouble.HOST_REFUSED: ErrorKind.HOST_REFUSED,
    Trouble.INVALID_STEP: ErrorKind.HOST_REFUSED,
    Trouble.FATE_UNKNOWN: ErrorKind.HOST_LOST,
    Trouble.IDLE: ErrorKind.HOST_LOST,
    Trouble.BROKEN: ErrorKind.HOST_LOST,
    Trouble.TIMEOUT: ErrorKind.STEP_TIMEOUT,
    Trouble.STOPPED: ErrorKind.STEP_TIMEOUT,
    Trouble.NO_SECRET: ErrorKind.CONFIG,
    Trouble.NO_DATABASE: ErrorKind.INTERNAL,
    Trouble.SOMEBODY_ELSE: ErrorKind.HOST_LOST,
}

# ---------------------------------------------------------------- under way


def step_begun(t: Transition, fact: m.StepBegun) -> None:
    """Keep and store the host's own name of the try: from now on it can be asked for its end."""
    found = t.open_call(fact.device_id, fact.key)
    if found is not None:
        t.put_run(*found, handle=fact.handle, uncertain=True)
        t.add(fx.StoreHandle(fact.device_id, fact.key, fact.handle))
    else:
        holds.begun_late(t, fact)


def step_progressed(t: Transition, fact: m.StepProgressed) -> None:
    """Publish how far the step is; it is not stored, since only its end counts."""
    found = t.open_call(fact.device_id, fact.key)
    if found is None:
        return
    key, campaign = fact.key, found[1].loaded.campaign_execution_id
    event = StepProgress(key.execution_id, key.attempt, key.step, fact.state, campaign)
    t.add(fx.Publish(event))


# ---------------------------------------------------------------- over


def step_answered(t: Transition, fact: m.StepAnswered) -> None:
    """Deal with the end of a step's call."""
    link.note_authority(t, fact.outcome)
    presence.note_answer(t, fact.device_id, fact.outcome)
    found = t.open_call(fact.device_id, fact.key)
    if found is None:
        holds.late_answer(t, fact)
        return
    lane, run = found
    t.add(ends.no_step_alarm(lane))
    if run.late is not None and not run.cancelled:
        _stopped(t, lane, run, fact.outcome)
    elif isinstance(fact.outcome, Answer):
        _answered(t, lane, run, fact.outcome, fact.duration_ms)
    else:
        if fact.duration_ms > t.state.limits.probe_interval * 1000:
            # The host had it at work: something in between may cut a long step ever so often.
            run = replace(run, parks=0)
        _not_answered(t, lane, run, fact.outcome)


def _stopped(t: Transition, lane: Lane, run: RunState, outcome: m.Outcome) -> None:
    """End an attempt whose time is over, with what its step printed."""
    # Not even a yes lets it go on: the host was asked to stop the attempt, and refuses further
    # steps of it.
    if isinstance(outcome, Answer):
        ends.fail_late(t, lane, run, answer=outcome, over=True)
    else:
        over = outcome.trouble in holds.DONE
        ends.fail_late(t, lane, run, answer=outcome.answer, over=over)


def _answered(t: Transition, lane: Lane, run: RunState, answer: Answer, duration_ms: float) -> None:
    """Store the answer, or, when it is a no and the step has retries left, its next try."""
    action = run.action
    failed = not answer.success and not run.cancelled
    if failed and run.tries <= int(action.get("retries", 0)):
        _store_try(t, lane, run)
        return
    following = _following(run, action, failed=failed)
    key = run.key
    run = replace(
        run,
        phase=Phase.STORING,
        seq=run.seq + 1,
        failed=run.failed or failed,
        stop=following is None,
        uncertain=False,
        handle=None,
        anew=False,
        parks=0,
    )
    t.put(lane, run=run)
    # The record also inserts the next step's row as `running`: see `run.py` for the reason.
    name = action_name(following) if following is not None and not run.cancelled else None
    status = _status(answer, cancelled=run.cancelled)
    t.add(
        fx.StoreStep(lane.device.id, key, status, answer, answer.error, duration_ms, run.seq, name)
    )


def _following(run: RunState, action: Json, *, failed: bool) -> Json | None:
    """Return the step that comes next, None after the last one or one that ends the run."""
    steps = run.loaded.steps
    goes_on = not failed or action.get("continue_on_failure", False)
    return steps[run.step] if run.step < len(steps) and goes_on else None


def _status(answer: Answer, *, cancelled: bool) -> StepStatus:
    """Return a step's status; a no of a step that was being cancelled is no verdict on it."""
    if answer.success:
        return StepStatus.PASSED
    return StepStatus.ERROR if cancelled else StepStatus.FAILED


def _store_try(t: Transition, lane: Lane, run: RunState) -> None:
    """Store that the step is tried once more, under a key of its own."""
    again = replace(run, tries=run.tries + 1, phase=Phase.STORING, uncertain=False)
    again = replace(again, handle=None, anew=False)
    t.put(lane, run=again)
    t.add(fx.StoreTry(lane.device.id, again.key))


def _not_answered(t: Transition, lane: Lane, run: RunState, outcome: m.NoAnswer) -> None:
    """Park the step when it may be sent again, else end the attempt."""
    # It may be sent again when nothing was sent, or when the connection broke and the host can
    # tell a repeated step. It goes out after the next good probe, since before that it would fail
    # the same way. All else ends the attempt: the host refused the step, or nobody can tell what
    # became of it. What another host says, which has the address by now, is no answer to a step
    # that this host may have begun.
    trouble = outcome.trouble
    broke = trouble is Trouble.BROKEN or (run.uncertain and may_be_another_host(outcome.reason))
    resend = trouble in _NOT_SENT or (broke and can_tell(t, run))
    if trouble in link.NO_LINK:
        link.connection_failed(t, run.parks, outcome.reason)
    # An earlier sending of the try counts, too, even if this one was refused: who refuses without
    # looking at the key does not know of it.
    sent = run.uncertain or trouble not in (*_NEVER_SENT, *holds.DONE)
    if trouble in holds.DONE and run.handle is not None:  # the host was asked for just this step
        sent = False
    if trouble is not Trouble.HELD_BACK:  # that is the server's own doing
        run = replace(run, parks=run.parks + 1)
    # There is nothing to ask for: the host does not know the step any more.
    handle = None if trouble is Trouble.FATE_UNKNOWN else run.handle
    run = replace(run, uncertain=sent, handle=handle)
    if trouble is Trouble.SOMEBODY_ELSE:  # only an earlier sending of it may have begun it
        run = replace(run, phase=Phase.PARKED)
    if run.cancelled:
        answer, uncertain = outcome.answer, sent and trouble not in _OVER
        ends.finish(t, lane, run, ExecutionStatus.CANCELLED, uncertain=uncertain, answer=answer)
    elif resend and run.parks >= MOST_PARKS and trouble is not Trouble.HELD_BACK:
        error = f"{outcome.error} So it was {MOST_PARKS} times, though the host answers its probes."
        ends.fail(t, lane, run, ErrorKind.HOST_LOST, error)
    elif resend and not t.state.grace_over:
        t.put_run(lane, run, phase=Phase.PARKED)
    elif resend:
        ends.lose(t, lane, run)
    else:
        if trouble in _NEVER_SENT:  # though its call was open
            run = replace(run, phase=Phase.PARKED)
        ends.fail(
            t,
            lane,
            run,
            _KINDS[trouble],
            _words(t, outcome),
            same_again=outcome.same_again,
            invalid=trouble is Trouble.INVALID_STEP,
            answer=outcome.answer,
            over=trouble in _OVER,
        )


def _words(t: Transition, outcome: m.NoAnswer) -> str:
    """Return why there is no answer; with the host's name when that is why it is not reached.

    A host that refuses says why in its own words.
    """
    if outcome.reason is None or outcome.trouble in holds.DONE:
        return outcome.error
    return f"{t.state.host.id}: {outcome.reason.text}"


# ---------------------------------------------------------------- stored


def record_refused(t: Transition, fact: m.RecordRefused) -> None:
    """End the attempt, since what the step brought cannot be stored."""
    lane = t.state.lanes.get(fact.device_id)
    run = lane.run if lane else None
    if lane is None or run is None or run.phase is not Phase.STORING or run.key != fact.key:
        return
    # Its row stands as running, and ends with the attempt, whose event has the number.
    run = replace(run, phase=Phase.PARKED, seq=run.seq - fact.numbered)
    ends.fail(t, lane, run, ErrorKind.INTERNAL, REFUSED)


def step_stored(t: Transition, fact: m.StepStored) -> None:
    """Publish what was stored, and go on with what it leads to."""
    # Anything but the record that the run waits for is ignored: a record may be reported twice
    # when its connection broke after COMMIT, and a second report must not send the next step
    # again.
    lane = t.state.lanes.get(fact.device_id)
    run = lane.run if lane else None
    if lane is None or run is None or run.phase is not Phase.STORING or run.key != fact.key:
        return
    if fact.status is None:  # another try of the same step
        go_on(t, lane, run)
        return
    event = ends.progress(t, lane, run, run.step, fact.status, fact.screenshot_url)
    t.add(fx.Publish(event))
    if run.cancelled:
        ends.finish(t, lane, run, ExecutionStatus.CANCELLED)
    elif run.stop:
        ends.complete(t, lane, run)
    else:
        run = replace(run, step=run.step + 1, tries=1)
        go_on(t, t.put(lane, run=run), run)
