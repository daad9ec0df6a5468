"""What comes in and goes out: strict bodies, query parameters, pages, JSON answers."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

import orjson
from aiohttp import hdrs, http_exceptions, web
from marshmallow import Schema, ValidationError

from vpt.errors import (
    BadRequestError,
    InvalidError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
    VptError,
)
from vpt.model import Json
from vpt.web.middlewares import JSON_HEADERS

MAX_DEPTH = 50
LONG_BODY = 256 * 1024
BODY_TIMEOUT, LONG_BODY_TIMEOUT = 60.0, 600.0
DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
MAX_WAIT = 60.0
LONGEST_ID = 200
#: Bytes of long bodies that all requests together may hold; who comes then is told to come again.
MOST_HELD = 256 * 2**20
LONGEST_CURSOR = 1024

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MICROSECOND = 250_000_000_000 * 10**6  # in the year 9892
_LOWEST, _HIGHEST = -(2**63), 2**64 - 1
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
#: Makes every digit a 0: to look for 19 of those is 20 times as fast as a regular expression.
_DIGITS = bytes(ord("0" if chr(byte) in "0123456789" else " ") for byte in range(256))
_LONG_NUMBER = b"0" * 19
_LIMIT = re.compile(r"[0-9]{1,9}")

Choice = TypeVar("Choice", bound=StrEnum)
Made = TypeVar("Made")


class SlowBodyError(VptError):
    """The body did not arrive in time."""

    status, code = 408, "slow_body"


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list: `limit` items older than the one that `before_at`, `before_id` name."""

    limit: int
    before_at: datetime | None = None
    before_id: str | None = None

    def args(self) -> dict[str, Any]:
        """Give a query's `limit, before_at, before_id`; one row more tells of a next page."""
        return {"limit": self.limit + 1, "before_at": self.before_at, "before_id": self.before_id}


async def load_body(request: web.Request, schema: Schema) -> Any:
    """Give what `schema` makes of the body; an empty body is `{}`.

    Raises BadRequestError (not JSON, not an object, NUL, NaN, too deep, numbers beyond 64 bits),
    InvalidError (the schema's messages), TooLargeError. Long bodies are read in a thread.
    """
    return await _in_thread_if_long(await _read(request), partial(_load, schema))


async def read_as(request: web.Request, make: Callable[[Json], Made]) -> Made:
    """Give what `make` makes of the object that the body is. Raises as `load_body` does."""

    def work(body: bytes) -> Made:
        return make(parse(body))

    made: Made = await _in_thread_if_long(await _read(request), work)
    return made


async def read_text_of_host(request: web.Request, make: Callable[[Json], Made], most: int) -> Made:
    """Give what `make` makes of a body of at most `most` bytes, which may hold any text.

    It holds what programs wrote, so NUL and lone surrogates are for `make` to deal with. Raises
    BadRequestError, TooLargeError, and what `make` raises.
    """
    body = await _read_long(request, most)
    return await asyncio.to_thread(lambda: make(_parse_any_text(body)))


async def _read_long(request: web.Request, most: int) -> bytes:
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
        raise BadRequestError("The body is broken.") from error
    finally:
        _held.drop(size)
    return b"".join(chunks)


class _Held:
    """How much of long bodies has come and is not whole yet."""

    def __init__(self) -> None:
        self.size = 0

    def add(self, size: int) -> None:
        """Hold more; UnavailableError when that is too much."""
        self.size += size
        if self.size > MOST_HELD:
            raise UnavailableError("Too many long bodies at once.", retry_after=5)

    def drop(self, size: int) -> None:
        """Hold so much less."""
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
    """Give the body as an object; an empty body is `{}`. Raises as `load_body` does."""
    value: Json = await _in_thread_if_long(await _read(request), parse)
    return value


async def _in_thread_if_long(body: bytes, work: Any) -> Any:
    if len(body) > LONG_BODY:
        return await asyncio.to_thread(work, body)
    return work(body)


async def _read(request: web.Request) -> bytes:
    if (request.content_length or 0) > request.client_max_size:
        raise TooLargeError
    try:
        if request.content.is_eof():  # it came with the head: nothing to wait for
            return await request.read()
        async with asyncio.timeout(BODY_TIMEOUT):
            return await request.read()
    except TimeoutError as error:
        raise SlowBodyError from error
    except (web.RequestPayloadError, http_exceptions.HttpProcessingError) as error:
        raise BadRequestError("The body is broken.") from error


def _load(schema: Schema, body: bytes) -> Any:
    try:
        return schema.load(parse(body))
    except ValidationError as error:
        raise InvalidError(dict(error.messages_dict)) from error


def parse(body: bytes) -> Json:
    """Read a JSON object strictly; raises BadRequestError that says what is wrong."""
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
    """A whole number beyond 64 bits would silently become another one."""
    if _LONG_NUMBER in body.translate(_DIGITS):
        json.loads(body, parse_int=_whole)


