"""The server's keys of a step are refused in the words of every other field."""

from __future__ import annotations

from typing import Any

import pytest
from marshmallow import ValidationError

from vpt.steps import STEP_KEYS
from vpt.web.schemas.steps import STEP_FIELDS

VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "1", "${a}", [], {}, [1]),
    *(0, 1, -1, 0.0, 1.0, 0.5, 99, 100, 101, 86_400, 86_400.5, 1e300, 10**400, -(10**400)),
    *(float("nan"), float("inf"), float("-inf")),
)


@pytest.mark.parametrize("name", STEP_KEYS)
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_a_step_key_is_refused_as_its_field_would_be(name: str, value: Any) -> None:
    try:
        STEP_FIELDS[name].deserialize(value)
        expected: Any = []
    except ValidationError as error:
        expected = error.messages
    assert STEP_KEYS[name].errors(value) == expected
