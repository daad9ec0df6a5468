"""A campaign's parameters are refused as they would be when its steps are filled in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpt import parameters
from vpt.errors import BadRequestError, InvalidError, VptError
from vpt.steps import check_steps
from vpt.submission import StepTemplate

TEXTS = st.sampled_from(
    ("", "x", "${a}", "${b}", "a ${a} ${b}", "$${a}", "${a}${a}", "${}", "${timeout}", "$${${a}")
)
VALUES = st.one_of(TEXTS, st.integers(-5, 200), st.floats(-5, 9e4), st.booleans(), st.none())
STEPS = st.lists(
    st.dictionaries(
        st.sampled_from(("command", "timeout_s", "retries", "continue_on_failure", "delay_s")),
        st.one_of(VALUES, st.lists(TEXTS, max_size=2), st.dictionaries(TEXTS, TEXTS, max_size=2)),
    ),
    max_size=4,
)
SETS = st.dictionaries(st.sampled_from(("a", "b", "timeout", "more")), VALUES)


def refusal(work: Any) -> Any:
    """Give what is refused by `work`, None when nothing is."""
    try:
        work()
    except InvalidError as error:
        return error.errors
    except VptError as error:
        return error.message
    return None


@given(STEPS, SETS)
def test_parameters_are_refused_as_the_filled_steps_would_be(
    steps: list[dict[str, Any]], values: dict[str, Any]
) -> None:
    by_filling = refusal(lambda: check_steps(parameters.fill(steps, values)))
    assert refusal(lambda: StepTemplate(steps).check(values)) == by_filling


def test_steps_that_would_grow_too_much_are_refused_without_filling_them() -> None:
    steps = [{"text": "${a}" * 1000}] * 1000
    with pytest.raises(BadRequestError):
        StepTemplate(steps).check({"a": "x" * 17})
    StepTemplate(steps).check({"a": "x" * 16})
