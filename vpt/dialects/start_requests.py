"""What a VirtualPyTest host is asked to do: a step in that host's own words."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vpt.dialects.base import Call
from vpt.model import Device, Host, Json

INTERFACE = "default"  # where a verification's references are, unless the step names it
_OURS = frozenset(
    (
        *("timeout_s", "retries", "continue_on_failure", "delay_s"),
        *("execution_id", "attempt", "step", "device_model", "device_id"),
    )
)
_OF_THE_BATCH = frozenset(("retry_actions", "failure_actions"))


class Kind(StrEnum):
    """What such a host can do; the first word of a handle."""

    ACTION = "action"
    VERIFICATION = "verification"
    GRAPH = "graph"
    SCRIPT = "script"


@dataclass(frozen=True, slots=True)
class Order:
    """A request that begins something."""

    kind: Kind
    path: str
    body: Json
    by_team: bool = True  # the team's id goes with it


def local_id(host: Host, device: Device) -> str:
    """Give the host's own name for a device; where it declared none, the host's name."""
    return device.local_id or host.id


def order_of(call: Call) -> Order:
    """Put a step in the host's words."""
    step = {name: value for name, value in call.body.items() if name not in _OURS}
    device_id = local_id(call.host, call.device)
    if "graph" in step:
        return _graph(call, step, device_id)
    if "script" in step:
        return _script(step, device_id)
    if _verifies(step):
        body = {"device_id": device_id, "verifications": _verifications(step)}
        return Order(Kind.VERIFICATION, "/host/verification/executeBatch", body)
    return Order(Kind.ACTION, "/host/action/executeBatch", {"device_id": device_id, **_batch(step)})


def _graph(call: Call, step: Json, device_id: str) -> Order:
    body = {
        "graph_json": step["graph"],
        "host_name": call.host.id,
        "device_id": device_id,
        "testcase_name": str(step.get("name") or call.body.get("execution_id") or "graph"),
        "async_execution": True,
    }
    return Order(Kind.GRAPH, "/host/testcase/execute", body)


def _script(step: Json, device_id: str) -> Order:
    parameters = command_line(step.get("parameters"))
    body = {"script_name": step["script"], "device_id": device_id, "parameters": parameters}
    return Order(Kind.SCRIPT, "/host/script/execute", body, by_team=False)


def _verifies(step: Json) -> bool:
    return (
        "verification_type" in step
        or "verifications" in step
        or step.get("action_type") == Kind.VERIFICATION
    )


def _verifications(step: Json) -> list[Any]:
    """Give the step's list, or the step as the only one; the first names its interface."""
    interface = step.pop("userinterface_name", None) or INTERFACE
    if step.get("action_type") == Kind.VERIFICATION:
        del step["action_type"]
    listed = step.get("verifications", [step])
    items = [_with_params(item) for item in listed] if isinstance(listed, list) else [listed]
    if items and isinstance(items[0], dict) and not items[0].get("userinterface_name"):
        items[0]["userinterface_name"] = interface
    return items


def _batch(step: Json) -> Json:
    """Give the step's list of actions, or the step as the only one, and what goes with it."""
    more = {name: step.pop(name) for name in _OF_THE_BATCH if name in step}
    listed = step.get("actions", [step])
    items = [_with_params(item) for item in listed] if isinstance(listed, list) else listed
    return {"actions": items, **more}


def _with_params(item: Any) -> Any:
    return {"params": {}, **item} if isinstance(item, dict) else item


def command_line(parameters: Any) -> str:
    """Write a script's parameters as that host reads them: `--a b`."""
    if parameters is None or isinstance(parameters, str):
        return parameters or ""
    if isinstance(parameters, Mapping):
        return " ".join(word for name, value in parameters.items() for word in _option(name, value))
    items = parameters if isinstance(parameters, list) else [parameters]
    return " ".join(shlex.quote(_word(item)) for item in items)


def _option(name: str, value: Any) -> list[str]:
    """Give an option; true makes it a flag, false and null leave it out."""
    if value is None or value is False:
        return []
    option = name if name.startswith("-") else f"--{name}"
    return [option] if value is True else [option, shlex.quote(_word(value))]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
