"""What is answered, as schemas: most answers are JSON that PostgreSQL made and nothing dumps, so
these say in one place what stands in it, and tests hold the answers to them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

from marshmallow import EXCLUDE, Schema, validate
from marshmallow import fields as f

from vpt.model import (
    DeviceStatus,
    ErrorKind,
    ExecutionStatus,
    HostStatus,
    Json,
    Reason,
    Role,
    StepStatus,
    WaitReason,
)
from vpt.web.schemas.bodies import CampaignSchema, EntrySchema, TestCaseSchema, about

_EXECUTION, _CAMPAIGN_EXECUTION = "ex_5b0c7f1de2a94c38", "ce_1f2e3d4c5b6a7988"
_TEST_CASE, _CAMPAIGN = "tc_0123456789abcdef", "ca_fedcba9876543210"
_EARLY, _LATE = "2026-01-31T12:00:00.000000Z", "2026-01-31T12:00:04.200000Z"


class CampaignStatus(StrEnum):
    """Where a campaign execution stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    ERROR = "error"
    CANCELLED = "cancelled"


class ResultStatus(StrEnum):
    """Where a test of a campaign stands; skipped: it was never started."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    ERROR = "error"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class Shown(Schema):
    """An answer: all its fields stand in it, except those `maybe` there; more may come one day."""

    class Meta:
        """Who reads it overlooks what it does not know."""

        unknown = EXCLUDE

    maybe: ClassVar[frozenset[str]] = frozenset()
    example: ClassVar[Any] = None

    def on_bind_field(self, field_name: str, field_obj: f.Field[Any]) -> None:
        """Require the field."""
        field_obj.required = field_name not in self.maybe


def _text(sentence: str = "", *, none: bool = False) -> f.String:
    return f.String(allow_none=none, metadata=about(sentence))


def _moment(sentence: str = "", *, none: bool = False) -> f.DateTime:
    return f.DateTime(allow_none=none, metadata=about(sentence))


def _whole(sentence: str = "", *, none: bool = False) -> f.Integer:
    return f.Integer(allow_none=none, metadata=about(sentence))


def _number(sentence: str = "", *, none: bool = False) -> f.Float:
    return f.Float(allow_none=none, metadata=about(sentence))


def _one_of(choices: type[StrEnum], sentence: str = "", *, none: bool = False) -> f.Enum[StrEnum]:
    return f.Enum(choices, by_value=True, allow_none=none, metadata=about(sentence))


def _words(sentence: str = "") -> f.List[str]:
    return f.List(f.String(), metadata=about(sentence))


class Error(Shown):
    """Why a request was refused."""

    error = _text("One sentence for a person.")
    code = _text("The same for a program.")
    example: ClassVar[Json] = {"error": "There is no such thing.", "code": "not_found"}


class Errors(Shown):
    """What is wrong with the fields of a body: for each field its messages, nested as it is."""

    errors = f.Dict(keys=f.String())
    example: ClassVar[Json] = {"errors": {"name": ["Missing data for required field."]}}


class AskedToRegister(Shown):
    """What a host is told that is not registered."""

    status = _text()
    action = _text()
    error = _text()
    code = _text()
    maybe = frozenset({"status", "action", "code"})
    example: ClassVar[Json] = {
        "status": "not_registered",
        "action": "register",
        "error": "The host is not registered: register it first.",
    }


# --- test cases and campaigns


class TestCase(Shown, TestCaseSchema):
    """A test case as it stands."""

    __test__ = False
    id = _text()
    version = _whole("Raised by each PUT; the ETag is made of it.")
    created_at = _moment()
    updated_at = _moment()
    example: ClassVar[Json] = {
        "id": _TEST_CASE,
        **TestCaseSchema.example,
        "version": 1,
        "created_at": _EARLY,
        "updated_at": _EARLY,
    }


class CampaignEntry(Shown, EntrySchema):
    """A test case of a campaign."""


class Campaign(Shown, CampaignSchema):
    """A campaign as it stands."""

    id = _text()
    test_cases = f.List(f.Nested(CampaignEntry))
    version = _whole("Raised by each PUT; the ETag is made of it.")
    created_at = _moment()
    updated_at = _moment()
    example: ClassVar[Json] = {
        "id": _CAMPAIGN,
        **CampaignSchema.example,
        "version": 1,
        "created_at": _EARLY,
        "updated_at": _EARLY,
    }


class Submitted(Shown):
    """What became of the wish to run a test case."""

    execution_id = _text()
    status = _one_of(ExecutionStatus, "`running` when a device was free at once.")
    host = _text(none=True)
    device_id = _text(none=True)
    example: ClassVar[Json] = {
        "execution_id": _EXECUTION,
        "status": "running",
        "host": "pi-1",
        "device_id": "pi-1:desktop",
    }


# --- executions


class ListedExecution(Shown):
    """An execution, in a list."""

    execution_id = _text()
    test_case_id = _text()
    test_case_name = _text()
    test_case_version = _whole()
    campaign_execution_id = _text(none=True)
    status = _one_of(ExecutionStatus)
    error_kind = _one_of(ErrorKind, "Why nothing is known about the product.", none=True)
    error = _text(none=True)
    host = _text(none=True)
    host_id = _text(none=True)
    device_id = _text(none=True)
    device_model = _text()
    priority = _whole()
    attempt = _whole("The last attempt; 0 before the first.")
    total_steps = _whole()
    results = f.Raw(allow_none=True, metadata=about("Counts of its steps, once it is final."))
    requested_by = _text()
    cancel_requested = f.Boolean()
    pinned = f.Boolean(metadata=about("Kept however old it grows."))
    pruned = f.String(
        validate=validate.OneOf(("nothing", "screenshots", "steps")),
        metadata=about("What is gone of it, as it is old."),
    )
    created_at = _moment()
    queued_at = _moment()
    started_at = _moment(none=True)
    completed_at = _moment(none=True)
    duration_s = _number(none=True)
    example: ClassVar[Json] = {
        "execution_id": _EXECUTION,
        "test_case_id": _TEST_CASE,
        "test_case_name": "The app starts",
        "test_case_version": 1,
        "campaign_execution_id": None,
        "status": "completed",
        "error_kind": None,
        "error": None,
        "host": "pi-1",
        "host_id": "pi-1",
        "device_id": "pi-1:desktop",
        "device_model": "desktop",
        "priority": 50,
        "attempt": 1,
        "total_steps": 1,
        "results": None,
        "requested_by": "ci",
        "cancel_requested": False,
        "pinned": False,
        "pruned": "nothing",
        "created_at": _EARLY,
        "queued_at": _EARLY,
        "started_at": _EARLY,
        "completed_at": _LATE,
        "duration_s": 4.2,
    }


class Attempt(Shown):
    """One try of an execution on one device."""

    attempt = _whole()
    host = _text(none=True)
    device_id = _text(none=True)
    status = _one_of(ExecutionStatus)
    error_kind = _one_of(ErrorKind, none=True)
    error = _text(none=True)
    started_at = _moment()
    completed_at = _moment(none=True)


class StepShown(Shown):
    """A step of the attempt that is shown."""

    index = _whole("From 1.")
    action = _text("The step's command.")
    step = f.Dict(metadata=about("What was asked for, with the parameters filled in."))
    status = _one_of(StepStatus)
    tries = _whole()
    started_at = _moment(none=True)
    finished_at = _moment(none=True)
    duration_ms = _number(none=True)
    output = _text("How it begins, at most; the whole has a route of its own.", none=True)
    output_size = _whole("Bytes of the whole output.", none=True)
    output_truncated = f.Boolean(metadata=about("True when `output` is not the whole."))
    error = _text("Cut like the output.", none=True)
    error_size = _whole("Bytes of the whole error.", none=True)
    error_truncated = f.Boolean(metadata=about("True when `error` is not the whole."))
    screenshot_url = _text(none=True)


class Execution(ListedExecution):
    """An execution, with its attempts and the steps of one of them."""

    requirements = _words()
    parameters = f.Dict()
    timeout_s = _number(none=True)
    test_retries = _whole()
    wanted_device_id = _text(none=True)
    wanted_host_id = _text(none=True)
    queue_timeout_s = _number(none=True)
    attempts = f.List(f.Nested(Attempt))
    steps = f.List(f.Nested(StepShown))
    example: ClassVar[Json] = {
        **ListedExecution.example,
        "requirements": [],
        "parameters": {},
        "timeout_s": None,
        "test_retries": 0,
        "wanted_device_id": None,
        "wanted_host_id": None,
        "queue_timeout_s": 3600,
        "attempts": [
            {
                "attempt": 1,
                "host": "pi-1",
                "device_id": "pi-1:desktop",
                "status": "completed",
                "error_kind": None,
                "error": None,
                "started_at": _EARLY,
                "completed_at": _LATE,
            }
        ],
        "steps": [
            {
                "index": 1,
                "action": "http_request",
                "step": {"command": "http_request", "params": {"url": "http://tv.example/"}},
                "status": "passed",
                "tries": 1,
                "started_at": _EARLY,
                "finished_at": _LATE,
                "duration_ms": 4200.0,
                "output": "200 OK",
                "output_size": 6,
                "output_truncated": False,
                "error": None,
                "error_size": None,
                "error_truncated": False,
                "screenshot_url": f"/screenshots/{_EXECUTION}/1/1.png",
            }
        ],
    }


class QueuePlace(Shown):
    """Why an execution waits."""

    reason = _one_of(WaitReason)
    names = _words("The devices or hosts it waits for.")
    position = _whole("From 1.")
    eta_s = _number("About how long it will wait; null when nobody can tell.", none=True)
    example: ClassVar[Json] = {
        "reason": "all_busy",
        "names": ["pi-1:desktop"],
        "position": 2,
        "eta_s": 31.5,
    }


class ExecutionCancelled(Shown):
    """The wish to end it is noted."""

    execution_id = _text()
    status = _one_of(ExecutionStatus, "Where it stood when the wish came.")
    example: ClassVar[Json] = {"execution_id": _EXECUTION, "status": "running"}


class CampaignResult(Shown):
    """What became of a test of a campaign."""

    execution_id = _text("Null when it was skipped.", none=True)
    test_case_id = _text()
    test_case_name = _text(none=True)
    status = _one_of(ResultStatus)
    error_kind = _one_of(ErrorKind, none=True)
    host = _text(none=True)
    device_id = _text(none=True)
    duration_s = _number(none=True)


class Summary(Shown):
    """How many of a campaign's tests ended how."""

    total = _whole()
    completed = _whole()
    failed = _whole()
    error = _whole()
    cancelled = _whole()
    skipped = _whole()
    success_rate = _number("Percent of those with a verdict.", none=True)
    duration_s = _number(none=True)


