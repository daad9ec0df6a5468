"""What a VirtualPyTest host reports of a step: still running, a result, or no result at all.

`failed` is the product's, so it needs a plain no of the host. Whatever cannot be understood is an
error of the infrastructure, never a failed step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from vpt.dialects.base import HostTroubleError, Trouble, as_text, clean, not_understood, shortened
from vpt.dialects.host_logs import LoggedFailure, failures_in, last_part, last_words, reason
from vpt.dialects.host_words import Meaning, meaning_of, meaning_of_log, meaning_of_script
from vpt.dialects.start_requests import StepKind
from vpt.model import Answer, Json

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
_INVALID_GRAPH = (
    *("Invalid graph", "Graph must contain", "No START block", "START block is not connected"),
    "Node not found",
)
#: The pictures that a verification compared, by what they show.
_COMPARED = {
    "source": ("sourceImageUrl", "source_image_path", "sourceImagePath"),
    "reference": ("referenceImageUrl", "reference_image_path", "referenceImagePath"),
    "overlay": ("resultOverlayUrl", "result_overlay_path", "overlayImagePath"),
}
_MAX_CAPTION = 100  # characters
_LINKS = {"report": "report_url", "logs": "logs_url"}


@dataclass(frozen=True, slots=True)
class StepResult:
    """How a step ended: `pictures` are the names of screenshots, the last is the newest.

    `captions` say what a picture shows, by its name; of those of verifications, too.
    """

    success: bool
    output: str | None
    error: str | None
    pictures: tuple[str, ...] = ()
    captions: Mapping[str, str] = field(default_factory=dict)


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
    failures = [] if success else failures_in(result.get("logs"))
    reasons = _reasons(items, failures)
    lines = [*_results(items, reasons), *_data(result), *_links(result)]
    if success:
        return _result(True, lines, None, result, items)
    error = next(filter(None, reasons), None) or _said_in((result, body), items, failures)
    failed = _result(False, [*lines, *_printed(result, failures)], error, result, items)
    return _judged(failed, meaning_of(error) or meaning_of_log(result.get("logs")))


def _graph(body: JsonObject, result: JsonObject) -> StepResult:
    kind = result.get("result_type")
    if kind not in ("success", "failure"):
        why = _error_in(result) or _error_in(body) or "The graph ended without a result."
        if "validation_errors" in result or is_invalid_graph(why):
            raise HostTroubleError(Trouble.INVALID_STEP, why)
        _raise_no_result(why)
    items = _objects(result.get("step_results"))
    reasons = [_block_reason(item) for item in items]
    lines = [*_results(items, reasons), *_data(result), *_links(result)]
    if kind == "success":
        return _result(True, lines, None, result, items)
    # The last block that failed led to the end: those before were dealt with.
    error = next(filter(None, reversed(reasons)), None) or _error_in(result)
    printed = (line for item in items if _failed(item) for line in _block_printed(item))
    failed = _result(False, [*lines, *printed], error, result, items)
    logs = (item.get("logs") for item in items if _failed(item))
    return _judged(
        failed, meaning_of(error) or meaning_of_log("\n".join(str(log) for log in logs if log))
    )


def is_invalid_graph(error: str) -> bool:
    """Return whether a host's error says that no host can run the graph."""
    return error.startswith(_INVALID_GRAPH)


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
    stdout, stderr = (clean(result.get(name) or None) or "" for name in ("stdout", "stderr"))
    lines = [*_links(result), stdout, stderr and f"stderr:\n{stderr}"]
    if success:
        return _result(True, lines, None, result, ())
    error = _script_error(result, code, stdout, stderr)
    failed = _result(False, lines, error, result, ())
    return _judged(failed, meaning_of_script(code, error, f"{stdout}\n{stderr}"))


def _judged(failed: StepResult, meaning: Meaning | None) -> StepResult:
    """Return a failed step; raise HostTroubleError when it is the lab that failed."""
    if meaning is None:
        return failed
    said = f"{meaning.words} ({failed.error})" if failed.error else f"{meaning.words}."
    answer = Answer(success=False, output=failed.output, error=failed.error)
    raise HostTroubleError(meaning.trouble, said, answer=answer)


