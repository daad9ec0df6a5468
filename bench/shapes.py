"""Bodies of JSON by shape and size: what a stranger sends to keep a server busy.

`python bench/shapes.py SHAPE MIB` writes one to standard output. Each is an object that begins with
the fields that routes and dialects read (`HEAD`), so that nobody refuses it at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

MIB = 2**20
#: The beginning of each body, for taskComplete, heartbeat, register and step answers alike.
HEAD = b'{"task_id": "t1", "host_name": "h1", "success": true, "result": {"stdout": '
TAIL = b"}}"


def _many(item: bytes) -> Callable[[int], bytes]:
    def make(size: int) -> bytes:
        return b"[" + item * (size // len(item)) + b"0]"

    return make


def _text(item: bytes, first: bytes = b"") -> Callable[[int], bytes]:
    def make(size: int) -> bytes:
        return b'"' + first + item * (size // len(item)) + b'"'

    return make


def _keys(size: int) -> bytes:
    return b"{" + b",".join(b'"k%07d":1' % number for number in range(size // 13)) + b"}"


def _deep(size: int) -> bytes:
    return b"[" * (size // 2) + b"]" * (size // 2)


#: What stands at `stdout`, by the name of the shape.
SHAPES: Mapping[str, Callable[[int], bytes]] = {
    "arrays": _many(b"[],"),
    "objects": _many(b"{},"),
    "pairs": _many(b'{"a":{}},'),
    "numbers": _many(b"1,"),
    "floats": _many(b"1.5e-7,"),
    "strings": _many(b'"a",'),
    "keys": _keys,
    "text": _text(b"x"),
    "wide text": _text(b"x", "\U0001f600".encode()),
    "two-byte text": _text(b"x", "\u20ac".encode()),
    "emoji": _text("\U0001f600".encode()),
    "short wide texts": _many(b'"' + b"x" * 300 + "\U0001f600".encode() + b'",'),
    "escapes": _text(rb"\n"),
    "quotes": _text(rb"\""),
    "surrogates": _text(rb"\ud800"),
    "deep": _deep,
    "digits": lambda size: b"1" * size,
    "blanks": lambda size: b" " * size + b"1",
}


def body(shape: str, size: int, head: bytes = HEAD, tail: bytes = TAIL) -> bytes:
    """Return a body of about `size` bytes."""
    return head + SHAPES[shape](size - len(head) - len(tail) - 2) + tail


if __name__ == "__main__":
    sys.stdout.buffer.write(body(sys.argv[1], int(sys.argv[2]) * MIB))
