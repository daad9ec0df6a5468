"""What becomes of runs and holds when a host is back, is lost for good, or begins anew.

Begins anew are two: a host that registers (its process started), and this actor itself, which is
loaded from the database after a crash of its own or a start of the server (`wake`).
"""

from __future__ import annotations

from msgspec.structs import replace

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.machine import ends, health, holds, leases, link, presence
from vpt.actors.machine.run import can_tell, delay, run_alarm, send
from vpt.actors.machine.transition import Transition
from vpt.actors.state import (
    CREDENTIAL_ENDED,
    Lane,
    Link,
    Phase,
    RunState,
    answers_as_other,
    must_register,
    unreachable_words,
)
from vpt.errors import ConflictError, HostUnreachableError
from vpt.model import Device, ErrorKind, ExecutionStatus

# ---------------------------------------------------------------- the host is back, or is not


def probe_answered(t: Transition, _: m.ProbeAnswered) -> None:
    """Count a good probe: for the link, for each hold, and to send what is parked."""
    good = t.state.good + 1
    t.state = replace(t.state, probing=False, missed=0, good=good)
    if t.state.link is Link.OFFLINE:  # it said goodbye after the probe was sent
        return
    if answers_as_other(t.state):
        t.state = replace(t.state, trouble=None)
    if good >= link.good_probes_needed(t):
        link.set_link(t, Link.UP)
    for lane in t.lanes():
        if lane.hold is not None:
            holds.count_good(t, lane, lane.hold, lane.hold.good + 1)
        elif lane.run is not None and lane.run.phase is Phase.PARKED:
            send(t, lane, lane.run, alive=True)


def grace_over(t: Transition, _: m.GraceOver) -> None:
    """End the runs of a host that did not come back within RUN_GRACE, so that others have them."""
    # A run that is storing something is spared for the moment: its record must be whole first. It
    # finds `grace_over` when it is about to send (`run.send`).
    if t.state.link not in link.DOWN:
        return
    t.state = replace(t.state, grace_over=True)
    for lane in t.lanes():
        run = lane.run
        if run and run.phase in (Phase.DELAYED, Phase.SENT, Phase.PARKED):
            ends.lose(t, lane, run)


def credential_ended(t: Transition, _: m.CredentialEnded) -> None:
    """Send nothing more to a host that nobody vouches for, and end what it was doing."""
    # There is no RUN_GRACE: the operator who revokes a token wants the host out now, and whatever
    # it answers from here on must not count. A run that is being stored ends after its record
    # (`run.go_on`), as `grace_over` is set.
    if t.state.credential_ended:
        return
    link.set_link(t, Link.OFFLINE)
    t.state = replace(t.state, credential_ended=True, grace_over=True)
    t.add(fx.Alarm("grace", 0, None), fx.Alarm("probe-soon", 0, None))
    for lane in t.lanes():
        t.add(fx.AbortCall(lane.device.id))
        for action in lane.actions:
            t.add(fx.Reject(action.ask, HostUnreachableError(CREDENTIAL_ENDED)))
        lane = t.put(lane, actions=())  # noqa: PLW2901 (the lane as it is now)
        run = lane.run
        if run and run.phase in (Phase.DELAYED, Phase.SENT, Phase.PARKED):
            ends.lose(t, lane, run)


def replaced(t: Transition, fact: m.Replaced) -> None:
    """Send nothing more to a host whose URL another one has; it keeps its runs for RUN_GRACE.

    It may only have moved, and register where it is now.
    """
    if t.state.credential_ended:
        return
    link.set_link(t, Link.OFFLINE)
    t.state = replace(t.state, replaced=fact.words, trouble=None)
    t.add(fx.Alarm("probe-soon", 0, None))
    for lane in t.lanes():
        for action in lane.actions:
            t.add(fx.Reject(action.ask, HostUnreachableError(unreachable_words(t.state))))
        lane = t.put(lane, actions=())  # noqa: PLW2901 (the lane as it is now)
        t.add(fx.AbortCall(lane.device.id))
        run = lane.run
        if run and run.phase is Phase.SENT:
            _park_uncertain(t, lane, run)