class ListedCampaignExecution(Shown):
    """A run of a campaign, in a list: how many of its tests ended how."""

    campaign_execution_id = _text()
    campaign_id = _text()
    name = _text()
    status = _one_of(CampaignStatus)
    error_kind = _one_of(ErrorKind, "`internal` when the server could not go on.", none=True)
    error = _text(none=True)
    stop_on_failure = f.Boolean()
    parallelism = _whole()
    priority = _whole()
    requested_by = _text()
    cancel_requested = f.Boolean()
    created_at = _moment()
    started_at = _moment(none=True)
    completed_at = _moment(none=True)
    summary = f.Nested(Summary)
    example: ClassVar[Json] = {
        "campaign_execution_id": _CAMPAIGN_EXECUTION,
        "campaign_id": _CAMPAIGN,
        "name": "Every night",
        "status": "completed",
        "error_kind": None,
        "error": None,
        "stop_on_failure": False,
        "parallelism": 1,
        "priority": 50,
        "requested_by": "ci",
        "cancel_requested": False,
        "created_at": _EARLY,
        "started_at": _EARLY,
        "completed_at": _LATE,
        "summary": {
            "total": 1,
            "completed": 1,
            "failed": 0,
            "error": 0,
            "cancelled": 0,
            "skipped": 0,
            "success_rate": 100.0,
            "duration_s": 4.2,
        },
    }


