"""The description of the REST API: an OpenAPI document, made of what the routes declare."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import hdrs, web
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from marshmallow import Schema
from marshmallow import fields as f
from marshmallow.validate import Range

from vpt import __version__
from vpt.errors import (
    BadRequestError,
    DatabaseAwayError,
    ForbiddenError,
    InvalidError,
    InvalidTokenError,
    NotFoundError,
    NoTokenError,
    NotRegisteredError,
    TooLargeError,
    UnavailableError,
    VptError,
)
from vpt.model import Json, Role
from vpt.web.schemas import answers, bodies as schemas
from vpt.web.http.auth import Access, access_of
from vpt.web.http.middlewares import REQUEST_ID
from vpt.web.http.operations import (
    HOST,
    JSON,
    NOBODY,
    USER,
    Answer,
    Operation,
    operation_of,
)
from vpt.web.http.params import Param
from vpt.web.http.requests import LONGEST_ID, SlowBodyError

_ABOUT = """Hosts, devices, test cases, campaigns and what came of running them.

Lists answer `{"items": [...], "next_cursor": ...}`, newest first. Times are ISO 8601 in UTC, ids
are opaque. A refusal is `{"error", "code"}`, or `{"errors"}` by field. Live events come by
Socket.IO: `/api/asyncapi.json`.
"""
_SHAPES: Mapping[type[VptError], type[answers.Shown]] = {
    InvalidError: answers.Errors,
    NotRegisteredError: answers.AskedToRegister,
}
#: Users' last: the page begins to ask at the last one.
_SECURITY: Mapping[str, Json] = {
    HOST[0]: {
        "type": "http",
        "scheme": "bearer",
        "description": "The join token, a token of this host's own, or an admin's.",
    },
    HOST[1]: {
        "type": "http",
        "scheme": "basic",
        "description": "One of these as password, under any name.",
    },
    "metrics_token": {
        "type": "http",
        "scheme": "bearer",
        "description": "`METRICS_TOKEN` of the server.",
    },
    "signed_link": {
        "type": "apiKey",
        "in": "query",
        "name": "signature",
        "description": "The link that `sign=1` answered, as it is: it holds `expires`, too.",
    },
    USER: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A user's token (`vpt token`, `POST /api/tokens`), of the role that is"
        " named or a higher one.",
    },
}
_HEADERS: Mapping[str, Json] = {
    REQUEST_ID: {
        "description": "The request's number in the log; yours when you sent a sane one.",
        "schema": {"type": "string"},
    },
    hdrs.ETAG: {
        "description": "What it is now, for If-Match or If-None-Match.",
        "schema": {"type": "string"},
    },
    hdrs.RETRY_AFTER: {
        "description": "Seconds after which to try again.",
        "schema": {"type": "integer", "minimum": 1},
    },
    hdrs.CACHE_CONTROL: {"schema": {"type": "string"}},
}
#: What `path_id` takes.
_ID = {"type": "string", "minLength": 1, "maxLength": LONGEST_ID}
_TAG_OF = {"": "page", "console": "page", "openapi.json": "docs", "asyncapi.json": "docs"}
#: What operations are gathered under, in the order of interest.
_TAGS = {
    "testcases": "What is to be done on a device, step by step.",
    "executions": "Test cases that wait, run or ran.",
    "campaigns": "Test cases that are run together.",
    "campaign-executions": "Campaigns that run or ran.",
    "devices": "What test cases run on.",
    "hosts": "What holds devices: what people do with hosts, and what hosts send.",
    "screenshots": "What devices showed.",
    "metrics": "Figures.",
    "health": "Whether it is well.",
    "system": "What this server is, and how busy.",
    "tokens": "Tokens that can be taken back.",
    "audit": "Who wrote what.",
    "server": "What VirtualPyTest hosts send.",
    "docs": "These documents.",
    "page": "The page.",
}
_FOR_PEOPLE = frozenset((hdrs.METH_GET, hdrs.METH_POST, hdrs.METH_PUT, hdrs.METH_DELETE))


class _Converter(OpenAPIConverter):
    """Says of schemas what they check and apispec leaves out."""

    def schema2jsonschema(self, schema: Any) -> Json:
        """Add what the schema says of itself."""
        described: Json = super().schema2jsonschema(schema)  # type: ignore[no-untyped-call]
        described["description"] = " ".join((schema.__doc__ or "").split())
        example = getattr(schema, "example", None)
        if example is not None:
            described["examples"] = [example]
        return described

    def field2property(self, field: f.Field[Any]) -> Json:
        """Say of a step what the server itself reads of it."""
        described: Json = super().field2property(field)
        if isinstance(field, schemas.Step):
            described["description"] = "An action; what is not named here is for the host."
            described["properties"] = {
                name: {"anyOf": [self.field2property(item), schemas.PARAMETER]}
                for name, item in schemas.STEP_FIELDS.items()
            }
        return described

    def field2range(self, field: f.Field[Any], ret: Any) -> Json:
        """Tell bounds that are not in the range from those that are."""
        described: Json = super().field2range(field, ret)
        for validator in field.validators:
            if isinstance(validator, Range) and not validator.min_inclusive:
                described["exclusiveMinimum"] = described.pop("minimum")
        return described

    def field2pattern(self, field: f.Field[Any], **kwargs: Any) -> Json:
        """Write patterns as JSON Schema reads them: there they match anywhere."""
        described: Json = super().field2pattern(field, **kwargs)
        if "pattern" in described:
            described["pattern"] = f"^{described['pattern'].removesuffix(chr(92) + 'Z')}$"
        return described


class _Plugin(MarshmallowPlugin):
    Converter = _Converter


def _name_of(schema: Any) -> str:
    """Name a schema's component: what is sent is a Body."""
    name = (schema if isinstance(schema, type) else type(schema)).__name__
    return f"{name.removesuffix('Schema')}Body" if name.endswith("Schema") else str(name)