def _whole(digits: str) -> int:
    # Long strings of digits cost int() quadratic time.
    if len(digits) > len(str(_LOWEST)) or not _LOWEST <= int(digits) <= _HIGHEST:
        raise BadRequestError("The body holds a whole number beyond 64 bits.")
    return int(digits)


def path_id(request: web.Request, name: str = "id") -> str:
    """Give an id from the path; what can be nobody's id is NotFoundError."""
    value = request.match_info[name]
    if not 0 < len(value) <= LONGEST_ID or not value.isprintable():
        raise NotFoundError
    return value


def text_param(request: web.Request, name: str) -> str | None:
    """Give a filter of the query, None when it is absent or empty."""
    value = request.query.get(name)
    if value is None:
        return None
    if len(value) > LONGEST_ID or not value.isprintable():
        raise BadRequestError(f"`{name}` makes no sense.")
    return value or None


def choice_param(request: web.Request, name: str, choices: type[Choice]) -> str | None:
    """Give a filter that is one of `choices`, None when it is absent."""
    value = text_param(request, name)
    if value is not None and value not in set(choices):
        raise BadRequestError(f"`{name}` is one of {', '.join(choices)}.")
    return value


def time_param(request: web.Request, name: str) -> datetime | None:
    """Give a moment of the query (ISO 8601, UTC where it names no zone), None when absent."""
    value = text_param(request, name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadRequestError(f"`{name}` is not a time in ISO 8601.") from error


def wait_param(request: web.Request) -> float:
    """Give `?wait=` in seconds, 0 when absent."""
    value = request.query.get("wait", "0")
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT:
        raise BadRequestError(f"`wait` is a number of seconds from 0 to {MAX_WAIT:.0f}.")
    return seconds


def number_param(request: web.Request, name: str, *, lowest: int, highest: int) -> int | None:
    """Give a whole number of the query, None when absent."""
    value = request.query.get(name)
    if value is None:
        return None
    if not _LIMIT.fullmatch(value) or not lowest <= int(value) <= highest:
        raise BadRequestError(f"`{name}` is a whole number from {lowest} to {highest}.")
    return int(value)


def page_of(request: web.Request) -> Page:
    """Give the page that `limit` and `cursor` ask for."""
    limit = number_param(request, "limit", lowest=1, highest=MAX_LIMIT) or DEFAULT_LIMIT
    cursor = request.query.get("cursor")
    if cursor is None:
        return Page(limit)
    before_at, before_id = _read_cursor(cursor)
    return Page(limit, before_at, before_id)


def _read_cursor(cursor: str) -> tuple[datetime, str]:
    try:
        if len(cursor) > LONGEST_CURSOR:
            raise ValueError(cursor)  # noqa: TRY301
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        digits, _, before_id = raw.decode().partition(" ")
        microseconds = int(digits)
        if not 0 <= microseconds <= _LAST_MICROSECOND or not before_id.isprintable():
            raise ValueError(cursor)  # noqa: TRY301
    except (ValueError, binascii.Error) as error:
        raise BadRequestError("`cursor` is none that a list gave.") from error
    return _EPOCH + timedelta(microseconds=microseconds), before_id


def make_cursor(created_at: datetime, row_id: str) -> str:
    """Name the last item of a page."""
    microseconds = (created_at - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(f"{microseconds} {row_id}".encode()).decode().rstrip("=")


def list_response(rows: Sequence[Any], page: Page) -> web.Response:
    """Answer with a page whose rows have `item` (JSON as text), `created_at` and `id`.

    `rows` come from a query that was given `page.args()`.
    """
    shown = rows[: page.limit]
    cursor = "null"
    if len(rows) > page.limit:
        cursor = f'"{make_cursor(shown[-1]["created_at"], shown[-1]["id"])}"'
    items = ",".join([row["item"] for row in shown])
    return json_text(f'{{"items":[{items}],"next_cursor":{cursor}}}')


def page_response(row: Any) -> web.Response:
    """Answer with a page that the database built whole: `items`, `more`, `last_at`, `last_id`.

    One row with all items costs half of what a row each does.
    """
    cursor = f'"{make_cursor(row["last_at"], row["last_id"])}"' if row["more"] else "null"
    return json_text(f'{{"items":[{row["items"] or ""}],"next_cursor":{cursor}}}')


def json_text(text: str, status: int = 200, etag: str | None = None) -> web.Response:
    """Answer with JSON that is text already, as the database builds it."""
    response = web.Response(body=text.encode(), status=status, headers=JSON_HEADERS)
    if etag is not None:
        response.headers[hdrs.ETAG] = etag
    return response


def json_response(value: Any, status: int = 200) -> web.Response:
    """Answer with `value` as JSON; datetimes in UTC with Z."""
    option = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC
    return web.Response(
        body=orjson.dumps(value, option=option), status=status, headers=JSON_HEADERS
    )


def no_content() -> web.Response:
    """Answer 204."""
    return web.Response(status=204)


def found(value: Any) -> Any:
    """Give `value`, NotFoundError when it is None."""
    if value is None:
        raise NotFoundError
    return value
