"""The messages of a host's actor (commands and facts) and its effects: frozen values.

A command is what somebody wants; it may carry `ask`, the number of the pending ask that a
`Resolve` or `Reject` ends. A fact is what happened: an answer, an alarm, a stored record. An effect
is what the actor has to do because of a message; what comes of it comes back as a fact.
"""

from __future__ import annotations

from msgspec import Struct

from vpt.dialects.base import Trouble
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
    StepStatus,
)

# ---------------------------------------------------------------- outcomes of a call to a host


class NoAnswer(Struct, frozen=True):
    """Why a call brought no answer; `error` is for people."""

    trouble: Trouble
    error: str


Outcome = Answer | NoAnswer


class StepKey(Struct, frozen=True):
    """One try of one step of one attempt.

    Hosts get it as the Idempotency-Key: the same key is the same work, another try is new work.
    """

    execution_id: str
    attempt: int
    step: int
    tries: int


# ---------------------------------------------------------------- commands


class Register(Struct, frozen=True):
    ask: int
    host: Host
    devices: tuple[Device, ...]


class ChangeDevices(Struct, frozen=True):
    ask: int
    devices: tuple[Device, ...]


class ChangeHost(Struct, frozen=True):
    """Use what people changed of the host from the next call on."""

    host: Host


class Unregister(Struct, frozen=True):
    ask: int


class Drain(Struct, frozen=True):
    ask: int
    on: bool


class Retire(Struct, frozen=True):
    """Stop for good, since the host is to be deleted; refused while it runs something."""

    ask: int


class RunAction(Struct, frozen=True):
    """Run one manual action; its answer ends the ask."""

    ask: int
    device_id: str | None
    action: Json
    timeout_s: float
    key: str
    user_id: str


class TakeLease(Struct, frozen=True):
    """Lease the device to `holder` for `seconds`, or renew that; the answer is the lease's id."""

    ask: int
    device_id: str
    lease_id: str
    holder: str
    seconds: float


class StartRun(Struct, frozen=True):
    """Start the next attempt of a queued execution here; the dispatcher chose this device."""

    execution_id: str
    device_id: str


class Cancel(Struct, frozen=True):
    execution_id: str


Command = (
    Register
    | ChangeDevices
    | ChangeHost
    | Unregister
    | Drain
    | Retire
    | RunAction
    | TakeLease
    | StartRun
    | Cancel
)

# ---------------------------------------------------------------- facts


class ProbeAnswered(Struct, frozen=True):
    pass


class ProbeMissed(Struct, frozen=True):
    error: str


class HeartbeatSeen(Struct, frozen=True):
    pass


class ProbeDue(Struct, frozen=True):
    pass


class ShutdownBegun(Struct, frozen=True):
    """The server stops: what is sent may end, nothing more goes out."""


class AttemptStored(Struct, frozen=True):
    """The attempt is stored, with its first step as running."""

    device_id: str
    spec: RunSpec


class AttemptRefused(Struct, frozen=True):
    """The execution cannot start any more: it was cancelled, or expired in the queue."""

    device_id: str
    execution_id: str


class StepDue(Struct, frozen=True):
    device_id: str
    key: StepKey


class StepAnswered(Struct, frozen=True):
    device_id: str
    key: StepKey
    outcome: Outcome
    duration_ms: float


class StepBegun(Struct, frozen=True):
    """The host named the try that is under way; by that handle it can be asked for its end."""

    device_id: str
    key: StepKey
    handle: str


class StepProgressed(Struct, frozen=True):
    """How far the step is, as the host tells it."""

    device_id: str
    key: StepKey
    state: Json


class StepTimedOut(Struct, frozen=True):
    device_id: str
    key: StepKey


class StepStored(Struct, frozen=True):
    """The step's end is stored; without a status it is its next try that is stored."""

    device_id: str
    key: StepKey
    status: StepStatus | None = None
    screenshot_url: str | None = None


class RunTimedOut(Struct, frozen=True):
    device_id: str
    execution_id: str
    attempt: int


class GraceOver(Struct, frozen=True):
    """RUN_GRACE is over since the host was lost."""


class LossForgotten(Struct, frozen=True):
    """A loss of the host is too long ago to count."""


class PauseOver(Struct, frozen=True):
    """A host that flaps may have work again."""


class LeaseOver(Struct, frozen=True):
    """A lease ran out, was given back, or could not be stored."""

    device_id: str
    lease_id: str


class CancelGraceOver(Struct, frozen=True):
    device_id: str
    execution_id: str
    attempt: int


class CancelAnswered(Struct, frozen=True):
    device_id: str
    execution_id: str
    attempt: int
    acknowledged: bool


class EndStored(Struct, frozen=True):
    """The attempt's end is stored; `status` is the execution's, `queued` when tried again."""

    device_id: str
    execution_id: str
    attempt: int
    status: ExecutionStatus
    step_status: StepStatus | None = None


class ReleaseStored(Struct, frozen=True):
    device_id: str
    execution_id: str
    attempt: int


class ActionAnswered(Struct, frozen=True):
    device_id: str
    ask: int
    outcome: Outcome
    duration_ms: float


Fact = (
    ProbeDue
    | ShutdownBegun
    | ProbeAnswered
    | ProbeMissed
    | HeartbeatSeen
    | AttemptStored
    | AttemptRefused
    | StepDue
    | StepAnswered
    | StepBegun
    | StepProgressed
    | StepTimedOut
    | StepStored
    | RunTimedOut
    | GraceOver
    | LossForgotten
    | PauseOver
    | LeaseOver
    | CancelGraceOver
    | CancelAnswered
    | EndStored
    | ReleaseStored
    | ActionAnswered
)
Message = Command | Fact

# ---------------------------------------------------------------- effects


class Resolve(Struct, frozen=True):
    ask: int
    value: object = None


class Reject(Struct, frozen=True):
    ask: int
    error: VptError


class Probe(Struct, frozen=True):
    host: Host


class SendStep(Struct, frozen=True):
    """Send a step; its answer, or that there is none within `limit` (s), is a StepAnswered.

    Without a connection within `connect` (s) nothing is sent. With a `handle` the host has begun it
    already, and is only asked for its end.
    """

    host: Host
    device: Device
    device_model: str
    key: StepKey
    action: Json
    limit: float
    connect: float
    handle: str | None = None


class SendAction(Struct, frozen=True):
    """Send a manual action; its end comes back as ActionAnswered."""

    host: Host
    device: Device
    command: RunAction


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

    name: str
    seconds: float
    fact: Fact | None


class StoreAttempt(Struct, frozen=True):
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
    seq: int
    next_action: str | None


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
    otherwise.
    """

    device_id: str
    spec: RunSpec
    status: ExecutionStatus
    kind: ErrorKind | None
    error: str | None
    again: bool
    release: bool
    at: int
    step: StepKey | None  # the one that was in flight
    seq: int


class StoreRelease(Struct, frozen=True):
    device_id: str
    execution_id: str
    attempt: int


class Publish(Struct, frozen=True):
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
    | SendAction
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
