"""The effects of a transition: what the host's actor does because of a message, in their order.

What comes of an effect comes back as a fact.
"""

from __future__ import annotations

from msgspec import Struct

from vpt.actors.messages import Fact, RunAction, StepKey
from vpt.actors.state import Health
from vpt.dialects.base import ScreenRequest
from vpt.errors import VptError
from vpt.model import (
    Answer,
    Device,
    ErrorKind,
    Event,
    ExecutionStatus,
    Host,
    HostView,
    Json,
    RunSpec,
    SecretSteps,
    StepStatus,
)


class Resolve(Struct, frozen=True):
    """Answer a pending ask."""

    ask: int
    value: object = None


class Reject(Struct, frozen=True):
    """End a pending ask with an error."""

    ask: int
    error: VptError


class Probe(Struct, frozen=True):
    """GET the host's health; comes back as ProbeAnswered or ProbeMissed."""

    host: Host


class SendStep(Struct, frozen=True):
    """Send a step; its answer, or that there is none within `limit` (s), is a StepAnswered.

    Without a connection within `connect` (s) nothing is sent. After `step_limit` (s) the host is to
    stop the step. With a `handle` the host has begun it already, and is only asked for its end.
    """

    host: Host
    device: Device
    device_model: str
    key: StepKey
    action: Json
    limit: float  # longer than the step may take: a late answer is of use (`machine/holds.py`)
    connect: float
    handle: str | None = None
    secret_steps: SecretSteps | None = None
    sealed_values: bytes | None = None
    step_limit: float | None = None
    anew: bool = False  # the host registered anew since it began the step


class WatchStep(Struct, frozen=True):
    """Wait for the end of a step whose attempt is over already: it comes as a StepAnswered.

    `anew`: the host registered anew since it began the step.
    """

    host: Host
    device: Device
    key: StepKey
    handle: str
    limit: float  # seconds
    anew: bool = False


class Look(Struct, frozen=True):
    """Ask a host how a device is; comes back as DeviceLooked."""

    host: Host
    device: Device


class SendAction(Struct, frozen=True):
    """Send a manual action; its end comes back as ActionAnswered."""

    host: Host
    device: Device
    command: RunAction
    lease_id: str | None = None


class FetchScreen(Struct, frozen=True):
    """Fetch what somebody wants to see of a device; comes back as ScreenShown."""

    ask: int
    host: Host
    device: Device
    request: ScreenRequest


class CancelOnHost(Struct, frozen=True):
    """Ask the host to stop an attempt; its answer comes back as CancelAnswered."""

    host: Host
    device_id: str
    execution_id: str
    attempt: int


class Leave(Struct, frozen=True):
    """Notify the host that an attempt needs the device no more; nothing comes back."""

    host: Host
    device: Device


class AbortCall(Struct, frozen=True):
    """Abort the open call of this device, if there is one; nothing comes back of it."""

    device_id: str


class Alarm(Struct, frozen=True):
    """Send `fact` to the actor after `seconds`.

    It replaces the alarm of that name; without a fact it only cancels that.
    """

    name: str  # with the device's id where it is a device's: `step:`, `run:`, `cancel:`, ...
    seconds: float
    fact: Fact | None


class StoreAttempt(Struct, frozen=True):
    """Store a new attempt and make its execution running; comes back as AttemptStored."""

    execution_id: str
    device_id: str


class StoreStep(Struct, frozen=True):
    """Store how a step ended, and the next one as running."""

    device_id: str
    key: StepKey
    status: StepStatus
    answer: Answer | None
    error: str | None
    duration_ms: float | None
    seq: int  # of the event that tells it
    next_action: str | None  # the next step's name, None when the run ends here


class StoreTry(Struct, frozen=True):
    """Store that the same step is tried once more; `key` is the new try's."""

    device_id: str
    key: StepKey


class StoreHandle(Struct, frozen=True):
    """Store the handle that the host gave to the try that is under way."""

    device_id: str
    key: StepKey
    handle: str


class StoreEnd(Struct, frozen=True):
    """Store how an attempt ended, at its step `at`.

    `again` puts the execution back in the queue; `release` frees the device, which is held
    otherwise. `answer` is what the host said of the step in flight. With `elsewhere` it goes back,
    too, when a device that fits and on which it was not tried is there.
    """

    device_id: str
    spec: RunSpec
    status: ExecutionStatus
    kind: ErrorKind | None
    error: str | None
    again: bool
    release: bool
    at: int
    step: StepKey | None  # the one that was in flight, which ends with its attempt
    seq: int  # of the event that tells it
    health: Health  # the device's, from here on
    avoid: str | None = None  # the host or device on which no other attempt may be
    answer: Answer | None = None
    elsewhere: bool = False


class StoreRelease(Struct, frozen=True):
    """Store that an attempt that is over holds its device no more."""

    device_id: str
    execution_id: str
    attempt: int


class Publish(Struct, frozen=True):
    """Publish an event to its subscribers."""

    event: Event


class Announce(Struct, frozen=True):
    """Notify the dispatcher, the clients and the database that the host's view changed."""

    view: HostView


class ReturnRun(Struct, frozen=True):
    """Return a run to the dispatcher that could not start here; `gone` when it never can."""

    execution_id: str
    device_id: str
    gone: bool


class Log(Struct, frozen=True):
    """Write an event to the log."""

    event: str
    fields: Json
    warning: bool = False


class Stop(Struct, frozen=True):
    """End the actor."""


Effect = (
    Resolve
    | Reject
    | Probe
    | SendStep
    | WatchStep
    | Look
    | SendAction
    | FetchScreen
    | CancelOnHost
    | Leave
    | AbortCall
    | Alarm
    | StoreAttempt
    | StoreStep
    | StoreTry
    | StoreHandle
    | StoreEnd
    | StoreRelease
    | Publish
    | Announce
    | ReturnRun
    | Log
    | Stop
)
Effects = tuple[Effect, ...]
