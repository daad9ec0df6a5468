"""References in graphs, and names of a step's target, as they are stored and as they are sent."""

from __future__ import annotations

from typing import Any

import pytest

from vpt import graphs, parameters
from vpt.errors import BadRequestError, InvalidError
from vpt.masking import MASK
from vpt.model import Device, Host, Json
from vpt.secret_steps import check_still_secret, fill, revealed, targeted
from vpt.submission import StepTemplate

TARGET = parameters.target_values(Host("pi", "http://h"), Device("pi:d", "d", "d", "tv"))


def step(*texts: Any, **config: Any) -> Json:
    """Return a step with a graph of one block, which has these texts."""
    node = {"id": "a", "type": "action", "data": {"command": "c", "params": {"texts": list(texts)}}}
    return {"graph": {"nodes": [{"id": "s"}, node], "scriptConfig": config}}


def texts(step: Json, environment: dict[str, str] | None = None) -> Any:
    """Return the texts of the block as they are sent."""
    return graphs.filled(step, environment or {})["nodes"][1]["data"]["params"]["texts"]


def test_a_secret_parameter_reaches_a_graph_and_nobody_else() -> None:
    steps = [step("{password}", "${password}")]
    filled = fill(steps, {"password": "geheim-geheim"}, frozenset({"password"}))
    assert "geheim" not in repr(filled.steps)
    assert filled.steps[0]["inputs"] == {"password": MASK}
    assert filled.secret is not None
    sent, missing = revealed(filled.secret, 1, {}, filled.values)
    assert sent is not None and missing == set()
    assert texts(sent) == ["geheim-geheim", "geheim-geheim"]


def test_a_parameter_that_a_graph_takes_stays_secret() -> None:
    with pytest.raises(InvalidError):
        check_still_secret({"password": {"secret": True}}, {}, [step("{password}")])


def test_what_a_graph_takes_is_bounded() -> None:
    long = "x" * 2**20
    with pytest.raises(BadRequestError, match="too large"):
        fill([step("{a}")] * 20, {"a": long}, frozenset())
    with pytest.raises(BadRequestError, match="too large"):
        StepTemplate([step("{a}")] * 20).check({"a": long})
    with pytest.raises(graphs.GraphError, match="too large"):
        texts(step(*["{a}"] * 20, inputs=[{"name": "a", "default": long}]))


def test_a_campaign_knows_the_secrets_in_what_a_graph_takes() -> None:
    values = {"a": "${secret:tv}", "unused": "${secret:other}"}
    assert StepTemplate([step("{a}")]).secrets(values) == {"tv"}


@pytest.mark.parametrize(
    ("declared", "sent"),
    [
        ({"inputs": [{"name": "x", "default": False}]}, False),
        ({"inputs": [{"name": "x", "value": "v", "default": "d"}]}, "v"),
        ({"inputs": [{"name": "x"}], "variables": [{"name": "x", "value": 0}]}, 0),
        ({"inputs": [{"name": "x", "default": 1}], "variables": [{"name": "x", "value": 2}]}, 1),
        ({"inputs": [{"name": "x", "default": "{x}"}]}, "{x}"),
        ({"variables": [{"name": "x", "sourceLinks": [{"sourceBlockId": "b"}]}]}, "{x}"),
    ],
)
def test_where_a_reference_has_its_value_from(declared: Json, sent: Any) -> None:
    assert texts(step("{x}", **declared)) == [sent]


def test_a_variable_that_a_block_sets_is_left_to_the_host() -> None:
    assert texts(step("{x}", "x")) == ["{x}", "x"]


def test_the_environment_goes_before_a_protected_default_only() -> None:
    inputs = [{"name": "host_name", "default": "lab-0", "protected": True}]
    known = {"host_name": "pi", "device_name": "d"}
    assert texts(step("{host_name}", "{device_name}", inputs=inputs), known) == ["pi", "d"]
    inputs[0]["protected"] = False
    assert texts(step("{host_name}", inputs=inputs), known) == ["lab-0"]


def test_values_that_were_given_stand_in_the_graph_too() -> None:
    given = {**step("{n}", inputs=[{"name": "n", "type": "number"}]), "inputs": {"n": "-3"}}
    sent = graphs.filled(given, {})
    assert sent["scriptConfig"]["inputs"] == [{"name": "n", "type": "number", "value": -3}]


@pytest.mark.parametrize("graph", [None, [], "x", {}, {"nodes": {}}, {"nodes": None}])
def test_what_is_no_graph_is_refused(graph: Any) -> None:
    with pytest.raises(graphs.GraphError, match="mend the test case"):
        graphs.filled({"graph": graph}, {})


def test_names_of_the_target_stay_until_a_step_is_sent() -> None:
    steps = [{"a": "${device.local_id}@${host.name}", "b": "$${device.id} $${x}", "c": "${v}"}]
    (stored,) = parameters.fill(steps, {"v": "${device.model}"})
    assert stored == {
        "a": "${device.local_id}@${host.name}",
        "b": "$${device.id} ${x}",
        "c": "${device.model}",
    }
    assert targeted(stored, TARGET) == {"a": "d@pi", "b": "${device.id} ${x}", "c": "tv"}


def test_a_parameter_goes_before_a_name_of_the_target() -> None:
    assert parameters.fill([{"a": "${host.name}"}], {"host.name": "x"}) == ({"a": "x"},)


def test_a_secret_is_not_looked_through_for_names_of_the_target() -> None:
    filled = fill([{"a": "${p} ${device.id}"}], {"p": "x${device.id}"}, frozenset({"p"}))
    assert filled.secret is not None
    sent, _ = revealed(filled.secret, 1, {}, filled.values, TARGET)
    assert sent == {"a": "x${device.id} pi:d"}
