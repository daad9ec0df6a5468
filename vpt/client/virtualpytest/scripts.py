"""Calls of a script of a VirtualPyTest host: calls with equal parameters share a test case."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

from vpt.model import Json

#: What vpt adds itself: where the step runs.
_OF_PLACE = frozenset(("host", "device", "userinterface", "userinterface_name"))


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """A script, its userinterface and its parameters: by name, or a text that cannot be read so."""

    script: str
    interface: str
    parameters: Json | str

    @property
    def values(self) -> Json:
        """The values that a run gives to the parameters of the test case."""
        return self.parameters if isinstance(self.parameters, dict) else {}

    @property
    def title(self) -> str:
        """The name of the test case: script, parameters by name, userinterface."""
        on = f" on {self.interface}" if self.interface else ""
        return f"{' '.join([self.script, *self._options()])}{on}"

    def _options(self) -> list[str]:
        if isinstance(self.parameters, str):
            return [self.parameters] if self.parameters else []
        return [f"--{name}" for name in sorted(self.parameters)]

    @property
    def step(self) -> Json:
        """The step that runs the script, with a reference in place of each value."""
        made: Json = {"script": self.script}
        if self.interface:
            made["userinterface_name"] = self.interface
        if isinstance(self.parameters, str):
            return made | ({"parameters": self.parameters} if self.parameters else {})
        references = {name: f"${{{name}}}" for name in sorted(self.parameters)}
        return made | ({"parameters": references} if references else {})


def read_parameters(told: Any) -> Json | str:
    """Return the parameters of a call, by name where they are an object or `--name value ...`."""
    if isinstance(told, str):
        return _options_of(told)
    pairs = told.items() if isinstance(told, dict) else ()
    return {
        str(name): value
        for name, value in pairs
        if value is not None and name not in _OF_PLACE and not {"{", "}"} & set(str(name))
    }


def _options_of(text: str) -> Json | str:
    try:
        words = shlex.split(text)
    except ValueError:
        return text
    names, values = words[::2], words[1::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        return text.replace("${", "$${")
    return {
        name.removeprefix("--"): _value(value)
        for name, value in zip(names, values, strict=True)
        if name.removeprefix("--") not in _OF_PLACE
    }


def _value(text: str) -> Any:
    """Return a number or a boolean as such, where JSON writes it the same; else the text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    plain = isinstance(value, bool | int | float) and json.dumps(value) == text
    return value if plain else text
