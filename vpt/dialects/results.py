"""What a VirtualPyTest host reports of a step: still running, a result, or no result at all.

`failed` is the product's, so it needs a plain no of the host. Whatever cannot be understood is an
error of the infrastructure, never a failed step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from vpt.dialects.base import HostTroubleError, Trouble, as_text, clean, not_understood, shortened
from vpt.dialects.start_requests import StepKind
from vpt.model import Json

JsonObject = Mapping[str, Any]

_ENDS = ("completed", "error", "failed")
_ALL = 100  # percent
_MAX_BLOCKS = 1000
_MAX_MESSAGE = 1000  # characters of a message or an error
_TAIL = 2000  # characters of stderr that stand in an error
_PICTURES = (
    *("action_screenshots", "verification_screenshots", "screenshots"),
    *("screenshot_path", "screenshot_url"),
)
_LINKS = {"report": "report_url", "logs": "logs_url"}


@dataclass(frozen=True, slots=True)
class StepResult:
    """How a step ended: `pictures` are the names of screenshots, the last is the newest."""

    success: bool
    output: str | None
    error: str | None
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StillRunning:
    """The step runs; `progress` is how far it is."""

    progress: Json = field(default_factory=dict)


def read_status(kind: StepKind, body: JsonObject) -> StepResult | StillRunning:
    """Return what a poll's response says; raise HostTroubleError when there will be no result."""
    state = body.get("status")
    if kind is StepKind.GRAPH and isinstance(state, dict):
        body, state = state, state.get("status")
    if not isinstance(state, str):
        if body.get("success") is False:
            error = _error_in(body) or "The host does not know the step any more."
            raise HostTroubleError(Trouble.FATE_UNKNOWN, error)
        raise not_understood("The host answered without a status.")
    if state not in _ENDS:
        return StillRunning(_blocks(body) if kind is StepKind.GRAPH else _progress(body))
    if kind is StepKind.GRAPH:
        return _graph(body, _object(body.get("result")))
    return _batch(state, body, _object(body.get("result")))


def _batch(state: str, body: JsonObject, result: JsonObject) -> StepResult:
    """Read the end of a batch: an `error` without a failed result is the host's own failure."""
    success = result.get("success")
    if not isinstance(success, bool) or (success and state != "completed"):
        error = _error_in(body) or _error_in(result)
        _raise_no_result(error or "The host could not run the step and gives no reason.")
    items = _objects(result.get("results"))
    lines = [*_results(items), *_data(result), *_links(result)]
    error = None if success else _first_failure(items) or _error_in(result) or _error_in(body)
    return _result(success, lines, error, result, items)


def _graph(body: JsonObject, result: JsonObject) -> StepResult:
    kind = result.get("result_type")
    if kind not in ("success", "failure"):
        error = _error_in(result) or _error_in(body)
        _raise_no_result(error or "The graph ended without a result.")
    items = _objects(result.get("step_results"))
    lines = [*_results(items), *_data(result), *_links(result)]
    error = None if kind == "success" else _error_in(result) or _first_failure(items)
    return _result(kind == "success", lines, error, result, items)


def script_result(body: JsonObject) -> StepResult:
    """Return the result that the callback at a script's end reports."""
    result = body.get("result")
    if not isinstance(result, dict):
        _raise_no_result(_error_in(body) or "The script ended without a result.")
    success, code = result.get("script_success"), result.get("exit_code")
    if success is None and type(code) is int:  # True is an int, and no exit code
        success = code == 0
    if not isinstance(success, bool):
        _raise_no_result(_error_in(result) or "The host does not say how the script ended.")
    stderr = clean(result.get("stderr") or None)
    lines = [*_links(result), clean(result.get("stdout") or None), stderr and f"stderr:\n{stderr}"]
    reason = _error_in(result) or f"The script failed with exit code {clean(code)}."
    error = None if success else reason + (f"\n{stderr[-_TAIL:]}" if stderr else "")
    return _result(success, lines, error, result, ())


def _result(
    success: bool,
    lines: Iterable[str | None],
    error: str | None,
    result: JsonObject,
    items: Iterable[JsonObject],
) -> StepResult:
    if not success and not error:
        error = "The step failed and the host gives no reason."
    pictures = tuple(name for each in (*items, result) for name in _pictures(each))
    output = clean("\n".join(line for line in lines if line))
    return StepResult(success, output or None, clean(error), pictures)


# ---------------------------------------------------------------- output and error


def _results(items: Iterable[JsonObject]) -> Iterator[str]:
    """Return a line for each item of a batch or a graph."""
    for number, item in enumerate(items, 1):
        name = item.get("command") or item.get("block_id") or item.get("verification_type")
        message = clean(item.get("message") or item.get("error"))
        words = [f"{number}.", _outcome(item), *(clean(each) for each in (name, message) if each)]
        yield " ".join(word for word in words if word)


def _outcome(item: JsonObject) -> str:
    if item.get("skipped") is True:
        return "skipped"
    success = item.get("success")
    return ("passed" if success else "failed") if isinstance(success, bool) else ""


def _data(result: JsonObject) -> Iterator[str]:
    data = result.get("output_data")
    if data:
        shown = data if isinstance(data, str) else as_text(data, ensure_ascii=False)
        yield f"output_data: {shown}"


def _links(result: JsonObject) -> Iterator[str]:
    for name, key in _LINKS.items():
        if isinstance(result.get(key), str) and result[key]:
            yield f"{name}: {result[key]}"


def _first_failure(items: Iterable[JsonObject]) -> str | None:
    for item in items:
        if item.get("success") is False and item.get("skipped") is not True:
            return _shortened(item.get("message") or item.get("error"))
    return None


def _error_in(body: JsonObject) -> str | None:
    return _shortened(body.get("error"))


def _shortened(value: Any) -> str | None:
    text = clean(value) if value else None
    return shortened(text, _MAX_MESSAGE) if text else None


def _raise_no_result(message: str) -> NoReturn:
    raise HostTroubleError(Trouble.HOST_ERROR, message)


# ---------------------------------------------------------------- progress


def _progress(body: JsonObject) -> Json:
    progress = body.get("progress")
    known = isinstance(progress, (int, float)) and 0 <= progress <= _ALL
    return {"progress": progress if known else None, "message": _shortened(body.get("message"))}


def _blocks(body: JsonObject) -> Json:
    """Return the state of each block of a graph."""
    states = list(_object(body.get("block_states")).items())[:_MAX_BLOCKS]
    blocks = {_shortened(name) or "": _shortened(_state(state)) for name, state in states}
    return {"current_block": _shortened(body.get("current_block_id")), "blocks": blocks}


def _state(state: Any) -> Any:
    return state.get("status") if isinstance(state, dict) else state


# ---------------------------------------------------------------- helpers


def _pictures(body: JsonObject) -> Iterator[str]:
    """Return the names of the screenshots in an object, in its order."""
    for key in _PICTURES:
        named = body.get(key)
        for name in named if isinstance(named, list) else [named]:
            if isinstance(name, str) and name:
                yield name


def _object(value: Any) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