class CampaignExecution(ListedCampaignExecution):
    """A run of a campaign, with the results of its tests."""

    results = f.List(f.Nested(CampaignResult), metadata=about("What still waits is not in it."))
    example: ClassVar[Json] = {
        **ListedCampaignExecution.example,
        "results": [
            {
                "execution_id": _EXECUTION,
                "test_case_id": _TEST_CASE,
                "test_case_name": "The app starts",
                "status": "completed",
                "error_kind": None,
                "host": "pi-1",
                "device_id": "pi-1:desktop",
                "duration_s": 4.2,
            }
        ],
    }


class CampaignStarted(CampaignExecution):
    """A run of a campaign that was started: `status`, no results yet, and the summary."""

    maybe = frozenset(CampaignExecution().fields) - {
        *("campaign_execution_id", "status", "results", "summary")
    }
    example: ClassVar[Json] = {
        "campaign_execution_id": _CAMPAIGN_EXECUTION,
        "status": "running",
        "results": [],
        "summary": {
            **CampaignExecution.example["summary"],
            "completed": 0,
            "success_rate": None,
            "duration_s": 0,
        },
    }


class CampaignCancelled(Shown):
    """The wish to end it is noted."""

    campaign_execution_id = _text()
    status = _one_of(CampaignStatus, "Where it stood when the wish came.")
    example: ClassVar[Json] = {"campaign_execution_id": _CAMPAIGN_EXECUTION, "status": "running"}


