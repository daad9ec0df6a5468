"""The request that starts a step on a VirtualPyTest host, in that host's own fields."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from vpt import graphs
from vpt.dialects.base import Call, HostTroubleError, Trouble
from vpt.model import Device, Host, Json

INTERFACE = "default"  # where a verification's references are, unless the step names it
#: Fields of a step that are for vpt, and mean nothing to the host.
_OWN_FIELDS = frozenset(
    (
        *("timeout_s", "retries", "continue_on_failure", "delay_s", "screenshot_on_failure"),
        *("execution_id", "attempt", "step", "device_model", "device_id"),
    )
)
_BATCH_FIELDS = frozenset(("retry_actions", "failure_actions", "userinterface_name"))


class StepKind(StrEnum):
    """What such a host can run; it is the first part of a handle."""

    ACTION = "action"
    VERIFICATION = "verification"
    GRAPH = "graph"
    SCRIPT = "script"


@dataclass(frozen=True, slots=True)
class StartRequest:
    """The request that starts a step; its end is another request, or a report."""

    kind: StepKind
    path: str
    body: Json
    by_team: bool = True  # the team's id goes into its query
    team_id: str | None = None  # the step's own, where it has one


def local_id(host: Host, device: Device) -> str:
    """Return the host's own name for a device; where it declared none, the host's name."""
    return device.local_id or host.id


def build_request(call: Call) -> StartRequest:
    """Return the request that starts a call's step."""
    step = {name: value for name, value in call.body.items() if name not in _OWN_FIELDS}
    team_id = step.pop("team_id", None)
    request = _request(call, step, local_id(call.host, call.device))
    return replace(request, team_id=team_id if isinstance(team_id, str) else None)


def _request(call: Call, step: Json, device_id: str) -> StartRequest:
    if "graph" in step:
        return _graph(call, step, device_id)
    if "script" in step:
        return _script(call, step, device_id)
    if _verifies(step):
        body = {"device_id": device_id, "verifications": _verifications(step)}
        return StartRequest(StepKind.VERIFICATION, "/host/verification/executeBatch", body)
    return StartRequest(
        StepKind.ACTION, "/host/action/executeBatch", {"device_id": device_id, **_batch(step)}
    )


def _graph(call: Call, step: Json, device_id: str) -> StartRequest:
    """Return the start of a graph; HostTroubleError when it cannot be right as it is."""
    interface = step.get("userinterface_name")
    body = {
        "graph_json": _filled_graph(call, step, device_id),
        "host_name": call.host.id,
        "device_id": device_id,
        "testcase_name": str(step.get("name") or call.body.get("execution_id") or "graph"),
        "async_execution": True,
    }
    if interface:  # without it the host finds no navigation tree
        body["userinterface_name"] = interface
    return StartRequest(StepKind.GRAPH, "/host/testcase/execute", body)


def _filled_graph(call: Call, step: Json, device_id: str) -> Json:
    environment = {
        "host_name": call.host.id,
        "device_id": device_id,
        "device_name": call.device.name,
        "device_model_name": call.device.model,
        "userinterface_name": step.get("userinterface_name"),
    }
    known = {name: value for name, value in environment.items() if isinstance(value, str)}
    try:
        return graphs.filled(step, known)
    except graphs.GraphError as error:
        raise HostTroubleError(Trouble.INVALID_STEP, str(error)) from error


def _script(call: Call, step: Json, device_id: str) -> StartRequest:
    """Return the start of a script, which knows of its device by its command line alone."""
    own = command_line(step.get("parameters"))
    place = {"--host": call.host.id, "--device": device_id}
    interface = step.get("userinterface_name")
    if isinstance(interface, str) and interface:
        place = {"--userinterface": interface, **place}
    parameters = " ".join(filter(None, (own, _missing_options(own, place))))
    body = {"script_name": step["script"], "device_id": device_id, "parameters": parameters}
    return StartRequest(StepKind.SCRIPT, "/host/script/execute", body, by_team=False)


def _missing_options(line: str, options: Mapping[str, str]) -> str:
    """Return those of these options that a command line does not have."""
    try:
        words = shlex.split(line)
    except ValueError:  # a quotation without an end
        words = line.split()
    named = {word.partition("=")[0] for word in words}
    return " ".join(
        f"{option} {shlex.quote(value)}" for option, value in options.items() if option not in named
    )


def _verifies(step: Json) -> bool:
    return (
        "verification_type" in step
        or "verifications" in step
        or step.get("action_type") == StepKind.VERIFICATION
    )


def _verifications(step: Json) -> list[Any]:
    """Return the step's list, or the step as the only item; the first names its interface."""
    interface = step.pop("userinterface_name", None) or INTERFACE
    if step.get("action_type") == StepKind.VERIFICATION:
        del step["action_type"]
    listed = step.get("verifications", [step])
    items = [_with_params(item) for item in listed] if isinstance(listed, list) else [listed]
    if items and isinstance(items[0], dict) and not items[0].get("userinterface_name"):
        items[0]["userinterface_name"] = interface
    return items


def _batch(step: Json) -> Json:
    """Return the step's list of actions, or the step as the only one, and its batch fields."""
    more = {name: step.pop(name) for name in _BATCH_FIELDS if name in step}
    listed = step.get("actions", [step])
    items = [_with_params(item) for item in listed] if isinstance(listed, list) else listed
    return {"actions": items, **more}


def _with_params(item: Any) -> Any:
    return {"params": {}, **item} if isinstance(item, dict) else item


def command_line(parameters: Any) -> str:
    """Format a script's parameters as that host parses them: `--a b`."""
    if parameters is None or isinstance(parameters, str):
        return parameters or ""
    if isinstance(parameters, Mapping):
        return " ".join(word for name, value in parameters.items() for word in _option(name, value))
    items = parameters if isinstance(parameters, list) else [parameters]
    return " ".join(shlex.quote(_word(item)) for item in items)


def _option(name: str, value: Any) -> list[str]:
    """Return an option with its value, `true` and `false` too; null leaves it out."""
    if value is None:
        return []
    option = name if name.startswith("-") else f"--{name}"
    return [option, shlex.quote(_word(value))]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
