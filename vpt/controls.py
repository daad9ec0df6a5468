"""What can be done by hand with a device, made of what its host declared, for forms.

Hosts declare actions by category, in two ways: with values (`{"key": "POWER"}`) and perhaps one
input of a person, or with a description of each parameter (`{"type": "number", "default": 3}`).
Both become the same. What cannot be understood is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vpt.model import Json

MOST_ACTIONS, MOST_ELEMENTS = 500, 2000
_MOST_FIELDS = 50
_LONGEST = 500  # characters of a text that is shown
#: The input of a person goes to this parameter, where a host does not say to which.
_INPUTS = {"execute_bash_command": "command", "launch_app": "package", "navigate": "url"}
_KINDS = {
    **dict.fromkeys(("number", "float", "double"), "number"),
    **dict.fromkeys(("integer", "int"), "whole"),
    **dict.fromkeys(("boolean", "bool"), "flag"),
}
_SIDES = ("left", "top", "right", "bottom")
_SHELL = "execute_bash_command"
TAP = "tap_coordinates"
ELEMENTS = "dump_elements"
#: Families whose devices an unmodified VirtualPyTest host can show, tap on and describe.
_SHOWN, _TAPPED = "av", "remote"


def actions_of(schema: Mapping[str, Any]) -> list[Json]:
    """Return the actions and verifications of a device's schema, each with its fields."""
    declared = (
        *_declared(schema.get("action_types"), "action"),
        *_declared(schema.get("verification_types"), "verification"),
    )
    return list(declared)[:MOST_ACTIONS]


def abilities_of(
    dialect: str, capabilities: Iterable[str], commands: Iterable[str]
) -> dict[str, bool]:
    """Return what a device's page can offer beside its actions."""
    words, known = set(capabilities), set(commands)
    if dialect == "virtualpytest":
        remote = _TAPPED in words
        return {
            "picture": remote or _SHOWN in words,
            "stream": _SHOWN in words,
            "tap": remote,
            "elements": remote,
            "shell": _SHELL in known,
            "care": True,
            "power": "power" in words,
        }
    return {
        "picture": "screenshot" in words,
        "stream": False,
        "tap": TAP in known,
        "elements": ELEMENTS in known,
        "shell": _SHELL in known and "shell" in words,
        "care": False,
        "power": False,
    }


def elements_of(dumped: Any) -> list[Json]:
    """Return the elements that a host found on a screen, each with what people know it by."""
    return [_element(item) for item in _list(dumped)[:MOST_ELEMENTS] if isinstance(item, dict)]


def _element(item: Json) -> Json:
    bounds = {side: _number(_mapping(item.get("bounds")).get(side)) for side in _SIDES}
    return {
        "id": _text(str(item.get("id") or "")),
        "text": _text(item.get("text")),
        "description": _text(item.get("contentDesc")),
        "type": _text(item.get("className")),
        "bounds": None if None in bounds.values() else bounds,
        "clickable": item.get("clickable") is True,
    }


def _declared(by_category: Any, kind: str) -> Iterator[Json]:
    for category, items in _items(by_category):
        for item in items if isinstance(items, list) else ():
            action = _action(item, str(category), kind) if isinstance(item, dict) else None
            if action is not None:
                yield action


def _action(item: Json, category: str, kind: str) -> Json | None:
    command = item.get("command")
    if not isinstance(command, str) or not 0 < len(command) <= _LONGEST:
        return None
    fields = list(_fields(item, command))[:_MOST_FIELDS]
    named = {field["name"] for field in fields}
    fixed = {
        name: value
        for name, value in _items(item.get("params"))
        if name not in named and not _is_described(value)
    }
    return {
        "kind": kind,
        "category": category[:_LONGEST],
        "command": command,
        "type": _text(item.get(f"{kind}_type")) or category[:_LONGEST].lower(),
        "label": _text(item.get("label")) or command,
        "description": _text(item.get("description")),
        "params": fixed,
        "fields": fields,
    }


def _fields(item: Json, command: str) -> Iterator[Json]:
    """Return the fields that a person fills in."""
    for name, value in _items(item.get("params")):
        if _is_described(value):
            yield _field(str(name), value)
    if item.get("requiresInput") is True:
        name = item.get("inputParam") or _INPUTS.get(command)
        label = _text(item.get("inputLabel"))
        hint = _text(item.get("inputPlaceholder"))
        if isinstance(name, str) and name:
            yield _plain_field(name, label or name, hint, "text")
        else:  # the host does not say which parameter it is
            yield _plain_field("", label or "Parameters", hint, "json")


def _field(name: str, said: Json) -> Json:
    kind = str(said.get("type")).lower()
    default = said.get("default")
    options = [each for each in _list(said.get("options")) if isinstance(each, str | int | float)]
    return {
        **_plain_field(name, name, _text(said.get("placeholder")), _KINDS.get(kind, "text")),
        "required": said.get("required") is True,
        "default": default if isinstance(default, str | int | float | bool) else None,
        "hint": _text(said.get("description")),
        "min": _number(said.get("min")),
        "max": _number(said.get("max")),
        "options": options or None,
        **({"kind": "json"} if kind in ("area", "object", "array", "dict", "list") else {}),
    }


def _plain_field(name: str, label: str, placeholder: str | None, kind: str) -> Json:
    return {
        "name": name[:_LONGEST],
        "label": label,
        "kind": kind,
        "required": True,
        "default": None,
        "hint": None,
        "placeholder": placeholder,
        "min": None,
        "max": None,
        "options": None,
    }


def _is_described(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("type"), str)


def _mapping(said: Any) -> Json:
    return said if isinstance(said, dict) else {}


def _items(said: Any) -> Iterable[tuple[Any, Any]]:
    return _mapping(said).items()


def _list(said: Any) -> list[Any]:
    return said if isinstance(said, list) else []


def _text(said: Any) -> str | None:
    return said.strip()[:_LONGEST] or None if isinstance(said, str) else None


def _number(said: Any) -> float | None:
    return said if isinstance(said, int | float) and not isinstance(said, bool) else None
