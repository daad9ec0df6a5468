"""Steps with secrets: what is stored and shown has `***`, what is sent has the values.

Where a value goes there is a mark, which holds a random number of that execution, so that no text
of a step or a parameter can be taken for one. Marks become values when a step is sent.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from vpt import graphs, parameters
from vpt.errors import BadRequestError, InvalidError
from vpt.masking import LONGEST_SECRET, MASK, MOST_SECRETS, SHORTEST_SECRET
from vpt.model import Json, SecretSteps

_MARK = re.compile("\uf8ff([0-9a-f]{16})([ns]):([^\uf8ff]*)\uf8ff")
_NAMED, _VALUE = "s", "n"  # a named secret; the value of a parameter


@dataclass(frozen=True, slots=True)
class FilledSteps:
    """Steps with parameters filled in: `steps` and `parameters` are for everybody to see.

    `secret` has the steps to send, None when no step has a secret; `values` are those of the
    secret parameters that it uses, to be sealed.
    """

    steps: tuple[Json, ...]
    parameters: Json
    secret: SecretSteps | None = None
    values: Mapping[str, str] = field(default_factory=dict, repr=False)


def secret_names(declared: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the parameters that a test case marks as secret."""
    return frozenset(name for name, about in declared.items() if about.get("secret"))


def check_still_secret(
    before: Mapping[str, Any], now: Mapping[str, Any], steps: Sequence[Json]
) -> None:
    """Raise InvalidError when a secret parameter would be one no more, and nobody says so."""
    unsaid = secret_names(before) - now.keys()
    uses = parameters.uses_of(steps).keys() | graphs.names_of(steps).keys()
    if used := unsaid and unsaid & uses:
        names = ", ".join(sorted(used))
        raise InvalidError(
            {
                "parameters": [
                    f'Secret until now, and not named here: {names}. Name each with "secret" true,'
                    " or false if everybody may read its values from now on."
                ]
            }
        )


def check_values(values: Mapping[str, Any], secret: Collection[str]) -> None:
    """Raise InvalidError when a secret parameter's value is none that can be masked."""
    wrong = {
        name: [f"A secret is a string of {SHORTEST_SECRET} to {LONGEST_SECRET} characters."]
        for name in secret & values.keys()
        if not _can_be_masked(values[name])
    }
    if wrong:
        raise InvalidError({"parameters": wrong})


def check_references_only(values: Mapping[str, Any], secret: Collection[str]) -> None:
    """Raise InvalidError when a campaign, which everybody may read, has a secret's value."""
    wrong = {
        name: ["A campaign has no secret values: store a named secret, and write ${secret:NAME}."]
        for name in secret & values.keys()
        if not parameters.is_reference(values[name])
    }
    if wrong:
        raise InvalidError({"parameters": wrong})


def _can_be_masked(value: Any) -> bool:
    if not isinstance(value, str) or not SHORTEST_SECRET <= len(value) <= LONGEST_SECRET:
        return False
    return parameters.is_reference(value) or len(value.strip()) >= SHORTEST_SECRET


def fill(steps: Sequence[Json], given: Mapping[str, Any], secret: frozenset[str]) -> FilledSteps:
    """Fill in the parameters; the values of `secret` ones and named secrets stay out of sight.

    Raises InvalidError when a parameter is missing or wrong, BadRequestError when there are too
    many secrets or the steps grow too much.
    """
    check_values(given, secret)
    uses = parameters.uses_of(steps)
    parameters.check(uses, given)
    hidden = {n: given[n] for n in secret & given.keys() if not parameters.is_reference(given[n])}
    marks = _Marks(hidden)
    values = {name: marks.in_value(name, value) for name, value in given.items()}
    named = {name: marks.named(name) for name in parameters.references_of(uses)}
    without_inputs = parameters.filled_steps(steps, values | named)
    filled = tuple(marks.hide(step) for step in graphs.with_inputs(without_inputs, values))
    shown = {name: MASK if name in hidden else marks.hide(value) for name, value in given.items()}
    return _filled(filled, marks, _without_marks(shown), hidden)