def _park_uncertain(t: Transition, lane: Lane, run: RunState) -> None:
    t.add(ends.no_step_alarm(lane))
    if run.cancelled:
        ends.finish(t, lane, run, ExecutionStatus.CANCELLED, uncertain=True)
    else:
        t.put_run(lane, run, phase=Phase.PARKED, uncertain=True)


# ---------------------------------------------------------------- the host registers


def register(t: Transition, command: m.Register) -> None:
    """Store what the host says of itself, and treat it as a process that began anew."""
    # The registration is a sign of life, so one good probe makes the host UP. It still needs that
    # one: the URL may be one that the server cannot reach.
    known, host = t.state.host, command.host
    moved = (host.url, host.dialect) != (known.url, known.dialect)
    # A host that was asked to register, or has another address, may be the same process as before.
    same_process = moved or must_register(t.state)
    t.state = replace(
        t.state,
        host=host,
        credential_ended=False,
        unauthorized=False,
        call_refused=False,
        replaced=None,
        trouble=None,
        unknown_reported=False,
    )
    _change_devices(t, command.devices)
    for lane in t.lanes():
        presence.begin_anew(t, lane, command.away.get(lane.device.id))
    # An UP host that registers again at the same place is not made SUSPECT, or each restart of its
    # process would look like a loss to those who wait for it.
    if moved or t.state.link is not Link.UP:
        link.set_link(t, Link.SUSPECT)
        t.state = replace(t.state, missed=0, good=t.state.limits.recover_after - 1)
    for lane in t.lanes():
        _host_began_anew(t, lane, same_process=same_process)
    link.probe(t)
    t.add(fx.Resolve(command.ask))


def _host_began_anew(t: Transition, lane: Lane, *, same_process: bool) -> None:
    """Let go of what waited for the old process; ask again what a host that can tell was asked."""
    # The open call is of the old process and may never end. A run whose host cannot tell keeps it
    # all the same: a registration alone does not prove that the process is another one.
    if lane.hold is not None and lane.hold.lost:
        holds.count_good(t, lane, lane.hold, t.state.limits.recover_after)
    elif lane.hold is not None and lane.hold.handle is not None and t.state.host.serial:
        holds.watch(t, lane, lane.hold, anew=True)
    elif lane.hold is not None and same_process and t.state.host.cancel:
        holds.cancel_on_host(t, lane, lane.hold.execution_id, lane.hold.attempt)
    elif lane.hold is not None:
        holds.release(t, lane, lane.hold)
    run = lane.run
    if run is None or run.phase is not Phase.SENT or run.cancelled:
        return
    if run.late is not None:
        t.add(fx.AbortCall(lane.device.id))
        ends.fail_late(t, lane, run, over=not same_process)
    elif can_tell(t, run):
        t.add(fx.AbortCall(lane.device.id), ends.no_step_alarm(lane))
        anew = run.anew or not same_process
        t.put_run(lane, run, phase=Phase.PARKED, uncertain=True, anew=anew)
        t.add(fx.Alarm("probe-soon", link.SOON, m.ProbeDue()))


def change_host(t: Transition, command: m.ChangeHost) -> None:
    """Use what people changed of the host; one that refused the old key is tried with a new one."""
    if command.host.secret != t.state.host.secret:
        t.state = replace(t.state, unauthorized=False, call_refused=False)
    t.state = replace(t.state, host=command.host)


def change_devices(t: Transition, command: m.ChangeDevices) -> None:
    """Store devices that people changed."""
    _change_devices(t, command.devices)
    t.add(fx.Resolve(command.ask))


