"""`${name}` in the strings of steps, filled in from parameters.

A string that is only `${name}` takes the value with its type; `$${` is a literal `${`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vpt.errors import BadRequestError, InvalidError
from vpt.model import Json

#: Characters that values may add to all steps together: a few kilobytes could ask for gigabytes.
MOST_ADDED = 16 * 2**20

_NAME = re.compile(r"\$\$\{|\$\{([^{}]+)\}")
_ONLY = re.compile(r"\$\{([^{}]+)\}")


def fill(steps: Sequence[Json], parameters: Mapping[str, Any]) -> tuple[Json, ...]:
    """Give the steps with every `${name}` replaced.

    Raises InvalidError that lists the names nobody gave, BadRequestError when it grows too much.
    """
    filling = _Filling(parameters)
    filled = tuple({key: filling.value(item) for key, item in step.items()} for step in steps)
    if filling.missing:
        names = ", ".join(sorted(filling.missing)[:20])
        raise InvalidError({"parameters": [f"Missing: {names}."]})
    return filled


def is_name(value: Any) -> bool:
    """True for a string that is only `${name}`: it will take the value's type."""
    return isinstance(value, str) and _ONLY.fullmatch(value) is not None


class _Filling:
    """One pass over the steps: what is missing, and how much was added so far."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self.missing: set[str] = set()
        self._parameters = parameters
        self._texts: dict[str, str] = {}
        self._added = 0

    def value(self, item: Any) -> Any:
        match item:
            case str():
                return self._string(item) if "${" in item else item
            case dict():
                return {key: self.value(child) for key, child in item.items()}
            case list():
                return [self.value(child) for child in item]
        return item

    def _string(self, text: str) -> Any:
        only = _ONLY.fullmatch(text)
        if only is None:
            return _NAME.sub(self._replacement, text)
        self._text(only[1])
        return self._parameters.get(only[1])

    def _replacement(self, match: re.Match[str]) -> str:
        return "${" if match[1] is None else self._text(match[1])

    def _text(self, name: str) -> str:
        """Give the value as text: strings as they are, the rest as JSON."""
        if name not in self._parameters:
            self.missing.add(name)
            return ""
        if name not in self._texts:
            value = self._parameters[name]
            is_text = isinstance(value, str)
            self._texts[name] = value if is_text else json.dumps(value, ensure_ascii=False)
        self._added += len(self._texts[name])
        if self._added > MOST_ADDED:
            raise BadRequestError("The steps grow too large with these parameters.")
        return self._texts[name]
