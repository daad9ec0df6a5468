"""What hosts say, made harmless."""

from __future__ import annotations

from typing import Any

from vpt.dialects.base import MAX_TEXT, clean


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
