"""The parameters, body, responses and errors of a route, declared once, at its handler.

The handler reads its body and its query as it declares them here, and `openapi.py` describes the
route from the same declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any

from aiohttp import hdrs, web
from marshmallow import Schema
from marshmallow import fields as f

from vpt.errors import BadRequestError, VptError
from vpt.web.http.params import CURSOR, LIMIT, SIGNED, Page, Param
from vpt.web.http.requests import load_body
from vpt.web.schemas.response import ResponseSchema

#: Kinds of credentials, by their names in the document; NOBODY: none is needed.
USER, HOST_TOKEN, HOST_BASIC, NOBODY = "user", "host_token", "host_basic", ""
METRICS_TOKEN, SIGNED_LINK = "metrics_token", "signed_link"
HOST = (HOST_TOKEN, HOST_BASIC)
JSON = "application/json"

_MARK = "vpt_operation"

#: Characters of an unknown parameter's name that the refusal repeats.
_SHOWN = 50

Handler = Callable[[web.Request], Any]


@dataclass(frozen=True, slots=True)
class ResponseSpec:
    """A successful response: each content type with its schema, if it has one, and headers."""

    content: Mapping[str, type[Schema] | None]
    headers: tuple[str, ...] = ()


#: The 304 for a client whose If-None-Match names the current ETag.
UNCHANGED = {304: ResponseSpec({}, headers=(hdrs.ETAG,))}


@dataclass(frozen=True, slots=True)
class Operation:
    """The declaration of a route, without the errors that every route has."""

    responses: Mapping[int, ResponseSpec]
    query: tuple[Param, ...]
    headers: tuple[Param, ...]
    body: Schema | None
    refuses: tuple[type[VptError], ...]
    credentials: tuple[str, ...] | None
    any_query: bool = False
    most: int | None = None
    filters: tuple[Param, ...] = field(init=False)
    known: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Keep the filters, which are not `limit` and `cursor`, and the names that are known."""
        filters = tuple(param for param in self.query if param not in (LIMIT, CURSOR))
        signed = SIGNED if SIGNED_LINK in (self.credentials or ()) else ()
        object.__setattr__(self, "filters", filters)
        object.__setattr__(self, "known", frozenset((*signed, *(p.name for p in self.query))))

    @property
    def strict(self) -> bool:
        """Whether an unknown query parameter is refused.

        It is not where hosts call: one of the field that adds a parameter would be locked out.
        """
        return not self.any_query and self.credentials != HOST


def operation(
    response: ResponseSpec | type[Schema] | None = None,
    status: int = 200,
    *,
    lists: type[Schema] | None = None,
    also: Mapping[int, ResponseSpec] | None = None,
    query: Sequence[Param] = (),
    headers: Sequence[Param] = (),
    body: Schema | None = None,
    refuses: Sequence[type[VptError]] = (),
    credentials: Sequence[str] | None = None,
    any_query: bool = False,
    most: int | None = None,
) -> Callable[[Handler], Handler]:
    """Declare a route that answers `status` with `response`, or with pages of what it `lists`.

    `body_of` loads `body`, of at most `most` bytes where that is less than MAX_BODY, and `query_of`
    reads `query`; other query parameters are refused, unless `any_query` is set: for files and
    pages. `refuses` names the errors of this route only: those of a wrong body or query, and 401,
    403, 404 of an id in the path, 500 and 503 are added by the document. `credentials` is set
    where they differ from those that the access implies.
    """
    paging = () if lists is None else (LIMIT, CURSOR)
    declared = Operation(
        responses={
            status: _spec(response if lists is None else page_schema(lists)),
            **(also or {}),
        },
        query=(*paging, *query),
        headers=tuple(headers),
        body=body,
        refuses=tuple(refuses),
        credentials=None if credentials is None else tuple(credentials),
        any_query=any_query,
        most=most,
    )

    def mark(handler: Handler) -> Handler:
        @wraps(handler)
        async def checked(request: web.Request) -> web.StreamResponse:
            if declared.strict and request.rel_url.raw_query_string:
                _refuse_unknown(request, declared.known)
            response: web.StreamResponse = await handler(request)
            return response

        setattr(checked, _MARK, declared)
        return checked

    return mark


def _refuse_unknown(request: web.Request, known: frozenset[str]) -> None:
    """Refuse a query parameter that is not known, or is sent twice.

    An ignored filter would answer with everything, as if everything matched.
    """
    for name in request.query:
        if name not in known:
            raise BadRequestError(f"There is no parameter {_quoted(name)} here: {_list(known)}")
        if len(request.query.getall(name)) > 1:
            raise BadRequestError(f"The query parameter {_quoted(name)} is sent more than once.")


def _quoted(name: str) -> str:
    """Return the beginning of a name that a client sent, without control characters."""
    return f"`{''.join(c if c.isprintable() else '?' for c in name[:_SHOWN])}`"


def _list(known: frozenset[str]) -> str:
    if not known:
        return "this route has none."
    return f"the known ones are {', '.join(f'`{name}`' for name in sorted(known))}."


def _spec(response: ResponseSpec | type[Schema] | None) -> ResponseSpec:
    if isinstance(response, ResponseSpec):
        return response
    return ResponseSpec({} if response is None else {JSON: response})


def document_name(schema: type[Schema]) -> str:
    """Return the name of a schema in the OpenAPI document."""
    return schema.__name__.removesuffix("Response")


@cache
def page_schema(item: type[Schema]) -> type[Schema]:
    """Return the schema of a page of a list of such items."""
    fields: dict[str, f.Field[Any]] = {
        "items": f.List(f.Nested(item), required=True),
        "next_cursor": f.String(
            required=True,
            allow_none=True,
            metadata={"description": "The `cursor` of the next page; null on the last page."},
        ),
    }
    return ResponseSchema.from_dict(fields, name=f"{document_name(item)}Page")


def operation_of(handler: Any) -> Operation | None:
    """Return what the handler declares, None when it declares nothing."""
    declared: Operation | None = getattr(handler, _MARK, None)
    return declared


def _declared(request: web.Request) -> Operation:
    return getattr(request.match_info.handler, _MARK)  # type: ignore[no-any-return]


async def body_of(request: web.Request) -> Any:
    """Return the body as the declared schema loads it; raises as `load_body` does."""
    declared = _declared(request)
    if declared.body is None:
        raise TypeError("the handler declares no body")
    return await load_body(request, declared.body, declared.most)


def query_of(request: web.Request) -> dict[str, Any]:
    """Return the declared query parameters by name; raises BadRequestError."""
    return {param.name: param.of(request.query) for param in _declared(request).filters}


def page_of(request: web.Request) -> Page:
    """Return the page that `limit` and `cursor` ask for; raises BadRequestError."""
    return Page(LIMIT.of(request.query), *CURSOR.of(request.query))
