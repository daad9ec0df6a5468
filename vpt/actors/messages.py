"""What an actor is told (commands, facts) and what it orders (effects): frozen, one line each.

Commands carry `ask`, the number under which the asker waits for a `Reply` or `Refuse`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

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


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why there is no answer, in words for a person."""

    trouble: Trouble
    error: str


Outcome = Answer | NoAnswer


@dataclass(frozen=True, slots=True)
class StepKey:
    """One try of one step of one attempt: what a host can tell apart."""

    execution_id: str
    attempt: int
    step: int
    tries: int


# ---------------------------------------------------------------- commands


@dataclass(frozen=True, slots=True)
class Register:
    ask: int
    host: Host
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class ChangeDevices:
    ask: int
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class ChangeHost:
    """People changed what vpt knows of the host: the next call goes out by that."""

    host: Host


@dataclass(frozen=True, slots=True)
class Unregister:
    ask: int


@dataclass(frozen=True, slots=True)
class Drain:
    ask: int
    on: bool


@dataclass(frozen=True, slots=True)
class Retire:
    """Stop for good, since the host is to be deleted; refused while it runs something."""

    ask: int


@dataclass(frozen=True, slots=True)
class Act:
    """Run one manual action; the asker waits for what comes of it."""

    ask: int
    device_id: str | None
    action: Json
    timeout_s: float
    key: str
    user_id: str


@dataclass(frozen=True, slots=True)
class TakeLease:
    """Give `holder` the device for `seconds`, or renew his lease; the answer is the lease's id."""

    ask: int
    device_id: str
    lease_id: str
    holder: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """Begin the next attempt of a queued execution here (told by the dispatcher)."""

    execution_id: str
    device_id: str


@dataclass(frozen=True, slots=True)
class Cancel:
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


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    pass


@dataclass(frozen=True, slots=True)
class ProbeMissed:
    error: str


@dataclass(frozen=True, slots=True)
class HeartbeatSeen:
    pass


@dataclass(frozen=True, slots=True)
class ProbeDue:
    pass


@dataclass(frozen=True, slots=True)
class ShutdownBegun:
    """The server stops: what is sent may end, nothing more goes out."""


@dataclass(frozen=True, slots=True)
class AttemptStored:
    """The attempt stands in the database and its first step beside it."""

    device_id: str
    spec: RunSpec


@dataclass(frozen=True, slots=True)
class AttemptRefused:
    """The execution was not to be had any more (cancelled, or its time was over)."""

    device_id: str
    execution_id: str


@dataclass(frozen=True, slots=True)
class StepDue:
    device_id: str
    key: StepKey


@dataclass(frozen=True, slots=True)
class StepAnswered:
    device_id: str
    key: StepKey
    outcome: Outcome
    duration_ms: float


@dataclass(frozen=True, slots=True)
class StepBegun:
    """The host gave the try that is under way a name of its own: it can be asked for its end."""

    device_id: str
    key: StepKey
    handle: str


@dataclass(frozen=True, slots=True)
class StepMoved:
    """The host says how far the step is."""

    device_id: str
    key: StepKey
    state: Json


@dataclass(frozen=True, slots=True)
class StepTimedOut:
    device_id: str
    key: StepKey


@dataclass(frozen=True, slots=True)
class StepStored:
    """The step's end stands; without a status it is to be tried once more."""

    device_id: str
    key: StepKey
    status: StepStatus | None = None
    screenshot_url: str | None = None


@dataclass(frozen=True, slots=True)
class RunTimedOut:
    device_id: str
    execution_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class GraceOver:
    """RUN_GRACE is over since the host was lost."""


@dataclass(frozen=True, slots=True)
class LossForgotten:
    """A loss of the host is too long ago to tell anything."""


@dataclass(frozen=True, slots=True)
class PauseOver:
    """A host that flaps may have work again."""


@dataclass(frozen=True, slots=True)
class LeaseOver:
    """A lease ran out, was given back, or could not be stored."""

    device_id: str
    lease_id: str


@dataclass(frozen=True, slots=True)
class CancelGraceOver:
    device_id: str
    execution_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class CancelAnswered:
    device_id: str
    execution_id: str
    attempt: int
    acknowledged: bool


@dataclass(frozen=True, slots=True)
class EndStored:
    """The attempt's end stands; `status` is what the execution is now."""

    device_id: str
    execution_id: str
    attempt: int
    status: ExecutionStatus
    step_status: StepStatus | None = None


@dataclass(frozen=True, slots=True)
class ReleaseStored:
    device_id: str
    execution_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class ActAnswered:
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


@dataclass(frozen=True, slots=True)
class Reply:
    ask: int
    value: object = None


@dataclass(frozen=True, slots=True)
class Refuse:
    ask: int
    error: VptError


@dataclass(frozen=True, slots=True)
class Probe:
    host: Host


@dataclass(frozen=True, slots=True)
class Forward:
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


@dataclass(frozen=True, slots=True)
class ForwardAct:
    """Send a manual action; its end comes back as ActAnswered."""

    host: Host
    device: Device
    act: Act


@dataclass(frozen=True, slots=True)
class CancelOnHost:
    """Tell the host to stop an attempt; comes back as CancelAnswered."""

    host: Host
    device_id: str
    execution_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Tell the host that an attempt has no more use for the device."""

    host: Host
    device: Device


@dataclass(frozen=True, slots=True)
class Hangup:
    """Give up the open call of this device."""

    device_id: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """Leave `fact` after `seconds`; one of the same name takes its place, None ends it."""

    name: str
    seconds: float
    fact: Fact | None


@dataclass(frozen=True, slots=True)
class StoreAttempt:
    execution_id: str
    device_id: str


@dataclass(frozen=True, slots=True)
class StoreStep:
    """Store how a step ended, and the next one as running."""

    device_id: str
    key: StepKey
    status: StepStatus
    answer: Answer | None
    error: str | None
    duration_ms: float | None
    seq: int
    next_action: str | None


@dataclass(frozen=True, slots=True)
class StoreTry:
    """Store that the same step is tried once more; `key` is the new try's."""

    device_id: str
    key: StepKey


@dataclass(frozen=True, slots=True)
class StoreHandle:
    """Store what the host calls the try that is under way."""

    device_id: str
    key: StepKey
    handle: str


@dataclass(frozen=True, slots=True)
class StoreEnd:
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


@dataclass(frozen=True, slots=True)
class StoreRelease:
    device_id: str
    execution_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Publish:
    event: Event


@dataclass(frozen=True, slots=True)
class Announce:
    """The host looks different now: tell the dispatcher, the clients and the database."""

    view: HostView


@dataclass(frozen=True, slots=True)
class NotTaken:
    """A run that the dispatcher sent could not begin here."""

    execution_id: str
    device_id: str
    gone: bool


@dataclass(frozen=True, slots=True)
class Log:
    event: str
    fields: Json
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
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
