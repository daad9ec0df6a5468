"""`${name}` in steps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpt.errors import BadRequestError, InvalidError
from vpt.parameters import fill


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("${n}", 5),
        ("${list}", [1, {"a": None}]),
        (" ${n}", " 5"),
        ("${n}${n}", "55"),
        ("${t}", True),
        ("is ${t} ${none} ${list}", 'is true null [1, {"a": null}]'),
        ("ü ${word}", "ü é"),
        ("$${n}", "${n}"),
        ("$$${n}", "$${n}"),
        ("$n {n} $", "$n {n} $"),
        ("${}", "${}"),
        ("${n", "${n"),
        ("${two words}", "2"),
    ],
)
def test_a_string_is_filled_in(text: str, filled: Any) -> None:
    given_values = {
        "n": 5,
        "list": [1, {"a": None}],
        "t": True,
        "none": None,
        "word": "é",
        "two words": "2",
    }
    assert fill([{"params": [{"x": text}]}], given_values) == ({"params": [{"x": filled}]},)


def test_values_are_not_filled_in_again_and_keys_never() -> None:
    assert fill([{"${a}": "${a}"}], {"a": "${b}"}) == ({"${a}": "${b}"},)


def test_all_missing_names_are_told() -> None:
    with pytest.raises(InvalidError) as caught:
        fill([{"x": "${b} ${a}"}, {"y": ["${c}"]}], {"a": 1})
    assert caught.value.errors == {"parameters": ["Missing: b, c."]}


@pytest.mark.parametrize("text", ["${a}", "x${a}"])
def test_a_few_kilobytes_cannot_ask_for_gigabytes(text: str) -> None:
    with pytest.raises(BadRequestError):
        fill([{"x": [text] * 1000}], {"a": ["y" * 100_000]})


@given(st.dictionaries(st.text(), st.text(alphabet="ab {}\\") | st.integers() | st.none()))
def test_steps_without_names_stay_as_they_are(step: dict[str, Any]) -> None:
    assert fill([step], {}) == (step,)
