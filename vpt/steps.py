"""The keys of a step that the server itself reads; every other key is for the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from vpt.bounds import LONGEST_TIMEOUT_S, MOST_STEP_RETRIES
from vpt.errors import InvalidError
from vpt.model import Json
from vpt.parameters import is_name


@dataclass(frozen=True, slots=True)
class KeyRule:
    """What may stand at one key: a `kind` of JSON Schema, and bounds where it is a number."""

    about: str
    kind: str
    lowest: float = 0
    highest: float = 0
    above_lowest: bool = False  # the lowest number itself is too low

    def errors(self, value: Any) -> list[str]:
        """Return what is wrong with a value, in the words that all bodies are refused with."""
        wrong = _NOT_OF_KIND[self.kind](value)
        if wrong:
            return [wrong]
        if self.kind == "boolean" or self._in_bounds(value):
            return []
        low = "greater than" if self.above_lowest else "greater than or equal to"
        return [f"Must be {low} {self.lowest} and less than or equal to {self.highest}."]

    def _in_bounds(self, value: float) -> bool:
        enough = value > self.lowest if self.above_lowest else value >= self.lowest
        return enough and value <= self.highest


STEP_KEYS: Mapping[str, KeyRule] = {
    "timeout_s": KeyRule(
        "Seconds that the step may take.", "number", 0, LONGEST_TIMEOUT_S, above_lowest=True
    ),
    "retries": KeyRule(
        "How often the step is repeated when the host reports that it failed.",
        "integer",
        0,
        MOST_STEP_RETRIES,
    ),
    "continue_on_failure": KeyRule(
        "Go on with the next step when this one failed; the execution is still `failed`.",
        "boolean",
    ),
    "delay_s": KeyRule("Seconds to wait before the step.", "number", 0, LONGEST_TIMEOUT_S),
}


def step_errors(step: Json, *, filled_in: bool) -> dict[str, Any]:
    """Return what is wrong with the server's keys; until filled in, `${name}` may stand there."""
    errors = {}
    for key, rule in STEP_KEYS.items():
        if key not in step or (not filled_in and is_name(step[key])):
            continue
        if wrong := rule.errors(step[key]):
            errors[key] = wrong
    return errors


def check_steps(steps: Sequence[Json]) -> None:
    """Raise InvalidError when parameters put a wrong value at one of the server's keys."""
    errors: dict[int, object] = {
        index: wrong
        for index, step in enumerate(steps)
        if (wrong := step_errors(step, filled_in=True))
    }
    if errors:
        raise InvalidError({"steps": errors})


def _not_a_boolean(value: Any) -> str:
    return "" if isinstance(value, bool) else _none_or(value, "Not a valid boolean.")


def _not_an_integer(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():  # JSON may write it 1.0
        return ""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return "" if whole else _none_or(value, "Not a valid integer.")


def _not_a_number(value: Any) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return _none_or(value, "Not a valid number.")
    try:
        finite = isfinite(value)
    except OverflowError:
        return "Number too large."
    return "" if finite else "Special numeric values (nan or infinity) are not permitted."


def _none_or(value: Any, wrong: str) -> str:
    return "Field may not be null." if value is None else wrong


_NOT_OF_KIND = {
    "boolean": _not_a_boolean,
    "integer": _not_an_integer,
    "number": _not_a_number,
}
