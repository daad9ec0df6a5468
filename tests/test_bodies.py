"""JSON of others is counted before it is parsed, and read in part."""

from __future__ import annotations

import gc
import gzip
import json
import random
import re
import sys
import zlib
from collections.abc import Callable

import orjson
import pytest

from bench.shapes import SHAPES, body
from vpt import bodies
from vpt.dialects.base import MAX_TEXT, clean

SIZE = 4 * 2**20
#: Shapes whose strings take four bytes a character.
FOUR_BYTE = ("wide text", "emoji", "short wide texts", "surrogates")
TOO_MANY = ("arrays", "objects", "pairs", "numbers", "floats", "strings", "keys", "deep")
CHARACTERS = ("a", "\\", '"', "\n", "é", "😀", "\ud800", "\udc00", "[", ",", "{", "€", "\\u")
_STRING = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_FOUR = re.compile(rb"[\xf0-\xf4]|(?<!\\)(?:\\\\)*\\u[dD][89abAB]")
LONE = re.compile("[\ud800-\udfff]")


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_too_much_is_never_parsed(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []
    monkeypatch.setattr(bodies, "parse_of_host", lambda text: parsed.append(len(text)))
    text = body(shape, SIZE)
    if shape in TOO_MANY:
        with pytest.raises(bodies.TooMuchError, match="100000 values"):
            bodies.object_of_host(text)
        with pytest.raises(bodies.TooMuchError):
            bodies.check(text)
        assert parsed == []
    else:
        if shape in FOUR_BYTE:
            with pytest.raises(bodies.TooMuchError, match="1 MiB of text with emoji"):
                bodies.check(text)
        else:
            bodies.check(text)
        bodies.object_of_host(text)
        assert len(parsed) == 1


@pytest.mark.parametrize("shape", ["wide text", "emoji", "two-byte text"])
def test_of_a_text_beyond_ascii_as_much_is_read_as_is_stored(shape: str) -> None:
    value = bodies.object_of_host(body(shape, SIZE))
    assert value is not None
    text = value["result"]["stdout"]
    assert clean(text) == text
    assert len(text.encode()) > MAX_TEXT - 8


def test_of_a_host_only_so_many_bytes_of_emoji_are_read() -> None:
    smile = "\U0001f600"
    texts = [f"{'x' * 3000}{smile}\\"] * 730 + [smile * 3000, "€" * 9000, f"\\{smile}"]
    for ensure_ascii in (False, True):
        text = json.dumps({"a": texts}, ensure_ascii=ensure_ascii).encode()
        value = bodies.object_of_host(text)
        assert value is not None
        assert value["a"][:650] == texts[:650]
        assert value["a"][730:] == [text.replace(smile, "\ufffd") for text in texts[730:]]


@pytest.mark.parametrize("shape", ["wide text", "escapes", "quotes", "surrogates"])
def test_of_a_long_text_the_beginning_is_kept(shape: str) -> None:
    intake = bodies.Intake(of_host=True)
    intake.add(body(shape, SIZE))
    text = intake.text()
    assert len(text) < bodies.LONGEST_TEXT + 100_000
    value = orjson.loads(text)["result"]["stdout"]
    assert value.endswith("\n[cut at 1 MiB]")


def test_a_refused_text_is_not_even_kept() -> None:
    intake = bodies.Intake()
    with pytest.raises(bodies.TooMuchError):
        intake.add(b"[]," * 10 * bodies.MOST_VALUES)
    assert intake.size < 10 * bodies.MOST_VALUES


def test_what_the_most_values_take_is_bounded() -> None:
    before = sys.getallocatedblocks()
    value = bodies.object_of_host(b'{"a": [' + b"[]," * (bodies.MOST_VALUES // 2 - 10) + b"0]}")
    assert value is not None
    assert sys.getallocatedblocks() - before < 2 * bodies.MOST_VALUES
    del value
    gc.collect()


def test_any_text_in_any_pieces_means_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LONG", 0)  # a short text of a client is not looked at
    chance = random.Random(7)
    for number in range(300):
        monkeypatch.setattr(bodies, "_PIECE", chance.choice((1, 2, 5, 13, 40)))
        value = {"a": [_text(chance), {_text(chance): [1.5, None]}], "b": _text(chance)}
        text = json.dumps(value, ensure_ascii=bool(number % 2))
        encoded = LONE.sub(lambda lone: f"\\u{ord(lone[0]):04x}", text).encode()
        of_host, of_user = bodies.Intake(of_host=True), bodies.Intake()
        for intake in (of_host, of_user):
            for start in range(0, len(encoded), 17):
                intake.add(encoded[start : start + 17])
        assert of_user.text() == encoded
        wide = filter(_FOUR.search, _STRING.findall(encoded))
        assert of_user._four_byte_size == sum(map(len, wide))
        repaired = LONE.sub("\ufffd", json.dumps(json.loads(encoded), ensure_ascii=False))
        assert orjson.loads(of_host.text()) == json.loads(repaired)


def _text(chance: random.Random) -> str:
    return "".join(chance.choices(CHARACTERS, k=chance.randrange(30)))


def test_small_texts_are_parsed_at_once_and_long_ones_beside_the_loop() -> None:
    assert not bodies.is_long(b'{"name": "x"}')
    assert bodies.is_long(b"x" * (bodies.LONG + 1))
    assert bodies.is_long(b"," * (bodies.MANY + 1))


@pytest.mark.parametrize(
    ("value", "heavy"),
    [
        ({"command": "press_key", "params": {"keys": ["a"] * 100}}, False),
        ({"params": {"a": "x" * 300_000}}, True),
        ({"params": {"x" * 300_000: 1}}, True),
        ({"params": [{"a": ["x" * 1000] * 100}] * 3}, True),
        ({"params": [[["a", 1, None]] * 20] * 20}, True),
        ("x", False),
    ],
)
def test_what_is_heavy_is_written_beside_the_loop(value: object, heavy: bool) -> None:
    assert bodies.is_heavy(value) is heavy


@pytest.mark.parametrize("raw", [b"\x00\x01", b"\x00\x02", b"\x00"])
@pytest.mark.parametrize("of_host", [False, True])
def test_a_text_that_is_no_json_does_not_become_json(raw: bytes, of_host: bool) -> None:
    text = b'{"a":"' + raw + b" " * 2 * bodies.LONG + b'"}'
    intake = bodies.Intake(of_host=of_host)
    intake.add(text)
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(intake.text())


def test_a_report_in_another_encoding_is_read() -> None:
    text = '{"stdout": "Gr\u00fc\u00dfe"}'
    assert bodies.parse_of_host(text.encode("latin-1")) == {"stdout": "Gr\ufffd\ufffde"}
    assert bodies.parse_of_host(text.encode("utf-16")) == {"stdout": "Gr\u00fc\u00dfe"}


@pytest.mark.parametrize("size", [1, 5, 1000, 10**6])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be", "latin-1"])
def test_a_text_becomes_utf8_in_whatever_pieces_it_comes(encoding: str, size: int) -> None:
    text = '{"a": "' + "Gr\u00fc\u00dfe " * 200 + '"}'
    sent, utf8 = text.encode(encoding), bodies.Utf8()
    pieces = [utf8.add(sent[at : at + size]) for at in range(0, len(sent), size)]
    made = b"".join([*pieces, utf8.add(b"", last=True)]).decode()
    replaced = text.replace("\u00fc\u00df", "\ufffd\ufffd")
    assert made == (replaced if encoding == "latin-1" else text)


@pytest.mark.parametrize("size", [1, 1000, 10**6])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_text_is_unpacked_in_whatever_pieces_it_comes(
    pack: Callable[[bytes], bytes], size: int
) -> None:
    text = b'{"a": "' + bytes(range(33, 127)) * 5000 + b'"}'
    sent = pack(text)
    unpacker = bodies.Unpacker("gzip" if pack is gzip.compress else "deflate")
    made = [p for at in range(0, len(sent), size) for p in unpacker.add(sent[at : at + size])]
    assert b"".join(made) == text
    assert max(map(len, made)) <= 32 * 1024
