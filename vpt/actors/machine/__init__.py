"""The host actor's mind: transition(state, message) -> (state, effects), pure.

Nothing here waits, tells the time, logs or makes ids. A `Turn` is the scratch paper of one
transition; it dies with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, assert_never

from msgspec.structs import replace

from vpt.actors import messages as m
from vpt.actors.messages import NoAnswer, StepKey, Trouble
from vpt.actors.state import (
    FLAP_WINDOW,
    FLAPS_AT,
    HostState,
    Lane,
    Lease,
    Link,
    Phase,
    Run,
    pause_of,
    view_of,
)
from vpt.actors.state import Hold as Held
from vpt.errors import (
    ActionTimeoutError,
    BadGatewayError,
    ConflictError,
    HostUnreachableError,
    InvalidError,
    LockedError,
    NotFoundError,
    UnavailableError,
    UnprocessableError,
    VptError,
)
from vpt.model import (
    Answer,
    Device,
    ErrorKind,
    ExecutionStatus,
    Host,
    Json,
    RunSpec,
    StepProgress,
    StepStatus,
    TestProgress,
)

_SOON = 0.2  # seconds to the probe after a first failed connection; doubles with each

#: The part of a step's time within which the host must be connected, or nothing is sent: who needs
#: more for one round trip would not answer in time, which needs another one.
CONNECTING = 0.5

_KINDS = {
    Trouble.HOST_ERROR: ErrorKind.HOST_ERROR,
    Trouble.HOST_REFUSED: ErrorKind.HOST_REFUSED,
    Trouble.FATE_UNKNOWN: ErrorKind.HOST_LOST,
    Trouble.BROKEN: ErrorKind.HOST_LOST,
    Trouble.TIMEOUT: ErrorKind.STEP_TIMEOUT,
}
_NOT_SENT = (Trouble.HELD_BACK, Trouble.NOT_CONNECTED)
_ANSWERS = (Trouble.HOST_ERROR, Trouble.HOST_REFUSED)
#: Whatever these bring, a lane that is busy stays so, and a free one free, unless the link changes.
_OF_A_BUSY_LANE = (
    m.Act,
    m.ActAnswered,
    m.AttemptStored,
    m.StepDue,
    m.StepAnswered,
    m.StepBegun,
    m.StepMoved,
    m.StepStored,
)
_COUNTED = (
    ErrorKind.HOST_LOST,
    ErrorKind.HOST_ERROR,
    ErrorKind.HOST_REFUSED,
    ErrorKind.INTERNAL,
)


def transition(state: HostState, message: m.Message) -> tuple[HostState, m.Effects]:
    """Decide what `message` means in `state`."""
    turn = Turn(state)
    turn.take(message)
    return turn.end()


def wake(state: HostState, resumed: Iterable[tuple[Run, float]]) -> tuple[HostState, m.Effects]:
    """Begin with what the database had: `resumed` are runs and how long (s) they have run."""
    turn = Turn(state)
    turn.wake(list(resumed))
    return turn.end(always=True)


def action_name(action: Json) -> str:
    """Give the word under which a step is listed."""
    for name in ("command", "action", "script", "verification_type", "action_type", "name"):
        word = action.get(name)
        if isinstance(word, str) and word:
            return word[:200]
    return "graph" if "graph" in action else "step"


class Turn:
    """One transition: the state so far and the effects so far."""

    def __init__(self, state: HostState) -> None:
        self.state = state
        self.effects: list[m.Effect] = []
        self._lanes: dict[str, Lane] | None = None  # this turn's own, once a lane changed
        self._link_before = state.link
        self._looks_kept = False

    def end(self, *, always: bool = False) -> tuple[HostState, m.Effects]:
        """Give the new state and the effects, the news of the host's looks first."""
        if self._looks_kept and self.state.link is self._link_before:
            return self.state, tuple(self.effects)
        view = view_of(self.state)
        if view is self.state.view and not always:
            return self.state, tuple(self.effects)
        return replace(self.state, view=view), (m.Announce(view), *self.effects)

    def take(self, message: m.Message) -> None:  # noqa: C901, PLR0912 (a table)
        """Hand the message to what deals with it."""
        self._looks_kept = isinstance(message, _OF_A_BUSY_LANE)
        match message:
            case m.Act():
                self._act(message)
            case m.ActAnswered():
                self._act_answered(message)
            case m.StepAnswered():
                self._step_answered(message)
            case m.StepStored():
                self._step_stored(message)
            case m.StepDue(device_id, key):
                self._step_due(device_id, key)
            case m.StepBegun():
                self._step_begun(message)
            case m.StepMoved():
                self._step_moved(message)
            case m.Run():
                self._run(message)
            case m.AttemptStored(device_id, spec):
                self._attempt_stored(device_id, spec)
            case m.AttemptRefused(device_id, execution_id):
                self._attempt_refused(device_id, execution_id)
            case m.EndStored():
                self._end_stored(message)
            case m.ReleaseStored():
                self._release_stored(message)
            case m.StepTimedOut(device_id, key):
                self._step_timed_out(device_id, key)
            case m.RunTimedOut():
                self._run_timed_out(message)
            case m.Cancel(execution_id):
                self._cancel(execution_id)
            case m.CancelAnswered():
                self._cancel_answered(message)
            case m.CancelGraceOver():
                self._cancel_grace_over(message)
            case m.ProbeDue() | m.HeartbeatSeen():
                self._probe()
            case m.ShutdownBegun():
                self.state = replace(self.state, halted=True)
            case m.ProbeAnswered():
                self._probe_answered()
            case m.ProbeMissed():
                self.state = replace(self.state, probing=False)
                if not self._occupied():
                    self._missed(self.state.missed + 1)
            case m.GraceOver():
                self._grace_over()
            case m.LossForgotten():
                self.state = replace(self.state, losses=max(0, self.state.losses - 1))
            case m.PauseOver():
                self.state = replace(self.state, paused=False)
            case m.TakeLease():
                self._take_lease(message)
            case m.LeaseOver(device_id, lease_id):
                self._lease_over(device_id, lease_id)
            case m.Register(ask, host, devices):
                self._register(ask, host, devices)
            case m.ChangeDevices(ask, devices):
                self._change_devices(devices)
                self._add(m.Reply(ask))
            case m.ChangeHost(host):
                self.state = replace(self.state, host=host)
            case m.Unregister(ask):
                self._link(Link.OFFLINE)
                self._add(m.Reply(ask))
            case m.Drain(ask, on):
                self.state = replace(self.state, draining=on)
                self._add(m.Reply(ask))
            case m.Retire(ask):
                self._retire(ask)
            case _:
                assert_never(message)

    # ------------------------------------------------------------ small change

    def _add(self, *effects: m.Effect) -> None:
        self.effects.extend(effects)

    def _put(self, lane: Lane, **changes: Any) -> Lane:
        """Put a changed lane in its place; one that is gone and empty disappears."""
        lane = replace(lane, **changes)
        if lane.wanted and not lane.acts:
            lane = replace(lane, wanted=False)
        if self._lanes is None:  # copied once a turn
            self._lanes = dict(self.state.lanes)
            self.state = replace(self.state, lanes=self._lanes)
        self._lanes[lane.device.id] = lane
        if lane.gone and lane.empty:
            del self._lanes[lane.device.id]
        return lane

    def _put_run(self, lane: Lane, run: Run, **changes: Any) -> Lane:
        return self._put(lane, run=replace(run, **changes))

    def _sent(self, device_id: str, key: StepKey) -> tuple[Lane, Run] | None:
        """Give lane and run when just this try has its call open."""
        lane = self.state.lanes.get(device_id)
        run = lane.run if lane else None
        if lane is None or run is None or run.phase is not Phase.SENT or run.key != key:
            return None
        return lane, run

    # ------------------------------------------------------------ probes and link

    def _probe(self) -> None:
        if self.state.probing or self.state.link is Link.OFFLINE or self._occupied():
            return
        self._begin_probe()

    def _begin_probe(self) -> None:
        self.state = replace(self.state, probing=True)
        self._add(m.Probe(self.state.host))

    def _occupied(self) -> bool:
        """True when a host that answers one request at a time has a call of ours: its silence
        is normal, and whoever made the call notices when the host goes away.
        """
        return self.state.host.serial and any(
            lane.acts
            or (lane.run is not None and lane.run.phase is Phase.SENT)
            or (lane.hold is not None and not lane.hold.lost)  # its answer is late
            for lane in self.state.lanes.values()
        )

    def _probe_answered(self) -> None:
        good = self.state.good + 1
        self.state = replace(self.state, probing=False, missed=0, good=good)
        if self.state.link is Link.OFFLINE:
            return
        if good >= self.state.limits.recover_after:
            self._link(Link.UP)
        for lane in tuple(self.state.lanes.values()):
            if lane.hold is not None:
                self._good_for_hold(lane, lane.hold, lane.hold.good + 1)
            elif lane.run is not None and lane.run.phase is Phase.PARKED:
                self._send(lane, lane.run, alive=True)

    def _good_for_hold(self, lane: Lane, hold: Held, good: int) -> None:
        hold = replace(hold, good=good)
        lane = self._put(lane, hold=hold)
        if self._wants_cancel(hold) and not hold.acknowledged:
            self._cancel_on_host(lane, hold.execution_id, hold.attempt)
        self._try_release(lane)

    def _wants_cancel(self, hold: Held) -> bool:
        return self.state.host.cancel and hold.good >= self.state.limits.recover_after

    def _missed(self, missed: int) -> None:
        self.state = replace(self.state, missed=missed, good=0)
        for lane in tuple(self.state.lanes.values()):
            hold = lane.hold
            if hold is not None and 0 < hold.good < self.state.limits.recover_after:
                self._put(lane, hold=replace(hold, good=0))  # so many in a row are needed
        if self.state.link is Link.OFFLINE:
            return
        if missed >= self.state.limits.lost_after:
            self._link(Link.LOST)
        elif missed >= self.state.limits.suspect_after and self.state.link is Link.UP:
            self._link(Link.SUSPECT)

    def _link(self, link: Link) -> None:
        was = self.state.link
        if link is was:
            return
        down = (Link.LOST, Link.OFFLINE)
        self.state = replace(self.state, link=link)
        if link is Link.LOST:
            self._count_loss()
        elif link is Link.UP and self.state.paused:
            self._add(m.Alarm("pause", pause_of(self.state.flaps), m.PauseOver()))
        if link in down and was not in down:
            self._add(m.Alarm("grace", self.state.limits.run_grace, m.GraceOver()))
        elif link not in down and was in down:
            self.state = replace(self.state, grace_over=False)
            self._add(m.Alarm("grace", 0, None))

    def _count_loss(self) -> None:
        """Hold a host back that is lost again and again; its pause begins when it is back."""
        losses, number = self.state.losses + 1, self.state.lost_ever + 1
        self.state = replace(self.state, losses=losses, lost_ever=number)
        self._add(m.Alarm(f"loss:{number}", FLAP_WINDOW, m.LossForgotten()))
        if losses >= FLAPS_AT or self.state.flaps:
            self.state = replace(self.state, flaps=self.state.flaps + 1, paused=True)
            self._add(m.Alarm("pause", 0, None))

    def _proved_good(self) -> None:
        """A run came to its verdict: whatever made the host flap seems to be over."""
        if self.state.flaps:
            self.state = replace(self.state, losses=0, flaps=0, paused=False)
            self._add(m.Alarm("pause", 0, None))

    def _connection_failed(self, parks: int) -> None:
        """Count as a missed probe, be suspect at once, and look again soon."""
        self._missed(max(self.state.missed + 1, self.state.limits.suspect_after))
        soon = min(_SOON * 2 ** min(parks, 10), self.state.limits.probe_interval)
        self._add(m.Alarm("probe-soon", soon, m.ProbeDue()))

    def _grace_over(self) -> None:
        if self.state.link not in (Link.LOST, Link.OFFLINE):
            return
        self.state = replace(self.state, grace_over=True)
        for lane in tuple(self.state.lanes.values()):
            run = lane.run
            if run and run.phase in (Phase.DELAYED, Phase.SENT, Phase.PARKED):
                self._lose(lane, run)

    def _lose(self, lane: Lane, run: Run) -> None:
        if run.cancelled:
            self._finish(lane, run, ExecutionStatus.CANCELLED, uncertain=True)
        else:
            self._fail(lane, run, ErrorKind.HOST_LOST, "The host was lost and did not come back.")

    # ------------------------------------------------------------ registration

    def wake(self, resumed: list[tuple[Run, float]]) -> None:
        """Take runs up where they were, or end them where the host cannot tell."""
        by_execution = {run.execution_id: elapsed for run, elapsed in resumed}
        if self.state.link is not Link.OFFLINE:  # no call is open yet, whatever is held
            self._begin_probe()
        if self.state.link in (Link.LOST, Link.OFFLINE):
            self._add(m.Alarm("grace", self.state.limits.run_grace, m.GraceOver()))
        for lane in tuple(self.state.lanes.values()):
            if lane.run is not None:
                self._resume(lane, lane.run, by_execution[lane.run.execution_id])
            elif lane.hold is not None and not lane.hold.lost:
                self._await_late(lane, lane.hold)
            elif lane.lease is not None:
                self._lease_alarm(lane, lane.lease)

    def _resume(self, lane: Lane, run: Run, elapsed: float) -> None:
        if run.phase is Phase.STORING:  # every step is over, only the verdict was not stored
            if run.cancelled:
                self._finish(lane, run, ExecutionStatus.CANCELLED)
            else:
                self._verdict(lane, run)
        elif run.cancelled:
            self._finish(lane, run, ExecutionStatus.CANCELLED, uncertain=True)
        elif self.state.crashes > 1 or (self.state.crashes and not self._can_tell(run)):
            self._fail(lane, run, ErrorKind.INTERNAL, "The server made a mistake: see its log.")
        elif self._can_tell(run) or not run.uncertain:
            if run.phase is Phase.DELAYED:
                self._delay(lane, run)
            spec = run.loaded
            self._run_alarm(lane, spec, elapsed)
            self._add(m.Log("test_execution_resumed", {"execution_id": run.execution_id}))
        else:
            words = "The server was restarted and the host cannot tell what became of the step."
            self._fail(lane, run, ErrorKind.SERVER_RESTARTED, words)

    def _can_tell(self, run: Run) -> bool:
        """True when the host can say what became of the step if it is asked again."""
        return self.state.host.idempotency or run.handle is not None

    def _register(self, ask: int, host: Host, devices: tuple[Device, ...]) -> None:
        known = self.state.host
        moved = (host.url, host.dialect) != (known.url, known.dialect)
        self.state = replace(self.state, host=host)
        self._change_devices(devices)
        if moved or self.state.link is not Link.UP:
            self._link(Link.SUSPECT)
            good = self.state.limits.recover_after - 1
            self.state = replace(self.state, missed=0, good=good)
        for lane in tuple(self.state.lanes.values()):
            self._host_began_anew(lane)
        self._probe()
        self._add(m.Reply(ask))

    def _host_began_anew(self, lane: Lane) -> None:
        """Free what waited for that; ask again what an idempotent host was asked."""
        if lane.hold is not None and lane.hold.lost:
            self._good_for_hold(lane, lane.hold, self.state.limits.recover_after)
        elif lane.hold is not None:
            self._release(lane, lane.hold)
        run = lane.run
        if run and run.phase is Phase.SENT and self._can_tell(run) and not run.cancelled:
            self._add(m.Hangup(lane.device.id), _no_step_alarm(lane))
            self._put_run(lane, run, phase=Phase.PARKED, uncertain=True)
            self._add(m.Alarm("probe-soon", _SOON, m.ProbeDue()))

    def _change_devices(self, devices: tuple[Device, ...]) -> None:
        lanes: dict[str, Lane] = {}
        for device in devices:
            lane = self.state.lanes.get(device.id)
            lanes[device.id] = replace(lane, device=device, gone=False) if lane else Lane(device)
        for device_id, lane in self.state.lanes.items():
            if device_id not in lanes and not lane.empty:
                lanes[device_id] = replace(lane, gone=True)
        self._lanes = lanes
        self.state = replace(self.state, lanes=lanes)

    def _retire(self, ask: int) -> None:
        if any(lane.run or lane.acts for lane in self.state.lanes.values()):
            busy = ConflictError("The host runs something: drain it and wait, or cancel that.")
            self._add(m.Refuse(ask, busy))
            return
        self._add(m.Reply(ask), m.Stop())

    # ------------------------------------------------------------ leases

    def _take_lease(self, command: m.TakeLease) -> None:
        lane = self.state.lanes.get(command.device_id)
        refusal = self._why_no_lease(lane, command.holder)
        if lane is None or refusal is not None:
            self._add(m.Refuse(command.ask, refusal or NotFoundError()))
            return
        lease_id = lane.lease.id if lane.lease else command.lease_id
        lease = Lease(lease_id, command.holder, command.seconds)
        self._lease_alarm(self._put(lane, lease=lease, wanted=False), lease)
        self._refuse_others(lane, command.holder)
        self._add(m.Reply(command.ask, lease_id))

    def _refuse_others(self, lane: Lane, holder: str) -> None:
        """Leave what is under way and what the holder wants; what others wait with is refused."""
        acting = self._acting(lane)
        under_way = min((each.acts[0].ask for each in acting), default=None)
        for each in acting:
            acts = [act for act in each.acts if under_way == act.ask or act.user_id == holder]
            for act in each.acts:
                if act not in acts:
                    self._add(m.Refuse(act.ask, ConflictError(_LEASED)))
            self._put(each, acts=tuple(acts))

    def _acting(self, lane: Lane) -> list[Lane]:
        """Give the lanes whose actions wait for each other; the oldest of all is under way."""
        known = [self.state.lanes.get(lane.device.id), *self._elsewhere(lane)]
        return [each for each in known if each is not None and each.acts]

    def _why_no_lease(self, lane: Lane | None, holder: str) -> VptError | None:
        if lane is None or lane.gone:
            return NotFoundError("Its host has no such device any more.")
        if lane.lease is not None and lane.lease.holder != holder:
            return LockedError()
        if lane.run is not None or lane.hold is not None:
            return ConflictError("The device is held by an execution.")
        for other in self._elsewhere(lane):
            if other.run is not None or other.hold is not None:
                return ConflictError(_ONE_THING)
            if other.lease is not None and other.lease.holder != holder:
                return LockedError()
        return None

    def _lease_alarm(self, lane: Lane, lease: Lease) -> None:
        over = m.LeaseOver(lane.device.id, lease.id)
        self._add(m.Alarm(f"lease:{lane.device.id}", lease.seconds, over))

    def _lease_over(self, device_id: str, lease_id: str) -> None:
        lane = self.state.lanes.get(device_id)
        if lane is None or lane.lease is None or lane.lease.id != lease_id:
            return
        self._put(lane, lease=None)
        self._add(m.Alarm(f"lease:{device_id}", 0, None))
        self._add(m.Log("lease_ended", {"device_id": device_id, "lease_id": lease_id}))

    # ------------------------------------------------------------ manual actions

    def _act(self, act: m.Act) -> None:
        lane = self._lane_for(act.device_id, act.user_id)
        if isinstance(lane, VptError):
            self._add(m.Refuse(act.ask, lane))
            return
        acts = (*lane.acts, act)
        lane = self._put(lane, acts=acts)
        if len(self._acting(lane)) == len(acts) == 1:
            self._add(m.ForwardAct(self.state.host, lane.device, act))

    def _lane_for(self, device_id: str | None, user_id: str) -> Lane | VptError:
        lane = self._named_lane(device_id)
        if isinstance(lane, VptError):
            return lane
        if self.state.link in (Link.LOST, Link.OFFLINE):
            return HostUnreachableError()
        if self.state.halted:
            return UnavailableError("The server is stopping.")
        if (words := self._held_from(lane, user_id)) is not None:
            return ConflictError(words)
        waiting = sum(len(other.acts) - 1 for other in self.state.lanes.values() if other.acts)
        if waiting >= self.state.limits.inbox_limit:
            return UnavailableError("Too many actions wait for this host.")
        return lane

    def _held_from(self, lane: Lane, user_id: str) -> str | None:
        words = _held_from(lane, user_id)
        if words is None and any(_held_from(each, user_id) for each in self._elsewhere(lane)):
            return _ONE_THING
        return words

    def _elsewhere(self, lane: Lane) -> tuple[Lane, ...]:
        """Give the lanes that must rest while this one works: those of a serial host."""
        if not self.state.host.serial:
            return ()
        return tuple(each for each in self.state.lanes.values() if each.device.id != lane.device.id)

    def _named_lane(self, device_id: str | None) -> Lane | VptError:
        lanes = self.state.lanes
        if device_id is None:
            if len(lanes) == 1:
                return next(iter(lanes.values()))
            return InvalidError({"device_id": ["The host has several devices: name one."]})
        lane = lanes.get(device_id) or lanes.get(f"{self.state.host.id}:{device_id}")
        return lane or UnprocessableError("The host has no such device.")

    def _act_answered(self, fact: m.ActAnswered) -> None:
        outcome = fact.outcome
        if isinstance(outcome, Answer):
            self._add(m.Reply(fact.ask, (outcome, fact.duration_ms)))
        else:
            self._add(m.Refuse(fact.ask, _act_error(outcome)))
            if outcome.trouble in (Trouble.NOT_CONNECTED, Trouble.BROKEN):
                self._connection_failed(0)
        lane = self.state.lanes.get(fact.device_id)
        if lane is None or not lane.acts or lane.acts[0].ask != fact.ask:
            return
        self._looks_kept = not lane.wanted and not lane.gone
        lane = self._put(lane, acts=lane.acts[1:])
        following = min(self._acting(lane), key=lambda each: each.acts[0].ask, default=None)
        if following is not None:
            self._add(m.ForwardAct(self.state.host, following.device, following.acts[0]))

    # ------------------------------------------------------------ the path of a run

    def _run(self, command: m.Run) -> None:
        lane = self.state.lanes.get(command.device_id)
        state = self.state
        held_back = state.draining or state.halted or state.paused
        ready = lane is not None and state.link is Link.UP and not held_back
        if lane is None or not ready or not self._takes_a_run(lane):
            if lane is not None:
                self._want(lane)
            self._add(m.NotTaken(command.execution_id, command.device_id, gone=False))
            return
        self._put(lane, run=Run(command.execution_id, Phase.STARTING))
        self._add(m.StoreAttempt(command.execution_id, command.device_id))

    def _takes_a_run(self, lane: Lane) -> bool:
        at_rest = all(each.idle and each.lease is None for each in (lane, *self._elsewhere(lane)))
        return at_rest and not (lane.gone or lane.device.disabled)

    def _want(self, lane: Lane) -> None:
        """Let no more manual actions come before a run."""
        for each in (lane, *self._elsewhere(lane)):
            if each.acts and each.lease is None:
                self._put(each, wanted=True)

    def _starting(self, device_id: str, execution_id: str) -> Lane | None:
        lane = self.state.lanes.get(device_id)
        if lane and lane.run and lane.run.execution_id == execution_id:
            return lane if lane.run.phase is Phase.STARTING else None
        return None

    def _attempt_refused(self, device_id: str, execution_id: str) -> None:
        lane = self._starting(device_id, execution_id)
        if lane is not None:
            self._put(lane, run=None)
        self._add(m.NotTaken(execution_id, device_id, gone=True))

    def _attempt_stored(self, device_id: str, spec: RunSpec) -> None:
        lane = self._starting(device_id, spec.execution_id)
        if lane is None or lane.run is None:
            return
        run = replace(lane.run, spec=spec, seq=spec.seq, phase=Phase.STORING)
        lane = self._put(lane, run=run)
        self._add(
            m.Log(
                "test_execution_started",
                {
                    "execution_id": spec.execution_id,
                    "test_case_id": spec.test_case_id,
                    "user_id": spec.requested_by,
                    "device_id": lane.device.id,
                    "attempt": spec.attempt,
                },
            ),
            m.Publish(self._progress(lane, run, 0, None)),
        )
        self._run_alarm(lane, spec, 0.0)
        self._go_on(lane, run)

    def _run_alarm(self, lane: Lane, spec: RunSpec, elapsed: float) -> None:
        limit = self.state.limits.run_timeout if spec.timeout_s is None else spec.timeout_s
        fact = m.RunTimedOut(lane.device.id, spec.execution_id, spec.attempt)
        self._add(m.Alarm(f"run:{lane.device.id}", max(0.0, limit - elapsed), fact))

    def _go_on(self, lane: Lane, run: Run) -> None:
        """Send the step that is due, unless something ends the run here."""
        if run.cancelled:
            self._finish(lane, run, ExecutionStatus.CANCELLED)
        elif run.overdue:
            self._fail(lane, run, ErrorKind.RUN_TIMEOUT, _RUN_TIMEOUT)
        elif run.action.get("delay_s"):
            self._delay(self._put_run(lane, run, phase=Phase.DELAYED), run)
        else:
            self._send(lane, run)

    def _delay(self, lane: Lane, run: Run) -> None:
        due = m.StepDue(lane.device.id, run.key)
        self._add(m.Alarm(f"step:{lane.device.id}", float(run.action["delay_s"]), due))

    def _step_due(self, device_id: str, key: StepKey) -> None:
        lane = self.state.lanes.get(device_id)
        run = lane.run if lane else None
        if lane and run and run.phase is Phase.DELAYED and run.key == key:
            self._send(lane, run)

    def _send(self, lane: Lane, run: Run, *, alive: bool = False) -> None:
        """Send the step that is due; `alive` when a probe has just been answered."""
        if self.state.grace_over:
            self._lose(lane, run)
            return
        if run.uncertain and not self._can_tell(run):
            words = "The connection broke, and the host cannot tell what became of the step."
            self._fail(lane, run, ErrorKind.HOST_LOST, words)
            return
        away = self.state.link in (Link.LOST, Link.OFFLINE) and not alive
        if self.state.halted or away:
            self._put_run(lane, run, phase=Phase.PARKED)
            return
        spec, key = run.loaded, run.key
        self._put_run(lane, run, phase=Phase.SENT)
        limit = run.action.get("timeout_s")
        seconds = self.state.limits.step_timeout if limit is None else float(limit)
        timeout = m.StepTimedOut(lane.device.id, key)
        patience = seconds + self.state.limits.cancel_grace  # a late answer frees the device
        model = spec.device_model
        self._add(
            m.Alarm(f"step:{lane.device.id}", seconds, timeout),
            m.Forward(
                self.state.host,
                lane.device,
                model,
                key,
                run.action,
                patience,
                seconds * CONNECTING,
                run.handle,
            ),
        )

    def _step_begun(self, fact: m.StepBegun) -> None:
        found = self._sent(fact.device_id, fact.key)
        if found is not None:
            self._put_run(*found, handle=fact.handle, uncertain=True)
            self._add(m.StoreHandle(fact.device_id, fact.key, fact.handle))

    def _step_moved(self, fact: m.StepMoved) -> None:
        found = self._sent(fact.device_id, fact.key)
        if found is None:
            return
        key, campaign = fact.key, found[1].loaded.campaign_execution_id
        progress = StepProgress(key.execution_id, key.attempt, key.step, fact.state, campaign)
        self._add(m.Publish(progress))

    def _step_answered(self, fact: m.StepAnswered) -> None:
        found = self._sent(fact.device_id, fact.key)
        if found is None:
            self._late_answer(fact)
            return
        lane, run = found
        self._add(_no_step_alarm(lane))
        if isinstance(fact.outcome, Answer):
            self._answered(lane, run, fact.outcome, fact.duration_ms)
        else:
            self._not_answered(lane, run, fact.outcome)

    def _answered(self, lane: Lane, run: Run, answer: Answer, duration_ms: float) -> None:
        action, key = run.action, run.key
        if not answer.success and not run.cancelled and run.tries <= int(action.get("retries", 0)):
            again = replace(
                run, tries=run.tries + 1, phase=Phase.STORING, uncertain=False, handle=None
            )
            self._put(lane, run=again)
            self._add(m.StoreTry(lane.device.id, again.key))
            return
        failed = not answer.success and not run.cancelled
        goes_on = not failed or bool(action.get("continue_on_failure", False))
        status = StepStatus.PASSED if answer.success else StepStatus.FAILED
        if not answer.success and run.cancelled:
            status = StepStatus.ERROR
        steps = run.loaded.steps
        following = steps[run.step] if run.step < len(steps) and goes_on else None
        run = replace(
            run,
            phase=Phase.STORING,
            seq=run.seq + 1,
            failed=run.failed or failed,
            stop=following is None,
            uncertain=False,
            handle=None,
            parks=0,
        )
        self._put(lane, run=run)
        name = action_name(following) if following is not None and not run.cancelled else None
        self._add(
            m.StoreStep(
                lane.device.id, key, status, answer, answer.error, duration_ms, run.seq, name
            )
        )

    def _step_stored(self, fact: m.StepStored) -> None:
        lane = self.state.lanes.get(fact.device_id)
        run = lane.run if lane else None
        if lane is None or run is None or run.phase is not Phase.STORING or run.key != fact.key:
            return
        if fact.status is None:  # another try of the same step
            self._go_on(lane, run)
            return
        self._add(m.Publish(self._progress(lane, run, run.step, fact.status, fact.screenshot_url)))
        if run.cancelled:
            self._finish(lane, run, ExecutionStatus.CANCELLED)
        elif run.stop:
            self._verdict(lane, run)
        else:
            run = replace(run, step=run.step + 1, tries=1)
            self._go_on(self._put(lane, run=run), run)

    def _verdict(self, lane: Lane, run: Run) -> None:
        spec = run.loaded
        if not run.failed:
            self._finish(lane, run, ExecutionStatus.COMPLETED)
            return
        again = spec.test_failures < spec.test_retries
        self._finish(lane, run, ExecutionStatus.FAILED, again=again)

    def _not_answered(self, lane: Lane, run: Run, outcome: NoAnswer) -> None:
        resend = outcome.trouble in _NOT_SENT or (
            outcome.trouble is Trouble.BROKEN and self._can_tell(run)
        )
        if outcome.trouble in (Trouble.NOT_CONNECTED, Trouble.BROKEN):
            self._connection_failed(run.parks)
        sent = run.uncertain or outcome.trouble not in _NOT_SENT
        run = replace(run, uncertain=sent, parks=run.parks + 1)
        if run.cancelled:
            self._finish(lane, run, ExecutionStatus.CANCELLED, uncertain=sent)
        elif resend and not self.state.grace_over:
            self._put_run(lane, run, phase=Phase.PARKED)
        elif resend:
            self._lose(lane, run)
        else:
            kind = _KINDS[outcome.trouble]
            self._fail(lane, run, kind, outcome.error)

    def _late_answer(self, fact: m.StepAnswered) -> None:
        key = fact.key
        self._add(
            m.Log(
                "late_answer_dropped",
                {"execution_id": key.execution_id, "attempt": key.attempt, "step": key.step},
                warning=True,
            )
        )
        lane = self.state.lanes.get(fact.device_id)
        hold = lane.hold if lane else None
        answered = isinstance(fact.outcome, Answer) or fact.outcome.trouble in _ANSWERS
        if lane and hold and not hold.lost and answered and hold.is_of(key):
            self._release(lane, hold)

    # ------------------------------------------------------------ limits and cancel

    def _step_timed_out(self, device_id: str, key: StepKey) -> None:
        found = self._sent(device_id, key)
        if found is None:
            return
        lane, run = found
        if run.cancelled:
            self._finish(lane, run, ExecutionStatus.CANCELLED, uncertain=True)
        else:
            self._fail(lane, run, ErrorKind.STEP_TIMEOUT, "The step did not end in time.")

    def _run_timed_out(self, fact: m.RunTimedOut) -> None:
        lane = self.state.lanes.get(fact.device_id)
        run = lane.run if lane else None
        if lane is None or run is None or not run.is_of(fact):
            return
        if run.phase is Phase.STORING:
            self._put_run(lane, run, overdue=True)
        elif run.phase is not Phase.ENDING and not run.cancelled:
            self._fail(lane, run, ErrorKind.RUN_TIMEOUT, _RUN_TIMEOUT)

    def _cancel(self, execution_id: str) -> None:
        for lane in tuple(self.state.lanes.values()):
            run = lane.run
            if run is None or run.execution_id != execution_id or run.cancelled:
                continue
            self._cancel_run(lane, replace(run, cancelled=True))

    def _cancel_run(self, lane: Lane, run: Run) -> None:
        lane = self._put(lane, run=run)
        if run.phase is Phase.DELAYED:
            self._finish(lane, run, ExecutionStatus.CANCELLED)
        elif run.phase is Phase.PARKED:
            self._finish(lane, run, ExecutionStatus.CANCELLED, uncertain=run.uncertain)
        elif run.phase is Phase.SENT:
            self._cancel_sent(lane, run)

    def _cancel_sent(self, lane: Lane, run: Run) -> None:
        attempt = run.loaded.attempt
        over = m.CancelGraceOver(lane.device.id, run.execution_id, attempt)
        self._add(m.Alarm(f"cancel:{lane.device.id}", self.state.limits.cancel_grace, over))
        if self.state.host.cancel:
            self._cancel_on_host(lane, run.execution_id, attempt)

    def _cancel_on_host(self, lane: Lane, execution_id: str, attempt: int) -> None:
        self._add(m.CancelOnHost(self.state.host, lane.device.id, execution_id, attempt))

    def _cancel_answered(self, fact: m.CancelAnswered) -> None:
        lane = self.state.lanes.get(fact.device_id)
        if lane is None or not fact.acknowledged:
            return
        run, hold = lane.run, lane.hold
        if run and run.phase is Phase.SENT and run.cancelled and run.is_of(fact):
            self._add(m.Hangup(lane.device.id))
            self._finish(lane, run, ExecutionStatus.CANCELLED)
        elif hold and hold.is_of(fact):
            lane = self._put(lane, hold=replace(hold, acknowledged=True))
            self._try_release(lane)

    def _cancel_grace_over(self, fact: m.CancelGraceOver) -> None:
        lane = self.state.lanes.get(fact.device_id)
        if lane is None:
            return
        run, hold = lane.run, lane.hold
        if run and run.phase is Phase.SENT and run.cancelled and run.is_of(fact):
            self._finish(lane, run, ExecutionStatus.CANCELLED, uncertain=True)
        elif hold and not hold.lost and hold.is_of(fact):
            self._release(lane, hold)

    # ------------------------------------------------------------ ends

    def _fail(self, lane: Lane, run: Run, kind: ErrorKind, words: str) -> None:
        """End the attempt for a reason that is not the product's."""
        spec = run.loaded
        again = kind is ErrorKind.SERVER_RESTARTED or (
            kind in _COUNTED and spec.infra_failures < self.state.limits.infra_retries
        )
        uncertain = run.uncertain or run.phase is Phase.SENT
        if kind in (ErrorKind.HOST_ERROR, ErrorKind.HOST_REFUSED):
            uncertain = False
        self._finish(
            lane,
            run,
            ExecutionStatus.ERROR,
            kind=kind,
            error=words,
            again=again,
            uncertain=uncertain,
        )

    def _finish(
        self,
        lane: Lane,
        run: Run,
        status: ExecutionStatus,
        *,
        kind: ErrorKind | None = None,
        error: str | None = None,
        again: bool = False,
        uncertain: bool = False,
    ) -> None:
        """Store the end; keep the device while the host may still be acting on it."""
        spec = run.loaded
        hold = self._hold_for(spec, kind) if uncertain else None
        in_flight = run.phase in (Phase.SENT, Phase.PARKED)
        lane = self._put(lane, run=replace(run, phase=Phase.ENDING), hold=hold)
        if self.state.host.serial and hold is not None and hold.lost:
            self._add(m.Hangup(lane.device.id))  # or no probe would ever be due
        self._add(
            _no_step_alarm(lane),
            m.Alarm(f"run:{lane.device.id}", 0, None),
            m.StoreEnd(
                lane.device.id,
                spec,
                status,
                kind,
                error,
                again,
                hold is None,
                run.step,
                run.key if in_flight else None,
                run.seq + 1,
            ),
        )
        if self.state.host.serial:
            self._add(m.Leave(self.state.host, lane.device))
        if hold is None:
            self._add(m.Alarm(f"cancel:{lane.device.id}", 0, None))
        elif not hold.lost:
            self._await_late(lane, hold)

    def _hold_for(self, spec: RunSpec, kind: ErrorKind | None) -> Held | None:
        """The device is given out again as the kind of error demands."""
        lost = kind is ErrorKind.HOST_LOST
        ours = kind in (ErrorKind.SERVER_RESTARTED, ErrorKind.INTERNAL)
        if ours and not self.state.host.cancel:
            return None
        return Held(spec.execution_id, spec.attempt, lost=lost)

    def _await_late(self, lane: Lane, hold: Held) -> None:
        """Tell the host to stop; its answer, its word or CANCEL_GRACE frees the device."""
        over = m.CancelGraceOver(lane.device.id, hold.execution_id, hold.attempt)
        self._add(m.Alarm(f"cancel:{lane.device.id}", self.state.limits.cancel_grace, over))
        if self.state.host.cancel:
            self._cancel_on_host(lane, hold.execution_id, hold.attempt)

    def _end_stored(self, fact: m.EndStored) -> None:
        lane = self.state.lanes.get(fact.device_id)
        run = lane.run if lane else None
        if lane is None or run is None or run.execution_id != fact.execution_id:
            return
        if fact.status.final:
            at = run.step if run.spec else 0
            step = fact.step_status
            self._add(
                m.Publish(self._progress(lane, run, at, step, None, fact.status, run.seq + 1))
            )
        if fact.status in (ExecutionStatus.COMPLETED, ExecutionStatus.FAILED):
            self._proved_good()
        lane = self._put(lane, run=None)
        self._try_release(lane)

    def _try_release(self, lane: Lane) -> None:
        hold = lane.hold
        if hold is None or lane.run is not None:
            return
        seen = not hold.lost or hold.good >= self.state.limits.recover_after
        told = not self.state.host.cancel or hold.acknowledged
        if seen and told and (hold.lost or hold.acknowledged):
            self._release(lane, hold)

    def _release(self, lane: Lane, hold: Held) -> None:
        """Give the device out again, once the attempt's end stands."""
        if lane.run is not None:
            self._put(lane, hold=replace(hold, lost=False, acknowledged=True))
        elif not hold.releasing:
            self._put(lane, hold=replace(hold, releasing=True))
            self._add(
                m.Hangup(lane.device.id),
                m.Alarm(f"cancel:{lane.device.id}", 0, None),
                m.StoreRelease(lane.device.id, hold.execution_id, hold.attempt),
            )

    def _release_stored(self, fact: m.ReleaseStored) -> None:
        lane = self.state.lanes.get(fact.device_id)
        if lane and lane.hold and lane.hold.execution_id == fact.execution_id:
            self._put(lane, hold=None)

    def _progress(
        self,
        lane: Lane,
        run: Run,
        step: int,
        step_status: StepStatus | None,
        screenshot: str | None = None,
        status: ExecutionStatus = ExecutionStatus.RUNNING,
        seq: int | None = None,
    ) -> TestProgress:
        spec = run.loaded
        return TestProgress(
            run.execution_id,
            spec.attempt,
            step,
            len(spec.steps),
            status,
            step_status,
            screenshot,
            run.seq if seq is None else seq,
            spec.campaign_execution_id,
            self.state.host.id,
            lane.device.id,
        )


_RUN_TIMEOUT = "The run did not end in time."
_ONE_THING = "The host works one thing at a time, and another device of it is at work."
_LEASED = "The device is leased by somebody else."


def _no_step_alarm(lane: Lane) -> m.Alarm:
    return m.Alarm(f"step:{lane.device.id}", 0, None)


def _held_from(lane: Lane, user_id: str) -> str | None:
    if lane.run is not None or lane.hold is not None or lane.wanted:
        return "The device is held by an execution."
    if lane.lease is not None and lane.lease.holder != user_id:
        return _LEASED
    return None


def _act_error(outcome: NoAnswer) -> VptError:
    match outcome.trouble:
        case Trouble.NOT_CONNECTED | Trouble.BROKEN:
            return HostUnreachableError(outcome.error)
        case Trouble.HELD_BACK:
            return UnavailableError(outcome.error)
        case Trouble.TIMEOUT:
            return ActionTimeoutError()
        case _:
            return BadGatewayError(outcome.error)
