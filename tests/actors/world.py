"""A world for the host machine without time or network: what it orders, a test may answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from vpt.actors import effects as fx
from vpt.actors import messages as m
from vpt.actors.dispatcher import Dispatcher
from vpt.actors.machine import transition, wake
from vpt.actors.state import (
    HostState,
    Lane,
    Limits,
    Link,
    answers_as_other,
    check,
    view_of,
)
from vpt.dialects.base import Trouble
from vpt.model import (
    Answer,
    Device,
    DeviceRequest,
    ErrorKind,
    ExecutionStatus,
    Host,
    HostTrouble,
    Json,
    Presence,
    RunSpec,
    Waiting,
)

LIMITS = Limits(
    suspect_after=2,
    lost_after=6,
    recover_after=2,
    run_grace=60,
    step_timeout=300,
    run_timeout=7200,
    cancel_grace=60,
    infra_retries=2,
    inbox_limit=3,
    probe_interval=10,
)
_NOT_SENT = (Trouble.NOT_CONNECTED, Trouble.HELD_BACK, Trouble.SOMEBODY_ELSE)
_ANSWERS = (
    Trouble.HOST_ERROR,
    Trouble.HOST_REFUSED,
    Trouble.INVALID_STEP,
    Trouble.STOPPED,
    Trouble.IDLE,
)
_SENT = (
    fx.FetchScreen,
    fx.SendStep,
    fx.WatchStep,
    fx.Look,
    fx.SendAction,
    fx.CancelOnHost,
    fx.Leave,
)
PASS = Answer(success=True)
FAIL = Answer(success=False, error="no")


def trouble(name: str) -> m.NoAnswer:
    return m.NoAnswer(Trouble[name], name)


@dataclass
class Attempt:
    """What the database knows of an attempt."""

    spec: RunSpec
    device_id: str
    status: str = "running"
    released: bool = False
    stored_steps: set[int] = field(default_factory=set)


@dataclass
class Lost:
    """What a device needs that was left in the middle of an attempt, before it is given again."""

    streak: int = 0
    well: bool = False  # its host had enough good probes in a row, or registered anew
    acknowledged: bool = False


@dataclass
class World:
    """The machine, a database that remembers, and everything that is on its way."""

    state: HostState
    steps: tuple[Json, ...] = ({"command": "a"}, {"command": "b"})
    test_retries: int = 0
    attempts: dict[tuple[str, int], Attempt] = field(default_factory=dict)
    executions: dict[str, str] = field(default_factory=dict)
    records: list[fx.Effect] = field(default_factory=list)
    forwards: dict[str, fx.SendStep] = field(default_factory=dict)
    acts: list[fx.SendAction] = field(default_factory=list)
    watches: dict[str, fx.WatchStep] = field(default_factory=dict)  # by device
    looks: list[str] = field(default_factory=list)  # devices
    screens: list[fx.FetchScreen] = field(default_factory=list)
    cancels: list[fx.CancelOnHost] = field(default_factory=list)
    alarms: dict[str, m.Fact] = field(default_factory=dict)
    probing: bool = False
    replies: dict[int, object] = field(default_factory=dict)
    published: list[object] = field(default_factory=list)
    said_no: set[tuple[str, int]] = field(default_factory=set)
    stopped: bool = False
    lost: dict[tuple[str, int], Lost] = field(default_factory=dict)
    acting: set[tuple[str, int]] = field(default_factory=set)  # attempts whose host may act
    broken: set[m.StepKey] = field(default_factory=set)  # those whose connection broke
    dispatcher: Dispatcher | None = None  # hears of it what the real one would
    handles: dict[m.StepKey, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    refuses: bool = False  # the database refuses the next record of a step

    # ------------------------------------------------------------ driving

    def begin(self) -> World:
        self.state, effects = wake(self.state, [])
        self._take(effects)
        return self

    def tell(self, *messages: m.Message) -> World:
        for message in messages:
            self._note(message)
            self.state, effects = transition(self.state, message)
            check(self.state)
            assert view_of(self.state) is self.state.view, "others see an old view"
            self._take(effects)
        return self

    def _note(self, message: m.Message) -> None:
        """Keep count of what frees the devices of lost attempts."""
        for (execution_id, attempt), lost in self.lost.items():
            match message:
                case m.ProbeAnswered():
                    lost.streak += 1
                    lost.well = lost.well or lost.streak >= self.state.limits.recover_after
                case m.ProbeMissed():
                    lost.streak = 0
                case m.Register():
                    lost.well = True
                case m.CancelAnswered(_, execution, number, acknowledged):
                    mine = (execution, number) == (execution_id, attempt)
                    lost.acknowledged = lost.acknowledged or (mine and acknowledged)

    def up(self) -> World:
        """Let the host answer its probes until it is up."""
        while self.state.link is not Link.UP:
            if not self.probing:
                self.tell(m.ProbeDue())
            self.probe(good=True)
        return self

    def probe(self, *, good: bool, reason: HostTrouble | None = None) -> World:
        self.probing = False
        return self.tell(m.ProbeAnswered() if good else m.ProbeMissed("no", reason))

    def run(self, execution_id: str = "e1", device_id: str = "h:d1") -> World:
        self.executions.setdefault(execution_id, "queued")
        return self.tell(m.StartRun(execution_id, device_id))

    def store(self) -> World:
        """Let the oldest record be stored."""
        return self.tell(*self._stored(self.records.pop(0)))

    def settle(self) -> World:
        while self.records:
            self.store()
        return self

    def answer(self, outcome: m.Outcome, device_id: str = "h:d1") -> World:
        forward = self.forwards.pop(device_id)
        return self.finish(forward, outcome)

    def finish(self, forward: fx.SendStep, outcome: m.Outcome) -> World:
        key = forward.key
        attempt = (key.execution_id, key.attempt)
        if isinstance(outcome, Answer) and not outcome.success:
            self.said_no.add(attempt)
        if isinstance(outcome, Answer) or outcome.trouble in _ANSWERS:
            self.acting.discard(attempt)
        elif outcome.trouble not in _NOT_SENT:
            self.broken.add(key)
        elif key not in self.broken:
            self.acting.discard(attempt)
        return self.tell(m.StepAnswered(forward.device.id, key, outcome, 1.0))

    def watched(self, outcome: m.Outcome, device_id: str = "h:d1") -> World:
        """Let the watch of a step come to its end."""
        watch = self.watches.pop(device_id)
        attempt = (watch.key.execution_id, watch.key.attempt)
        if isinstance(outcome, Answer) or outcome.trouble in (*_ANSWERS, Trouble.FATE_UNKNOWN):
            self.acting.discard(attempt)
        return self.tell(m.StepAnswered(device_id, watch.key, outcome, 1.0))

    def looked(self, presence: Presence | None) -> World:
        """Let the oldest look come to its end."""
        return self.tell(m.DeviceLooked(self.looks.pop(0), presence))

    def begun(self, handle: str = "x1", device_id: str = "h:d1") -> World:
        """Let the host name the try that is under way."""
        key = self.forwards[device_id].key
        self.handles.setdefault(key, handle)
        return self.tell(m.StepBegun(device_id, key, self.handles[key]))

    def ring(self, name: str) -> World:
        return self.tell(self.alarms.pop(name))

    def cancel_answered(self, *, acknowledged: bool) -> World:
        order = self.cancels.pop(0)
        return self.tell(
            m.CancelAnswered(order.device_id, order.execution_id, order.attempt, acknowledged)
        )

    # ------------------------------------------------------------ the world's side

    def _take(self, effects: fx.Effects) -> None:
        for effect in effects:
            self._do(effect)

    def _do(self, effect: fx.Effect) -> None:
        if isinstance(effect, (*_SENT, fx.Probe)):
            assert not self.state.credential_ended, "sent to a host whose credential ended"
            assert self.state.replaced is None, "sent to a URL that another host has"
        if isinstance(effect, _SENT):
            assert not answers_as_other(self.state), "sent to somebody else"
        match effect:
            case (
                fx.StoreAttempt()
                | fx.StoreStep()
                | fx.StoreTry()
                | fx.StoreHandle()
                | fx.StoreEnd()
                | fx.StoreRelease()
            ):
                self.records.append(effect)
                if isinstance(effect, fx.StoreAttempt):
                    assert self.state.lanes[effect.device_id].away is None, "a run on what is away"
                self._ordered(effect)
            case fx.SendStep():
                self._forwarded(effect)
            case fx.SendAction():
                self.acts.append(effect)
                self._one_at_a_time()
            case fx.FetchScreen():
                calls = (self.forwards, self.acts, self.watches, self.looks)
                calls = (*calls, self.probing, self._screens_of_the_host())
                alone = self.state.host.serial and not effect.request.beside
                assert not alone or not any(calls), (
                    "a screen fetched beside a call on a serial host"
                )
                self.screens.append(effect)
            case fx.CancelOnHost():
                self.cancels.append(effect)
            case fx.WatchStep(_, device, key):
                assert self.state.host.serial and device.id not in self.watches
                assert device.id not in self.forwards, "two calls on one device"
                assert self.handles.get(key) == effect.handle, "the handle of another try"
                assert self.attempts[key.execution_id, key.attempt].status != "running" or any(
                    isinstance(record, fx.StoreEnd) for record in self.records
                ), "the watch of a step whose attempt goes on"
                self.watches[device.id] = effect
                self._one_at_a_time()
            case fx.Look(_, device):
                self.looks.append(device.id)
            case fx.AbortCall(device_id):
                self.forwards.pop(device_id, None)
                self.watches.pop(device_id, None)
                self.acts = [act for act in self.acts if act.device.id != device_id]
            case fx.Alarm(name, _, fact):
                if isinstance(fact, m.CancelGraceOver):
                    lost = (fact.execution_id, fact.attempt) in self.lost
                    assert not lost, "a timer that would release the device of a lost host"
                self.alarms.pop(name, None)
                if fact is not None:
                    self.alarms[name] = fact
            case fx.Probe():
                assert not self.probing, "two probes at once"
                self.probing = True
                calls = self.forwards or self.acts or self.watches or self.looks
                calls = calls or self._screens_of_the_host()
                at_work = self.state.host.serial and calls
                assert not at_work, "a probe beside a call on a serial host"
            case fx.Resolve(ask, value):
                self.replies[ask] = value
            case fx.Reject(ask, error):
                self.replies[ask] = error
            case fx.Publish(event):
                self.published.append(event)
            case fx.Stop():
                self.stopped = True
            case fx.Leave(_, device):
                self.left.append(device.id)
            case fx.Announce(view):
                if self.dispatcher is not None:
                    self.dispatcher.announce(view)
            case fx.ReturnRun(execution_id, device_id, gone):
                if self.dispatcher is not None:
                    self.dispatcher.not_taken(execution_id, device_id, gone=gone)
            case fx.Log():
                pass

    def _screens_of_the_host(self) -> list[fx.FetchScreen]:
        return [each for each in self.screens if not each.request.beside]

    def _ordered(self, record: fx.Effect) -> None:
        """A device that an attempt left in the middle is not given out before its host is well."""
        match record:
            case fx.StoreEnd(device_id, spec, _, ErrorKind.HOST_LOST):
                assert f"cancel:{device_id}" not in self.alarms, "the timer of a cancel is left"
                acting = (spec.execution_id, spec.attempt) in self.acting
                assert not (record.release and acting), "released while the host may act on it"
                self.lost[spec.execution_id, spec.attempt] = Lost()
            case fx.StoreRelease(_, execution_id, attempt):
                lost = self.lost.pop((execution_id, attempt), None)
                told = lost is None or lost.acknowledged or not self.state.host.cancel
                assert told, "released before the host acknowledged the cancel"
                assert lost is None or lost.well, "released before the host was well"

    def _forwarded(self, effect: fx.SendStep) -> None:
        key, device_id = effect.key, effect.device.id
        assert device_id not in self.forwards, "two calls on one device"
        attempt = self.attempts[key.execution_id, key.attempt]
        assert attempt.status == "running", "a step of an attempt that is over"
        assert attempt.stored_steps == set(range(1, key.step)), "a step before the last was stored"
        if effect.handle is not None:
            assert self.handles.get(key) == effect.handle, "the handle of another try"
        elif not self.state.host.idempotency:
            assert key not in self.handles, "begun, and then begun anew"
        if key in self.broken:
            can_tell = self.state.host.idempotency or effect.handle is not None
            assert can_tell, "sent again to a host that cannot tell"
        self.forwards[device_id] = effect
        self.acting.add((key.execution_id, key.attempt))
        self._one_at_a_time()

    def _one_at_a_time(self) -> None:
        """A serial host has one call of ours, and no probe is begun beside it."""
        if self.state.host.serial:
            calls = len(self.forwards) + len(self.acts) + len(self.watches)
            assert calls <= 1, "two calls on a serial host"

    def _stored(self, effect: fx.Effect) -> tuple[m.Fact, ...]:
        match effect:
            case fx.StoreAttempt():
                return (self._start(effect),)
            case fx.StoreStep(device_id, key) | fx.StoreTry(device_id, key) if self.refuses:
                self.refuses = False
                return (m.RecordRefused(device_id, key, isinstance(effect, fx.StoreStep)),)
            case fx.StoreStep() | fx.StoreTry():
                return (self._step(effect),)
            case fx.StoreEnd():
                return (self._end(effect),)
            case fx.StoreHandle():
                return ()
            case fx.StoreRelease(device_id, execution_id, number):
                self.attempts[execution_id, number].released = True
                return (m.ReleaseStored(device_id, execution_id, number),)
            case _:
                raise AssertionError(effect)

    def _step(self, effect: fx.StoreStep | fx.StoreTry) -> m.Fact:
        key = effect.key
        if isinstance(effect, fx.StoreTry):
            return m.StepStored(effect.device_id, key)
        self.attempts[key.execution_id, key.attempt].stored_steps.add(key.step)
        return m.StepStored(effect.device_id, key, effect.status)

    def _start(self, effect: fx.StoreAttempt) -> m.Fact:
        held = [a for a in self.attempts.values() if a.device_id == effect.device_id]
        assert all(a.released for a in held), "one_attempt_a_device"
        if self.executions[effect.execution_id] != "queued":
            return m.AttemptRefused(effect.device_id, effect.execution_id)
        mine = [
            a for (execution, _), a in self.attempts.items() if execution == effect.execution_id
        ]
        infra = sum(a.status == "error" for a in mine)
        failed = sum(a.status == "failed" for a in mine)
        spec = RunSpec(
            effect.execution_id, "t", len(mine) + 1, 1, self.steps, "model", None,
            infra, failed, self.test_retries, "user", None,
        )  # fmt: skip
        self.attempts[spec.execution_id, spec.attempt] = Attempt(spec, effect.device_id)
        self.executions[effect.execution_id] = "running"
        if self.dispatcher is not None:
            self.dispatcher.begun(effect.execution_id)
        return m.AttemptStored(effect.device_id, spec)

    def _end(self, effect: fx.StoreEnd) -> m.Fact:
        spec = effect.spec
        attempt = self.attempts[spec.execution_id, spec.attempt]
        assert attempt.status == "running", "an attempt ended twice"
        if effect.status is ExecutionStatus.FAILED:
            assert (spec.execution_id, spec.attempt) in self.said_no, "a verdict nobody gave"
        if effect.again and effect.status is ExecutionStatus.ERROR:
            assert spec.infra_failures < self.state.limits.infra_retries, "tried again too often"
        attempt.status = effect.status
        attempt.released = effect.release
        status = ExecutionStatus.QUEUED if effect.again else effect.status
        if effect.again and self.dispatcher is not None:
            request = DeviceRequest("model", failed_on=self._failed(spec.execution_id))
            request = replace(request, failed_hosts=frozenset("h" if request.failed_on else ""))
            self.dispatcher.add(Waiting(spec.execution_id, request, 50, 0.0, 1e9))
        self.executions[spec.execution_id] = status
        return m.EndStored(effect.device_id, spec.execution_id, spec.attempt, status)

    def _failed(self, execution_id: str) -> tuple[str, ...]:
        """Return the devices on which the infrastructure failed an execution."""
        mine = (a for (execution, _), a in self.attempts.items() if execution == execution_id)
        return tuple(a.device_id for a in mine if a.status == "error")


def host(*, idempotency: bool = True, cancel: bool = True) -> Host:
    return Host("h", "http://127.0.0.1:1", idempotency=idempotency, cancel=cancel)


def serial_host() -> Host:
    return Host("h", "http://127.0.0.1:1", dialect="virtualpytest")


def device(number: int = 1) -> Device:
    return Device(f"h:d{number}", f"d{number}", f"d{number}", "model")


def world(
    *, idempotency: bool = True, cancel: bool = True, devices: int = 1, **more: object
) -> World:
    return world_of(host(idempotency=idempotency, cancel=cancel), devices, **more)


def serial_world(*, devices: int = 2, **more: object) -> World:
    return world_of(serial_host(), devices, **more)


def world_of(known: Host, devices: int, **more: object) -> World:
    lanes = {f"h:d{n}": Lane(device(n)) for n in range(1, devices + 1)}
    state = HostState(known, LIMITS, good=1, lanes=lanes)
    return World(state, **more).begin()  # type: ignore[arg-type]


Make = Callable[..., World]
