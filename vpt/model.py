"""The domain types that all layers share: plain values without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = dict[str, Any]


class Role(StrEnum):
    """The role of a token, which decides the routes it may call (docs/access.md)."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    HOST = "host"


class HostStatus(StrEnum):
    """The status of a host; only an available one gets new runs, a busy one has no free device."""

    AVAILABLE = "available"
    BUSY = "busy"
    SUSPECT = "suspect"
    LOST = "lost"
    DRAINING = "draining"
    OFFLINE = "offline"


class Reason(StrEnum):
    """Why a host that is suspect, lost or offline gets no new runs."""

    PROBES = "probes"
    FLAPPING = "flapping"
    BROKEN = "broken"
    ERRORS = "errors"  # all of its devices are held back
    REPLACED = "replaced"  # another host answers at its URL, or has its name
    CREDENTIAL = "credential"  # its last token was revoked or has expired


class TroubleKind(StrEnum):
    """Why a host cannot be reached, or is not taken for itself."""

    REFUSED = "refused"
    TIMEOUT = "timeout"
    NAME = "name"  # its name is not known to the DNS
    CERTIFICATE = "certificate"
    REDIRECT = "redirect"
    STATUS = "status"  # it answers another status than 2xx
    CREDENTIAL = "credential"  # it answers 401 or 403: it has another secret
    SOMEBODY_ELSE = "somebody_else"  # another host answers at its URL
    TOO_SLOW = "too_slow"


class WaitReason(StrEnum):
    """Why an execution is still queued."""

    ALL_BUSY = "all_busy"
    LANE_BUSY = "lane_busy"
    NO_ONLINE_HOST = "no_online_host"
    HOST_SUSPECT = "host_suspect"
    LEASED = "leased"
    DRAINING = "draining"
    PAUSED = "paused"
    NOTHING_FITS = "nothing_fits"  # no registered device could ever run it, as things are
    DEVICE_AWAY = "device_away"
    HELD_BACK = "held_back"  # too many errors in a row on the devices that fit
    BACKOFF = "backoff"  # it just failed on the only devices that fit


class DeviceStatus(StrEnum):
    """The status of a device; only an online one gets a run."""

    ONLINE = "online"
    BUSY = "busy"
    LEASED = "leased"
    OFFLINE = "offline"
    DISABLED = "disabled"


class DeviceReason(StrEnum):
    """Why a device of a host that is well gets no new runs."""

    HELD_BACK = "held_back"  # too many errors of the infrastructure without a verdict between them
    AWAY = "away"  # its host says that it is not available
    HOST_WORKS = "host_works"  # its host works on it by itself, or may still run a step there


class ExecutionStatus(StrEnum):
    """The status of an execution, of an attempt, or of a campaign execution."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """True when the status will not change any more."""
        return self not in (ExecutionStatus.QUEUED, ExecutionStatus.RUNNING)


class StepStatus(StrEnum):
    """The status of a step."""

    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"


class ErrorKind(StrEnum):
    """Why an execution ended as `error`: infrastructure failed, so the product was not judged."""

    HOST_LOST = "host_lost"
    HOST_ERROR = "host_error"
    HOST_REFUSED = "host_refused"
    STEP_TIMEOUT = "step_timeout"
    RUN_TIMEOUT = "run_timeout"
    QUEUE_TIMEOUT = "queue_timeout"
    SERVER_RESTARTED = "server_restarted"
    INTERNAL = "internal"
    CONFIG = "config"
    NOTHING_FITS = "nothing_fits"


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that holds devices and runs actions on them."""

    id: str
    url: str
    dialect: str = "document"
    capabilities: frozenset[str] = frozenset()
    idempotency: bool = False
    cancel: bool = False
    secret: str | None = field(default=None, repr=False)
    instance_id: str | None = None  # of its installation, when it told it
    named: bool = False  # its health said its name when it registered

    @property
    def serial(self) -> bool:
        """True when the host runs one thing at a time, for all of its devices together."""
        return self.dialect == "virtualpytest"


