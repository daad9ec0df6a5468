"""The entry points, and the table that names the function for each message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from msgspec.structs import replace

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.machine import (
    actions,
    answers,
    cancel,
    ends,
    health,
    holds,
    leases,
    link,
    presence,
    recovery,
    run,
    screens,
)
from vpt.actors.machine.transition import Transition
from vpt.actors.state import HostState, RunState

#: Messages that cannot change the host's view unless they change its link: they are about a device
#: that is busy before and after, or about a manual action, which does not make a device busy.
_VIEW_KEPT: frozenset[type[m.Message]] = frozenset(
    {
        m.RunAction,
        m.ActionAnswered,
        m.ShowScreen,
        m.ScreenShown,
        m.AttemptStored,
        m.StepDue,
        m.StepAnswered,
        m.StepBegun,
        m.StepProgressed,
        m.StepStored,
    }
)


def transition(state: HostState, message: m.Message) -> tuple[HostState, fx.Effects]:
    """Return what `message` makes of `state`, and what is to be done."""
    t = Transition(state)
    t.view_kept = type(message) in _VIEW_KEPT
    _handle(t, message)
    return t.result()


def wake(
    state: HostState, resumed: Iterable[tuple[RunState, float]]
) -> tuple[HostState, fx.Effects]:
    """Begin with what the database had: `resumed` are runs and how long (s) they have run."""
    t = Transition(state)
    recovery.wake(t, list(resumed))
    return t.result(always=True)


def _handle(t: Transition, message: m.Message) -> None:  # noqa: C901, PLR0912 (a table)
    """Call the function for this message."""
    # A `match`, not a dict, so that the types of the functions are checked and a message without
    # one is an error of mypy. The most frequent messages come first.
    match message:
        case m.RunAction():
            actions.run_action(t, message)
        case m.ActionAnswered():
            actions.action_answered(t, message)
        case m.ShowScreen():
            screens.show_screen(t, message)
        case m.ScreenShown():
            screens.screen_shown(t, message)
        case m.StepAnswered():
            answers.step_answered(t, message)
        case m.StepStored():
            answers.step_stored(t, message)
        case m.RecordRefused():
            answers.record_refused(t, message)
        case m.StepDue():
            run.step_due(t, message)
        case m.StepBegun():
            answers.step_begun(t, message)
        case m.StepProgressed():
            answers.step_progressed(t, message)
        case m.StartRun():
            run.start_run(t, message)
        case m.AttemptStored():
            run.attempt_stored(t, message)
        case m.AttemptRefused():
            run.attempt_refused(t, message)
        case m.EndStored():
            ends.end_stored(t, message)
        case m.ReleaseStored():
            holds.release_stored(t, message)
        case m.StepTimedOut():
            cancel.step_timed_out(t, message)
        case m.RunTimedOut():
            cancel.run_timed_out(t, message)
        case m.Cancel():
            cancel.cancel(t, message)
        case m.CancelAnswered():
            cancel.cancel_answered(t, message)
        case m.CancelGraceOver():
            cancel.cancel_grace_over(t, message)
        case m.ProbeDue() | m.HeartbeatSeen():
            link.probe(t)  # a ping brings the next probe forward; it is no proof by itself
        case m.DevicesReported():
            presence.devices_reported(t, message)
        case m.LookDue():
            presence.look_due(t, message)
        case m.DeviceLooked():
            presence.device_looked(t, message)
        case m.HostWorkTooLong():
            presence.host_work_too_long(t, message)
        case m.ProbeAnswered():
            recovery.probe_answered(t, message)
        case m.ProbeMissed():
            link.probe_missed(t, message)
        case m.CredentialEnded():
            recovery.credential_ended(t, message)
        case m.Replaced():
            recovery.replaced(t, message)
        case m.GraceOver():
            recovery.grace_over(t, message)
        case m.LossForgotten():
            link.loss_forgotten(t, message)
        case m.PauseOver():
            link.pause_over(t, message)
        case m.TakeLease():
            leases.take_lease(t, message)
        case m.LeaseOver():
            leases.lease_over(t, message)
        case m.Register():
            recovery.register(t, message)
        case m.ChangeDevices():
            recovery.change_devices(t, message)
        case m.ChangeHost():
            recovery.change_host(t, message)
        case m.Unregister():
            recovery.unregister(t, message)
        case m.Drain():
            recovery.drain(t, message)
        case m.ForgetErrors():
            health.forget_errors(t, message)
        case m.DevicePauseOver():
            health.pause_over(t, message)
        case m.Retire():
            recovery.retire(t, message)
        case m.ShutdownBegun():
            t.state = replace(t.state, halted=True)
        case _:
            assert_never(message)
