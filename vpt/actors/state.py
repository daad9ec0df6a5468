"""What a host's actor knows: its link to the host, and a lane for each device. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Protocol

from msgspec import Struct, field

from vpt.actors.messages import RunAction, StepKey
from vpt.model import (
    Device,
    DeviceReason,
    DeviceStatus,
    DeviceView,
    ErrorKind,
    Host,
    HostStatus,
    HostTrouble,
    HostView,
    Json,
    Reason,
    RunSpec,
    TroubleKind,
)

#: A host that is lost so often within so many seconds flaps.
FLAPS_AT, FLAP_WINDOW = 3, 600.0
#: Seconds without work for a host that flaps; it doubles with each loss until a run finishes.
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 3600.0

#: The part of a step's time within which the host must be connected, or nothing is sent: a host
#: that needs more for one round trip would not answer in time, which needs another one.
CONNECT_SHARE = 0.5

CREDENTIAL_ENDED = (
    "The host's last token was revoked or has expired: it must register with a new one."
)

HOST_WORKS = "The host runs a deployment of its own there: vpt waits for its end."


class Link(Enum):
    """What the probes say of a host; only UP gets new work."""

    UP = auto()
    SUSPECT = auto()
    LOST = auto()  # its runs end when it does not come back within RUN_GRACE
    OFFLINE = auto()  # it unregistered itself, its credential ended, or another host has its URL


class Phase(Enum):
    """Where a run stands; only SENT has an open call, STORING and ENDING wait for a record."""

    STARTING = auto()  # its attempt is being stored
    DELAYED = auto()  # waits before a step
    SENT = auto()  # a step is at the host
    PARKED = auto()  # its step goes out (again) after the next good probe
    STORING = auto()  # a step's result is being stored
    ENDING = auto()  # its end is being stored


class Limits(Struct, frozen=True):
    """The settings that the actor decides by; durations in seconds."""

    suspect_after: int
    lost_after: int
    recover_after: int
    run_grace: float
    step_timeout: float
    run_timeout: float
    cancel_grace: float
    infra_retries: int
    inbox_limit: int
    probe_interval: float
    device_pause: float = FIRST_PAUSE


class AttemptRef(Protocol):
    """Whatever names an attempt: most messages of its alarms and calls."""

    @property
    def execution_id(self) -> str:
        """The execution's id."""

    @property
    def attempt(self) -> int:
        """The attempt's number."""


class RunState(Struct, frozen=True):
    """An attempt on this lane; `spec` is missing until the attempt stands in the database.

    It needs no history: the present step, its try, and what the end depends on are enough.
    """

    execution_id: str
    phase: Phase
    spec: RunSpec | None = None
    step: int = 1  # the present one, from 1
    tries: int = 1  # the number of its present try, from 1
    seq: int = 0  # of the last event that was stored
    failed: bool = False  # a step failed, so the verdict is no
    stop: bool = False  # the last step is over, or a failed one ended the run: nothing goes out
    cancelled: bool = False  # to be carried out in the phase's own way: see `machine/cancel.py`
    overdue: bool = False  # its time was over while a record was being stored
    late: ErrorKind | None = None  # a time limit is over, and the host is stopping the step
    parks: int = 0  # how often the present step was parked: later probes come less soon
    uncertain: bool = False  # the host may be acting on the present step
    handle: str | None = None  # what the host calls the present try, when it named it
    anew: bool = False  # the host registered anew since it began the present try
    instance_id: str | None = None  # of the host's installation that does its steps, if it said so

    @property
    def loaded(self) -> RunSpec:
        """Return the spec, which every phase but STARTING has."""
        if self.spec is None:
            raise AssertionError("a run without its spec: its attempt is not stored yet")
        return self.spec

    @property
    def key(self) -> StepKey:
        """Return the key of the try that is in flight or due."""
        return StepKey(self.execution_id, self.loaded.attempt, self.step, self.tries)

    def is_of(self, ref: AttemptRef) -> bool:
        """Return whether `ref` names just this attempt; an execution has several."""
        attempt = self.spec.attempt if self.spec else None
        return (self.execution_id, attempt) == (ref.execution_id, ref.attempt)

    @property
    def action(self) -> Json:
        """Return the step that is in flight or due."""
        return self.loaded.steps[self.step - 1]