@dataclass(frozen=True, slots=True)
class Device:
    """A device under test; `id` is unique in the lab, `local_id` is the id that its host uses."""

    id: str
    local_id: str | None
    name: str
    model: str | None
    capabilities: frozenset[str] = frozenset()
    declared: bool = True
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device with its status, as other components see it."""

    device: Device
    status: DeviceStatus
    reason: DeviceReason | None = None
    reason_text: str | None = None
    pause_s: float | None = None  # seconds without new runs, from when the reason began
    doubtful: bool = False  # the infrastructure failed the last attempt there


@dataclass(frozen=True, slots=True)
class HostTrouble:
    """Why a host cannot be reached now, in a word and in a sentence for people."""

    kind: TroubleKind
    text: str


@dataclass(frozen=True, slots=True)
class HostView:
    """A snapshot of a host for the dispatcher, events and the database."""

    host: Host
    status: HostStatus
    reason: Reason | None
    devices: tuple[DeviceView, ...]
    pause_s: float | None = None  # seconds without new runs, from when the reason began
    reason_text: str | None = None
    trouble: HostTrouble | None = None


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """What an execution asks of a device; equal requests share a group of the queue.

    `failed_on` are the devices on which the infrastructure failed it, in order and as often as it
    did, `failed_hosts` their hosts: these still fit, and others that fit are preferred.
    """

    device_model: str | tuple[str, ...]  # any of several will do
    requirements: frozenset[str] = frozenset()
    device_id: str | None = None
    host_id: str | None = None
    refused_by: frozenset[str] = frozenset()
    failed_on: tuple[str, ...] = ()
    failed_hosts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Waiting:
    """An execution in the queue; times are seconds since the epoch, by the database's clock.

    Before `not_before` it is not sent to a device on which it failed.
    """

    execution_id: str
    request: DeviceRequest
    priority: int
    queued_at: float
    expires_at: float
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Why an execution waits, and the ids of the devices or hosts that it waits for."""

    reason: WaitReason
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """The position of an execution in the queue; `able` is how many usable devices match."""

    wait: Wait
    position: int
    able: int


