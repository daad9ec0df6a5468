"""The fields of a step that the server itself reads; all others are for the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError
from marshmallow import fields as f

from vpt.model import Json
from vpt.steps import STEP_KEYS, KeyRule, step_errors
from vpt.web.schemas import fields


def _field(key: KeyRule) -> f.Field[Any]:
    """Build the field that describes one of the server's keys of a step."""
    if key.kind == "boolean":
        return fields.Flag(metadata=fields.about(key.about))
    if key.kind == "integer":
        return fields.bounded(key.about, int(key.lowest), int(key.highest))
    return fields.seconds(key.about, zero=not key.above_lowest)


#: For the API's description; `vpt.steps` checks these keys.
STEP_FIELDS: Mapping[str, f.Field[Any]] = {name: _field(key) for name, key in STEP_KEYS.items()}

#: A parameter, as JSON Schema has it: it may replace the value of any of these fields.
PARAMETER: Json = {"type": "string", "pattern": r"^\$\{[^{}]+\}$"}


_WAYS = [("start", "go", "success"), ("go", "good", "success"), ("go", "bad", "failure")]
_EDGES: list[Json] = [{"source": a, "target": b, "sourceHandle": how} for a, b, how in _WAYS]


def _graph(kind: str, **data: Any) -> Json:
    """Build the graph of one block that may fail."""
    ends: list[Json] = [
        {"id": "good", "type": "success", "data": {}},
        {"id": "bad", "type": "failure", "data": {}},
    ]
    start: Json = {"id": "start", "type": "start", "data": {}}
    return {"nodes": [start, {"id": "go", "type": kind, "data": data}, *ends], "edges": _EDGES}


#: A step of each kind, for the API's description: docs/virtualpytest.md has more about all but the
#: first.
STEP_EXAMPLES: list[Json] = [
    {"command": "http_request", "action_type": "desktop", "params": {"url": "${url}"}},
    {
        "actions": [{"command": "press_key", "action_type": "remote", "params": {"key": "HOME"}}],
        "retry_actions": [
            {"command": "press_key", "action_type": "remote", "params": {"key": "BACK"}}
        ],
    },
    {
        "command": "waitForTextToAppear",
        "verification_type": "text",
        "userinterface_name": "shopui",
        "params": {"text": "News", "timeout": 10},
    },
    {
        "name": "tap",
        "graph": _graph("action", command="tap", action_type="remote", params={"x": 1, "y": 2}),
    },
    {
        "userinterface_name": "shopui",
        "graph": _graph("navigation", target_node_label="basket"),
    },
    {
        "script": "zap.py",
        "userinterface_name": "shopui",
        "parameters": {"action": "${action}", "max_iteration": 3, "goto_live": True},
        "timeout_s": 3600,
    },
]


class Step(f.Dict):
    """A step as a JSON object, of which only STEP_FIELDS are checked."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        if not isinstance(value, dict):
            raise self.make_error("invalid")
        if errors := step_errors(value, filled_in=False):
            raise ValidationError(errors)
        return value
