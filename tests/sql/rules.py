"""What each writing statement does in its good state, and the states in which it does nothing.

The ids are those of seed.sql: an execution `queued`, one that `runs` its second of three steps on
the device `busy`, one that `ended`, one whose host was `lost` and that still holds `held`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

Changes = dict[str, Any]


@dataclass(frozen=True)
class State:
    """How it comes about (SQL, other arguments), and what the statement still does or raises."""

    sql: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    does: Changes = field(default_factory=dict)
    raises: type[Exception] | None = None


@dataclass(frozen=True)
class Rule:
    """One statement: its arguments, its changes in the good state, the states it is guarded from.

    `answers`: the caller learns from the row whether something was done. `other`: good states, too,
    in which it does something else.
    """

    args: dict[str, Any]
    does: Changes
    nothing: dict[str, State]
    answers: bool = False
    sql: str = ""
    other: dict[str, State] = field(default_factory=dict)


def with_args(**args: Any) -> State:
    """Build the state in which the arguments are what does not fit."""
    return State(args=args)


_THEN = datetime(2026, 1, 31, tzinfo=UTC)
_NO_EXECUTION = with_args(execution_id="unknown")
_RUNNING_STEP = {"execution_id": "runs", "attempt": 2, "step": 2}
_THE_STEP = "execution_id = 'runs' AND attempt = 2 AND step = 2"
_CANCELLED = "UPDATE test_executions SET cancel_requested_at = now() - interval '1 minute'"
_ATTEMPT_OVER = (
    "UPDATE execution_attempts SET status = 'error', completed_at = now() - interval '1 minute'"
    " WHERE execution_id = 'runs' AND attempt = 2"
)
_STEP_OVER = f"UPDATE execution_steps SET status = 'skipped' WHERE {_THE_STEP}"
_FINISHED = {
    "status": "passed",
    "finished_at": "now",
    "duration_ms": 5,
    "output": "hello",
    "screenshot": "png",
    "seq": 3,
    "notes": "no picture",
    "pictures": [{"number": 1, "caption": "logo"}],
}
_END = {
    "execution_id": "runs",
    "attempt": 2,
    "status": "error",
    "error_kind": "host_lost",
    "error": "away",
    "again": False,
    "release": True,
    "open_step": 2,
    "seq": 3,
    "refused_by": None,
    "last_step": 2,
    "output": "so far",
    "infra_errors": 3,
    "last_error": "away",
    "pause_s": 10.0,
    "screenshot": "png",
    "notes": "not whole",
}
_ENDED_ATTEMPT = {
    "devices busy": {"infra_errors": 3, "last_error": "away", "held_until": "now +10 s"},
    "execution_attempts runs 2": {
        "status": "error",
        "error_kind": "host_lost",
        "error": "away",
        "completed_at": "now",
        "released_at": "now",
    },
    "execution_steps runs 2 2": {
        "status": "error",
        "error": "away",
        "output": "so far",
        "screenshot": "png",
        "notes": "not whole",
        "finished_at": "now",
    },
}
_QUEUED_AGAIN = {
    "test_executions runs": {
        "status": "queued",
        "infra_failures": 1,
        "host_id": None,
        "device_id": None,
        "queued_at": "now",
        "seq": 2,
    }
}
_RESULTS = {"total_steps": 3, "passed": 1, "failed": 0, "attempts": 2}
_ENDED_EXECUTION = {
    "status": "error",
    "error_kind": "host_lost",
    "error": "away",
    "infra_failures": 1,
    "completed_at": "now",
    "seq": 3,
    "end_step": 2,
    "end_step_status": "error",
    "results": _RESULTS,
}
_COPIED = (
    "INSERT INTO campaign_steps (campaign_execution_id, test_case_id, steps)"
    " VALUES ('campaign_runs', 'case', '[]'), ('campaign_ended', 'case', '[]')"
)


def _started(**more: str) -> Changes:
    """Return what changes when the execution `queued` starts on the device `free`."""
    execution = {
        "status": "running",
        "attempt": 1,
        "seq": 1,
        "host_id": "host",
        "device_id": "free",
    }
    return {
        "test_executions queued": execution | more,
        "execution_attempts queued 1": "new",
        "execution_steps queued 1 1": "new",
        "devices free": {"status": "busy"},
    }


RUNS = {
    "start_attempt": Rule(
        {"execution_id": "queued", "device_id": "free", "host_id": "host"},
        _started(),
        {
            "it runs": with_args(execution_id="runs"),
            "it is final": with_args(execution_id="ended"),
            "its end was asked for": State(_CANCELLED),
            "unknown": _NO_EXECUTION,
            "another attempt holds the device": State(
                args={"device_id": "held"}, raises=asyncpg.UniqueViolationError
            ),
        },
        answers=True,
        other={
            "its device has one of several models": State(
                "UPDATE devices SET model = 'tv' WHERE id = 'free';"
                " UPDATE test_executions SET device_models = '{box,tv}' WHERE id = 'queued'",
                does=_started(device_model="tv"),
            ),
            "its device has none, and its host can be one of several": State(
                "UPDATE hosts SET capabilities = '{tv}' WHERE id = 'host';"
                " UPDATE test_executions SET device_models = '{box,tv}' WHERE id = 'queued'",
                does=_started(device_model="tv"),
            ),
        },
    ),
    "finish_steps": Rule(
        {
            "execution_ids": ["runs"],
            "attempts": [2],
            "steps": [2],
            "tries": [1],
            "statuses": ["passed"],
            "durations_ms": [5.0],
            "outputs": ["hello"],
            "errors": [None],
            "screenshots": ["png"],
            "seqs": [3],
            "next_actions": ["three"],
            "notes": ["no picture"],
            "pictures": ['[{"number": 1, "caption": "logo"}]'],
        },
        {"execution_steps runs 2 2": _FINISHED, "execution_steps runs 2 3": "new"},
        {
            "the step is over": State(_STEP_OVER),
            "the attempt is over": State(f"{_ATTEMPT_OVER}; {_STEP_OVER}"),
            "it was stored already": State(
                "UPDATE execution_steps SET status = 'passed', seq = 3"
                f" WHERE {_THE_STEP};"
                " INSERT INTO execution_steps (execution_id, attempt, step, action, started_at)"
                " VALUES ('runs', 2, 3, 'three', now() - interval '1 second')"
            ),
            "no such step": with_args(steps=[3]),
            "no such attempt": with_args(attempts=[3]),
            "the execution was deleted": with_args(execution_ids=["unknown"]),
        },
        other={
            "it is the last step": State(
                args={"next_actions": [None]}, does={"execution_steps runs 2 2": _FINISHED}
            ),
        },
    ),
    "store_handle": Rule(
        {**_RUNNING_STEP, "tries": 1, "handle": "task-1"},
        {"execution_steps runs 2 2": {"handle": "task-1"}},
        {
            "the step is over": State(_STEP_OVER),
            "a later try runs": State("UPDATE execution_steps SET tries = 2"),
            "another step": with_args(step=1),
            "another attempt": with_args(attempt=1),
            "unknown": _NO_EXECUTION,
        },
    ),
    "retry_step": Rule(
        {**_RUNNING_STEP, "tries": 2},
        {"execution_steps runs 2 2": {"tries": 2, "handle": None}},
        {
            "the step is over": State(_STEP_OVER),
            "another step": with_args(step=1),
            "another attempt": with_args(attempt=1),
            "unknown": _NO_EXECUTION,
        },
        sql=f"UPDATE execution_steps SET handle = 'task-1' WHERE {_THE_STEP}",
    ),
    "end_attempt": Rule(
        _END,
        _ENDED_ATTEMPT | {"test_executions runs": _ENDED_EXECUTION},
        {
            "the attempt is over": State(_ATTEMPT_OVER),
            "the attempt is over, its step is not known to be": State(
                f"{_ATTEMPT_OVER}; UPDATE test_executions SET status = 'queued' WHERE id = 'runs'"
            ),
            "another attempt": with_args(attempt=1),
            "unknown": _NO_EXECUTION,
            "the execution is final": State(
                "UPDATE test_executions SET status = 'cancelled', completed_at = queued_at"
                " WHERE id = 'runs'",
                does=_ENDED_ATTEMPT,
            ),
            "the execution is queued again": State(
                "UPDATE test_executions SET status = 'queued' WHERE id = 'runs'",
                does=_ENDED_ATTEMPT,
            ),
        },
        other={
            "a step of an attempt before it was left running": State(
                "UPDATE execution_steps SET status = 'running' WHERE attempt = 1 AND step = 2",
                does=_ENDED_ATTEMPT | {"test_executions runs": _ENDED_EXECUTION},
            ),
            "another execution's end was asked for": State(
                f"{_CANCELLED} WHERE id <> 'runs';"
                " UPDATE test_executions SET priority = 51 WHERE id = 'runs'",
                {"again": True},
                _ENDED_ATTEMPT | _QUEUED_AGAIN,
            ),
            "once more": State(args={"again": True}, does=_ENDED_ATTEMPT | _QUEUED_AGAIN),
            "once more, but its end was asked for": State(
                _CANCELLED,
                {"again": True},
                _ENDED_ATTEMPT
                | {
                    "test_executions runs": {
                        "status": "cancelled",
                        "infra_failures": 1,
                        "completed_at": "now",
                        "seq": 3,
                        "end_step": 2,
                        "end_step_status": "error",
                        "results": _RESULTS,
                    }
                },
            ),
            "the server was started again": State(
                args={"again": True, "error_kind": "server_restarted"},
                does={
                    **_ENDED_ATTEMPT,
                    "execution_attempts runs 2": {
                        **_ENDED_ATTEMPT["execution_attempts runs 2"],
                        "error_kind": "server_restarted",
                    },
                    "test_executions runs": {
                        key: value
                        for key, value in _QUEUED_AGAIN["test_executions runs"].items()
                        if key != "infra_failures"
                    },
                },
            ),
            "the host refused it": State(
                args={"again": True, "error_kind": "host_refused", "refused_by": "host"},
                does={
                    **_ENDED_ATTEMPT,
                    "execution_attempts runs 2": {
                        **_ENDED_ATTEMPT["execution_attempts runs 2"],
                        "error_kind": "host_refused",
                    },
                    "test_executions runs": {
                        **_QUEUED_AGAIN["test_executions runs"],
                        "refused_by": ["host"],
                    },
                },
            ),
            "its device is held": State(
                args={"release": False},
                does={
                    **_ENDED_ATTEMPT,
                    "execution_attempts runs 2": {
                        key: value
                        for key, value in _ENDED_ATTEMPT["execution_attempts runs 2"].items()
                        if key != "released_at"
                    },
                    "test_executions runs": _ENDED_EXECUTION,
                },
            ),
        },
    ),
    "release_device": Rule(
        {"execution_id": "lost", "attempt": 1},
        {"execution_attempts lost 1": {"released_at": "now"}},
        {
            "released already": with_args(execution_id="ended"),
            "another attempt": with_args(attempt=2),
            "unknown": _NO_EXECUTION,
            "the attempt runs": State(
                args={"execution_id": "runs", "attempt": 2}, raises=asyncpg.CheckViolationError
            ),
        },
    ),
    "end_queued": Rule(
        {
            "execution_id": "queued",
            "status": "error",
            "error_kind": "queue_timeout",
            "error": "waited too long",
        },
        {
            "test_executions queued": {
                "status": "error",
                "error_kind": "queue_timeout",
                "error": "waited too long",
                "completed_at": "now",
                "seq": 1,
                "results": {"total_steps": 3, "passed": 0, "failed": 0, "attempts": 0},
            }
        },
        {
            "it runs": with_args(execution_id="runs"),
            "it is final": with_args(execution_id="ended"),
            "unknown": _NO_EXECUTION,
        },
        answers=True,
    ),
    "request_cancel": Rule(
        {"execution_id": "runs"},
        {"test_executions runs": {"cancel_requested_at": "now"}},
        {
            "it is final": with_args(execution_id="ended"),
            "unknown": _NO_EXECUTION,
        },
        answers=True,
        other={
            "it is queued": State(
                args={"execution_id": "queued"},
                does={"test_executions queued": {"cancel_requested_at": "now"}},
            ),
            "asked for already": State(_CANCELLED),
        },
    ),
    "copy_campaign_steps": Rule(
        {"campaign_execution_id": "campaign_runs", "test_case_ids": ["case"], "versions": [1]},
        {"campaign_steps campaign_runs case": "new"},
        {
            "the test case has another version": with_args(versions=[2]),
            "the test case was deleted": with_args(test_case_ids=["unknown"]),
            "they are copied already": State(_COPIED, raises=asyncpg.UniqueViolationError),
        },
    ),
    "link_campaign_result": Rule(
        {"campaign_execution_id": "campaign_runs", "position": 1, "execution_id": "runs"},
        {"campaign_results campaign_runs 1": {"execution_id": "runs"}},
        {
            "linked already": with_args(position=0),
            "skipped": with_args(position=2),
            "no such entry": with_args(position=9),
            "unknown": with_args(campaign_execution_id="unknown"),
            "another entry has the execution": State(
                args={"execution_id": "ended"}, raises=asyncpg.UniqueViolationError
            ),
        },
        answers=True,
    ),
    "store_campaign_seq": Rule(
        {"id": "campaign_runs", "seq": 3},
        {"campaign_executions campaign_runs": {"seq": 3}},
        {
            "a later one is stored": with_args(seq=1),
            "unknown": with_args(id="unknown"),
        },
    ),
    "skip_campaign_rest": Rule(
        {"id": "campaign_runs"},
        {"campaign_results campaign_runs 1": {"skipped": True}},
        {
            "all are linked": with_args(id="campaign_ended"),
            "unknown": with_args(id="unknown"),
        },
    ),
    "finish_campaign": Rule(
        {
            "id": "campaign_runs",
            "status": "completed",
            "seq": 4,
            "error_kind": None,
            "error": None,
        },
        {
            "campaign_steps campaign_runs case": "gone",
            "campaign_executions campaign_runs": {
                "status": "completed",
                "completed_at": "now",
                "seq": 4,
            },
        },
        {
            "it is final": with_args(id="campaign_ended"),
            "unknown": with_args(id="unknown"),
        },
        sql=_COPIED,
        other={
            "it could not go on": State(
                args={"status": "error", "error_kind": "internal", "error": "why"},
                does={
                    "campaign_steps campaign_runs case": "gone",
                    "campaign_executions campaign_runs": {
                        "status": "error",
                        "error_kind": "internal",
                        "error": "why",
                        "completed_at": "now",
                        "seq": 4,
                    },
                },
            ),
        },
    ),
    "request_campaign_cancel": Rule(
        {"id": "campaign_runs"},
        {"campaign_executions campaign_runs": {"cancel_requested_at": "now"}},
        {
            "it is final": with_args(id="campaign_ended"),
            "unknown": with_args(id="unknown"),
        },
        answers=True,
        other={
            "asked for already": State(
                "UPDATE campaign_executions SET cancel_requested_at = created_at"
            )
        },
    ),
}

_HOST = {
    "id": "host",
    "host_url": "http://new",
    "old_url": "http://host",
    "dialect": "document",
    "credential": "join",
    "capabilities": ["web"],
    "hardware": "{}",
    "idempotency": True,
    "cancel": True,
    "sealed_secret": b"secret",
    "old_credential": "join",
    "old_dialect": "document",
    "page_url": None,
    "instance_id": "instance",
    "named": True,
}
_DEVICE = {
    "id": "free",
    "host_id": "host",
    "local_id": "one",
    "name": "new name",
    "model": "phone",
    "capabilities": ["touch"],
    "away": "no cable",
    "properties": '{"os": "14"}',
}
_DECLARED = {
    "local_id": "one",
    "name": "new name",
    "model": "phone",
    "capabilities": ["touch"],
}
_BACK = {**_DECLARED, "reason": None, "reason_text": None}
_LOOKS = {
    "host_ids": ["host", "other_host"],
    "host_statuses": ["suspect", "available"],
    "reasons": ["probes", None],
    "pauses_s": [10.0, None],
    "host_texts": ["three errors", None],
    "trouble_kinds": ["refused", None],
    "trouble_texts": ["connection refused", None],
    "device_ids": ["free", "of_other_host"],
    "statuses": ["offline", "online"],
    "device_reasons": ["away", None],
    "device_texts": ["no cable", None],
    "device_pauses_s": [20.0, None],
}

LAB = {
    "upsert_host": Rule(
        _HOST,
        {
            "hosts host": {
                "host_url": "http://new",
                "capabilities": ["web"],
                "idempotency": True,
                "cancel": True,
                "sealed_secret": "\\x736563726574",
                "last_seen": "now",
                "instance_id": "instance",
                "named": True,
                "registered_at": "now",
            }
        },
        {
            "its address is not the one that was seen": with_args(old_url="http://elsewhere"),
            "its credential is not the one that was seen": with_args(old_credential="own"),
            "its dialect is not the one that was seen": with_args(old_dialect="virtualpytest"),
            "it appeared meanwhile": with_args(old_url=None, old_credential=None, old_dialect=None),
        },
        answers=True,
        sql="UPDATE hosts SET registered_at = now() - interval '1 hour'",
        other={
            "it is new": State(
                args={"id": "new", "old_url": None, "old_credential": None, "old_dialect": None},
                does={"hosts new": "new"},
            ),
            "it was deleted meanwhile": State(args={"id": "new"}, does={"hosts new": "new"}),
            "it was offline": State(
                args={"id": "offline_host", "old_url": "http://offline"},
                does={
                    "hosts offline_host": {
                        "host_url": "http://new",
                        "capabilities": ["web"],
                        "idempotency": True,
                        "cancel": True,
                        "sealed_secret": "\\x736563726574",
                        "last_seen": "now",
                        "instance_id": "instance",
                        "named": True,
                        "registered_at": "now",
                        "status": "suspect",
                    }
                },
            ),
        },
    ),
    "replace_hosts": Rule(
        {"host_url": "http://host", "id": "new", "text": "new registered with its URL"},
        {
            "hosts host": {
                "status": "offline",
                "reason": "replaced",
                "reason_text": "new registered with its URL",
            }
        },
        {
            "nobody is there": with_args(host_url="http://elsewhere"),
            "it is the host itself": with_args(id="host"),
            "it said goodbye": State("UPDATE hosts SET status = 'offline' WHERE id = 'host'"),
        },
    ),
    "upsert_device": Rule(
        _DEVICE,
        {
            "devices free": {
                "local_id": "one",
                "name": "new name",
                "model": "phone",
                "capabilities": ["touch"],
                "reason": "away",
                "reason_text": "no cable",
                "properties": {"os": "14"},
            }
        },
        {
            "it is another host's": with_args(id="of_other_host"),
            "it is no host's": with_args(id="of_no_host"),
            "the host was deleted": State(
                args={"id": "new", "host_id": "unknown"}, raises=asyncpg.ForeignKeyViolationError
            ),
        },
        other={
            "it is new": State(args={"id": "new"}, does={"devices new": "new"}),
            "a person named it": State(
                "UPDATE devices SET name_edited = true, capabilities_edited = true",
                does={
                    "devices free": {
                        "local_id": "one",
                        "model": "phone",
                        "reason": "away",
                        "reason_text": "no cable",
                        "properties": {"os": "14"},
                    }
                },
            ),
            "it is back, and nothing is said of its properties": State(
                "UPDATE devices SET reason = 'away', reason_text = 'no cable',"
                " properties = '{\"a\": 1}' WHERE id = 'free'",
                args={"away": None, "properties": None},
                does={"devices free": _BACK},
            ),
            "it is available and held back": State(
                "UPDATE devices SET reason = 'held_back', reason_text = 'errors',"
                " reason_until = now() WHERE id = 'free'",
                args={"away": None, "properties": None},
                does={"devices free": _DECLARED},
            ),
            "it was withdrawn": State(
                args={
                    "id": "withdrawn",
                    "name": "withdrawn",
                    "capabilities": [],
                    "away": None,
                    "properties": None,
                },
                does={
                    "devices withdrawn": {
                        "local_id": "one",
                        "model": "phone",
                        "declared": True,
                        "withdrawn": False,
                    }
                },
            ),
        },
    ),
    "add_schema": Rule(
        {"hash": b"\x03", "schema": '{"new": 1}'},
        {"device_schemas \\x03": "new"},
        {"it is stored already": with_args(hash=b"\x01")},
    ),
    "name_schemas": Rule(
        {"host_id": "host", "device_ids": ["busy"], "hashes": [b"\x02"]},
        {"devices busy": {"schema_hash": "\\x02"}, "devices free": {"schema_hash": None}},
        {
            "they are named already": with_args(device_ids=["free"], hashes=[b"\x01"]),
            "another host's device": with_args(
                device_ids=["free", "of_other_host"], hashes=[b"\x01", b"\x02"]
            ),
            "unknown": with_args(host_id="unknown"),
        },
    ),
    "drop_unused_schemas": Rule(
        {},
        {"device_schemas \\x02": "gone"},
        {"all are in use": State("UPDATE devices SET schema_hash = '\\x02' WHERE id = 'busy'")},
    ),
    "store_credential_until": Rule(
        {"id": "host", "until_s": float("inf")},
        {"hosts host": {"credential_until": "infinity"}},
        {"unknown": with_args(id="unknown"), "it is so already": with_args(until_s=None)},
    ),
    "renew_credential": Rule(
        {"id": "host", "until_s": float("inf")},
        {"hosts host": {"credential_until": "infinity"}},
        {
            "unknown": with_args(id="unknown"),
            "it is so already": with_args(until_s=None),
            "it joined with a weaker credential": State("UPDATE hosts SET credential = 'join'"),
        },
        sql="UPDATE hosts SET credential = 'own' WHERE id = 'host'",
    ),
    "drop_withdrawn": Rule(
        {"host_id": "host", "kept": 0, "bytes": 1000},
        {"devices withdrawn": "gone"},
        {
            "so many are kept": with_args(kept=1),
            "another host has it": with_args(host_id="other_host"),
            "it has tags": State("UPDATE devices SET tags = '{a}' WHERE id = 'withdrawn'"),
            "its name was edited": State("UPDATE devices SET name_edited = true"),
            "its capabilities were edited": State("UPDATE devices SET capabilities_edited = true"),
            "it was disabled": State("UPDATE devices SET disabled = true"),
            "it is leased": State("UPDATE leases SET device_id = 'withdrawn' WHERE id = 'lease'"),
            "a campaign names it": State("UPDATE campaign_entries SET device_id = 'withdrawn'"),
            "an attempt holds it": State(
                "UPDATE execution_attempts SET device_id = 'withdrawn' WHERE released_at IS NULL"
                " AND execution_id = 'runs'"
            ),
            "its host declares it again": State("UPDATE devices SET withdrawn = false"),
        },
    ),
    "withdraw_devices": Rule(
        {"host_id": "host", "kept": ["busy", "held", "leased"]},
        {"devices free": {"declared": False, "withdrawn": True, "status": "offline"}},
        {
            "all are kept": with_args(kept=["free", "busy", "held", "leased"]),
            "another host declared it": State(args={"host_id": "offline_host", "kept": []}),
        },
    ),
    "store_statuses": Rule(
        _LOOKS,
        {
            "hosts host": {
                "status": "suspect",
                "reason": "probes",
                "reason_text": "three errors",
                "reason_until": "now +10 s",
                "trouble_kind": "refused",
                "trouble_text": "connection refused",
                "trouble_since": "now",
            },
            "devices free": {
                "status": "offline",
                "reason": "away",
                "reason_text": "no cable",
                "reason_until": "now +20 s",
            },
        },
        {
            "they look so already": with_args(
                host_statuses=["busy", "available"],
                reasons=[None, None],
                host_texts=[None, None],
                trouble_kinds=[None, None],
                trouble_texts=[None, None],
                statuses=["online"] * 2,
                device_reasons=[None, None],
                device_texts=[None, None],
            ),
            "unknown": with_args(host_ids=["a", "b"], device_ids=["a", "b"]),
        },
    ),
    "store_properties": Rule(
        {"id": "free", "properties": '{"os": "14"}'},
        {"devices free": {"properties": {"os": "14"}}},
        {"they are stored already": with_args(properties="{}"), "unknown": with_args(id="unknown")},
    ),
    "forget_errors": Rule(
        {"host_id": "host", "device_id": "busy"},
        {"devices busy": {"infra_errors": 0, "last_error": None, "held_until": None}},
        {
            "nothing to forget": State(
                "UPDATE devices SET infra_errors = 0, last_error = NULL, held_until = NULL"
            ),
            "of another host": with_args(host_id="offline_host"),
            "unknown": with_args(device_id="unknown"),
        },
        sql="UPDATE devices SET infra_errors = 2, last_error = 'away', held_until = now()"
        " WHERE id IN ('busy', 'free')",
    ),
    "store_seen": Rule(
        {"host_ids": ["host"]},
        {
            "hosts host": {"last_seen": "now"},
            **{
                f"devices {name}": {"last_seen": "now"}
                for name in ("free", "busy", "held", "leased", "added")
            },
        },
        {"unknown": with_args(host_ids=["unknown"])},
    ),
    "store_draining": Rule(
        {"host_id": "host", "draining": True},
        {"hosts host": {"draining": True}},
        {"unknown": with_args(host_id="unknown")},
        answers=True,
    ),
    "delete_host": Rule(
        {"id": "host"},
        {
            "hosts host": "gone",
            **{
                f"devices {name}": "gone"
                for name in ("free", "busy", "held", "leased", "withdrawn", "added")
            },
            "leases lease": "gone",
            "leases just_expired": "gone",
            "execution_attempts runs 2": {"released_at": "now"},
            "execution_attempts lost 1": {"released_at": "now"},
        },
        {
            "an attempt runs there": State(
                "UPDATE execution_attempts SET status = 'running', completed_at = NULL"
                " WHERE execution_id = 'runs' AND attempt = 2"
            ),
            "unknown": with_args(id="unknown"),
        },
        answers=True,
        sql=_ATTEMPT_OVER,
        other={
            "another host's attempt holds a device": State(
                args={"id": "offline_host"}, does={"hosts offline_host": "gone"}
            ),
        },
    ),
    "claim_instance": Rule(
        {"id": "new_server", "ttl_s": 10.0},
        {"server_instance t": {"id": "new_server", "expires_at": "now +10 s"}},
        {
            "another server's claim holds": State(
                "UPDATE server_instance SET expires_at = now() + interval '1 second'"
            ),
        },
        answers=True,
        sql="UPDATE server_instance SET expires_at = now() - interval '1 second'",
    ),
    "renew_instance": Rule(
        {"id": "server", "ttl_s": 10.0},
        {"server_instance t": {"expires_at": "now +10 s"}},
        {
            "another server has it": with_args(id="other"),
            "nobody has it": State("DELETE FROM server_instance"),
        },
        answers=True,
    ),
    "drop_instance": Rule(
        {"id": "server"},
        {"server_instance t": "gone"},
        {"another server has it": with_args(id="other")},
    ),
}

_CAMPAIGN = {
    "name": "new name",
    "description": "new",
    "stop_on_failure": True,
    "parallelism": 2,
    "priority": 60,
}

CAMPAIGNS = {
    "insert_campaign": Rule(
        {"id": "new", **_CAMPAIGN},
        {"campaigns new": "new"},
        {
            "it is stored already": State(
                args={"id": "campaign"}, raises=asyncpg.UniqueViolationError
            )
        },
    ),
    "update_campaign": Rule(
        {"id": "campaign", "versions": [2, 3], **_CAMPAIGN},
        {"campaigns campaign": {**_CAMPAIGN, "version": 4, "updated_at": "now"}},
        {
            "another version is stored": with_args(versions=[2]),
            "none may be overwritten": with_args(versions=[]),
            "unknown": with_args(id="unknown"),
        },
        answers=True,
    ),
    "delete_campaign_entries": Rule(
        {"campaign_id": "campaign"},
        {"campaign_entries campaign 0": "gone"},
        {"unknown": with_args(campaign_id="unknown")},
    ),
    "insert_campaign_entry": Rule(
        {
            "campaign_id": "campaign",
            "position": 1,
            "test_case_id": "case",
            "device_id": None,
            "host_id": None,
            "parameters": "{}",
        },
        {"campaign_entries campaign 1": "new"},
        {
            "the campaign was deleted": State(
                args={"campaign_id": "unknown"}, raises=asyncpg.ForeignKeyViolationError
            ),
            "the test case was deleted": State(
                args={"test_case_id": "unknown"}, raises=asyncpg.ForeignKeyViolationError
            ),
        },
    ),
    "delete_campaign": Rule(
        {"id": "campaign", "versions": [3]},
        {"campaigns campaign": "gone", "campaign_entries campaign 0": "gone"},
        {
            "another version is stored": with_args(versions=[2]),
            "none may be deleted": with_args(versions=[]),
            "unknown": with_args(id="unknown"),
        },
        answers=True,
    ),
}

_LEASE = {"id": "new", "device_id": "of_no_host", "holder": "bob", "ttl_s": 60.0}

DEVICES = {
    "store_lease": Rule(
        _LEASE,
        {"leases expired_lease": "gone", "leases new": "new"},
        {"somebody else's holds": with_args(device_id="leased")},
        answers=True,
        other={
            "the holder's own holds": State(
                args={"id": "lease", "device_id": "leased", "holder": "ann"},
                does={"leases lease": {"expires_at": "now +60 s"}},
            ),
            "there is none": State(args={"device_id": "free"}, does={"leases new": "new"}),
        },
    ),
    "end_lease": Rule(
        {"id": "lease"},
        {"leases lease": "gone"},
        {"another one followed": with_args(id="unknown")},
    ),
    "drop_old_leases": Rule(
        {},
        {"leases expired_lease": "gone"},
        {"none is over for a minute": State("DELETE FROM leases WHERE id = 'expired_lease'")},
    ),
    "drop_device": Rule(
        {"id": "added"},
        {"devices added": "gone", "leases just_expired": "gone"},
        {
            "its host declares it": with_args(id="free"),
            "it is busy": State("UPDATE devices SET status = 'busy' WHERE id = 'added'"),
            "it is leased": State("UPDATE devices SET status = 'leased' WHERE id = 'added'"),
            "an attempt holds it": State(
                "UPDATE execution_attempts SET device_id = 'added' WHERE execution_id = 'lost'"
            ),
            "unknown": with_args(id="unknown"),
        },
        answers=True,
        other={
            "an attempt held it once": State(
                "UPDATE execution_attempts SET device_id = 'added' WHERE execution_id = 'ended'",
                does={"devices added": "gone", "leases just_expired": "gone"},
            )
        },
    ),
}

#: Statements that only read, and whose answer decides what is done.
READS = {
    "begun_attempt": Rule(
        {"execution_id": "runs", "device_id": "busy"},
        {},
        {
            "the attempt is over": State(_ATTEMPT_OVER),
            "the execution is final": State(
                "UPDATE test_executions SET status = 'cancelled', completed_at = now()"
                " WHERE id = 'runs'"
            ),
            "the execution is queued again": State(
                "UPDATE test_executions SET status = 'queued' WHERE id = 'runs'"
            ),
            "another device": with_args(device_id="free"),
            "a later attempt": State("UPDATE test_executions SET attempt = 3 WHERE id = 'runs'"),
            "unknown": _NO_EXECUTION,
        },
        answers=True,
    ),
    "lease_of": Rule(
        {"device_id": "leased"},
        {},
        {"it is over": with_args(device_id="added"), "none": with_args(device_id="free")},
        answers=True,
    ),
    "host_of_token": Rule(
        {"hash": b"\x01"},
        {"tokens host_token": {"last_used_at": "now"}},
        {
            "it is over": State(
                "UPDATE tokens SET expires_at = now() - interval '1 second', last_used_at = now()"
            ),
            "revoked": with_args(hash=b"\x02"),
        },
        answers=True,
        other={"used just now": State("UPDATE tokens SET last_used_at = now() - interval '50 s'")},
    ),
    "token_lives": Rule(
        {"id": "token"},
        {"tokens token": {"last_used_at": "now"}},
        {
            "it is over": State("UPDATE tokens SET last_used_at = now()", {"id": "expired_token"}),
            "it is a host's": State("UPDATE tokens SET last_used_at = now()", {"id": "host_token"}),
            "revoked": with_args(id="unknown"),
        },
        answers=True,
        other={"used just now": State("UPDATE tokens SET last_used_at = now() - interval '50 s'")},
    ),
}

IMPORTS = {
    "import_executions": Rule(
        {
            "ids": ["there_1", "ended"],
            "test_case_ids": ["case", None],
            "names": ["one", "two"],
            "device_models": ["tv", "tv"],
            "host_ids": ["host", "gone"],
            "device_ids": ["free", "gone:tv"],
            "statuses": ["failed", "completed"],
            "errors": ["no picture", None],
            "outputs": [None, "report: ..."],
            "started_at": [_THEN, _THEN],
            "completed_at": [_THEN + timedelta(seconds=5), _THEN],
            "source": "there",
            "user_id": "ann",
        },
        {
            "test_executions there_1": "new",
            "execution_attempts there_1 1": "new",
            "execution_steps there_1 1 1": "new",
        },
        {"known": with_args(ids=["runs", "ended"])},
        other={
            "one twice": State(
                args={"ids": ["there_1", "there_1"]},
                does={
                    "test_executions there_1": "new",
                    "execution_attempts there_1 1": "new",
                    "execution_steps there_1 1 1": "new",
                },
            )
        },
    ),
}

RULES = {**RUNS, **LAB, **CAMPAIGNS, **DEVICES, **READS, **IMPORTS}

#: Statements of runs.sql, lab.sql and campaigns.sql that write and need no guard: why not.
UNGUARDED = {
    "insert_execution": "a new id, in the transaction of its Idempotency-Key",
    "insert_campaign_execution": "a new id, in the transaction of its Idempotency-Key",
    "insert_campaign_result": "in the transaction of insert_campaign_execution",
    "clear_instance": "only `vpt db restore` runs it, which holds the lock on the table",
}


def good(name: str) -> State:
    """Return the good state of a statement."""
    rule = RULES[name]
    return State(rule.sql, rule.args, rule.does)


def state_of(name: str, state: str) -> State:
    """Return another state of a statement."""
    rule = RULES[name]
    one = (rule.nothing | rule.other)[state]
    return replace(one, sql=f"{rule.sql}; {one.sql}", args=rule.args | one.args)
