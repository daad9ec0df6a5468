"""`{name}` in the graphs of VirtualPyTest's test cases, filled in as that system's frontend does.

A string of a block that is only `{name}` is a reference to an input or a variable of the graph,
which its `scriptConfig` declares. Most hosts fill in none of them. A step may have `inputs` and
`variables` of its own, and a run's parameters go before both.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vpt.errors import BadRequestError
from vpt.model import Json
from vpt.parameters import MOST_ADDED, texts

_REFERENCE = re.compile(r"\{\s*([A-Za-z_][\w .-]*?)\s*\}")
_TRUE = (True, "true")


class GraphError(Exception):
    """A graph that no host can run as it is; the message says what to mend."""


# ---------------------------------------------------------------- when a run is asked for


def names_of(steps: Sequence[Json]) -> Counter[str]:
    """Count the steps that take each name from a run's parameters, if these have it."""
    return Counter(name for step in steps for name in _names(step))


def with_inputs(steps: Sequence[Json], parameters: Mapping[str, Any]) -> tuple[Json, ...]:
    """Return the steps with those of a run's parameters that their graphs take as inputs.

    Raises BadRequestError when the steps grow too much.
    """
    added = 0
    done = []
    for step in steps:
        given = {name: parameters[name] for name in sorted(_names(step) & parameters.keys())}
        added += sum(map(_length, given.values()))
        if added > MOST_ADDED:
            raise BadRequestError("The steps grow too large with these parameters.")
        done.append({**step, "inputs": {**_values(step.get("inputs")), **given}} if given else step)
    return tuple(done)


def _names(step: Json) -> set[str]:
    graph = step.get("graph")
    if not isinstance(graph, Mapping):
        return set()
    declared = {name for name, _ in _declared(graph, "inputs")}
    return declared | set(_references(_blocks(graph)))


# ---------------------------------------------------------------- when a step is sent


def filled(step: Json, environment: Mapping[str, str]) -> Json:
    """Return the graph of a step with its references filled in.

    `environment` has what the system itself knows, such as `host_name`: it goes before the defaults
    of inputs that the graph declares as protected, and behind everything else. Raises GraphError
    when there are no blocks, when nothing gives a reference its value, or when it grows too much.
    """
    graph = step["graph"]
    if not isinstance(graph, Mapping) or not isinstance(graph.get("nodes"), list):
        raise GraphError("The step's graph is no object with a list of nodes: mend the test case.")
    known = _known(step, graph, environment)
    _check(graph, known)
    nodes = [
        {**node, "data": _filled(node["data"], known)} if _has_data(node) else node
        for node in graph["nodes"]
    ]
    return _with_values({**graph, "nodes": nodes}, _values(step.get("inputs")))


def _known(step: Json, graph: Mapping[str, Any], environment: Mapping[str, str]) -> Json:
    """Return the value of each name, the strongest source last."""
    inputs = dict(_declared(graph, "inputs"))
    types = {name: about.get("type") for name, about in inputs.items()}
    protected = {name for name, about in inputs.items() if about.get("protected")}
    given = {
        name: _typed(value, types.get(name)) for name, value in _values(step.get("inputs")).items()
    }
    return {
        **environment,
        **_given(_declared(graph, "variables")),
        **_values(step.get("variables")),
        **_given(inputs.items()),
        **{name: value for name, value in environment.items() if name in protected},
        **given,
    }


def _check(graph: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    blocks = _blocks(graph)
    uses = Counter(_references(blocks))
    if sum(count * _length(known[name]) for name, count in uses.items() if name in known) > (
        MOST_ADDED
    ):
        raise GraphError("The graph grows too large when its references are filled in.")
    # A block may set a variable while the graph runs: it has the variable's name.
    set_there = {name for name, _ in _declared(graph, "variables")} | set(texts(blocks))
    if missing := sorted(uses.keys() - known.keys() - set_there):
        names = ", ".join(f"{{{name}}}" for name in missing[:20])
        raise GraphError(
            f"Nothing gives {names} in the step's graph a value: add it to the step's inputs, or to"
            " the parameters of the run."
        )


def _with_values(graph: Json, given: Mapping[str, Any]) -> Json:
    """Return a graph whose declared inputs have the values that were given for them."""
    config = graph.get("scriptConfig")
    inputs = config.get("inputs") if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping) or not isinstance(inputs, list):
        return graph
    stamped = [_stamped(each, given) if isinstance(each, Mapping) else each for each in inputs]
    return {**graph, "scriptConfig": {**config, "inputs": stamped}}


def _stamped(about: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    name = about.get("name")
    if not isinstance(name, str) or name not in given:
        return about
    return {**about, "value": _typed(given[name], about.get("type"))}


# ---------------------------------------------------------------- helpers


def _declared(graph: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return the inputs or the variables that a graph declares."""
    config = graph.get("scriptConfig")
    listed = config.get(kind) if isinstance(config, Mapping) else None
    yield from _listed(listed)


def _listed(listed: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for each in listed if isinstance(listed, list) else ():
        if isinstance(each, Mapping) and isinstance(each.get("name"), str):
            yield each["name"], each


def _values(said: Any) -> Json:
    """Return values by name, which a step may list as a graph does."""
    if isinstance(said, Mapping):
        return {name: value for name, value in said.items() if value is not None}
    return _given(_listed(said))


def _given(declared: Any) -> Json:
    """Return those of declared inputs or variables that have a value or a default."""
    pairs = (
        (name, about["default"] if about.get("value") is None else about["value"])
        for name, about in declared
        if about.get("value") is not None or about.get("default") is not None
    )
    return dict(pairs)


def _typed(value: Any, kind: Any) -> Any:
    """Return a value in the type that its input declares: a form or a command line has texts."""
    if kind == "number" and isinstance(value, str):
        try:
            return float(value) if not value.strip().lstrip("-").isdigit() else int(value)
        except ValueError:
            return value
    return value in _TRUE if kind == "boolean" and isinstance(value, str) else value


def _has_data(node: Any) -> bool:
    return isinstance(node, Mapping) and "data" in node


def _blocks(graph: Mapping[str, Any]) -> list[Any]:
    nodes = graph.get("nodes")
    return [node["data"] for node in nodes if _has_data(node)] if isinstance(nodes, list) else []


def _references(item: Any) -> Iterator[str]:
    for text in texts(item):
        found = _REFERENCE.fullmatch(text) if text.startswith("{") else None
        if found is not None:
            yield found[1]


def _filled(item: Any, known: Mapping[str, Any]) -> Any:
    match item:
        case str():
            found = _REFERENCE.fullmatch(item) if item.startswith("{") else None
            return item if found is None else known.get(found[1], item)
        case dict():
            return {key: _filled(child, known) for key, child in item.items()}
        case list():
            return [_filled(child, known) for child in item]
    return item


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str) else len(json.dumps(value, ensure_ascii=False))
