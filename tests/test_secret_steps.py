"""Secrets in steps, and the mask for what comes back: pure functions."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from dataclasses import asdict
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpt import bodies, parameters
from vpt.dialects.base import CUT
from vpt.errors import BadRequestError, InvalidError
from vpt.masking import MASK, Masker
from vpt.secret_steps import FilledSteps, fill, revealed

VALUE = 'pä"ss w/o+rd\\&'
PASSWORD = frozenset({"password"})


def sent(filled: FilledSteps, named: dict[str, str]) -> list[Any]:
    """Return the steps as the host gets them."""
    assert filled.secret is not None
    pairs = [
        revealed(filled.secret, n, named, filled.values) for n, _ in enumerate(filled.steps, 1)
    ]
    return [step if step else filled.steps[n] for n, (step, _) in enumerate(pairs)]


def test_what_is_shown_has_no_value_and_what_is_sent_has_it() -> None:
    steps = [{"x": ["${password}", "u:${password}@h"], "y": "${plain}"}, {"z": "${secret:tv} ${n}"}]
    given_values = {"password": VALUE, "plain": f"http://u:{VALUE}@h", "n": "${secret:tv}!"}
    filled = fill(steps, given_values, PASSWORD)
    assert VALUE not in repr(filled)
    assert VALUE not in json.dumps([filled.steps, filled.parameters, asdict(filled.secret)])  # type: ignore[arg-type]
    assert filled.steps == (
        {"x": [MASK, f"u:{MASK}@h"], "y": f"http://u:{MASK}@h"},
        {"z": f"{MASK} {MASK}!"},
    )
    assert filled.parameters == {
        "password": MASK,
        "plain": f"http://u:{MASK}@h",
        "n": "${secret:tv}!",
    }
    assert sent(filled, {"tv": "tv-secret"}) == [
        {"x": [VALUE, f"u:{VALUE}@h"], "y": f"http://u:{VALUE}@h"},
        {"z": "tv-secret tv-secret!"},
    ]


def test_what_only_looks_like_a_reference_or_a_mark_stays() -> None:
    mark = "\uf8ff0123456789abcdefs:tv\uf8ff"
    filled = fill([{"x": "$${secret:tv}", "m": mark, "s": "${secret:tv}"}], {}, frozenset())
    assert sent(filled, {"tv": "tv-secret"}) == [{"x": "${secret:tv}", "m": mark, "s": "tv-secret"}]


def test_steps_without_secrets_are_stored_as_ever() -> None:
    filled = fill([{"x": "${n}"}], {"n": 5, "password": "unused-one"}, PASSWORD)
    assert (filled.steps, filled.secret, dict(filled.values)) == (({"x": 5},), None, {})
    assert filled.parameters == {"n": 5, "password": MASK}


@given(
    st.lists(st.sampled_from(["${secret:", "a", "}", "$", "{", "${secret:b}", "${c}", "x" * 1000]))
)
def test_references_are_those_that_the_expression_finds(parts: list[str]) -> None:
    text = "".join(parts)
    found = re.findall(r"(?<!\$)\$\{(secret:[^{}]{1,980})\}", text)
    assert parameters.reference_counts([{"a": text}]) == Counter(found)
    assert parameters.with_references(text, lambda name: f"<{name}>") == re.sub(
        r"(?<!\$)\$\{(secret:[^{}]{1,980})\}", r"<\1>", text
    )


def test_a_secret_that_is_gone_is_named() -> None:
    filled = fill([{"x": "${secret:a}${secret:b}"}, {"y": 1}], {}, frozenset())
    assert filled.secret is not None
    assert revealed(filled.secret, 1, {"a": "aaaaaa"}, {})[1] == {"b"}
    assert revealed(filled.secret, 2, {}, {}) == (None, set())


@pytest.mark.parametrize(
    "value", ["short", 123456, None, "      ", "x" * 4097, ["secret-one"], MASK]
)
def test_what_cannot_be_masked_is_refused(value: Any) -> None:
    with pytest.raises(InvalidError) as caught:
        fill([{"x": "${password}"}], {"password": value}, PASSWORD)
    assert "6 to 4096" in str(caught.value.errors)


def test_a_parameter_cannot_pose_as_a_secret() -> None:
    with pytest.raises(InvalidError):
        fill([{"x": "${secret:tv}"}], {"secret:tv": "mine, not theirs"}, frozenset())


@pytest.mark.parametrize("values", [{}, {"a": "${secret:s}" * 50}])
def test_a_few_references_cannot_ask_for_gigabytes(values: dict[str, str]) -> None:
    text = "${a}" if values else "${secret:s}"
    with pytest.raises(BadRequestError):
        fill([{"x": [text] * (5000 // (1 + 49 * bool(values)))}], values, frozenset())


def test_a_run_has_a_bounded_number_of_secrets() -> None:
    with pytest.raises(BadRequestError):
        fill([{"x": f"${{secret:s{n}}}"} for n in range(51)], {}, frozenset())


@pytest.mark.parametrize(
    "said",
    [
        VALUE,
        json.dumps({"k": VALUE}),
        json.dumps({"k": VALUE}, ensure_ascii=False),
        quote(VALUE),
        quote(VALUE, safe=""),
        quote_plus(VALUE),
        quote(VALUE, safe="").lower(),
        base64.b64encode(VALUE.encode()).decode(),
        base64.urlsafe_b64encode(VALUE.encode()).decode().rstrip("="),
        "&lt;p&gt;p&auml;".replace("p&auml;", "") + VALUE.replace("&", "&amp;"),
    ],
)
def test_each_form_of_a_value_is_masked(said: str) -> None:
    masked = Masker([VALUE]).text(f"before {said} after")
    assert MASK in masked
    assert (masked.startswith("before "), masked.endswith(" after")) == (True, True)
    for part in ("ss w", "ss%20w", "ss+w", base64.b64encode(VALUE.encode()).decode()[:12]):
        assert part not in masked


@given(st.text(min_size=8, max_size=40), st.binary(max_size=5), st.binary(max_size=5))
def test_base64_of_something_with_the_value_does_not_tell_it(
    value: str, before: bytes, after: bytes
) -> None:
    secret = value.encode(errors="surrogatepass") + b"!secret!"
    whole = base64.b64encode(before + secret + after).decode()
    masked = Masker([secret.decode(errors="surrogatepass")]).text(whole)
    assert len(masked.replace(MASK, "")) <= 4 * ((len(before) + 2) // 3 + (len(after) + 2) // 3 + 2)


def test_each_line_of_a_value_is_masked_and_short_ones_are_not() -> None:
    masker = Masker(["first-line\nok\nsecond-line"])
    assert masker.text("> first-line\n> ok\n> second-line") == f"> {MASK}\n> ok\n> {MASK}"
    assert masker.json({"first-line": ["x second-line", 1, None]}) == {MASK: [f"x {MASK}", 1, None]}
    assert not Masker()


@pytest.mark.parametrize("sign", [CUT, bodies.CUT.decode(), "…", r"\u2026"])
def test_before_each_sign_of_a_cut_the_rest_of_a_value_is_masked(sign: str) -> None:
    masker, said = Masker(["a-long-secret"]), f"out: a-long-s{sign} then a-long-s"
    assert masker.text(said) == f"out: {MASK}{sign} then a-long-s"
    assert masker.json({said: [said]}) == {masker.text(said): [masker.text(said)]}


def test_a_value_that_was_cut_is_masked_too() -> None:
    masker = Masker(["a-long-secret"])
    assert masker.cut_end("out: a-long-s") == f"out: {MASK}"
    assert masker.cut_end("out: a-") == "out: a-"
    assert masker.cut_end("") == ""
