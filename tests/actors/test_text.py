"""What hosts say, made harmless."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from vpt.dialects.base import CUT, MAX_TEXT, clean


@pytest.mark.parametrize(
    "said",
    [
        [["a" * 70, {"b": 1, "c" * 50: [None, True, "\u20ac" * 30]}]] * 20_000,
        {str(n): "x" * n for n in range(2000)},
        ["x" * 2**21],
        ["\U0001f600" * 10] * 50_000,
        {"x" * 2**21: 1},
    ],
)
def test_what_is_no_text_begins_as_its_whole_json_would(said: Any) -> None:
    told = clean(said)
    assert told is not None
    assert told.endswith(CUT)
    whole = orjson.dumps(said)[:MAX_TEXT].decode(errors="ignore")
    assert told.removesuffix(CUT) == whole


def test_text_stays_as_it_is() -> None:
    assert clean("Grüße\n") == "Grüße\n"
    assert clean(None) is None
    assert clean({"a": 1}) == '{"a": 1}'


def test_what_the_database_cannot_keep_is_replaced() -> None:
    assert clean("a\0b\ud800") == "a\ufffdb\ufffd"


def test_too_much_is_cut_and_marked() -> None:
    for long in ("x" * (MAX_TEXT + 1), "ü" * MAX_TEXT):
        text = clean(long)
        assert text is not None
        assert text.endswith("[cut at 1 MiB]")
        assert len(text.encode()) < MAX_TEXT + 20


def test_what_nobody_can_read_is_no_crash() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert clean(deep) == "[not a text]"
    while deep:  # else its own end would be as deep
        deep = deep.pop()
