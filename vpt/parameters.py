"""`${name}` in the strings of steps, filled in from parameters.

A string that is only `${name}` takes the value with its type; `$${` is a literal `${`.
`${secret:name}` is a named secret, in steps and in values: `vpt/secret_steps.py` fills it in.
`${device.id}` and the other `TARGET_NAMES` mean the device and the host that the step is sent to:
they stay as they are, in steps and in values, until then.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from vpt.errors import BadRequestError, InvalidError
from vpt.masking import LONGEST_SECRET
from vpt.model import Device, Host, Json

#: What a step may refer to without a parameter: what it is sent to. A parameter of the same name
#: goes before, since there may be test cases with one.
TARGET_NAMES = ("device.id", "device.local_id", "device.model", "host.name")
#: Characters that values may add to all steps together: a few kilobytes could ask for gigabytes.
MOST_ADDED = 16 * 2**20

_TARGETS = "|".join(map(re.escape, TARGET_NAMES))
#: The escape of a target's name stays until the step is sent, as the name does.
_NAME = re.compile(rf"\$\$\{{(?!(?:{_TARGETS})\}})|\$\{{([^{{}}]+)\}}")
_ONLY = re.compile(r"\$\{([^{}]+)\}")
_PREFIX = "secret:"
_TARGET = re.compile(rf"(\$?)\$\{{({_TARGETS})\}}")
_OPENING = "${" + _PREFIX
SECRET = _OPENING.encode()  #: with which a reference to a named secret begins, in JSON
_LONGEST_REFERENCE = 1000  # characters; no secret has so long a name
_REFERENCE = re.compile(r"(?<!\$)\$\{(secret:[^{}]+)\}")


def fill(steps: Sequence[Json], parameters: Mapping[str, Any]) -> tuple[Json, ...]:
    """Return the steps with every `${name}` replaced. Raises what `check` raises."""
    check(uses_of(steps), parameters)
    return filled_steps(steps, parameters)


def filled_steps(steps: Sequence[Json], parameters: Mapping[str, Any]) -> tuple[Json, ...]:
    """Return the steps with every `${name}` replaced; all names are known to be given."""
    return tuple({key: filled(item, parameters) for key, item in step.items()} for step in steps)


def is_reference(value: Any) -> bool:
    """Return True for a string that is only `${secret:name}`."""
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def references_of(names: Iterable[str]) -> set[str]:
    """Return those of these names that are a named secret's."""
    return {name for name in names if name.startswith(_PREFIX)}


def references_in(item: Any) -> set[str]:
    """Return the references to named secrets in a parameter's value."""
    return set(reference_counts(item))


def reference_counts(item: Any) -> Counter[str]:
    """Count the references to named secrets in a JSON value."""
    return Counter(match[1] for text in texts(item) for match in _references(text))


def secret_of(reference: str) -> str:
    """Return the name of the secret that `secret:name` means."""
    return reference.removeprefix(_PREFIX)


def with_references(text: str, value_of: Callable[[str], str]) -> str:
    """Return a parameter's value with each `${secret:name}` replaced."""
    parts, end = [], 0
    for match in _references(text):
        parts += [text[end : match.start()], value_of(match[1])]
        end = match.end()
    return "".join([*parts, text[end:]])


def uses_of(steps: Sequence[Json]) -> Counter[str]:
    """Count how often the steps use each parameter."""
    return Counter(name for step in steps for item in step.values() for name in _names(item))


def check(uses: Mapping[str, int], parameters: Mapping[str, Any]) -> None:
    """Check that these parameters can be filled in where `uses` says.

    Raises InvalidError that lists the missing names, BadRequestError when the steps grow too much.
    """
    if references_of(parameters):
        raise InvalidError({"parameters": ["No parameter's name begins with secret:."]})
    given = uses.keys() & parameters.keys()
    added = sum(uses[name] * _length(parameters[name]) for name in given)
    if added + LONGEST_SECRET * sum(uses[name] for name in references_of(uses)) > MOST_ADDED:
        raise BadRequestError("The steps grow too large with these parameters.")
    if missing := uses.keys() - parameters.keys() - references_of(uses) - set(TARGET_NAMES):
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


def target_values(host: Host, device: Device) -> Mapping[str, str]:
    """Return the values of `TARGET_NAMES` for a step that goes to this device.

    A device that has no name of its own on its host is the host itself.
    """
    return {
        "device.id": device.id,
        "device.local_id": device.local_id or host.id,
        "device.model": device.model or "",
        "host.name": host.id,
    }


def with_target(text: str, values: Mapping[str, str]) -> str:
    """Return a text with the names of its target replaced; `$${device.id}` is `${device.id}`."""
    if "${" not in text:
        return text
    return _TARGET.sub(lambda match: match[0][1:] if match[1] else values[match[2]], text)


def _names(item: Any) -> Iterator[str]:
    for text in texts(item):
        if "${" in text:
            yield from (match[1] for match in _NAME.finditer(text) if match[1] is not None)


def _references(text: str) -> Iterator[re.Match[str]]:
    """Yield the references in a text.

    Searched by their beginning: a search by the expression takes ten times as long, in which nobody
    else gets the interpreter.
    """
    at = text.find(_OPENING)
    while at >= 0:
        match = _REFERENCE.match(text, at, at + _LONGEST_REFERENCE)
        if match is not None:
            yield match
        at = text.find(_OPENING, at + 1)


def texts(item: Any) -> Iterator[str]:
    """Yield the texts in a JSON value; keys are none of them."""
    match item:
        case str():
            yield item
        case dict():
            for child in item.values():
                yield from texts(child)
        case list():
            for child in item:
                yield from texts(child)


def _filled_text(text: str, parameters: Mapping[str, Any]) -> Any:
    only = _ONLY.fullmatch(text)
    if only is not None:
        return parameters.get(only[1], text)
    return _NAME.sub(lambda m: "${" if m[1] is None else _as_text(parameters.get(m[1], m[0])), text)


def _length(value: Any) -> int:
    """Return the length of a value, a named secret counted as the longest."""
    text = _as_text(value)
    return len(text) + LONGEST_SECRET * sum(1 for _ in _references(text))


def _as_text(value: Any) -> str:
    """Return a string as it is, any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