class _Marks:
    """The marks of one execution."""

    def __init__(self, hidden: Mapping[str, str]) -> None:
        self.nonce = secrets.token_hex(8)
        self._hidden = sorted(hidden.items(), key=lambda item: len(item[1]), reverse=True)

    def named(self, reference: str) -> str:
        return self._mark(_NAMED, parameters.secret_of(reference))

    def in_value(self, name: str, value: Any) -> Any:
        """Return a parameter's value with marks, which for a secret one is a mark."""
        if any(name == other for other, _ in self._hidden):
            return self._mark(_VALUE, name)
        return _each_text(value, lambda text: parameters.with_references(text, self.named))

    def hide(self, item: Any) -> Any:
        """Put marks where a secret value stands in something else: in a URL, for example."""
        return _each_text(item, self._hide_in) if self._hidden else item

    def _hide_in(self, text: str) -> str:
        for name, value in self._hidden:
            text = text.replace(value, self._mark(_VALUE, name))
        return text

    def _mark(self, kind: str, name: str) -> str:
        return f"\uf8ff{self.nonce}{kind}:{name}\uf8ff"


def _filled(
    filled: tuple[Json, ...], marks: _Marks, shown: Json, hidden: Mapping[str, str]
) -> FilledSteps:
    found = {index: set(_marks_in(step, marks.nonce)) for index, step in enumerate(filled)}
    used = set().union(*found.values())
    if not used:
        return FilledSteps(filled, shown)
    if len(used) > MOST_SECRETS:
        raise BadRequestError(f"A run may have {MOST_SECRETS} secrets at most.")
    names = sorted(name for kind, name in used if kind == _NAMED)
    steps = {str(index): filled[index] for index, marked in found.items() if marked}
    return FilledSteps(
        tuple(_without_marks(step) if found[index] else step for index, step in enumerate(filled)),
        shown,
        SecretSteps(marks.nonce, names, steps),
        {name: hidden[name] for kind, name in used if kind == _VALUE},
    )


def _marks_in(item: Any, nonce: str) -> Iterator[tuple[str, str]]:
    match item:
        case str():
            yield from ((m[2], m[3]) for m in _MARK.finditer(item) if m[1] == nonce)
        case dict():
            for child in item.values():
                yield from _marks_in(child, nonce)
        case list():
            for child in item:
                yield from _marks_in(child, nonce)


def _without_marks(item: Any) -> Any:
    return _each_text(item, lambda text: _MARK.sub(MASK, text))


def targeted(step: Json, target: Mapping[str, str]) -> Json:
    """Return a step with the names of the device and the host that it is sent to filled in."""
    filled: Json = _each_text(step, lambda text: parameters.with_target(text, target))
    return filled


def revealed(
    secret: SecretSteps,
    step: int,
    named: Mapping[str, str],
    values: Mapping[str, str],
    target: Mapping[str, str] | None = None,
) -> tuple[Json | None, set[str]]:
    """Return step `step` (from 1) with its values, None when it has none; and what was missing.

    `target` fills in what the step is sent to; no secret is looked through for such names.
    """
    marked = secret.steps.get(str(step - 1))
    if marked is None:
        return None, set()
    if target is not None:
        marked = targeted(marked, target)
    known = {_NAMED: named, _VALUE: values}
    missing: set[str] = set()

    def value_of(match: re.Match[str]) -> str:
        value = known[match[2]].get(match[3]) if match[1] == secret.nonce else match[0]
        if value is None:
            missing.add(match[3])
        return value or ""

    return _each_text(marked, lambda text: _MARK.sub(value_of, text)), missing


def secrets_in(action: Json) -> tuple[str, ...]:
    """Return the names of the secrets that a manual action refers to by `${secret:name}`.

    Raises BadRequestError when there are too many, or the action would grow too much.
    """
    # Nearly no action has one: a search of its bytes costs a tenth of a walk through its texts.
    if parameters.SECRET not in orjson.dumps(action):
        return ()
    uses = parameters.reference_counts(action)
    if len(uses) > MOST_SECRETS or LONGEST_SECRET * uses.total() > parameters.MOST_ADDED:
        raise BadRequestError(
            f"An action may refer to {MOST_SECRETS} secrets at most, and"
            f" {parameters.MOST_ADDED // LONGEST_SECRET} times."
        )
    return tuple(sorted(map(parameters.secret_of, uses)))


def revealed_action(action: Json, named: Mapping[str, str]) -> Json:
    """Return a manual action with the values of its secrets; other `${name}`s stay."""

    def value_of(reference: str) -> str:
        return named[parameters.secret_of(reference)]

    filled: Json = _each_text(action, lambda text: parameters.with_references(text, value_of))
    return filled


def _each_text(item: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value with each of its texts changed; keys stay."""
    match item:
        case str():
            return change(item)
        case dict():
            return {key: _each_text(child, change) for key, child in item.items()}
        case list():
            return [_each_text(child, change) for child in item]
    return item
