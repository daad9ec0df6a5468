"""Operations: what a route takes, answers and refuses, said once, at its handler.

A handler reads its body and its query by what it declares here, and `openapi.py` describes it by
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from aiohttp import hdrs, web
from marshmallow import Schema
from marshmallow import fields as f

from vpt.errors import VptError
from vpt.web.http.params import CURSOR, LIMIT, Page, Param
from vpt.web.http.requests import load_body
from vpt.web.schemas.answers import Shown

#: Ways to show who one is, by their names in the document; NOBODY: it may be left out.
USER, HOST_TOKEN, HOST_BASIC, NOBODY = "user", "host_token", "host_basic", ""
METRICS_TOKEN, SIGNED_LINK = "metrics_token", "signed_link"
HOST = (HOST_TOKEN, HOST_BASIC)
JSON = "application/json"

_MARK = "vpt_operation"

Handler = TypeVar("Handler", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes back when all went well: for each type of content its schema, where it has one."""

    content: Mapping[str, type[Schema] | None]
    headers: tuple[str, ...] = ()


#: What who names the ETag it has in If-None-Match is answered, where that is the present one.
UNCHANGED = {304: Answer({}, headers=(hdrs.ETAG,))}


@dataclass(frozen=True, slots=True)
class Operation:
    """What a route takes, answers and refuses, beside what all routes refuse."""

    answers: Mapping[int, Answer]
    query: tuple[Param, ...]
    headers: tuple[Param, ...]
    body: Schema | None
    refuses: tuple[type[VptError], ...]
    credentials: tuple[str, ...] | None
    filters: tuple[Param, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Keep the query without what pages a list: that is what handlers ask for."""
        filters = tuple(param for param in self.query if param not in (LIMIT, CURSOR))
        object.__setattr__(self, "filters", filters)


def operation(
    answer: Answer | type[Schema] | None = None,
    status: int = 200,
    *,
    lists: type[Schema] | None = None,
    also: Mapping[int, Answer] | None = None,
    query: Sequence[Param] = (),
    headers: Sequence[Param] = (),
    body: Schema | None = None,
    refuses: Sequence[type[VptError]] = (),
    credentials: Sequence[str] | None = None,
) -> Callable[[Handler], Handler]:
    """Declare a route: it answers `status` with `answer`, or with pages of what it `lists`.

    `body` is what `body_of` loads, `query` what `query_of` reads. Only what is special is to be
    said: who may call, what is wrong with a body or a query, and 401, 403, 404 of an id in the
    path, 500 and 503 go without saying. `credentials`: how one shows who one is, where that is
    not as the route's access says.
    """
    paging = () if lists is None else (LIMIT, CURSOR)
    declared = Operation(
        answers={status: _answer(answer if lists is None else page_schema(lists)), **(also or {})},
        query=(*paging, *query),
        headers=tuple(headers),
        body=body,
        refuses=tuple(refuses),
        credentials=None if credentials is None else tuple(credentials),
    )

    def mark(handler: Handler) -> Handler:
        setattr(handler, _MARK, declared)
        return handler

    return mark


def _answer(answer: Answer | type[Schema] | None) -> Answer:
    if isinstance(answer, Answer):
        return answer
    return Answer({} if answer is None else {JSON: answer})


@cache
def page_schema(item: type[Schema]) -> type[Schema]:
    """Give the schema of a page of such items."""
    fields: dict[str, f.Field[Any]] = {
        "items": f.List(f.Nested(item), required=True),
        "next_cursor": f.String(
            required=True,
            allow_none=True,
            metadata={"description": "The `cursor` of the next page; null on the last."},
        ),
    }
    return Shown.from_dict(fields, name=f"{item.__name__}Page")


def operation_of(handler: Any) -> Operation | None:
    """Give what the handler declares, None when it declares nothing."""
    declared: Operation | None = getattr(handler, _MARK, None)
    return declared


def _declared(request: web.Request) -> Operation:
    return getattr(request.match_info.handler, _MARK)  # type: ignore[no-any-return]


async def body_of(request: web.Request) -> Any:
    """Give what the declared schema makes of the body; raises as `load_body` does."""
    schema = _declared(request).body
    if schema is None:
        raise TypeError("the handler declares no body")
    return await load_body(request, schema)


def query_of(request: web.Request) -> dict[str, Any]:
    """Give each declared parameter of the query by its name; raises BadRequestError."""
    return {param.name: param.of(request.query) for param in _declared(request).filters}


def page_of(request: web.Request) -> Page:
    """Give the page that `limit` and `cursor` ask for; raises BadRequestError."""
    return Page(LIMIT.of(request.query), *CURSOR.of(request.query))
