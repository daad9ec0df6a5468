"""The messages of a host's actor, commands and facts: frozen values.

A command is what somebody wants; it may carry `ask`, the number of the pending ask that an effect
`Resolve` or `Reject` ends. A fact is what happened: an answer, an alarm, a stored record.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from vpt.dialects.base import HostTroubleError, ScreenRequest, Touch, Trouble
from vpt.model import (
    Answer,
    Device,
    ExecutionStatus,
    Host,
    HostTrouble,
    Json,
    Presence,
    RunSpec,
    StepStatus,
)

# ---------------------------------------------------------------- outcomes of a call to a host


class NoAnswer(Struct, frozen=True):
    """Why a call brought no verdict; `error` is for people.

    `presence` is what the host says of the device all the same, None when it says nothing.
    """

    trouble: Trouble
    error: str
    reason: HostTrouble | None = None  # why the host cannot be reached, or is not taken for itself
    same_again: bool = False  # an answer came; sending the step again would bring the same
    answer: Answer | None = None  # what the host answered all the same: its output is stored
    presence: Presence | None = None

    @classmethod
    def of(cls, error: HostTroubleError) -> NoAnswer:
        """Return the outcome of a call that ended with this error."""
        return cls(
            error.trouble,
            error.message,
            error.reason,
            error.same_again,
            error.answer,
            error.presence,
        )


Outcome = Answer | NoAnswer


class StepKey(Struct, frozen=True):
    """One try of one step of one attempt.

    Hosts get it as the Idempotency-Key: the same key is the same work, another try is new work.
    """

    execution_id: str
    attempt: int
    step: int
    tries: int  # 1 for the first


# ---------------------------------------------------------------- commands


class Register(Struct, frozen=True):
    """Store what a host says of itself and its devices; its process may have begun anew.

    `away` are the devices that it says are not available, by id, and why.
    """

    ask: int
    host: Host
    devices: tuple[Device, ...]
    away: Mapping[str, str] = field(default_factory=dict)


class ChangeDevices(Struct, frozen=True):
    """Store devices as people changed them."""

    ask: int
    devices: tuple[Device, ...]


class ChangeHost(Struct, frozen=True):
    """Use what people changed of the host from the next call on."""

    host: Host


class Unregister(Struct, frozen=True):
    """Note that the host leaves in order."""

    ask: int


class Drain(Struct, frozen=True):
    """Start no more runs on the host, or (`on` false) start them again."""

    ask: int
    on: bool


class ForgetErrors(Struct, frozen=True):
    """Give runs again to a device that is held back, or (None) to all of the host."""

    ask: int
    device_id: str | None


class Retire(Struct, frozen=True):
    """Stop for good, since the host is to be deleted; refused while it runs something."""

    ask: int


class RunAction(Struct, frozen=True):
    """Run one manual action; its answer ends the ask."""

    ask: int
    device_id: str | None  # None: the only one of the host
    action: Json
    timeout_s: float
    key: str  # goes out as the Idempotency-Key
    user_id: str  # a lease of somebody else rejects the action
    secrets: tuple[str, ...] = ()  # the named ones that the action refers to
    touch: Touch | None = None  # what the action is, when it is no step
    needs_lease: bool = False  # it is refused unless its user leases the device


class ShowScreen(Struct, frozen=True):
    """Fetch something of a device's screen; the answer is nothing while the host is at work."""

    ask: int
    device_id: str
    request: ScreenRequest


class TakeLease(Struct, frozen=True):
    """Lease the device to `holder` for `seconds`, or renew that; the answer is the lease's id."""

    ask: int
    device_id: str
    lease_id: str  # of a new lease; a renewed one keeps its own
    holder: str
    seconds: float


class StartRun(Struct, frozen=True):
    """Start the next attempt of a queued execution here; the dispatcher chose this device."""

    execution_id: str
    device_id: str


class Cancel(Struct, frozen=True):
    """Cancel the execution's run, if it is on this host."""

    execution_id: str


Command = (
    Register
    | ChangeDevices
    | ChangeHost
    | Unregister
    | Drain
    | ForgetErrors
    | Retire
    | RunAction
    | ShowScreen
    | TakeLease
    | StartRun
    | Cancel
)

# ---------------------------------------------------------------- facts