def _change_devices(t: Transition, devices: tuple[Device, ...]) -> None:
    """Keep a lane for each device, and for one no longer declared until nothing holds it.

    One that failed keeps its errors: it may come and go with its cable.
    """
    lanes: dict[str, Lane] = {}
    for device in devices:
        lane = t.state.lanes.get(device.id)
        lanes[device.id] = replace(lane, device=device, gone=False) if lane else Lane(device)
    for device_id, lane in t.state.lanes.items():
        if device_id not in lanes and not (lane.empty and not lane.health.errors):
            lanes[device_id] = replace(lane, gone=True)
    t.put_lanes(lanes)


def drain(t: Transition, command: m.Drain) -> None:
    """Start no more runs on the host, or start them again, on devices that are held back, too."""
    t.state = replace(t.state, draining=command.on)
    for lane in t.lanes() if not command.on else ():
        health.clear(t, lane)
    t.add(fx.Resolve(command.ask))


def unregister(t: Transition, command: m.Unregister) -> None:
    """Note that the host said goodbye; its runs keep RUN_GRACE, since it may only restart."""
    link.set_link(t, Link.OFFLINE)
    t.add(fx.Resolve(command.ask))


def retire(t: Transition, command: m.Retire) -> None:
    """Stop for good, unless something runs; a hold is no reason, its host may never return."""
    if any(lane.run or lane.actions for lane in t.state.lanes.values()):
        busy = ConflictError("The host runs something: drain it and wait, or cancel that.")
        t.add(fx.Reject(command.ask, busy))
        return
    t.add(fx.Resolve(command.ask), fx.Stop())


# ---------------------------------------------------------------- the actor is loaded


def wake(t: Transition, resumed: list[tuple[RunState, float]]) -> None:
    """Start the alarms and calls that the restored state needs."""
    by_execution = {run.execution_id: elapsed for run, elapsed in resumed}
    if t.state.link is not Link.OFFLINE:
        link.begin_probe(t)  # even of a serial host with a hold: no call of ours is open yet
    if t.state.link in link.DOWN and not t.state.credential_ended:
        t.add(fx.Alarm("grace", t.state.limits.run_grace, m.GraceOver()))
    for lane in t.lanes():
        health.start_alarm(t, lane)
        presence.start_look(t, lane)
        if lane.run is not None:
            _resume(t, lane, lane.run, by_execution[lane.run.execution_id])
        elif lane.hold is not None and not lane.hold.lost:
            holds.await_late(t, lane, lane.hold)
        elif lane.lease is not None:
            leases.start_alarm(t, lane, lane.lease)


def _resume(t: Transition, lane: Lane, run: RunState, elapsed: float) -> None:
    """Go on with a run, or end it when nobody can tell what became of its step."""
    # A run may be why this actor crashed. After one crash it is resumed only where that is safe
    # anyway; after a second one it ends, or it would crash the actor for ever.
    if run.phase is Phase.STORING:  # every step is over, only the verdict was not stored
        _end_stored_steps(t, lane, run)
    elif t.state.credential_ended:
        ends.lose(t, lane, run)
    elif run.cancelled:
        # One that waited for its `delay_s` was never sent: nothing has to stop on its device.
        ends.finish(t, lane, run, ExecutionStatus.CANCELLED, uncertain=run.uncertain)
    elif t.state.crashes > 1 or (t.state.crashes and not can_tell(t, run)):
        ends.fail(t, lane, run, ErrorKind.INTERNAL, "The server made a mistake: see its log.")
    elif can_tell(t, run) or not run.uncertain:
        if run.phase is Phase.DELAYED:
            delay(t, lane, run)
        run_alarm(t, lane, run.loaded, elapsed)
        t.add(fx.Log("test_execution_resumed", {"execution_id": run.execution_id}))
    else:
        error = "The server was restarted and the host cannot tell what became of the step."
        ends.fail(t, lane, run, ErrorKind.SERVER_RESTARTED, error)


def _end_stored_steps(t: Transition, lane: Lane, run: RunState) -> None:
    if run.cancelled:
        ends.finish(t, lane, run, ExecutionStatus.CANCELLED)
    else:
        ends.complete(t, lane, run)