def describe(app: web.Application) -> bytes:
    """Give the document on all routes of `app` that declare what they do, as JSON."""
    document = APISpec(
        title="vpt",
        version=__version__,
        openapi_version="3.1.1",
        info={
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        servers=[{"url": "/", "description": "This server"}],
        plugins=[_Plugin(schema_name_resolver=_name_of)],
    )
    for name, scheme in _SECURITY.items():
        document.components.security_scheme(name, dict(scheme))
    for name, header in _HEADERS.items():
        document.components.header(name, dict(header))
    for path, method, handler, declared in _declared(app):
        item = _Described(path, handler, declared, document).as_operation()
        document.path(path=path, operations={method.lower(): item})
    used = {_tag(path) for path, *_ in _declared(app)}
    for tag in sorted(used, key=list(_TAGS).index):
        document.tag({"name": tag, "description": _TAGS[tag]})
    return json.dumps(document.to_dict()).encode()


def undeclared(app: web.Application) -> list[str]:
    """Give the routes of our own that the document is silent about."""
    known = {(path, method) for path, method, *_ in _declared(app)}
    return [
        f"{route.method} {route.resource.canonical}"
        for route in app.router.routes()
        if route.resource is not None
        and route.method in _FOR_PEOPLE
        and (route.resource.canonical, route.method) not in known
    ]


def _declared(app: web.Application) -> Iterator[tuple[str, str, Any, Operation]]:
    for route in app.router.routes():
        declared = operation_of(route.handler)
        if declared is not None and route.method in _FOR_PEOPLE and route.resource is not None:
            yield route.resource.canonical, route.method, route.handler, declared


def _tag(path: str) -> str:
    first = next((part for part in path.split("/") if part not in ("", "api")), "")
    return _TAG_OF.get(first, first)


class _Described:
    """One operation of the document."""

    def __init__(self, path: str, handler: Any, declared: Operation, document: APISpec) -> None:
        self.path = path
        self.handler = handler
        self.access = access_of(handler)
        self.declared = declared
        self.responses = document.components
        self.names = re.findall(r"\{(\w+)\}", path)

    def as_operation(self) -> Json:
        summary, _, more = (self.handler.__doc__ or "").partition("\n")
        told: Json = {
            "operationId": self.handler.__name__,
            "summary": summary.strip(),
            "tags": [_tag(self.path)],
            "security": self._security(),
            "parameters": [*self._path_parameters(), *self._parameters()],
            "responses": {**self._answers(), **self._refusals()},
        }
        if more.strip():
            told["description"] = " ".join(more.split())
        if self.declared.body is not None:
            told["requestBody"] = self._body(self.declared.body)
        return told

    def _security(self) -> list[dict[str, list[str]]]:
        ways = self.declared.credentials
        if ways is None:
            ways = (USER,) if isinstance(self.access, Role) else ()
        role = self.access if isinstance(self.access, Role) else Role.VIEWER
        return [{} if way == NOBODY else {way: [role.value] if way == USER else []} for way in ways]

    def _path_parameters(self) -> Iterator[Json]:
        for name in self.names:
            yield {
                "name": name,
                "in": "path",
                "required": True,
                "description": "Of which one." if name == "id" else f"Its {name}.",
                "schema": _ID if name == "id" else {"type": "string", "minLength": 1},
            }

    def _parameters(self) -> Iterator[Json]:
        for place, params in (("query", self.declared.query), ("header", self.declared.headers)):
            for param in params:
                yield _parameter(param, place)

    def _body(self, schema: Schema) -> Json:
        needed = any(field.required for field in schema.fields.values())
        return {"required": needed, "content": {JSON: {"schema": schema}}}

    def _answers(self) -> Json:
        return {str(status): _answer(status, one) for status, one in self.declared.answers.items()}

    def _refusals(self) -> Json:
        by_status: dict[int, list[type[VptError]]] = {}
        for error in dict.fromkeys(self._errors()):
            if error.status not in self.declared.answers:
                by_status.setdefault(error.status, []).append(error)
        return {str(status): self._shared(by_status[status]) for status in sorted(by_status)}

    def _shared(self, errors: list[type[VptError]]) -> str:
        """Name the one description of this refusal, which many routes have."""
        name = "-".join(error.code for error in errors)
        if name not in self.responses.responses:
            self.responses.response(name, _refusal(errors))
        return name

    def _errors(self) -> Iterator[type[VptError]]:
        yield from self.declared.refuses
        if self.declared.query or self.declared.headers or self.declared.body is not None:
            yield BadRequestError
        if self.declared.body is not None:
            yield from (InvalidError, SlowBodyError, TooLargeError)
        if self.access is not Access.PUBLIC:
            yield from (NoTokenError, InvalidTokenError, ForbiddenError)
            yield from (UnavailableError, DatabaseAwayError)
        if self.names and self.declared.credentials != HOST:
            yield NotFoundError
        yield VptError


def _parameter(param: Param, place: str) -> Json:
    """Describe one that may be left out: an `example` beside its schema would be filled in."""
    examples = {} if param.example is None else {"examples": [param.example]}
    return {
        "name": param.name,
        "in": place,
        "required": False,
        "description": param.about,
        "schema": {**param.schema, **examples},
    }


def _answer(status: int, answer: Answer) -> Json:
    schemas_told = [one for one in answer.content.values() if one is not None]
    about = (schemas_told[0].__doc__ or "").strip() if schemas_told else ""
    told: Json = {
        "description": about or HTTPStatus(status).phrase,
        "headers": _headers(REQUEST_ID, *answer.headers),
    }
    if answer.content:
        told["content"] = {
            kind: {"schema": {} if schema is None else schema}
            for kind, schema in answer.content.items()
        }
    return told


def _refusal(errors: Sequence[type[VptError]]) -> Json:
    shapes = list(dict.fromkeys(_SHAPES.get(error, answers.Error) for error in errors))
    waits = (hdrs.RETRY_AFTER,) if issubclass(errors[0], UnavailableError) else ()
    return {
        "description": " ".join(f"{_sentence(error).rstrip('.')}." for error in errors),
        "headers": _headers(REQUEST_ID, *waits),
        "content": {
            JSON: {
                "schema": shapes[0] if len(shapes) == 1 else {"anyOf": shapes},
                "examples": {error.code: {"value": _example(error)} for error in errors},
            }
        },
    }


def _example(error: type[VptError]) -> Any:
    shape = _SHAPES.get(error)
    return shape.example if shape else {"error": _sentence(error), "code": error.code}


def _sentence(error: type[VptError]) -> str:
    return (error.__doc__ or "").strip()


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