class Hold(Struct, frozen=True):
    """Why a device is not given out though its attempt is over: the host may still act on it.

    What it waits for is in `machine/holds.py`.
    """

    execution_id: str
    attempt: int
    lost: bool  # the host was lost: good probes end it; else its answer is late: that or time does
    good: int = 0  # good probes since the end, in a row until there were `recover_after`
    acknowledged: bool = False  # the host acknowledged the cancel, or is known to be done
    releasing: bool = False  # the release is being stored
    key: StepKey | None = None  # of the step that the host may still run
    handle: str | None = None  # a serial host's name for that step: it is asked for its end

    def is_of(self, ref: AttemptRef) -> bool:
        """Return whether `ref` names just this attempt; an execution has several."""
        return (self.execution_id, self.attempt) == (ref.execution_id, ref.attempt)


class Lease(Struct, frozen=True):
    """A person's exclusive right to a device; `seconds` were left when it was put on the lane."""

    id: str
    holder: str
    seconds: float


class Health(Struct, frozen=True):
    """How a device fares: what decides is in `machine/health.py`."""

    errors: int = 0  # of the infrastructure, in a row: a verdict ends the row
    error: str | None = None  # the last of them
    pause: float | None = None  # seconds without runs, from when it was put on the lane


class Lane(Struct, frozen=True):
    """A device and what holds it.

    The first of `actions` is under way, unless the host is a serial one that works on another lane.
    """

    device: Device
    run: RunState | None = None
    hold: Hold | None = None
    actions: tuple[RunAction, ...] = ()  # manual ones
    wanted: bool = False  # a run waits for the actions to end: no further ones are accepted
    gone: bool = False  # the host declares it no more; the lane goes when nothing holds it
    lease: Lease | None = None
    away: str | None = None  # why its host says that it is not available; None: it is
    host_works: bool = False  # its host says that it works there by itself
    host_work_ignored: bool = False  # it says so for too long: nobody believes it any more
    looking: bool = False  # its host is being asked how it is
    health: Health = Health()

    @property
    def held_back(self) -> bool:
        """Return whether the device gets no run since too many failed there in a row."""
        return self.health.pause is not None and self.run is None

    @property
    def working(self) -> str | None:
        """Return what the host does there though no run of ours is on it, in words."""
        if self.hold is not None and self.run is None:
            return f"The host may still run a step of {self.hold.execution_id}."
        return HOST_WORKS if self.host_works else None

    @property
    def idle(self) -> bool:
        """Return whether nothing runs on the device or may still do so."""
        return self.run is None and self.hold is None and not self.actions

    @property
    def empty(self) -> bool:
        """Return whether nobody has anything to do with the device."""
        return self.idle and self.lease is None and not self.looking

    @property
    def absent(self) -> bool:
        """Return whether the device is gone, and only its errors are kept until it is back."""
        return self.gone and self.empty


class HostState(Struct, frozen=True):
    """All that a host's actor decides by."""

    host: Host
    limits: Limits
    link: Link = Link.SUSPECT
    missed: int = 0  # probes in a row
    good: int = 0  # probes in a row
    probing: bool = False  # a probe is under way
    crashes: int = 0  # of this actor, in a short time: a run of it may be the reason
    draining: bool = False  # it finishes what runs and gets nothing new
    halted: bool = False  # the server stops: nothing more goes out
    grace_over: bool = False  # it is away for longer than RUN_GRACE: runs end as lost
    credential_ended: bool = False  # its last token was revoked or expired: it must register anew
    unauthorized: bool = False  # it answered 401 or 403: it has another secret
    call_refused: bool = False  # it answered so to a call, of which its good probes say nothing
    replaced: str | None = None  # in words, which host has its URL now: it must register anew
    trouble: HostTrouble | None = None  # why it cannot be reached, since it was reached last
    losses: int = 0  # those of the last FLAP_WINDOW
    lost_ever: int = 0  # numbers the losses, for the names of their alarms
    flaps: int = 0  # losses while it flapped, since it last finished a run
    paused: bool = False  # it flaps: no work until its pause is over
    showing: int | None = None  # the ask for a screen that a serial host is busy with
    probe_owed: bool = False  # a probe was due meanwhile
    unknown_reported: bool = False  # it spoke of a device that it has not; logged once
    lanes: Mapping[str, Lane] = field(default_factory=dict)
    view: HostView | None = None