# --- hosts and devices


class LeaseShown(Shown):
    """Who has a device for himself."""

    holder = _text()
    expires_at = _moment()


class Device(Shown):
    """A device."""

    id = _text()
    name = _text()
    model = _text(none=True)
    host_id = _text(none=True)
    local_id = _text("Its host's own name for it.", none=True)
    capabilities = _words()
    tags = _words()
    status = _one_of(DeviceStatus)
    declared = f.Boolean(metadata=about("True when its host declares it."))
    lease = f.Nested(LeaseShown, allow_none=True)
    last_seen = _moment(none=True)
    created_at = _moment()
    example: ClassVar[Json] = {
        "id": "pi-1:desktop",
        "name": "Desktop of pi-1",
        "model": "desktop",
        "host_id": "pi-1",
        "local_id": "desktop",
        "capabilities": [],
        "tags": ["second floor"],
        "status": "online",
        "declared": True,
        "lease": None,
        "last_seen": _LATE,
        "created_at": _EARLY,
    }


class DeviceActions(Shown):
    """What a VirtualPyTest host says that a device can do, in its own words."""

    action_types = f.Dict()
    verification_types = f.Dict()
    example: ClassVar[Json] = {
        "action_types": {"remote": [{"command": "press_key", "params": {"key": "OK"}}]},
        "verification_types": {},
    }


class Lease(Shown):
    """The device is yours."""

    lease_id = _text()
    expires_at = _moment()
    example: ClassVar[Json] = {"lease_id": "a3f1c2d4e5b60718", "expires_at": _LATE}


class ProtocolShown(Shown):
    """What more than the least a host can do."""

    idempotency = f.Boolean()
    cancel = f.Boolean()


class Host(Shown):
    """A host with its devices."""

    id = _text()
    host_name = _text()
    host_url = _text()
    page_url = _text("Where browsers find it.", none=True)
    dialect = _text("`document` or `virtualpytest`.")
    status = _one_of(HostStatus)
    reason = _one_of(Reason, none=True)
    reason_until = _moment(none=True)
    capabilities = _words()
    devices = f.List(f.Nested(Device))
    tags = _words()
    hardware = f.Dict()
    protocol = f.Nested(ProtocolShown)
    draining = f.Boolean()
    last_seen = _moment(none=True)
    registered_at = _moment()
    example: ClassVar[Json] = {
        "id": "pi-1",
        "host_name": "pi-1",
        "host_url": "http://10.0.0.7:5110",
        "page_url": None,
        "dialect": "document",
        "status": "available",
        "reason": None,
        "reason_until": None,
        "capabilities": ["desktop"],
        "devices": [Device.example],
        "tags": [],
        "hardware": {"machine": "aarch64"},
        "protocol": {"idempotency": True, "cancel": True},
        "draining": False,
        "last_seen": _LATE,
        "registered_at": _EARLY,
    }