@dataclass(frozen=True, slots=True)
class SecretSteps:
    """The steps of an execution that have secrets, by index from 0, as they are sent.

    A mark with `nonce` stands where a value goes; `names` are the named secrets that they use.
    """

    nonce: str
    names: list[str]
    steps: Json


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What an attempt needs, as stored in the database when the attempt begins."""

    execution_id: str
    test_case_id: str
    attempt: int
    seq: int
    steps: tuple[Json, ...]
    device_model: str  # of several that were asked for, the one of the device
    timeout_s: float | None
    infra_failures: int
    test_failures: int
    test_retries: int
    requested_by: str
    campaign_execution_id: str | None
    secret_steps: SecretSteps | None = None
    sealed_values: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Presence:
    """What a host says of a device, None: nothing; `at_work`: that it works there by itself."""

    available: bool | None = True
    reason: str | None = None
    properties: Json | None = None
    at_work: bool | None = None

    @property
    def away(self) -> str | None:
        """Return why the device is away, None while it is available."""
        if self.available is not False:
            return None
        return self.reason or "Its host says that it is not available."


@dataclass(frozen=True, slots=True)
class Answer:
    """The response of a host to a step; `raw` is its whole JSON body.

    `notes` is what the server has to say of it: that a picture was left out, and why.
    `presence` is what it says of the device, None: nothing. `pictures` are those beside the
    screenshot: what each shows, and its bytes in base64.
    """

    success: bool
    output: str | None = None
    error: str | None = None
    screenshot: str | None = None
    raw: Mapping[str, Any] | None = None
    notes: str | None = None
    presence: Presence | None = None
    pictures: tuple[tuple[str, str], ...] = field(default=(), repr=False)


class Credential(StrEnum):
    """How a host authenticated itself when it registered, the weakest first."""

    OPEN = "open"
    JOIN = "join"
    OWN = "own"


@dataclass(frozen=True, slots=True)
class DeviceSchema:
    """The JSON text that describes a device's actions and verifications, and its SHA-256."""

    hash: bytes
    text: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a host says of itself; `presences` are by its own names for its devices."""

    stats: Json | None = None
    device_metrics: Json | None = None
    host_url: str | None = None
    instance_id: str | None = None
    presences: Mapping[str, Presence] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Registration:
    """A checked registration; `devices` has an implicit device when the host declared none.

    `page_url` is for browsers; the keys of `schemas` and `presences` are global ids of devices;
    `credential_until` is the end of a signed token, in seconds since the epoch, infinity for never.
    """

    host: Host
    devices: tuple[Device, ...]
    hardware: Json
    secret: str | None = field(repr=False)
    credential: Credential
    page_url: str | None = None
    schemas: Mapping[str, DeviceSchema] = field(default_factory=dict)
    credential_until: float | None = None
    instance_id: str | None = None
    presences: Mapping[str, Presence] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RequestKey:
    """An Idempotency-Key, with everything that must be equal in a repeated request."""

    user_id: str
    method: str
    path: str
    key: str
    body_hash: bytes


@dataclass(frozen=True, slots=True)
class NewExecution:
    """An execution to create: parameters are filled in and the device is resolved.

    That of a campaign's entry has no steps until it starts: they are stored once a test case.
    """

    test_case_id: str
    test_case_name: str
    test_case_version: int
    device_model: str | tuple[str, ...]
    requirements: tuple[str, ...]
    steps: tuple[Json, ...]
    parameters: Json
    timeout_s: float | None
    test_retries: int
    device_id: str | None
    host_id: str | None
    priority: int
    queue_timeout_s: float | None
    requested_by: str
    secret_steps: SecretSteps | None = None
    sealed_values: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class NewCampaign:
    """A campaign execution to create: all executions that it will start, in order."""

    campaign_id: str
    name: str
    entries: tuple[NewExecution, ...]
    stop_on_failure: bool
    parallelism: int
    priority: int
    requested_by: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """The state of a new execution when its request is answered."""

    execution_id: str
    status: ExecutionStatus
    host: str | None
    device_id: str | None


@dataclass(frozen=True, slots=True)
class TestProgress:
    """An attempt began (step 0), a step ended, or the execution ended.

    `seq` numbers the events of an execution from 1.
    """

    __test__ = False  # pytest would collect it as a test class

    execution_id: str
    attempt: int
    step: int
    total_steps: int
    status: ExecutionStatus
    step_status: StepStatus | None
    screenshot_url: str | None
    seq: int
    campaign_execution_id: str | None = None
    host_id: str | None = None
    device_id: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceChanged:
    """The status of a device, or the reason for it, changed."""

    device_id: str
    status: DeviceStatus
    last_seen: str | None
    reason: DeviceReason | None = None
    reason_text: str | None = None


@dataclass(frozen=True, slots=True)
class HostChanged:
    """The status of a host, the reason for it, or why it cannot be reached, changed."""

    host_id: str
    status: HostStatus
    reason: Reason | None
    last_seen: str | None
    reason_text: str | None = None
    trouble: HostTrouble | None = None


@dataclass(frozen=True, slots=True)
class CampaignProgress:
    """An execution of a campaign ended, or the campaign execution did."""

    campaign_execution_id: str
    done: int
    total: int
    status: ExecutionStatus
    seq: int


@dataclass(frozen=True, slots=True)
class QueueChanged:
    """The reason why an execution waits changed."""

    execution_id: str
    reason: WaitReason
    names: tuple[str, ...]
    position: int


@dataclass(frozen=True, slots=True)
class StepProgress:
    """The progress of a long step, in the format of its host; not numbered and not stored."""

    execution_id: str
    attempt: int
    step: int
    state: Json
    campaign_execution_id: str | None = None


Event = TestProgress | DeviceChanged | HostChanged | CampaignProgress | QueueChanged | StepProgress
