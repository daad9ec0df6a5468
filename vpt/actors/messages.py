"""What an actor is told (commands, facts) and what it orders (effects): frozen, one line each.

Commands carry `ask`, the number under which the asker waits for a `Reply` or `Refuse`.
"""

from __future__ import annotations

from enum import Enum, auto

from msgspec import Struct

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


class Trouble(Enum):
    """A call that brought no answer of a step."""

    HELD_BACK = auto()  # by us: nothing was sent, and the host is not to blame
    NOT_CONNECTED = auto()  # nothing was sent
    BROKEN = auto()  # something was sent, then the connection broke
    FATE_UNKNOWN = auto()  # the host began it, died, and cannot tell
    HOST_ERROR = auto()
    HOST_REFUSED = auto()
    TIMEOUT = auto()


class NoAnswer(Struct, frozen=True):
    """Why there is no answer, in words for a person."""

    trouble: Trouble
    error: str


Outcome = Answer | NoAnswer


class StepKey(Struct, frozen=True):
    """One try of one step of one attempt: what a host can tell apart."""

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
    """People changed what vpt knows of the host: the next call goes out by that."""

    host: Host


class Unregister(Struct, frozen=True):
    ask: int


class Drain(Struct, frozen=True):
    ask: int
    on: bool


class Retire(Struct, frozen=True):
    """Stop for good, since the host is to be deleted; refused while it runs something."""

    ask: int


class Act(Struct, frozen=True):
    """Run one manual action; the asker waits for what comes of it."""

    ask: int
    device_id: str | None
    action: Json
    timeout_s: float
    key: str
    user_id: str


class TakeLease(Struct, frozen=True):
    """Give `holder` the device for `seconds`, or renew his lease; the answer is the lease's id."""

    ask: int
    device_id: str
    lease_id: str
    holder: str
    seconds: float


class Run(Struct, frozen=True):
    """Begin the next attempt of a queued execution here (told by the dispatcher)."""

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
    | Act
    | TakeLease
    | Run
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
    """The attempt stands in the database and its first step beside it."""

    device_id: str
    spec: RunSpec


class AttemptRefused(Struct, frozen=True):
    """The execution was not to be had any more (cancelled, or its time was over)."""

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
    """The host gave the try that is under way a name of its own: it can be asked for its end."""

    device_id: str
    key: StepKey
    handle: str


class StepMoved(Struct, frozen=True):
    """The host says how far the step is."""

    device_id: str
    key: StepKey
    state: Json


class StepTimedOut(Struct, frozen=True):
    device_id: str
    key: StepKey


class StepStored(Struct, frozen=True):
    """The step's end stands; without a status it is to be tried once more."""

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
    """A loss of the host is too long ago to tell anything."""


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
    """The attempt's end stands; `status` is what the execution is now."""

    device_id: str
    execution_id: str
    attempt: int
    status: ExecutionStatus
    step_status: StepStatus | None = None


class ReleaseStored(Struct, frozen=True):
    device_id: str
    execution_id: str
    attempt: int


class ActAnswered(Struct, frozen=True):
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
    | StepMoved
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
    | ActAnswered
)
Message = Command | Fact

# ---------------------------------------------------------------- effects


class Reply(Struct, frozen=True):
    ask: int
    value: object = None


class Refuse(Struct, frozen=True):
    ask: int
    error: VptError


class Probe(Struct, frozen=True):
    host: Host


class Forward(Struct, frozen=True):
    """Send a step; what comes within `limit` (s) comes back as StepAnswered.

    Without a connection within `connect` (s) nothing is sent. With a `handle` it was begun before
    and is only to be asked for its end.
    """

    host: Host
    device: Device
    device_model: str
    key: StepKey
    action: Json
    limit: float
    connect: float
    handle: str | None = None


class ForwardAct(Struct, frozen=True):
    """Send a manual action; its end comes back as ActAnswered."""

    host: Host
    device: Device
    act: Act


class CancelOnHost(Struct, frozen=True):
    """Tell the host to stop an attempt; comes back as CancelAnswered."""

    host: Host
    device_id: str
    execution_id: str
    attempt: int


class Leave(Struct, frozen=True):
    """Tell the host that an attempt has no more use for the device."""

    host: Host
    device: Device


class Hangup(Struct, frozen=True):
    """Give up the open call of this device."""

    device_id: str


class Alarm(Struct, frozen=True):
    """Leave `fact` after `seconds`; one of the same name takes its place, None ends it."""

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
    """Store what the host calls the try that is under way."""

    device_id: str
    key: StepKey
    handle: str


class StoreEnd(Struct, frozen=True):
    """Store how an attempt ended, at its step `at`; `again` puts the execution in line again."""

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
    """The host looks different now: tell the dispatcher, the clients and the database."""

    view: HostView


class NotTaken(Struct, frozen=True):
    """A run that the dispatcher sent could not begin here."""

    execution_id: str
    device_id: str
    gone: bool


class Log(Struct, frozen=True):
    event: str
    fields: Json
    warning: bool = False


class Stop(Struct, frozen=True):
    """The actor's work is over."""


Effect = (
    Reply
    | Refuse
    | Probe
    | Forward
    | ForwardAct
    | CancelOnHost
    | Leave
    | Hangup
    | Alarm
    | StoreAttempt
    | StoreStep
    | StoreTry
    | StoreHandle
    | StoreEnd
    | StoreRelease
    | Publish
    | Announce
    | NotTaken
    | Log
    | Stop
)
Effects = tuple[Effect, ...]
