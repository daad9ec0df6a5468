"""Reading request bodies strictly, and building JSON responses and pages of lists."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import orjson
from aiohttp import hdrs, http_exceptions, web
from marshmallow import Schema, ValidationError

from vpt.bounds import LONGEST_ID
from vpt.errors import (
    BadRequestError,
    InvalidError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    VptError,
)
from vpt.model import Json
from vpt.web.http.middlewares import JSON_HEADERS
from vpt.web.http.params import MOST_OF_PAGE, Page, make_cursor

MAX_DEPTH = 50  # of nested arrays and objects
#: Bytes above which a body is parsed in a thread, since that would hold up the event loop.
LONG_BODY = 256 * 1024
BODY_TIMEOUT, LONG_BODY_TIMEOUT = 60.0, 600.0  # seconds
#: Bytes of long bodies that all requests together may hold; more is refused with 503.
MOST_HELD = 256 * 2**20

_LOWEST, _HIGHEST = -(2**63), 2**64 - 1
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
#: Translates every digit to 0: searching for 19 zeros is 20 times as fast as a regular expression.
_DIGITS = bytes(ord("0" if chr(byte) in "0123456789" else " ") for byte in range(256))
_LONG_NUMBER = b"0" * 19

Made = TypeVar("Made")


class SlowBodyError(VptError):
    """The body did not arrive in time."""

    status, code = 408, "slow_body"


async def load_body(request: web.Request, schema: Schema, most: int | None = None) -> Any:
    """Return the body, of at most `most` bytes, as `schema` loads it; an empty body is `{}`.

    Raises BadRequestError (not JSON, not an object, NUL, NaN, too deep, numbers beyond 64 bits),
    InvalidError (the schema's messages), TooLargeError. Long bodies are read in a thread.
    """
    _refuse_longer(request.content_length or 0, most)
    body = await _read(request)
    _refuse_longer(len(body), most)
    return await _in_thread_if_long(body, partial(_load, schema))


def _refuse_longer(size: int, most: int | None) -> None:
    if most is not None and size > most:
        raise TooLargeError(f"The body is larger than {most // 2**20} MiB.")


async def read_as(request: web.Request, make: Callable[[Json], Made]) -> Made:
    """Return what `make` builds from the body's object; raises as `load_body` does."""

    def work(body: bytes) -> Made:
        return make(parse(body))

    made: Made = await _in_thread_if_long(await _read(request), work)
    return made


async def read_text_of_host(request: web.Request, make: Callable[[Json], Made], most: int) -> Made:
    """Return what `make` builds from a body of at most `most` bytes, which may hold any text.

    The text is output of programs, so NUL and lone surrogates are allowed and left to `make`.
    Raises BadRequestError, TooLargeError, UnavailableError, and what `make` raises.
    """
    body = await _read_long(request, most)
    return await asyncio.to_thread(lambda: make(_parse_any_text(body)))


async def _read_long(request: web.Request, most: int) -> bytes:
    _refuse_compressed(request)
    if (request.content_length or 0) > most:
        raise TooLargeError
    chunks, size = [], 0
    try:
        async with asyncio.timeout(LONG_BODY_TIMEOUT):
            async for chunk in request.content.iter_any():
                chunks.append(chunk)
                size += len(chunk)
                _held.add(len(chunk))
                if size > most:
                    raise TooLargeError
    except TimeoutError as error:
        raise SlowBodyError from error
    except (web.RequestPayloadError, http_exceptions.HttpProcessingError) as error:
        raise BadRequestError(
            "The body could not be read: it is malformed or ended too early."
        ) from error
    finally:
        _held.drop(size)
    return b"".join(chunks)


class _Held:
    """Bytes of long bodies that are being received."""

    def __init__(self) -> None:
        self.size = 0

    def add(self, size: int) -> None:
        """Count more bytes; UnavailableError when they are too many."""
        self.size += size
        if self.size > MOST_HELD:
            raise UnavailableError(
                "Too many long bodies are being received at once: try again in a moment.",
                retry_after=5,
            )

    def drop(self, size: int) -> None:
        """Count fewer bytes."""
        self.size -= size


_held = _Held()


def _parse_any_text(body: bytes) -> Json:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(body)  # lone surrogates, which orjson refuses
        except (ValueError, RecursionError) as error:
            raise BadRequestError("The body is not JSON.") from error
    if not isinstance(value, dict):
        raise BadRequestError("The body is not a JSON object.")
    return value


async def read_json(request: web.Request) -> Json:
    """Return the body as an object; an empty body is `{}`. Raises as `load_body` does."""
    value: Json = await _in_thread_if_long(await _read(request), parse)
    return value


async def _in_thread_if_long(body: bytes, work: Any) -> Any:
    if len(body) > LONG_BODY:
        return await asyncio.to_thread(work, body)
    return work(body)


async def _read(request: web.Request) -> bytes:
    _refuse_compressed(request)
    if (request.content_length or 0) > request.client_max_size:
        raise TooLargeError
    try:
        if request.content.is_eof():  # it arrived with the headers: nothing to wait for
            return await request.read()
        async with asyncio.timeout(BODY_TIMEOUT):
            return await request.read()
    except TimeoutError as error:
        raise SlowBodyError from error
    except (web.RequestPayloadError, http_exceptions.HttpProcessingError) as error:
        raise BadRequestError(
            "The body could not be read: it is malformed or ended too early."
        ) from error


def _refuse_compressed(request: web.Request) -> None:
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise BadRequestError("The body is compressed: send it uncompressed.")


def _load(schema: Schema, body: bytes) -> Any:
    try:
        return schema.load(parse(body))
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
    if b"u0000" in body and _NUL.search(body):
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
    items = ",".join([row["item"] for row in shown])
    return json_text(f'{{"items":[{items}],"next_cursor":{cursor}}}')


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
