"""What a host actor knows: its link to the host, and a lane for each device. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Protocol

from msgspec import Struct, field

from vpt.actors.messages import Act, StepKey
from vpt.model import (
    Device,
    DeviceStatus,
    DeviceView,
    Host,
    HostStatus,
    HostView,
    Json,
    Reason,
    RunSpec,
)

#: A host that is lost so often within so many seconds flaps.
FLAPS_AT, FLAP_WINDOW = 3, 600.0
#: Seconds without work for a host that flaps; it doubles with each loss until a run finishes.
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 3600.0


class Link(Enum):
    """What the probes say of a host."""

    UP = auto()
    SUSPECT = auto()
    LOST = auto()
    OFFLINE = auto()  # it said goodbye


class Phase(Enum):
    """Where a run stands; only SENT has an open call."""

    STARTING = auto()  # its attempt is being stored
    DELAYED = auto()  # waits before a step
    SENT = auto()
    PARKED = auto()  # its step goes out (again) after the next good probe
    STORING = auto()  # a step's result is being stored
    ENDING = auto()  # its end is being stored


class Limits(Struct, frozen=True):
    """The settings that decide; durations in seconds."""

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


class Named(Protocol):
    """Whatever names an attempt."""

    @property
    def execution_id(self) -> str:
        """The execution's id."""

    @property
    def attempt(self) -> int:
        """The attempt's number."""


class Run(Struct, frozen=True):
    """An attempt on this lane; `spec` is missing until the attempt stands in the database."""

    execution_id: str
    phase: Phase
    spec: RunSpec | None = None
    step: int = 1
    tries: int = 1
    seq: int = 0
    failed: bool = False
    stop: bool = False  # a step failed: nothing goes out after it
    cancelled: bool = False
    overdue: bool = False
    parks: int = 0
    uncertain: bool = False  # the host may be acting on the present step
    handle: str | None = None  # what the host calls that, when it can be asked for its end

    @property
    def loaded(self) -> RunSpec:
        """The spec, which every phase but STARTING has."""
        if self.spec is None:
            raise AssertionError("a run without its attempt")
        return self.spec

    @property
    def key(self) -> StepKey:
        """The try that is in flight or due."""
        return StepKey(self.execution_id, self.loaded.attempt, self.step, self.tries)

    def is_of(self, named: Named) -> bool:
        """True when `named` speaks of just this attempt."""
        attempt = self.spec.attempt if self.spec else None
        return (self.execution_id, attempt) == (named.execution_id, named.attempt)

    @property
    def action(self) -> Json:
        """The step that is in flight or due."""
        return self.loaded.steps[self.step - 1]


class Hold(Struct, frozen=True):
    """Why a device is not given out though its attempt is over: the host may still act on it."""

    execution_id: str
    attempt: int
    lost: bool  # else an answer is late
    good: int = 0  # good probes since
    acknowledged: bool = False  # the host acknowledged the cancel
    releasing: bool = False

    def is_of(self, named: Named) -> bool:
        """True when `named` speaks of just this attempt."""
        return (self.execution_id, self.attempt) == (named.execution_id, named.attempt)


class Lease(Struct, frozen=True):
    """A person's exclusive right to a device; `seconds` were left when it was taken up."""

    id: str
    holder: str
    seconds: float


class Lane(Struct, frozen=True):
    """A device and what holds it; `acts` are manual actions, the first is under way."""

    device: Device
    run: Run | None = None
    hold: Hold | None = None
    acts: tuple[Act, ...] = ()
    wanted: bool = False  # a run waits for the acts to end
    gone: bool = False  # the host declares it no more
    lease: Lease | None = None

    @property
    def idle(self) -> bool:
        """True when nothing runs on the device or may still do so."""
        return self.run is None and self.hold is None and not self.acts

    @property
    def empty(self) -> bool:
        """True when nobody has anything to do with the device."""
        return self.idle and self.lease is None


class HostState(Struct, frozen=True):
    """All that a host's actor decides from."""

    host: Host
    limits: Limits
    link: Link = Link.SUSPECT
    missed: int = 0
    good: int = 0
    probing: bool = False
    crashes: int = 0  # of this actor, in a short time: what runs may be the reason
    draining: bool = False
    halted: bool = False  # the server stops: nothing more goes out
    grace_over: bool = False
    losses: int = 0  # of late: those of the last FLAP_WINDOW
    lost_ever: int = 0
    flaps: int = 0  # losses while it flapped, since it last finished a run
    paused: bool = False  # it flaps: no work until its pause is over
    lanes: Mapping[str, Lane] = field(default_factory=dict)
    view: HostView | None = None


