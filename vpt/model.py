"""The things vpt speaks of: values without behaviour of their own, and nothing that does I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = dict[str, Any]


class Role(StrEnum):
    """What a token may do."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    HOST = "host"


class HostStatus(StrEnum):
    """What a host is good for now."""

    AVAILABLE = "available"
    BUSY = "busy"
    SUSPECT = "suspect"
    LOST = "lost"
    DRAINING = "draining"
    OFFLINE = "offline"


class Reason(StrEnum):
    """Why a host is held back."""

    PROBES = "probes"
    FLAPPING = "flapping"
    BROKEN = "broken"


class WaitReason(StrEnum):
    """Why an execution waits."""

    ALL_BUSY = "all_busy"
    LANE_BUSY = "lane_busy"
    NO_ONLINE_HOST = "no_online_host"
    HOST_SUSPECT = "host_suspect"
    LEASED = "leased"
    DRAINING = "draining"
    PAUSED = "paused"


class DeviceStatus(StrEnum):
    """What a device is good for now; only an online one gets a run."""

    ONLINE = "online"
    BUSY = "busy"
    LEASED = "leased"
    OFFLINE = "offline"
    DISABLED = "disabled"


class ExecutionStatus(StrEnum):
    """Where an execution (or an attempt) stands."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """True when nothing more will happen to it."""
        return self not in (ExecutionStatus.QUEUED, ExecutionStatus.RUNNING)


class StepStatus(StrEnum):
    """Where a step stands."""

    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"


class ErrorKind(StrEnum):
    """Why nothing is known about the product: infrastructure, never the test."""

    HOST_LOST = "host_lost"
    HOST_ERROR = "host_error"
    HOST_REFUSED = "host_refused"
    STEP_TIMEOUT = "step_timeout"
    RUN_TIMEOUT = "run_timeout"
    QUEUE_TIMEOUT = "queue_timeout"
    SERVER_RESTARTED = "server_restarted"
    INTERNAL = "internal"


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

    @property
    def serial(self) -> bool:
        """True when it works one thing at a time, whatever the device."""
        return self.dialect == "virtualpytest"


@dataclass(frozen=True, slots=True)
class Device:
    """A thing under test on a host; `local_id` is the host's own name for it."""

    id: str
    local_id: str | None
    name: str
    model: str | None
    capabilities: frozenset[str] = frozenset()
    declared: bool = True
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device as the others see it."""

    device: Device
    status: DeviceStatus


@dataclass(frozen=True, slots=True)
class HostView:
    """A host as the others see it: what dispatching, events and the database need."""

    host: Host
    status: HostStatus
    reason: Reason | None
    devices: tuple[DeviceView, ...]
    pause_s: float | None = None  # how long it gets no work, when it flaps


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """What an execution asks of a device; equal requests share a group of the queue."""

    device_model: str
    requirements: frozenset[str] = frozenset()
    device_id: str | None = None
    host_id: str | None = None
    refused_by: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Waiting:
    """An execution in the queue; moments are seconds since the epoch, by the database's clock."""

    execution_id: str
    request: DeviceRequest
    priority: int
    queued_at: float
    expires_at: float
    last_host: str | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Why something waits, and the devices or hosts it waits for."""

    reason: WaitReason
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an execution is in the queue; `able` devices fit and work through runs."""

    wait: Wait
    position: int
    able: int


@dataclass(frozen=True, slots=True)
class RunSpec:
    """All that an attempt needs, as the database has it when the attempt begins."""

    execution_id: str
    test_case_id: str
    attempt: int
    seq: int
    steps: tuple[Json, ...]
    device_model: str
    timeout_s: float | None
    infra_failures: int
    test_failures: int
    test_retries: int
    requested_by: str
    campaign_execution_id: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a host said to a step: `raw` is the whole of it."""

    success: bool
    output: str | None = None
    error: str | None = None
    screenshot: str | None = None
    raw: Mapping[str, Any] | None = None


class Credential(StrEnum):
    """How a host proved that it may join, the weakest first."""

    OPEN = "open"
    JOIN = "join"
    OWN = "own"


@dataclass(frozen=True, slots=True)
class DeviceSchema:
    """What a device's actions and verifications look like, as JSON, and the SHA-256 of that."""

    hash: bytes
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Registration:
    """A host's word on itself, checked; `devices` has the implicit one when it declared none.

    `page_url` is where browsers find the host; `schemas` go by the devices' global ids.
    """

    host: Host
    devices: tuple[Device, ...]
    hardware: Json
    secret: str | None = field(repr=False)
    credential: Credential
    page_url: str | None = None
    schemas: Mapping[str, DeviceSchema] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RequestKey:
    """An Idempotency-Key with all that makes two requests the same."""

    user_id: str
    method: str
    path: str
    key: str
    body_hash: bytes


@dataclass(frozen=True, slots=True)
class NewExecution:
    """A request to run a test case, complete: parameters filled in, device resolved.

    That of a campaign's entry has no steps until it starts: they are stored once a test case.
    """

    test_case_id: str
    test_case_name: str
    test_case_version: int
    device_model: str
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


@dataclass(frozen=True, slots=True)
class NewCampaign:
    """A request to run a campaign, complete: what it will start, in order."""

    campaign_id: str
    name: str
    entries: tuple[NewExecution, ...]
    stop_on_failure: bool
    parallelism: int
    priority: int
    requested_by: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a request at once."""

    execution_id: str
    status: ExecutionStatus
    host: str | None
    device_id: str | None


def screenshot_url(execution_id: str, attempt: int, step: int) -> str:
    """Give the path at which a step's screenshot is served."""
    return f"/screenshots/{execution_id}/{attempt}/{step}.png"


@dataclass(frozen=True, slots=True)
class TestProgress:
    """An attempt began (step 0), a step is over, or all is over; `seq` counts an execution's."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

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
    """A device has another status."""

    device_id: str
    status: DeviceStatus
    last_seen: str | None


@dataclass(frozen=True, slots=True)
class HostChanged:
    """A host has another status or reason."""

    host_id: str
    status: HostStatus
    reason: Reason | None
    last_seen: str | None


@dataclass(frozen=True, slots=True)
class CampaignProgress:
    """One more of a campaign's executions is over, or the campaign is."""

    campaign_execution_id: str
    done: int
    total: int
    status: ExecutionStatus
    seq: int


@dataclass(frozen=True, slots=True)
class QueueChanged:
    """An execution waits for another reason than before."""

    execution_id: str
    reason: WaitReason
    names: tuple[str, ...]
    position: int


@dataclass(frozen=True, slots=True)
class StepProgress:
    """Where a long step stands, in its host's words; not numbered and not kept."""

    execution_id: str
    attempt: int
    step: int
    state: Json
    campaign_execution_id: str | None = None


Event = TestProgress | DeviceChanged | HostChanged | CampaignProgress | QueueChanged | StepProgress