def action_name(action: Json) -> str:
    """Return the name under which a step is listed, from the first field that has one."""
    for name in ("command", "action", "script", "verification_type", "action_type", "name"):
        word = action.get(name)
        if isinstance(word, str) and word:
            return word[:200]
    return "graph" if "graph" in action else "step"


def device_status(state: HostState, lane: Lane) -> DeviceStatus:
    """Return the status by which others see a device."""
    if lane.device.disabled:
        return DeviceStatus.DISABLED
    if lane.gone or lane.away is not None or state.link in (Link.LOST, Link.OFFLINE):
        return DeviceStatus.OFFLINE
    if lane.run is not None or lane.hold is not None or lane.host_works:
        return DeviceStatus.BUSY
    if lane.lease is not None:
        return DeviceStatus.LEASED
    if lane.held_back:
        return DeviceStatus.OFFLINE
    # Manual actions alone do not make a device busy: runs wait for them briefly.
    return DeviceStatus.BUSY if lane.wanted else DeviceStatus.ONLINE


def device_reason(lane: Lane) -> tuple[DeviceReason | None, str | None, float | None]:
    """Return why a device gets no run though its host is well: a word, a sentence, for how long.

    The seconds are None when nobody knows.
    """
    # `away` comes before any other reason: the row that is shown is also what a later actor reads
    # of it (`restore.py`), and what holds the device back has columns of its own.
    if lane.away is not None and not lane.gone:
        return DeviceReason.AWAY, lane.away, None
    if lane.held_back:
        return DeviceReason.HELD_BACK, lane.health.error, lane.health.pause
    if lane.working is not None and not lane.gone:
        return DeviceReason.HOST_WORKS, lane.working, None
    return None, None, None


_TAKEN = (DeviceStatus.BUSY, DeviceStatus.LEASED)
_OF_LINK = {
    Link.OFFLINE: HostStatus.OFFLINE,
    Link.LOST: HostStatus.LOST,
    Link.SUSPECT: HostStatus.SUSPECT,
}


def host_status(state: HostState, devices: tuple[DeviceView, ...]) -> HostStatus:
    """Return the status by which others see the host."""
    if state.link in _OF_LINK:
        return _OF_LINK[state.link]
    if state.paused or _held_back(state):
        return HostStatus.SUSPECT
    if state.draining:
        return HostStatus.DRAINING
    statuses = {view.status for view in devices}
    if state.host.serial and not statuses.isdisjoint(_TAKEN):
        return HostStatus.BUSY
    return HostStatus.AVAILABLE if DeviceStatus.ONLINE in statuses else HostStatus.BUSY


def view_of(state: HostState) -> HostView:
    """Return the host as others see it: the same object while nothing visible changed."""
    lanes = (lane for lane in state.lanes.values() if not lane.absent)
    devices = tuple(device_view(state, lane) for lane in lanes)
    reason, pause_s, text = _reason(state)
    view = HostView(
        state.host,
        host_status(state, devices),
        reason,
        devices,
        pause_s,
        _reason_text(state, reason) or text,
        state.trouble if state.link in (Link.SUSPECT, Link.LOST) else None,
    )
    return state.view if view == state.view and state.view is not None else view


def device_view(state: HostState, lane: Lane) -> DeviceView:
    """Return the device as others see it."""
    status, doubtful = device_status(state, lane), lane.health.errors > 0
    return DeviceView(lane.device, status, *device_reason(lane), doubtful=doubtful)


def _held_back(state: HostState) -> list[Lane]:
    """Return the devices of a host that are held back when all are, nothing else."""
    lanes = [lane for lane in state.lanes.values() if not _out(lane)]
    return lanes if all(lane.held_back for lane in lanes) else []


def _out(lane: Lane) -> bool:
    return lane.gone or lane.device.disabled or lane.away is not None


def must_register(state: HostState) -> bool:
    """Return whether a host that is heard of is to be told to register anew.

    A registration brings what the server lacks: a credential, or the present secret.
    """
    # A VirtualPyTest host would not send its key with the registration, so it is no help there. A
    # host that is heard of and lost has another address by now, or will prove that it is back.
    unreached = state.link is Link.LOST or is_silenced(state)
    return unreached or (state.unauthorized and not state.host.serial)


def is_silenced(state: HostState) -> bool:
    """Return whether nothing may be sent to the host's URL.

    Nobody vouches for the host any more, or somebody else answers there.
    """
    return state.credential_ended or state.replaced is not None or answers_as_other(state)