def device_status(state: HostState, lane: Lane) -> DeviceStatus:
    """Say what a device is good for now."""
    if lane.device.disabled:
        return DeviceStatus.DISABLED
    if lane.gone or state.link in (Link.LOST, Link.OFFLINE):
        return DeviceStatus.OFFLINE
    if lane.run is not None or lane.hold is not None:
        return DeviceStatus.BUSY
    if lane.lease is not None:
        return DeviceStatus.LEASED
    if lane.wanted:
        return DeviceStatus.BUSY
    return DeviceStatus.ONLINE


_AT_WORK = (DeviceStatus.BUSY, DeviceStatus.LEASED)
_OF_LINK = {
    Link.OFFLINE: HostStatus.OFFLINE,
    Link.LOST: HostStatus.LOST,
    Link.SUSPECT: HostStatus.SUSPECT,
}


def host_status(state: HostState, devices: tuple[DeviceView, ...]) -> HostStatus:
    """Say what the host is good for now."""
    if state.link in _OF_LINK:
        return _OF_LINK[state.link]
    if state.paused:
        return HostStatus.SUSPECT
    if state.draining:
        return HostStatus.DRAINING
    statuses = {view.status for view in devices}
    if state.host.serial and not statuses.isdisjoint(_AT_WORK):
        return HostStatus.BUSY
    return HostStatus.AVAILABLE if DeviceStatus.ONLINE in statuses else HostStatus.BUSY


def view_of(state: HostState) -> HostView:
    """Give the host as the others see it; the same object while nothing visible changed."""
    devices = tuple(
        DeviceView(lane.device, device_status(state, lane)) for lane in state.lanes.values()
    )
    reason, pause_s = _reason(state)
    view = HostView(state.host, host_status(state, devices), reason, devices, pause_s)
    return state.view if view == state.view and state.view is not None else view


def _reason(state: HostState) -> tuple[Reason | None, float | None]:
    if state.link in (Link.SUSPECT, Link.LOST):
        return Reason.PROBES, None
    if state.link is Link.UP and state.paused:
        return Reason.FLAPPING, pause_of(state.flaps)
    return None, None


def pause_of(flaps: int) -> float:
    """Give how long (s) a host that lost its link so often while it flapped gets no work."""
    return min(FIRST_PAUSE * 2.0 ** (min(flaps, 20) - 1), LONGEST_PAUSE)


def check(state: HostState) -> None:
    """Raise AssertionError when an invariant does not hold (named in ARCHITECTURE.md)."""
    for device_id, lane in state.lanes.items():
        run, hold = lane.run, lane.hold
        _hold("a_lane_has_its_device", lane.device.id == device_id)
        _hold("no_act_beside_a_run", run is None or not lane.acts)
        _hold(
            "a_hold_waits_for_its_end",
            run is None or hold is None or (run.phase is Phase.ENDING),
        )
        _hold("a_started_run_has_a_spec", run is None or _has_spec(run))
        _hold("nothing_waits_on_an_idle_lane", not lane.wanted or bool(lane.acts))
        _hold("no_lease_beside_a_run", lane.lease is None or (run is None and hold is None))
    at_work = [lane for lane in state.lanes.values() if lane.run or lane.hold]
    others = [lane for lane in state.lanes.values() if lane.acts or lane.lease]
    alone = len(at_work) + bool(others) <= 1
    _hold("a_serial_host_does_one_thing", not state.host.serial or alone)
    executions = [lane.run.execution_id for lane in state.lanes.values() if lane.run]
    _hold("an_execution_runs_once", len(executions) == len(set(executions)))
    _hold("a_pause_is_for_those_who_flap", not state.paused or state.flaps > 0)
    _hold("grace_is_for_the_lost", not state.grace_over or state.link in (Link.LOST, Link.OFFLINE))


def _has_spec(run: Run) -> bool:
    return (run.phase is Phase.STARTING) == (run.spec is None)


def _hold(name: str, truth: bool) -> None:
    if not truth:
        raise AssertionError(name)
