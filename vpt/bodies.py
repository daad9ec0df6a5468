"""JSON that somebody else sent, read with bounded work: for the server and the reference host.

A few megabytes can hold millions of values, each of which costs up to a hundred times its bytes and
keeps the interpreter busy meanwhile, in whatever thread. So a long text is first counted, by
searches of bytes, piece by piece; what is too much is never parsed. A short text is parsed as it
is: it cannot hold much.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import orjson

#: Values of one text: items, fields, arrays and objects together.
MOST_VALUES = 100_000
#: Bytes, and commas, above which a text is counted first and parsed in a thread.
LONG, MANY = 16 * 1024, 500
#: Bytes of one string of a host that are kept, when it is plain (a picture in base64) and when it
#: is not: a character beyond ASCII makes a string take four bytes for each of its characters, and
#: escapes take time.
LONGEST_PLAIN, LONGEST_TEXT = 12 * 2**20, 2 * 2**20
#: Bytes of one string of a host that are kept when it has characters beyond ASCII as they are: what
#: is stored of it is no longer, with `CUT`.
LONGEST_WIDE = 2**20 - 15
#: Bytes of the strings that have a character beyond U+FFFF, in all, of a client and of a host:
#: Python keeps each character of such a string in four bytes. Of a client more is refused, in what
#: else a host sends U+FFFD stands for those characters.
MOST_FOUR_BYTE, MOST_FOUR_BYTE_OF_HOST = 2**20, 2 * 2**20
#: Bytes of a host's text that are kept: in all, where it is not plain, and outside of strings.
MOST_KEPT, MOST_WIDE, MOST_OUTSIDE = 16 * 2**20, 8 * 2**20, 4 * 2**20
#: What stands, in JSON, in place of the rest of a string of a host.
CUT = rb"\n[cut at 1 MiB]"

_HEAVY = 256 * 1024  # characters of texts
_PACKED = ("gzip", "x-gzip", "deflate")
_GZIP = 16 + zlib.MAX_WBITS
_TELLING = 4  # bytes of a text that tell its encoding
_PIECE = 32 * 1024  # bytes: no operation on so few takes a millisecond
_SHORT = 64 * 1024  # bytes of each string that are kept when others took the most
_MOST_QUOTES = 4 * MOST_VALUES  # a name and a text for each value
_ESCAPE = 12  # bytes of the longest escape: a pair of surrogates
_HEX = rb"[0-9a-fA-F]{2}"
_HIGH, _LOW = rb"\\u[dD][89abAB]" + _HEX, rb"\\u[dD][c-fC-F]" + _HEX
_LONE = re.compile(rb"%b(?!%b)|(?<!%b)%b" % (_HIGH, _LOW, _HIGH, _LOW))
_HIGH_ONLY = re.compile(_HIGH)
_FOUR_BYTE = re.compile(rb"[\xf0-\xf4]|%b" % _HIGH)
_FOUR_BYTE_CHARACTER = re.compile(rb"[\xf0-\xf4][\x80-\xbf]{3}|%b%b" % (_HIGH, _LOW))
#: Escapes that would mislead the search for the ends of strings, with what stands for them
#: meanwhile: bytes that JSON does not allow.
_MISLEADING = ((rb"\\", b"\x00\x01"), (rb"\"", b"\x00\x02"))

Made = TypeVar("Made")

#: One thread, since two would only take turns, and hold twice the memory.
_thread = ThreadPoolExecutor(1, "json")


class TooMuchError(ValueError):
    """A JSON text holds more than is read; the message says more than what."""


class Intake:
    """Accepts a JSON text piece by piece and counts its values; raises TooMuchError.

    With `of_host` only the beginning of a long string is kept, and lone surrogates are replaced,
    since hosts send what programs wrote. The syntax is not checked. A text without pictures needs
    no more than LONGEST_TEXT of a plain string.
    """

    def __init__(self, *, of_host: bool = False, longest_plain: int = LONGEST_PLAIN) -> None:
        self.size = 0  # bytes that are kept
        self._of_host = of_host
        self._longest_plain = longest_plain
        self._kept: list[bytes] = []
        self._rest = b""  # a character or an escape that may go on in the next piece
        self._values = self._quotes = self._wide_size = self._outside_size = 0
        self._inside = False  # of a string; the other three are about that one
        self._run, self._wide, self._cut = 0, False, False
        self._beyond_ascii = self._four_byte = False  # of that string, too
        self._four_byte_size = 0

    def add(self, chunk: bytes) -> None:
        """Accept the next bytes, however many."""
        for start in range(0, len(chunk), _PIECE):
            # A NUL would be taken for one of ours; JSON allows neither it nor what replaces it.
            piece = chunk[start : start + _PIECE].replace(b"\x00", b"\x01")
            masked = _mask(self._rest + piece)
            end = _last_boundary(masked)
            self._rest = _unmask(masked[end:])
            self._add(masked[:end])

    def text(self) -> bytes:
        """Return what is kept of the text, which is complete."""
        self._add(_mask(self._rest))
        kept, self._kept, self._rest = self._kept, [], b""
        return b"".join(kept)

    def _add(self, masked: bytes) -> None:
        if self._cut and b'"' not in masked:
            return
        if self._of_host and (rb"\ud" in masked or rb"\uD" in masked):
            masked = _LONE.sub(rb"\\ufffd", masked)
        if self._of_host and self._four_byte_size > MOST_FOUR_BYTE_OF_HOST:
            masked = _FOUR_BYTE_CHARACTER.sub("\ufffd".encode(), masked)
        parts = masked.split(b'"')
        self._count(parts)
        self._count_four_byte(masked, parts)
        if self._of_host and self._inside:
            masked = self._shortened(parts[0]) + masked[len(parts[0]) :]
        self._keep(masked)
        self._follow(parts)

    def _count(self, parts: list[bytes]) -> None:
        outside = b"".join(parts[self._inside :: 2])
        self._values += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        self._quotes += len(parts) - 1
        self._outside_size += len(outside)
        if self._values > MOST_VALUES or self._quotes > _MOST_QUOTES:
            raise TooMuchError(f"{MOST_VALUES} values")
        if self._of_host and self._outside_size > MOST_OUTSIDE:
            raise TooMuchError(f"{MOST_OUTSIDE // 2**20} MiB outside of its texts")

    def _count_four_byte(self, masked: bytes, parts: list[bytes]) -> None:
        """Count the strings that have a character beyond U+FFFF, whole."""
        if not (self._four_byte or _FOUR_BYTE.search(masked)):
            return
        went_on, self._four_byte = self._four_byte, False
        for number in range(0 if self._inside else 1, len(parts), 2):
            known = went_on and number == 0
            if known or _FOUR_BYTE.search(parts[number]):
                earlier = self._run if number == 0 and not known else 0
                self._four_byte_size += earlier + len(parts[number])
                self._four_byte = number == len(parts) - 1
        if self._four_byte_size > MOST_FOUR_BYTE and not self._of_host:
            raise TooMuchError(f"{MOST_FOUR_BYTE // 2**20} MiB of text with emoji and the like")

    def _shortened(self, head: bytes) -> bytes:
        """Return what is kept of the next part of a string that began in an earlier piece."""
        if not self._wide and _is_wide(head):
            self._wide = True
            self._wide_size += self._run
        self._beyond_ascii |= not head.isascii()
        room = self._longest() - self._run
        if self._cut:
            return b""
        if len(head) <= room:
            return head
        self._cut = True
        return head[: _last_boundary(head[: max(0, room)])] + CUT

    def _longest(self) -> int:
        if self._wide:
            longest = LONGEST_WIDE if self._beyond_ascii else LONGEST_TEXT
            return longest if self._wide_size < 2 * LONGEST_TEXT else _SHORT
        return self._longest_plain if self.size < LONGEST_PLAIN else _SHORT

    def _keep(self, masked: bytes) -> None:
        self._kept.append(_unmask(masked))
        self.size += len(masked)
        if not self._of_host:
            return
        if self._wide or _is_wide(masked):
            self._wide_size += len(masked)
        if self._wide_size > MOST_WIDE:
            raise TooMuchError(f"{MOST_WIDE // 2**20} MiB of text with escapes or beyond ASCII")
        if self.size > MOST_KEPT:
            raise TooMuchError(f"{MOST_KEPT // 2**20} MiB of text")

    def _follow(self, parts: list[bytes]) -> None:
        """Note whether the piece ended inside a string, and what is known of that string."""
        if len(parts) > 1:
            self._inside ^= len(parts) % 2 == 0
            self._run, self._wide, self._cut = 0, _is_wide(parts[-1]), False
            self._beyond_ascii = not parts[-1].isascii()
        self._run += len(parts[-1]) if self._inside else 0
        self._wide &= self._inside
        self._beyond_ascii &= self._inside


def _mask(piece: bytes) -> bytes:
    for escape, other in _MISLEADING:
        piece = piece.replace(escape, other)
    return piece


def _unmask(masked: bytes) -> bytes:
    if b"\x00" in masked:
        for escape, other in _MISLEADING:
            masked = masked.replace(other, escape)
    return masked


def _is_wide(masked: bytes) -> bool:
    return not masked.isascii() or b"\\" in masked or b"\x00" in masked


def _last_boundary(masked: bytes) -> int:
    """Return the last place that is within no character, escape or pair of surrogates."""
    end = masked.find(b"\\", max(0, len(masked) - _ESCAPE + 1))
    end = len(masked) if end < 0 else end
    if _HIGH_ONLY.fullmatch(masked, max(0, end - 6), end):
        return end - 6
    if masked[max(0, end - 1) : end] == b"\x00":
        return end - 1
    start = max(0, end - 3)
    while end > start and masked[end - 1] & 0xC0 == 0x80:  # noqa: PLR2004 (inside of a character)
        end -= 1
    return end - 1 if end and masked[end - 1] >= 0xC0 else end  # noqa: PLR2004 (its first byte)


def is_long(text: bytes) -> bool:
    """Return whether reading the text could hold up the event loop."""
    return len(text) > LONG or text.count(b",") > MANY


def check(text: bytes) -> None:
    """Raise TooMuchError when a long text has more than MOST_VALUES values."""
    if len(text) > LONG:
        _taken_in(Intake(), text)


def object_of_host(text: bytes) -> dict[str, Any] | None:
    """Return the object in what a host sent, None when there is none; raise TooMuchError.

    Of long strings it has the beginning. Lone surrogates and NaN, which orjson refuses, a host may
    well send, and texts in another encoding.
    """
    utf8 = Utf8()
    if len(text) <= LONG:
        return parse_of_host(utf8.add(text, last=True))
    intake = Intake(of_host=True)
    for start in range(0, len(text), _PIECE):
        piece = text[start : start + _PIECE]
        intake.add(utf8.add(piece, last=start + _PIECE >= len(text)))
    return parse_of_host(intake.text())


class Utf8:
    """Turns a JSON text into UTF-8 without a BOM, piece by piece.

    UTF-16 and UTF-32 are told by their first bytes; what is not of the encoding is replaced.
    """

    def __init__(self) -> None:
        self._head = b""
        self._decoder: codecs.IncrementalDecoder | None = None
        self._ascii = True  # so far, in UTF-8: then nothing is to be done

    def add(self, piece: bytes, *, last: bool = False) -> bytes:
        """Return the next bytes in UTF-8; of a character that is cut the whole comes later."""
        if self._decoder is None:
            piece = self._head = self._head + piece
            if last and piece.isascii() and b"\x00" not in piece:  # as nearly all answers are
                return piece
            if len(piece) < _TELLING and not last:
                return b""
            encoding = json.detect_encoding(piece)
            self._ascii = encoding == "utf-8"
            self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ascii = self._ascii and piece.isascii()
        return piece if self._ascii else self._decoder.decode(piece, last).encode()


class Unpacker:
    """Unpacks gzip or deflate piece by piece; ValueError for another encoding, or broken data.

    A text that was not packed at all is left as it is: some hosts only name an encoding.
    """

    def __init__(self, encoding: str) -> None:
        if encoding not in _PACKED:
            raise ValueError(encoding)
        self._encoding = encoding
        self._head = b""
        self._inflate: Any = None
        self._plain = False

    def add(self, packed: bytes) -> Iterator[bytes]:
        """Yield what the next bytes hold, in pieces that take no time."""
        if self._inflate is None and not self._plain:
            packed = self._head = self._head + packed
            if len(packed) < _TELLING:
                return
            self._plain = packed.lstrip().startswith(b"{")
            self._inflate = None if self._plain else zlib.decompressobj(self._window(packed))
        if self._plain:
            yield packed
            return
        more = True
        while more and not self._inflate.eof:
            piece = self._inflated(packed)
            packed = self._inflate.unconsumed_tail
            more = bool(packed) or len(piece) == _PIECE  # zlib may hold more than it returned
            yield piece

    def _window(self, head: bytes) -> int:
        """Return how zlib is told what it unpacks: deflate is sent with its header and without."""
        if self._encoding != "deflate":
            return _GZIP
        has_header = head[0] & 0x0F == zlib.DEFLATED and int.from_bytes(head[:2], "big") % 31 == 0
        return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS

    def _inflated(self, packed: bytes) -> bytes:
        try:
            inflated: bytes = self._inflate.decompress(packed, _PIECE)
        except zlib.error as error:
            raise ValueError(self._encoding) from error
        return inflated


def parse_of_host(text: bytes) -> dict[str, Any] | None:
    """Return the object in a text that was counted, None when there is none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            # What is not of the encoding is replaced: a host's report comes once only.
            value = json.loads(text.decode(json.detect_encoding(text), "replace"))
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def _taken_in(intake: Intake, text: bytes) -> bytes:
    intake.add(text)
    return intake.text()


async def beside_loop(text: bytes, work: Callable[[], Made]) -> Made:
    """Return what `work` makes of the text, in the thread when the text is long."""
    return await in_thread(work) if is_long(text) else work()


def is_heavy(value: Any) -> bool:
    """Return whether writing a JSON value could hold up the event loop: it is long, or has much."""
    values, size, rest = 0, 0, [value]
    while rest and size <= _HEAVY:
        one = rest.pop()
        if isinstance(one, dict):
            size += sum(map(len, one))
            one = list(one.values())
        if isinstance(one, list):
            values += len(one)
            if values > MANY:
                return True
            rest += one
        elif isinstance(one, str):
            size += len(one)
    return size > _HEAVY


async def written(value: Any) -> bytes:
    """Return a value as JSON, written in the thread when it is heavy."""
    return await in_thread(lambda: orjson.dumps(value)) if is_heavy(value) else orjson.dumps(value)


async def in_thread(work: Callable[[], Made]) -> Made:
    """Do work on a long text, after the others that wait for this."""
    return await asyncio.get_running_loop().run_in_executor(_thread, work)