class ProbeAnswered(Struct, frozen=True):
    """The host's health is well."""


class ProbeMissed(Struct, frozen=True):
    """A probe was not answered well."""

    error: str
    reason: HostTrouble | None = None


class CredentialEnded(Struct, frozen=True):
    """The last token of a host that joined with its own was revoked or has expired."""


class Replaced(Struct, frozen=True):
    """Another host registered with this one's URL, and was found there."""

    words: str


class HeartbeatSeen(Struct, frozen=True):
    """The host sent a ping, so it may be back."""


class DevicesReported(Struct, frozen=True):
    """The host said of devices whether they are available; by its own names for them."""

    presences: Mapping[str, Presence]


class LookDue(Struct, frozen=True):
    """It is time to ask the host how a device is."""

    device_id: str


class DeviceLooked(Struct, frozen=True):
    """The host was asked how a device is; None: it did not answer."""

    device_id: str
    presence: Presence | None


class HostWorkTooLong(Struct, frozen=True):
    """The host says for too long that it works on a device by itself."""

    device_id: str


class ProbeDue(Struct, frozen=True):
    """It is time for a probe."""


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


class RecordRefused(Struct, frozen=True):
    """The database refuses the record of a step for good: its run cannot go on."""

    device_id: str
    key: StepKey
    numbered: bool  # the record took the number of an event, which nobody will hear of


class StepDue(Struct, frozen=True):
    """The delay before a step is over."""

    device_id: str
    key: StepKey


class StepAnswered(Struct, frozen=True):
    """A step's call is over, with an answer or without one."""

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
    """The time of a step is over."""

    device_id: str
    key: StepKey


class StepStored(Struct, frozen=True):
    """The step's end is stored; without a status it is its next try that is stored."""

    device_id: str
    key: StepKey
    status: StepStatus | None = None
    screenshot_url: str | None = None


class RunTimedOut(Struct, frozen=True):
    """The time of a run is over."""

    device_id: str
    execution_id: str
    attempt: int


class GraceOver(Struct, frozen=True):
    """RUN_GRACE is over since the host was lost."""


class LossForgotten(Struct, frozen=True):
    """A loss of the host is too long ago to count."""


class PauseOver(Struct, frozen=True):
    """A host that flaps may have work again."""


class DevicePauseOver(Struct, frozen=True):
    """A device that was held back may have a run again."""

    device_id: str


class LeaseOver(Struct, frozen=True):
    """A lease ran out, was given back, or could not be stored."""

    device_id: str
    lease_id: str


class CancelGraceOver(Struct, frozen=True):
    """CANCEL_GRACE is over since a cancel, or since a step went on after its attempt's end."""

    device_id: str
    execution_id: str
    attempt: int


class CancelAnswered(Struct, frozen=True):
    """The host answered a cancel, or did not."""

    device_id: str
    execution_id: str
    attempt: int
    acknowledged: bool  # false, too, when there was no answer: it is asked again then


class EndStored(Struct, frozen=True):
    """The attempt's end is stored; `status` is the execution's, `queued` when tried again."""

    device_id: str
    execution_id: str
    attempt: int
    status: ExecutionStatus
    step_status: StepStatus | None = None  # of the step that was in flight


class ReleaseStored(Struct, frozen=True):
    """The device's release is stored."""

    device_id: str
    execution_id: str
    attempt: int


class ActionAnswered(Struct, frozen=True):
    """A manual action's call is over."""

    device_id: str
    ask: int
    outcome: Outcome
    duration_ms: float


class ScreenShown(Struct, frozen=True):
    """What somebody wanted to see of a device was fetched, or cannot be."""

    ask: int
    outcome: bytes | NoAnswer
    beside: bool  # another server than the host was asked


Fact = (
    ProbeDue
    | ShutdownBegun
    | ProbeAnswered
    | ProbeMissed
    | CredentialEnded
    | Replaced
    | HeartbeatSeen
    | DevicesReported
    | LookDue
    | DeviceLooked
    | HostWorkTooLong
    | AttemptStored
    | AttemptRefused
    | RecordRefused
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
    | DevicePauseOver
    | LeaseOver
    | CancelGraceOver
    | CancelAnswered
    | EndStored
    | ReleaseStored
    | ActionAnswered
    | ScreenShown
)
Message = Command | Fact