def _script_error(result: JsonObject, code: Any, stdout: str, stderr: str) -> str:
    """Return why a script failed: what it said last, which is in its stdout as a rule."""
    last = last_part(stderr, _TAIL) or shortened(last_words(stdout), _MAX_MESSAGE)
    if code == 0 and last:  # it ended well, to say that the product does not
        return last
    said = _error_in(result) or f"The script failed with exit code {clean(code)}."
    return f"{said}\n{last}" if last else said


def _result(
    success: bool,
    lines: Iterable[str | None],
    error: str | None,
    result: JsonObject,
    items: Iterable[JsonObject],
) -> StepResult:
    if not success and not error:
        error = "The step failed and the host gives no reason."
    listed = tuple(items)
    pictures = tuple(name for each in (*listed, result) for name in _pictures(each))
    output = clean("\n".join(line for line in lines if line))
    return StepResult(success, output or None, clean(error), pictures, _captions(listed))


# ---------------------------------------------------------------- output and error


def _results(items: Iterable[JsonObject], reasons: Iterable[str | None]) -> Iterator[str]:
    """Return a line for each item of a batch or a graph."""
    for number, (item, why) in enumerate(zip(items, reasons, strict=True), 1):
        name = item.get("command") or item.get("block_id") or item.get("verification_type")
        message = clean(item.get("message") or item.get("error"))
        told = dict.fromkeys(clean(each) for each in (name, message, why) if each)
        words = [f"{number}.", _outcome(item), *told]
        yield " ".join(word for word in words if word)


def _reasons(
    items: Sequence[JsonObject], failures: Sequence[LoggedFailure]
) -> Sequence[str | None]:
    """Return why each item of a batch failed; the host logs those that did in the same order."""
    logged = iter(failures)
    reasons: list[str | None] = []
    for item in items:
        own = next(logged, None) if _failed(item) else None
        reasons.append(_reason(item, [own] if own else []) if _failed(item) else None)
    return reasons


def _block_reason(item: JsonObject) -> str | None:
    return _reason(item, failures_in(item.get("logs"))) if _failed(item) else None


def _reason(item: JsonObject, failures: Sequence[LoggedFailure]) -> str | None:
    """Return why an item failed: its error, its message, or what the host logged of it."""
    command = clean(item.get("command")) or ""
    message = clean(item.get("message")) or ""
    names = [name for name in (command, clean(item.get("block_id"))) if name]
    error = clean(item.get("error")) or ""
    own = reason(error, [*names, message], ())
    return _shortened(own or reason(None, names, failures) or reason(message, names, ()))


def _said_in(
    bodies: Iterable[JsonObject], items: Iterable[JsonObject], failures: Sequence[LoggedFailure]
) -> str | None:
    """Return what a batch as a whole says of its failure, where it says more than a name."""
    names = [clean(item.get("command")) or "" for item in items]
    said = (reason(_error_in(body), names, failures) for body in bodies)
    return _shortened(next(filter(None, said), None))


def _printed(body: JsonObject, failures: Iterable[LoggedFailure]) -> Iterator[str]:
    """Return what the actions that failed printed, and what the host logged of them."""
    yield from (f"output of {each.command}:\n{each.output}" for each in failures if each.output)
    logs = body.get("logs")
    if isinstance(logs, str) and logs.strip():
        yield f"logs:\n{clean(logs.strip())}"


def _block_printed(item: JsonObject) -> Iterator[str]:
    return _printed(item, failures_in(item.get("logs")))


def _failed(item: JsonObject) -> bool:
    return item.get("success") is False and item.get("skipped") is not True


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


def _captions(items: Iterable[JsonObject]) -> Mapping[str, str]:
    """Return what each picture shows: the action or block that it is of, or what was compared."""
    captions: dict[str, str] = {}
    for number, item in enumerate(items, 1):
        name = clean(item.get("command") or item.get("block_id") or item.get("message")) or "step"
        title = f"{number}. {shortened(name, _MAX_CAPTION)}"
        captions |= dict.fromkeys(_pictures(item), title)
        for what, keys in _COMPARED.items():
            captions |= dict.fromkeys(_compared(item, keys), f"{title}: {what}")
    return captions


def _compared(item: JsonObject, keys: Iterable[str]) -> Iterator[str]:
    for body in (item, _object(item.get("details")), _object(item.get("verification_data"))):
        for key in keys:
            if isinstance(body.get(key), str) and body[key]:
                yield body[key]
                return


def _object(value: Any) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
