"""Parameters of the query and of headers: one object both reads and describes each."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from aiohttp import hdrs
from aiohttp.web import BaseRequest

from vpt.errors import BadRequestError
from vpt.model import Json

#: Items of a page.
DEFAULT_LIMIT, MAX_LIMIT = 100, 1000
#: Bytes of a page's items, less what stands around them: a page has 8 MiB at most.
MOST_OF_PAGE = 8 * 2**20 - 4096
MAX_WAIT = 60.0  # seconds
#: The largest number of an attempt or a step in a path.
HIGHEST_NUMBER = 1_000_000
#: Characters.
LONGEST_TEXT, LONGEST_CURSOR = 200, 1024

#: The query of a signed link, which is its credential.
SIGNED = ("expires", "signature")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MICROSECOND = 250_000_000_000 * 10**6  # in the year 9892
_WHOLE = re.compile(r"[0-9]{1,9}")
#: What servers append inside the quotes when they compress: Apache, Caddy, Jetty and others.
_COMPRESSED = r"(?:(?:--?|;)(?:gzip|br|zstd|deflate))?"
_ETAG = re.compile(rf'(?:^|,)\s*(?:W/)?"([0-9]{{1,9}}){_COMPRESSED}"\s*(?=,|$)')
_SUFFIX = re.compile(rf"{_COMPRESSED}$")


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list: `limit` items older than the one at `before_at` with `before_id`."""

    limit: int
    before_at: datetime | None = None
    before_id: str | None = None

    def args(self) -> dict[str, Any]:
        """Return the arguments of the statement; one row more than `limit` means a next page."""
        return {"limit": self.limit + 1, "before_at": self.before_at, "before_id": self.before_id}

    def after(self, row: Any, limit: int) -> Page:
        """Return the page of `limit` items after a row that has `created_at` and `id`."""
        return Page(limit, row["created_at"], row["id"])


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter: `read` converts what was sent, or raises BadRequestError.

    `schema` describes it as JSON Schema, `absent` is its value when it was not sent.
    """

    name: str
    about: str
    schema: Json
    read: Callable[[str], Any]
    absent: Any = None
    example: Any = None

    def of(self, sent: Mapping[str, str]) -> Any:
        """Return its value among the parameters that were sent."""
        value = sent.get(self.name)
        return self.absent if value is None else self.read(value)


def text(name: str, about: str, *, example: str | None = None) -> Param:
    """Build a filter by a text; an empty one counts as absent."""

    def read(value: str) -> str | None:
        return _checked(name, value) or None

    return Param(name, about, {"type": "string", "maxLength": LONGEST_TEXT}, read, example=example)


def choice(name: str, about: str, choices: type[StrEnum]) -> Param:
    """Build a filter by one of `choices`; an empty one counts as absent."""
    values = [item.value for item in choices]

    def read(value: str) -> str | None:
        if value not in ("", *values):
            raise BadRequestError(f"`{name}` must be one of {', '.join(values)}.")
        return value or None

    schema = {"type": "string", "enum": [*values, ""]}
    return Param(name, about, schema, read, example=values[0])


def moment(name: str, about: str) -> Param:
    """Build a filter by time (ISO 8601, UTC without a zone); an empty one counts as absent."""

    def read(value: str) -> datetime | None:
        if not _checked(name, value):
            return None
        try:
            moment = datetime.fromisoformat(value)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (ValueError, OverflowError) as error:
            raise BadRequestError(f"`{name}` must be a time in ISO 8601.") from error

    schema = {"type": "string", "anyOf": [{"format": "date-time"}, {"maxLength": 0}]}
    return Param(name, about, schema, read, example="2026-01-31T12:00:00Z")


def number(name: str, about: str, *, lowest: int, highest: int, absent: int | None = None) -> Param:
    """Build a parameter for a whole number."""

    def read(value: str) -> int:
        if not _WHOLE.fullmatch(value) or not lowest <= int(value) <= highest:
            raise BadRequestError(f"`{name}` must be a whole number from {lowest} to {highest}.")
        return int(value)

    schema: Json = {"type": "integer", "minimum": lowest, "maximum": highest}
    if absent is not None:
        schema["default"] = absent
    return Param(name, about, schema, read, absent)


def _checked(name: str, value: str) -> str:
    if len(value) > LONGEST_TEXT or not value.isprintable():
        raise BadRequestError(f"`{name}` must be at most {LONGEST_TEXT} printable characters.")
    return value


def _read_wait(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT:
        raise BadRequestError(f"`wait` must be a number of seconds from 0 to {MAX_WAIT:.0f}.")
    return seconds


def make_cursor(created_at: datetime, row_id: str) -> str:
    """Return the `cursor` of the page after the one whose last item this is."""
    microseconds = (created_at - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(f"{microseconds} {row_id}".encode()).decode().rstrip("=")


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
        raise BadRequestError("`cursor` was not returned by a list.") from error
    return _EPOCH + timedelta(microseconds=microseconds), before_id


LIMIT = number(
    "limit",
    "The largest number of items to return.",
    lowest=1,
    highest=MAX_LIMIT,
    absent=DEFAULT_LIMIT,
)
CURSOR = Param(
    "cursor",
    "Where the page begins: the `next_cursor` of the previous page.",
    {"type": "string", "maxLength": LONGEST_CURSOR},
    _read_cursor,
    (None, None),
)
WAIT = Param(
    "wait",
    "Seconds to wait for the final status; after that the response has the current one.",
    {"type": "number", "minimum": 0, "maximum": MAX_WAIT, "default": 0},
    _read_wait,
    0.0,
    example=20,
)


def etag(version: int) -> str:
    """Return the ETag of a version."""
    return f'"{version}"'


def _read_versions(header: str) -> list[int] | None:
    """Return the versions that If-Match allows, None for any.

    ETags are compared weakly: a proxy that compresses an answer weakens its ETag (nginx), or
    appends how it did (Apache, Caddy). The version that it was made of is still the same.
    """
    if header.strip() == "*":
        return None
    return [int(version) for version in _ETAG.findall(header.strip())]


def is_known(request: BaseRequest, value: str) -> bool:
    """Return whether If-None-Match names an ETag, compared weakly as in If-Match."""
    known = request.if_none_match or ()
    return any(_SUFFIX.sub("", tag.value) == value for tag in known)


IF_MATCH = Param(
    hdrs.IF_MATCH,
    "The ETag that you read: 412 when the object was changed since then.",
    {"type": "string"},
    _read_versions,
    example='"1"',
)