class ActionResult(Shown):
    """What the host said to an action."""

    success = f.Boolean()
    result = f.Dict(metadata=about("`success`, `output` and `error`, or all that the host said."))
    duration_ms = _number()
    example: ClassVar[Json] = {
        "success": True,
        "result": {"success": True, "output": "200 OK", "error": None},
        "duration_ms": 41.7,
    }


class Registered(Shown):
    """The host is known."""

    status = _text("Always `success`.")
    host_id = _text()
    devices = _words("The ids under which its devices go here.")
    maybe = frozenset({"devices"})
    example: ClassVar[Json] = {"status": "success", "host_id": "pi-1", "devices": ["pi-1:desktop"]}


class Heard(Shown):
    """The host was heard."""

    status = _text("Always `success`.")
    host_id = _text()
    example: ClassVar[Json] = {"status": "success", "host_id": "pi-1"}


class TaskHeard(Shown):
    """The end of the task was heard."""

    status = _text("Always `success`.")
    task_id = _text()
    example: ClassVar[Json] = {"status": "success", "task_id": "6d1f"}


# --- the system


class Alive(Shown):
    """The loop answers, or the database does."""

    status = _text("`alive`; or `ready` and `not_ready`.")
    example: ClassVar[Json] = {"status": "alive"}


class Checks(Shown):
    """Whether each of what the server leans on is well; what is not configured is."""

    database = f.Boolean()
    grafana = f.Boolean()
    hosts = f.Boolean()
    external_services = f.Boolean()


class Health(Shown):
    """Whether all is well."""

    status = _text("`healthy` when all checks are true, else `unhealthy`.")
    checks = f.Nested(Checks)
    timestamp = _moment()
    details = f.Dict(metadata=about("What was found; only for who shows a token."))
    maybe = frozenset({"details"})
    example: ClassVar[Json] = {
        "status": "healthy",
        "checks": {"database": True, "grafana": True, "hosts": True, "external_services": True},
        "timestamp": _EARLY,
    }


class DatabaseInfo(Shown):
    """The database."""

    version = _text()
    mode = _text("`embedded` or `external`.")


class SystemInfo(Shown):
    """What this server is."""

    version = _text()
    started_at = _moment()
    uptime_s = _number()
    python = _text()
    database = f.Nested(DatabaseInfo)
    settings = f.Dict(metadata=about("Settings that are no secret."))
    urls = f.Dict(keys=f.String(), values=f.String())
    example: ClassVar[Json] = {
        "version": "0.1.0",
        "started_at": _EARLY,
        "uptime_s": 4.2,
        "python": "3.13.1",
        "database": {"version": "18.4", "mode": "embedded"},
        "settings": {"SERVER_PORT": 5109},
        "urls": {"server": "http://127.0.0.1:5109"},
    }


class LabMeasures(Shown):
    """What only the memory knows."""

    queue_length = _whole()
    queue_oldest_s = _number(none=True)
    actors = _whole()
    inbox_depth = _whole()
    campaigns_running = _whole()


class SystemStatus(Shown):
    """How busy the lab and the process are."""

    hosts = f.Dict(keys=f.String(), values=f.Integer(), metadata=about("By status, and total."))
    devices = f.Dict(keys=f.String(), values=f.Integer(), metadata=about("By status, and total."))
    queue_length = _whole()
    queue_oldest_s = _number(none=True)
    running = _whole()
    success_rate = _number("Percent of the last 30 days.", none=True)
    memory_bytes = _whole()
    cpu_percent = _number()
    loop_lag_ms = _number()
    loop_lag_worst_ms = _number("The worst of the last minute.")
    uptime_s = _number()
    lab = f.Nested(LabMeasures)
    example: ClassVar[Json] = {
        "hosts": {"total": 1, "available": 1},
        "devices": {"total": 1, "online": 1},
        "queue_length": 0,
        "queue_oldest_s": None,
        "running": 0,
        "success_rate": 98.5,
        "memory_bytes": 73400320,
        "cpu_percent": 1.5,
        "loop_lag_ms": 0.21,
        "loop_lag_worst_ms": 3.4,
        "uptime_s": 86400.0,
        "lab": {
            "queue_length": 0,
            "queue_oldest_s": None,
            "actors": 1,
            "inbox_depth": 0,
            "campaigns_running": 0,
        },
    }


