"""The AsyncAPI document of the live events, built from the types of the events."""

from __future__ import annotations

import json
from dataclasses import asdict
from urllib.parse import urlsplit

import msgspec

from vpt import __version__
from vpt.bounds import LONGEST_ID
from vpt.config import Config
from vpt.model import (
    CampaignProgress,
    DeviceChanged,
    DeviceStatus,
    Event,
    ExecutionStatus,
    HostChanged,
    HostStatus,
    Json,
    QueueChanged,
    StepProgress,
    StepStatus,
    TestProgress,
    WaitReason,
)
from vpt.web.live.publisher import NAMES
from vpt.web.live.sockets import TOPIC_LIMIT
from vpt.web.live.transport import NAMESPACE, PATH

_ABOUT = f"""Socket.IO (protocol 5) at `{PATH}`, namespace `{NAMESPACE}`.

Connect with `auth: {{token}}` or the header `Authorization`. A client without subscriptions gets
all events; one with subscriptions gets the events of these, and `host_status` and `device_status`.
After the last `unsubscribe` it gets all events again. The events of one execution, and those of one
campaign execution, come in the order of `seq` (1, 2, 3 ...), none twice, none missing, and none
after the final one.
"""
_CHANNEL = "#/channels/events"
_ID = {"type": "string", "minLength": 1, "maxLength": LONGEST_ID}
_SEEN = "2026-01-31T12:00:00.000000Z"
_EXECUTION, _CAMPAIGN = "9be1f8a34a6b4ea5", "ce_1f2e3d4c5b6a7988"
EXAMPLES: tuple[Event, ...] = (
    TestProgress(
        _EXECUTION,
        attempt=1,
        step=2,
        total_steps=3,
        status=ExecutionStatus.RUNNING,
        step_status=StepStatus.PASSED,
        screenshot_url=f"/screenshots/{_EXECUTION}/1/2.png",
        seq=3,
        host_id="pi-1",
        device_id="pi-1:desktop",
    ),
    StepProgress(_EXECUTION, attempt=1, step=2, state={"percent": 40}),
    QueueChanged(_EXECUTION, WaitReason.ALL_BUSY, names=("pi-1:desktop",), position=2),
    CampaignProgress(_CAMPAIGN, done=2, total=5, status=ExecutionStatus.RUNNING, seq=3),
    DeviceChanged("pi-1:desktop", DeviceStatus.BUSY, _SEEN),
    HostChanged("pi-1", HostStatus.AVAILABLE, None, _SEEN),
)
#: The request of a client, and the response, which is the acknowledgement of Socket.IO.
_ASKED: Json = {
    "type": "object",
    "properties": {
        "execution_id": _ID,
        "campaign_execution_id": _ID,
        "after_seq": {
            "type": "integer",
            "minimum": 0,
            "description": "The last `seq` that you have, 0 for none: all events after it are sent"
            " before the response. Without it you get the events from now on.",
        },
    },
    "oneOf": [{"required": ["execution_id"]}, {"required": ["campaign_execution_id"]}],
}
_ANSWERED: Json = {
    "type": "object",
    "properties": {
        "ok": {"type": "boolean"},
        "seq": {"type": "integer", "description": "The `seq` of the last event that was sent to you."},
        "error": {"type": "string", "description": "What went wrong, in one sentence, when `ok` is false."},
    },
    "required": ["ok"],
}


def describe(config: Config) -> bytes:
    """Build the document of what Socket.IO sends and accepts, as JSON."""
    schemas = _schemas()
    messages = {NAMES[type(one)]: _event_message(one, schemas) for one in EXAMPLES}
    messages |= {
        "subscribe": _message(
            "Subscribe to one more execution or campaign execution.",
            "Subscription",
            {"execution_id": _EXECUTION, "after_seq": 0},
        ),
        "unsubscribe": _message(
            "End one subscription.", "Subscription", {"execution_id": _EXECUTION}
        ),
        "answer": _message("The response to a request.", "Answer", {"ok": True, "seq": 3}),
    }
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "vpt events",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"vpt": _server(config)},
        "channels": {
            "events": {
                "address": NAMESPACE,
                "description": f"At most {TOPIC_LIMIT} subscriptions for each client.",
                "messages": {name: _ref(f"#/components/messages/{name}") for name in messages},
            }
        },
        "operations": _operations(messages),
        "components": {
            "messages": messages,
            "schemas": {**schemas, "Subscription": _ASKED, "Answer": _ANSWERED},
            "securitySchemes": {
                "user": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A user's token of any role, as `auth: {token}`.",
                }
            },
        },
    }
    return json.dumps(document).encode()


def _schemas() -> Json:
    """Build the schemas of the events: every field is sent, also when it is null."""
    template = "#/components/schemas/{name}"
    types = [type(one) for one in EXAMPLES]
    _, schemas = msgspec.json.schema_components(types, ref_template=template)
    for schema in schemas.values():
        if "properties" in schema:
            schema["required"] = list(schema["properties"])
            for item in schema["properties"].values():
                item.pop("default", None)
    return schemas


def _event_message(event: Event, schemas: Json) -> Json:
    name = type(event).__name__
    return _message(schemas[name]["description"], name, asdict(event))


def _message(about: str, schema: str, example: Json) -> Json:
    return {
        "summary": about,
        "payload": _ref(f"#/components/schemas/{schema}"),
        "examples": [{"payload": example}],
    }


def _operations(messages: Json) -> Json:
    operations: Json = {}
    for name in messages:
        if name in NAMES.values():
            operations[name] = _operation("send", name)
        elif name != "answer":
            answer = {"channel": _ref(_CHANNEL), "messages": [_ref(f"{_CHANNEL}/messages/answer")]}
            operations[name] = {**_operation("receive", name), "reply": answer}
    return operations


def _operation(action: str, name: str) -> Json:
    message = _ref(f"{_CHANNEL}/messages/{name}")
    return {"action": action, "channel": _ref(_CHANNEL), "messages": [message]}


def _server(config: Config) -> Json:
    url = urlsplit(config.server_url or f"http://{config.server_host}:{config.server_port}")
    return {
        "host": url.netloc.rpartition("@")[2],
        "pathname": f"{config.prefix}{PATH}",
        "protocol": "wss" if url.scheme == "https" else "ws",
        "security": [_ref("#/components/securitySchemes/user")],
    }


def _ref(target: str) -> dict[str, str]:
    return {"$ref": target}
