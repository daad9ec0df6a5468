"""`${name}` in the strings of steps, filled in from parameters.

A string that is only `${name}` takes the value with its type; `$${` is a literal `${`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vpt.errors import BadRequestError, InvalidError
from vpt.model import Json

#: Characters that values may add to all steps together: a few kilobytes could ask for gigabytes.
MOST_ADDED = 16 * 2**20

_NAME = re.compile(r"\$\$\{|\$\{([^{}]+)\}")
_ONLY = re.compile(r"\$\{([^{}]+)\}")


def fill(steps: Sequence[Json], parameters: Mapping[str, Any]) -> tuple[Json, ...]:
    """Return the steps with every `${name}` replaced. Raises what `check` raises."""
    check(uses_of(steps), parameters)
    return tuple({key: filled(item, parameters) for key, item in step.items()} for step in steps)


def uses_of(steps: Sequence[Json]) -> Counter[str]:
    """Count how often the steps use each parameter."""
    return Counter(name for step in steps for item in step.values() for name in _names(item))


def check(uses: Mapping[str, int], parameters: Mapping[str, Any]) -> None:
    """Check that these parameters can be filled in where `uses` says.

    Raises InvalidError that lists the missing names, BadRequestError when the steps grow too much.
    """
    given = uses.keys() & parameters.keys()
    if sum(uses[name] * len(_as_text(parameters[name])) for name in given) > MOST_ADDED:
        raise BadRequestError("The steps grow too large with these parameters.")
    if missing := uses.keys() - parameters.keys():
        names = ", ".join(sorted(missing)[:20])
        raise InvalidError({"parameters": [f"Missing: {names}."]})


def filled(item: Any, parameters: Mapping[str, Any]) -> Any:
    """Return one value of a step with every `${name}` replaced; all names are known to be given."""
    match item:
        case str():
            return _filled_text(item, parameters) if "${" in item else item
        case dict():
            return {key: filled(child, parameters) for key, child in item.items()}
        case list():
            return [filled(child, parameters) for child in item]
    return item


def is_name(value: Any) -> bool:
    """Return True for a string that is only `${name}`: it will have the value's type."""
    return isinstance(value, str) and _ONLY.fullmatch(value) is not None


def _names(item: Any) -> Iterator[str]:
    match item:
        case str():
            if "${" in item:
                yield from (match[1] for match in _NAME.finditer(item) if match[1] is not None)
        case dict():
            for child in item.values():
                yield from _names(child)
        case list():
            for child in item:
                yield from _names(child)


def _filled_text(text: str, parameters: Mapping[str, Any]) -> Any:
    only = _ONLY.fullmatch(text)
    if only is not None:
        return parameters[only[1]]
    return _NAME.sub(
        lambda match: "${" if match[1] is None else _as_text(parameters[match[1]]), text
    )


def _as_text(value: Any) -> str:
    """Return a string as it is, any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
