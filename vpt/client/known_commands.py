"""Whether devices know the commands of steps: by what VirtualPyTest hosts declared of them.

A device model is checked when each registered device of it declares its commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from vpt.client.api import Api, RefusedError, path_segment
from vpt.client.files import TestCaseSpec
from vpt.client.runnables import NOT_FOUND
from vpt.client.text import one_line
from vpt.model import Json

_SHOWN = 20
_BATCHES = ("actions", "retry_actions", "failure_actions")
_VERIFICATION = "verification"


@dataclass(frozen=True, slots=True)
class UsedCommand:
    """A command in a step: an action, of the given type if any, or a verification."""

    name: str
    verifies: bool
    action_type: str | None
    params: frozenset[str]


@dataclass(slots=True)
class _Declared:
    """The commands of devices: actions by type, verifications with the parameters they need."""

    actions: dict[str, set[str]] = field(default_factory=dict)
    verifications: dict[str, frozenset[str]] = field(default_factory=dict)

    def add(self, schema: Json) -> None:
        """Add what one device declares."""
        for item in _items(schema.get("action_types")):
            self.actions.setdefault(str(item.get("action_type")), set()).add(item["command"])
        for item in _items(schema.get("verification_types")):
            self.verifications[item["command"]] = _required(item.get("params"))

    def knows(self, used: UsedCommand) -> bool:
        """Return True when a device knows it, or when nothing is declared of its type."""
        if used.verifies:
            return used.name in self.verifications
        if used.action_type is not None and used.action_type not in self.actions:
            return True  # a block of a graph that the host itself runs: no controller declares it
        return any(used.name in known for known in self.actions.values())

    def known(self, used: UsedCommand) -> list[str]:
        """Return what could have been meant, the nearest first."""
        every = sorted(self.verifications if used.verifies else set().union(*self.actions.values()))
        near = get_close_matches(used.name, every, n=3)
        return [*near, *(one for one in every if one not in near)]

    def missing(self, used: UsedCommand) -> list[str]:
        """Return the required parameters that a verification does not have."""
        needed = self.verifications.get(used.name) if used.verifies else None
        return sorted((needed or frozenset()) - used.params)


@dataclass(slots=True)
class Checked:
    """What was found: commands that no device knows, and parameters that are missing."""

    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


async def check_commands(api: Api, cases: Iterable[TestCaseSpec]) -> Checked:
    """Check the commands of these test cases against what the devices of their models declared."""
    by_model: dict[str, list[tuple[TestCaseSpec, int, UsedCommand]]] = {}
    for case in cases:
        asked = case.device_model
        for model in [asked] if isinstance(asked, str) else asked:
            uses = by_model.setdefault(model, [])
            uses += [
                (case, n, used) for n, one in enumerate(case.steps, 1) for used in used_in(one)
            ]
    checked = Checked()
    for model, uses in by_model.items():
        declared = await _declared(api, model, {used for *_, used in uses})
        if declared is None:
            continue
        for case, number, used in uses:
            at = f"test case {one_line(case.name)!r}, step {number}"
            if not declared.knows(used):
                checked.unknown.append(f"{at}: {_unknown(model, used, declared)}")
            for name in declared.missing(used):
                checked.missing.append(f"{at}: {used.name} needs the parameter {name!r}")
    return checked


def _unknown(model: str, used: UsedCommand, declared: _Declared) -> str:
    known = declared.known(used)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    kind = "verification" if used.verifies else "action"
    return (
        f"no device of the model {model} knows the {kind} {used.name!r};"
        f" known are {', '.join(known[:_SHOWN]) or 'none'}{more}"
    )


async def _declared(api: Api, model: str, used: set[UsedCommand]) -> _Declared | None:
    """Return what devices of a model declare; None when there is none, or one declares nothing.

    Devices of a model are much alike: no more are asked once all that is used is known.
    """
    if not used:
        return None
    declared = _Declared()
    asked = 0
    async for device in api.items("/api/devices", model=model):
        asked += 1
        try:
            schema = await api.get(f"/api/devices/{path_segment(device['id'])}/schema")
        except RefusedError as error:
            if error.status != NOT_FOUND:
                raise
            return None
        declared.add(schema)
        if all(map(declared.knows, used)):
            break
    return declared if asked else None


def used_in(step: Json) -> Iterator[UsedCommand]:
    """Yield the commands of a step of any kind; one that a parameter fills in is not known yet."""
    if "graph" in step:
        yield from _used_in_graph(step["graph"])
        return
    if "script" in step:
        return
    if any(name in step for name in _BATCHES):
        for name in _BATCHES:
            yield from _each(step.get(name), verifies=False)
        return
    if "verifications" in step:
        yield from _each(step["verifications"], verifies=True)
        return
    verifies = "verification_type" in step or step.get("action_type") == _VERIFICATION
    yield from _each([step], verifies=verifies)


def _used_in_graph(graph: Any) -> Iterator[UsedCommand]:
    nodes = graph.get("nodes") if isinstance(graph, dict) else None
    for node in nodes if isinstance(nodes, list) else ():
        kind = node.get("type") if isinstance(node, dict) else None
        if kind in ("action", _VERIFICATION):
            data = node.get("data")
            listed = data.get(f"{kind}s") if isinstance(data, dict) else None
            yield from _each(listed or [data], verifies=kind == _VERIFICATION)


def _each(items: Any, *, verifies: bool) -> Iterator[UsedCommand]:
    for item in items if isinstance(items, list) else ():
        command = item.get("command") if isinstance(item, dict) else None
        if isinstance(command, str) and "{" not in command:
            kind, params = item.get("action_type"), item.get("params")
            yield UsedCommand(
                command,
                verifies,
                kind if isinstance(kind, str) else None,
                frozenset(params) if isinstance(params, dict) else frozenset(),
            )


def _items(types: Any) -> Iterator[Json]:
    for listed in types.values() if isinstance(types, dict) else ():
        for item in listed if isinstance(listed, list) else ():
            if isinstance(item, dict) and isinstance(item.get("command"), str):
                yield item


def _required(params: Any) -> frozenset[str]:
    """Return the parameters that are required, as far as the schema says so."""
    pairs = params.items() if isinstance(params, dict) else ()
    return frozenset(
        name for name, said in pairs if isinstance(said, dict) and said.get("required") is True
    )
