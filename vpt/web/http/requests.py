"""Reading request bodies strictly, and building JSON responses and pages of lists."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import orjson
from aiohttp import hdrs, http_exceptions, web
from marshmallow import Schema, ValidationError

from vpt import bodies
from vpt.bounds import LONGEST_ID
from vpt.errors import (
    BadRequestError,
    InvalidError,
    NotFoundError,
    TooLargeError,
    VptError,
)
from vpt.model import Json
from vpt.web.http.held import hold
from vpt.web.http.middlewares import JSON_HEADERS
from vpt.web.http.params import MOST_OF_PAGE, Page, make_cursor

MAX_DEPTH = 50  # of nested arrays and objects
BODY_TIMEOUT, LONG_BODY_TIMEOUT = 60.0, 600.0  # seconds

_LOWEST, _HIGHEST = -(2**63), 2**64 - 1
#: Translates every digit to 0: searching for 19 zeros is 20 times as fast as a regular expression.
_DIGITS = bytes(ord("0" if chr(byte) in "0123456789" else " ") for byte in range(256))
_LONG_NUMBER = b"0" * 19

_CHUNK = 64 * 1024  # bytes that are counted without a turn for others
_REPEATABLE = "Idempotency-Key"
_BODY = web.RequestKey("body", bytes)

Made = TypeVar("Made")


class SlowBodyError(VptError):
    """The body did not arrive in time."""

    status, code = 408, "slow_body"


async def load_body(request: web.Request, schema: Schema, most: int | None = None) -> Any:
    """Return the body, of at most `most` bytes, as `schema` loads it; an empty body is `{}`.

    Raises BadRequestError (not JSON, not an object, NUL, NaN, too deep, numbers beyond 64 bits),
    InvalidError (the schema's messages), TooLargeError (bytes, values), UnavailableError. Long
    bodies are read in a thread.
    """
    return await read_as(request, partial(load, schema), most)


async def read_as(
    request: web.Request, make: Callable[[Json], Made], most: int | None = None
) -> Made:
    """Return what `make` builds from the body's object; raises as `load_body` does."""
    body = await _read(request, most)
    return await bodies.beside_loop(body, lambda: make(parse(body)))


async def read_text_of_host(request: web.Request, make: Callable[[Json], Made], most: int) -> Made:
    """Return what `make` builds from a body of at most `most` bytes, which may hold any text.

    The text is output of programs: NUL is allowed and left to `make`, lone surrogates are replaced,
    and of strings that are very long only the beginning is kept.
    Raises BadRequestError, TooLargeError, UnavailableError, and what `make` raises.
    """
    _refuse_before_reading(request, most)
    intake = bodies.Intake(of_host=True, longest_plain=bodies.LONGEST_TEXT)
    await _receive(request, intake, most, LONG_BODY_TIMEOUT)
    return await bodies.in_thread(lambda: make(_parse_any_text(_bounded(intake.text))))


async def _read(request: web.Request, most: int | None = None) -> bytes:
    """Return the body; a long one is counted as it comes.

    It is kept for who reads it again only where that may be, for the hash of an Idempotency-Key:
    what is built from it is several times as large, and the body itself is needed no more.
    """
    known: bytes | None = request.get(_BODY)
    if known is not None:
        return _of_size(known, most)
    limit = min(request.client_max_size, request.client_max_size if most is None else most)
    _refuse_before_reading(request, limit)
    if request.content.is_eof():  # it arrived with the headers: nothing to wait for
        body = await request.read()
        hold(request, len(body))
        _bounded(partial(bodies.check, body))
        return _of_size(body, limit)
    intake = bodies.Intake()
    await _receive(request, intake, limit, BODY_TIMEOUT)
    body = await _joined(intake)
    if _REPEATABLE in request.headers:
        request[_BODY] = body
    return body


async def _joined(intake: bodies.Intake) -> bytes:
    """Join in the thread what is long: the memory for it alone takes tens of milliseconds."""
    join = partial(_bounded, intake.text)
    return await bodies.in_thread(join) if intake.size > bodies.LONG else join()


def _refuse_before_reading(request: web.Request, most: int) -> None:
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise BadRequestError("The body is compressed: send it uncompressed.")
    if (request.content_length or 0) > most:
        raise _too_large(most)


def _of_size(body: bytes, most: int | None) -> bytes:
    if most is not None and len(body) > most:
        raise _too_large(most)
    return body


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(f"The body is larger than {_as_size(most)}.")


def _as_size(most: int) -> str:
    return f"{most // 2**20} MiB" if most % 2**20 == 0 else f"{most} bytes"


async def _receive(request: web.Request, intake: bodies.Intake, most: int, seconds: float) -> None:
    """Read the body into `intake`, as long as it is not too much in any respect."""
    received = 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.content.iter_any():
                received += len(chunk)
                if received > most:
                    raise _too_large(most)
                for start in range(0, len(chunk), _CHUNK):
                    _bounded(partial(intake.add, chunk[start : start + _CHUNK]))
                    if len(chunk) > _CHUNK:
                        await asyncio.sleep(0)
                hold(request, intake.size)
    except TimeoutError as error:
        raise SlowBodyError from error
    except (web.RequestPayloadError, http_exceptions.HttpProcessingError) as error:
        raise BadRequestError(
            "The body could not be read: it is malformed or ended too early."
        ) from error


def _bounded(work: Callable[[], Made]) -> Made:
    try:
        return work()
    except bodies.TooMuchError as error:
        raise TooLargeError(f"The body has more than {error}.") from error


def _parse_any_text(body: bytes) -> Json:
    value = bodies.parse_of_host(body)
    if value is None:
        raise BadRequestError("The body is not a JSON object.")
    return value


def load(schema: Schema, body: Json) -> Any:
    """Return the body as the schema loads it; raises InvalidError with the schema's messages."""
    try:
        return schema.load(body)
    except ValidationError as error:
        raise InvalidError(dict(error.messages_dict)) from error


def parse(body: bytes) -> Json:
    """Parse a JSON object strictly; raises BadRequestError that says what is wrong."""
    try:
        value = orjson.loads(body) if body.strip() else {}
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"The body is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise BadRequestError("The body is not a JSON object.")
    if rb"\u0000" in body and rb"\u0000" in body.replace(rb"\\", b""):
        raise BadRequestError("The body holds a NUL character.")
    _refuse_deep(body, value)
    _refuse_huge_numbers(body)
    return value


def _refuse_deep(body: bytes, value: Json) -> None:
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise BadRequestError(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _refuse_huge_numbers(body: bytes) -> None:
    """Refuse whole numbers beyond 64 bits, which would silently lose precision."""
    if _LONG_NUMBER in body.translate(_DIGITS):
        json.loads(body, parse_int=_whole)


def _whole(digits: str) -> int:
    # Long strings of digits cost int() quadratic time.
    if len(digits) > len(str(_LOWEST)) or not _LOWEST <= int(digits) <= _HIGHEST:
        raise BadRequestError("The body holds a whole number beyond 64 bits.")
    return int(digits)


def path_id(request: web.Request, name: str = "id") -> str:
    """Return an id of the path; NotFoundError for a text that cannot be an id."""
    value = request.match_info[name]
    if not 0 < len(value) <= LONGEST_ID or not value.isprintable():
        raise NotFoundError
    return value


def list_response(rows: Sequence[Any], page: Page) -> web.Response:
    """Answer with a page whose rows have `item` (JSON as text), `created_at` and `id`.

    `rows` come from a statement that was given `page.args()`. The page ends before the first item
    that would make it larger than MOST_OF_PAGE, and before one that the statement left out.
    """
    shown = _that_fit(rows[: page.limit])
    cursor = "null"
    if len(rows) > len(shown):
        cursor = f'"{make_cursor(shown[-1]["created_at"], shown[-1]["id"])}"'
    # Encoded one by one: in one text a single emoji would make all of it four times as large.
    items = b",".join([row["item"].encode() for row in shown])
    body = b'{"items":[%b],"next_cursor":%b}' % (items, cursor.encode())
    return web.Response(body=body, headers=JSON_HEADERS)


def _that_fit(rows: Sequence[Any]) -> Sequence[Any]:
    """Return the first rows, as many as fit into a page; the first one always does."""
    size = 0
    for number, row in enumerate(rows):
        size += bytes_of(row["item"]) + 1
        if number and size > MOST_OF_PAGE:
            return rows[:number]
    return rows


def bytes_of(item: str | None) -> int:
    """Return the length in UTF-8; a text that the statement left out is longer than any page."""
    if item is None:
        return MOST_OF_PAGE
    return len(item) if item.isascii() else len(item.encode())


def page_response(row: Any) -> web.Response:
    """Answer with a page that the database built whole: `items`, `more`, `last_at`, `last_id`.

    One row with all items costs half of what a row each does.
    """
    cursor = f'"{make_cursor(row["last_at"], row["last_id"])}"' if row["more"] else "null"
    return json_text(f'{{"items":[{row["items"] or ""}],"next_cursor":{cursor}}}')


def json_text(text: str, status: int = 200, etag: str | None = None) -> web.Response:
    """Answer with JSON text, as the database builds it."""
    response = web.Response(body=text.encode(), status=status, headers=JSON_HEADERS)
    if etag is not None:
        response.headers[hdrs.ETAG] = etag
    return response


def json_response(value: Any, status: int = 200) -> web.Response:
    """Answer with `value` as JSON; times are in UTC with Z."""
    option = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC
    return web.Response(
        body=orjson.dumps(value, option=option), status=status, headers=JSON_HEADERS
    )


def no_content() -> web.Response:
    """Answer 204."""
    return web.Response(status=204)


def found(value: Any) -> Any:
    """Return `value`; NotFoundError when it is None."""
    if value is None:
        raise NotFoundError
    return value