class DayFigures(Shown):
    """How the tests ended that began on a day."""

    day = f.Date()
    completed = _whole()
    failed = _whole()
    error = _whole()


class SuccessRate(Shown):
    """The share of passed tests among those with a verdict, in percent."""

    days = _whole()
    total = _whole()
    completed = _whole()
    failed = _whole()
    error = _whole("Infrastructure errors, which are in no rate.")
    success_rate = _number(none=True)
    by_day = f.List(f.Nested(DayFigures), metadata=about("Days in UTC on which something began."))
    example: ClassVar[Json] = {
        "days": 30,
        "total": 204,
        "completed": 197,
        "failed": 3,
        "error": 4,
        "success_rate": 98.5,
        "by_day": [{"day": "2026-01-31", "completed": 197, "failed": 3, "error": 4}],
    }


class DeviceFigures(Shown):
    """What ran on a device."""

    id = _text()
    name = _text()
    status = _one_of(DeviceStatus)
    test_count = _whole()
    success_rate = _number("Percent of those with a verdict.", none=True)
    avg_duration = _number("Seconds.", none=True)


class DevicesFigures(Shown):
    """What ran on each device."""

    items = f.List(f.Nested(DeviceFigures))
    example: ClassVar[Json] = {
        "items": [
            {
                "id": "pi-1:desktop",
                "name": "Desktop of pi-1",
                "status": "online",
                "test_count": 204,
                "success_rate": 98.5,
                "avg_duration": 4.2,
            }
        ]
    }


class SignedLink(Shown):
    """A link that works without a token."""

    url = _text()
    expires_at = _moment()
    example: ClassVar[Json] = {
        "url": f"/screenshots/{_EXECUTION}/1/1.png?expires=1769864400&signature=0a1b",
        "expires_at": "2026-01-31T13:00:00Z",
    }


# --- tokens and the audit


class Token(Shown):
    """A token, without the token itself."""

    id = _text()
    name = _text(none=True)
    role = _one_of(Role)
    host_id = _text("For role `host`: whose it is.", none=True)
    created_by = _text(none=True)
    created_at = _moment()
    expires_at = _moment(none=True)
    last_used_at = _moment("To the minute.", none=True)
    example: ClassVar[Json] = {
        "id": "tk_0f1e2d3c4b5a6978",
        "name": "nightly",
        "role": "operator",
        "host_id": None,
        "created_by": "me",
        "created_at": _EARLY,
        "expires_at": "2026-03-02T12:00:00.000000Z",
        "last_used_at": None,
    }


class NewToken(Token):
    """A token with the token itself: it stands in this answer and nowhere else."""

    token = _text()
    example: ClassVar[Json] = {**Token.example, "token": "eyJhbGciOiJIUzI1NiIs..."}


class AuditEntry(Shown):
    """What somebody wanted to change."""

    id = _text()
    at = _moment()
    user_id = _text()
    role = _one_of(Role)
    token_id = _text(none=True)
    method = _text()
    route = _text()
    path = _text()
    status = _whole()
    peer = _text()
    request_id = _text()
    example: ClassVar[Json] = {
        "id": "0000018d5f2c",
        "at": _EARLY,
        "user_id": "me",
        "role": "admin",
        "token_id": None,
        "method": "DELETE",
        "route": "/api/hosts/{id}",
        "path": "/api/hosts/pi-1",
        "status": 204,
        "peer": "10.0.0.9",
        "request_id": "6f1e0a9b00000001",
    }