def answers_as_other(state: HostState) -> bool:
    """Return whether somebody else answered at the host's URL when it was asked last."""
    return state.trouble is not None and state.trouble.kind is TroubleKind.SOMEBODY_ELSE


def unreachable_words(state: HostState) -> str:
    """Return why a host cannot be reached, with its name, for people."""
    if state.credential_ended:
        return f"{state.host.id}: {CREDENTIAL_ENDED}"
    words = state.replaced or (state.trouble and state.trouble.text)
    return f"{state.host.id} is not reachable{f': {words}' if words else ''}."


def _reason(state: HostState) -> tuple[Reason | None, float | None, str | None]:
    """Return why the host gets no runs, for how long (s) from then on, and why in words."""
    if state.credential_ended:
        return Reason.CREDENTIAL, None, None
    if state.replaced is not None:
        return Reason.REPLACED, None, None
    if state.link in (Link.SUSPECT, Link.LOST):
        return Reason.PROBES, None, None
    if state.link is Link.UP and state.paused:
        return Reason.FLAPPING, pause_of(state.flaps), None
    if state.link is Link.UP and (held_back := _held_back(state)):
        first = min(held_back, key=lambda lane: lane.health.pause or 0.0)
        text = f"{first.device.id}: {first.health.error}"
        return Reason.ERRORS, first.health.pause, text
    return None, None, None


def _reason_text(state: HostState, reason: Reason | None) -> str | None:
    match reason:
        case Reason.CREDENTIAL:
            return CREDENTIAL_ENDED
        case Reason.REPLACED:
            return state.replaced
        case Reason.PROBES:
            return state.trouble.text if state.trouble else None
        case Reason.FLAPPING:
            return "It was lost several times in a short time."
    return None


def pause_of(flaps: int) -> float:
    """Return for how long (s) a host that was lost so often while it flapped gets no work."""
    return min(FIRST_PAUSE * 2.0 ** (min(flaps, 20) - 1), LONGEST_PAUSE)


def check(state: HostState) -> None:
    """Raise AssertionError when an invariant does not hold (named in ARCHITECTURE.md)."""
    for device_id, lane in state.lanes.items():
        run, hold = lane.run, lane.hold
        _must("a_lane_has_its_device", lane.device.id == device_id)
        _must("no_act_beside_a_run", run is None or not lane.actions)
        _must(
            "a_hold_waits_for_its_end",
            run is None or hold is None or (run.phase is Phase.ENDING),
        )
        _must("a_started_run_has_a_spec", run is None or _has_spec(run))
        _must("nothing_waits_on_an_idle_lane", not lane.wanted or bool(lane.actions))
        _must(
            "no_run_on_a_device_that_is_held_back",
            lane.health.pause is None or run is None or run.phase is Phase.ENDING,
        )
        _must("no_lease_beside_a_run", lane.lease is None or (run is None and hold is None))
    at_work = [lane for lane in state.lanes.values() if lane.run or lane.hold]
    others = [lane for lane in state.lanes.values() if lane.actions or lane.lease]
    alone = len(at_work) + bool(others) <= 1
    _must("a_serial_host_does_one_thing", not state.host.serial or alone)
    executions = [lane.run.execution_id for lane in state.lanes.values() if lane.run]
    _must("an_execution_runs_once", len(executions) == len(set(executions)))
    _must("a_pause_is_for_those_who_flap", not state.paused or state.flaps > 0)
    _must(
        "a_host_without_credential_is_offline",
        not state.credential_ended or (state.link is Link.OFFLINE and state.grace_over),
    )
    calls = [run for lane in state.lanes.values() if (run := lane.run) and run.phase is Phase.SENT]
    acts = any(lane.actions for lane in state.lanes.values())
    _must(
        "a_host_without_credential_is_sent_nothing",
        not state.credential_ended or not (calls or acts),
    )
    _must(
        "a_replaced_host_is_offline_and_is_sent_nothing",
        state.replaced is None or (state.link is Link.OFFLINE and not (calls or acts)),
    )
    _must("grace_is_for_the_lost", not state.grace_over or state.link in (Link.LOST, Link.OFFLINE))


def _has_spec(run: RunState) -> bool:
    return (run.phase is Phase.STARTING) == (run.spec is None)


def _must(name: str, truth: bool) -> None:
    if not truth:
        raise AssertionError(name)
