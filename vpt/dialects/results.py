"""What a VirtualPyTest host's words mean: still running, a verdict, or no verdict at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from vpt.dialects.base import HostTroubleError, Trouble, clean
from vpt.dialects.start_requests import Kind
from vpt.model import Json

Words = Mapping[str, Any]

_ENDS = ("completed", "error", "failed")
_ALL = 100  # percent
_MOST_BLOCKS = 1000
_LONGEST = 1000  # characters of a message or an error
_TAIL = 2000  # characters of stderr that stand in an error
_PICTURES = (
    *("action_screenshots", "verification_screenshots", "screenshots"),
    *("screenshot_path", "screenshot_url"),
)
_LINKS = {"report": "report_url", "logs": "logs_url"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """How it ended: `pictures` are the names of screenshots, the last is the newest."""

    success: bool
    output: str | None
    error: str | None
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Moving:
    """It runs: where it stands."""

    at: Json = field(default_factory=dict)


def meaning_of(kind: Kind, said: Words) -> Verdict | Moving:
    """Read the answer to a poll; HostTroubleError when the host could not do its work."""
    state = said.get("status")
    if kind is Kind.GRAPH and isinstance(state, dict):
        said, state = state, state.get("status")
    if not isinstance(state, str):
        if said.get("success") is False:
            raise HostTroubleError(
                Trouble.FATE_UNKNOWN, _told(said) or "The host forgot what it began."
            )
        _no_verdict("The host's answer has no status in it.")
    if state not in _ENDS:
        return Moving(_blocks(said) if kind is Kind.GRAPH else _progress(said))
    if kind is Kind.GRAPH:
        return _graph(said, _object(said.get("result")))
    return _batch(state, said, _object(said.get("result")))


def _batch(state: str, said: Words, result: Words) -> Verdict:
    """Read the end of a batch: an `error` without a failed result is the host's own failure."""
    success = result.get("success")
    if not isinstance(success, bool) or (success and state != "completed"):
        _no_verdict(_told(said) or _told(result) or "The host could not do it and says not why.")
    items = _objects(result.get("results"))
    lines = [*_results(items), *_data(result), *_links(result)]
    error = None if success else _first_failure(items) or _told(result) or _told(said)
    return _verdict(success, lines, error, result, items)


def _graph(said: Words, result: Words) -> Verdict:
    kind = result.get("result_type")
    if kind not in ("success", "failure"):
        _no_verdict(_told(result) or _told(said) or "The graph ended without a result.")
    items = _objects(result.get("step_results"))
    lines = [*_results(items), *_data(result), *_links(result)]
    error = None if kind == "success" else _told(result) or _first_failure(items)
    return _verdict(kind == "success", lines, error, result, items)


def script_verdict(said: Words) -> Verdict:
    """Read the callback at a script's end."""
    result = said.get("result")
    if not isinstance(result, dict):
        _no_verdict(_told(said) or "The script ended without a result.")
    success, code = result.get("script_success"), result.get("exit_code")
    if success is None and type(code) is int:  # true is no code
        success = code == 0
    if not isinstance(success, bool):
        _no_verdict(_told(result) or "The host does not say how the script ended.")
    stderr = clean(result.get("stderr") or None)
    lines = [*_links(result), clean(result.get("stdout") or None), stderr and f"stderr:\n{stderr}"]
    words = _told(result) or f"The script failed with exit code {clean(code)}."
    error = None if success else words + (f"\n{stderr[-_TAIL:]}" if stderr else "")
    return _verdict(success, lines, error, result, ())


def _verdict(
    success: bool,
    lines: Iterable[str | None],
    error: str | None,
    result: Words,
    items: Iterable[Words],
) -> Verdict:
    if not success and not error:
        error = "The host says no, and not why."
    pictures = tuple(name for each in (*items, result) for name in _pictures(each))
    output = clean("\n".join(line for line in lines if line))
    return Verdict(success, output or None, clean(error), pictures)


# ---------------------------------------------------------------- in words


def _results(items: Iterable[Words]) -> Iterator[str]:
    """Give a line for each thing that was done."""
    for number, item in enumerate(items, 1):
        name = item.get("command") or item.get("block_id") or item.get("verification_type")
        said = clean(item.get("message") or item.get("error"))
        words = [f"{number}.", _outcome(item), *(clean(each) for each in (name, said) if each)]
        yield " ".join(word for word in words if word)


def _outcome(item: Words) -> str:
    if item.get("skipped") is True:
        return "skipped"
    success = item.get("success")
    return ("passed" if success else "failed") if isinstance(success, bool) else ""


def _data(result: Words) -> Iterator[str]:
    data = result.get("output_data")
    if data:
        yield f"output_data: {data if isinstance(data, str) else _json(data)}"


def _json(data: Any) -> str:
    try:
        return json.dumps(data, ensure_ascii=False)
    except RecursionError:
        return "[not a text]"


def _links(result: Words) -> Iterator[str]:
    for name, key in _LINKS.items():
        if isinstance(result.get(key), str) and result[key]:
            yield f"{name}: {result[key]}"


def _first_failure(items: Iterable[Words]) -> str | None:
    for item in items:
        if item.get("success") is False and item.get("skipped") is not True:
            return _short(item.get("message") or item.get("error"))
    return None


def _told(said: Words) -> str | None:
    return _short(said.get("error"))


def _short(said: Any) -> str | None:
    words = clean(said) if said else None
    return words[:_LONGEST] if words else None


def _no_verdict(words: str) -> NoReturn:
    raise HostTroubleError(Trouble.HOST_ERROR, words)


# ---------------------------------------------------------------- where it stands


def _progress(said: Words) -> Json:
    progress = said.get("progress")
    known = isinstance(progress, (int, float)) and 0 <= progress <= _ALL
    return {"progress": progress if known else None, "message": _short(said.get("message"))}


def _blocks(said: Words) -> Json:
    """Give each block's state as one word."""
    states = list(_object(said.get("block_states")).items())[:_MOST_BLOCKS]
    blocks = {_short(name) or "": _short(_state(state)) for name, state in states}
    return {"current_block": _short(said.get("current_block_id")), "blocks": blocks}


def _state(state: Any) -> Any:
    return state.get("status") if isinstance(state, dict) else state


# ---------------------------------------------------------------- small change


def _pictures(said: Words) -> Iterator[str]:
    """Give the screenshots that an object names, in its order."""
    for key in _PICTURES:
        named = said.get(key)
        for name in named if isinstance(named, list) else [named]:
            if isinstance(name, str) and name:
                yield name


def _object(said: Any) -> Words:
    return said if isinstance(said, dict) else {}


def _objects(said: Any) -> list[Words]:
    return [each for each in said if isinstance(each, dict)] if isinstance(said, list) else []
