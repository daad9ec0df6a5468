"""The OpenAPI document of the REST API, built from what the routes declare."""

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
from vpt.bounds import (
    LONGEST_ID,
    LONGEST_NAME,
    LONGEST_PROPERTY,
    LONGEST_PROPERTY_NAME,
    MOST_PROPERTIES,
    MOST_WORDS,
)
from vpt.web.http.auth import Access, access_of
from vpt.web.http.middlewares import REQUEST_ID
from vpt.web.http.operations import (
    HOST,
    JSON,
    NOBODY,
    USER,
    Operation,
    ResponseSpec,
    document_name,
    operation_of,
)
from vpt.web.http.params import HIGHEST_NUMBER, Param
from vpt.web.http.requests import SlowBodyError
from vpt.web.schemas.fields import DeviceModels, Properties
from vpt.web.schemas.hosts import AskedToRegisterResponse
from vpt.web.schemas.response import ErrorResponse, ErrorsResponse, ResponseSchema
from vpt.web.schemas.steps import PARAMETER, STEP_EXAMPLES, STEP_FIELDS, Step

_ABOUT = """Hosts, devices, test cases, campaigns and their executions.

A list is `{"items": [...], "next_cursor": ...}`, newest first. Times are ISO 8601 in UTC, ids are
opaque. An error is `{"error", "code"}`, or `{"errors"}` by field. Live events come by Socket.IO:
`/api/asyncapi.json`.
"""
_ERROR_SCHEMAS: Mapping[type[VptError], type[ResponseSchema]] = {
    InvalidError: ErrorsResponse,
    NotRegisteredError: AskedToRegisterResponse,
}
#: That of users is last: the documentation page asks for the last one first.
_SECURITY: Mapping[str, Json] = {
    HOST[0]: {
        "type": "http",
        "scheme": "bearer",
        "description": "The join token, the host's own token, or an admin's token.",
    },
    HOST[1]: {
        "type": "http",
        "scheme": "basic",
        "description": "One of these tokens as the password, with any user name.",
    },
    "metrics_token": {
        "type": "http",
        "scheme": "bearer",
        "description": "The setting `METRICS_TOKEN` of the server.",
    },
    "signed_link": {
        "type": "apiKey",
        "in": "query",
        "name": "signature",
        "description": "Use the link from `sign=1` unchanged: it also contains `expires`.",
    },
    USER: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A user's token (`vpt token`, `POST /api/tokens`) with the named role or a"
        " higher one.",
    },
}
_HEADERS: Mapping[str, Json] = {
    REQUEST_ID: {
        "description": "The id of the request in the log: the one you sent, if it has at most 100 letters,"
        " digits, `.`, `_`, `:` or `-`, else a new one.",
        "schema": {"type": "string"},
    },
    hdrs.ETAG: {
        "description": "The current version, for If-Match or If-None-Match.",
        "schema": {"type": "string"},
    },
    hdrs.RETRY_AFTER: {
        "description": "Seconds to wait before the next try.",
        "schema": {"type": "integer", "minimum": 1},
    },
    hdrs.CACHE_CONTROL: {"schema": {"type": "string"}},
}
#: What `path_id` accepts.
_ID = {"type": "string", "minLength": 1, "maxLength": LONGEST_ID}
_COUNTED = {"type": "integer", "minimum": 1, "maximum": HIGHEST_NUMBER}
_SECRET_NAME = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}
_PATH_SCHEMAS = {
    "id": _ID,
    "attempt": _COUNTED,
    "step": _COUNTED,
    "secret_name": _SECRET_NAME,
}
_WORD = {"type": "string", "minLength": 1}
_MODEL = {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME}
_MODELS: Json = {
    "anyOf": [
        _MODEL,
        {"type": "array", "items": _MODEL, "minItems": 1, "maxItems": MOST_WORDS},
    ]
}
_PROPERTIES: Json = {
    "maxProperties": MOST_PROPERTIES,
    "propertyNames": {"minLength": 1, "maxLength": LONGEST_PROPERTY_NAME},
    "additionalProperties": {
        "anyOf": [
            {"type": "string", "maxLength": LONGEST_PROPERTY},
            {"type": "boolean"},
            {"type": "number", "exclusiveMinimum": -1e15, "exclusiveMaximum": 1e15},
        ]
    },
}
_PATH_PARAMETERS = {
    "execution_id": "The id of the execution.",
    "attempt": "The number of the attempt, from 1.",
    "step": "The number of the step, from 1.",
    "name": "The name of the file.",
    "command": "The command of the action, as the device's controls name it.",
    "care": "What to do.",
    "secret_name": "The name of the secret.",
    "version": "The version of the page that the file belongs to.",
}
_TAG_OF = {"": "page", "console": "page", "openapi.json": "docs", "asyncapi.json": "docs"}
#: The groups of operations, in the order in which the page shows them.
_TAGS = {
    "testcases": "The steps to run on a device.",
    "executions": "Runs of test cases: queued, running and ended ones.",
    "campaigns": "Test cases that run together.",
    "campaign-executions": "Runs of campaigns.",
    "devices": "The devices that test cases run on.",
    "hosts": "The machines with devices attached: routes for people, and those that hosts call.",
    "screenshots": "Screenshots of devices, taken at steps.",
    "metrics": "Figures over time, by device, and for Prometheus.",
    "health": "Whether the server works.",
    "system": "Versions, settings and load of the server.",
    "secrets": "Named secrets that steps refer to; a value is never read back.",
    "tokens": "Tokens that can be revoked.",
    "audit": "Who changed what, and when.",
    "server": "Routes that VirtualPyTest hosts call.",
    "docs": "These documents.",
    "page": "The page.",
}
_FOR_PEOPLE = frozenset((hdrs.METH_GET, hdrs.METH_POST, hdrs.METH_PUT, hdrs.METH_DELETE))


class _Converter(OpenAPIConverter):
    """Adds what apispec leaves out of a schema."""

    def schema2jsonschema(self, schema: Any) -> Json:
        """Add the docstring and the example of the schema."""
        described: Json = super().schema2jsonschema(schema)  # type: ignore[no-untyped-call]
        described["description"] = " ".join((schema.__doc__ or "").split())
        example = getattr(schema, "example", None)
        if example is not None:
            described["examples"] = [example]
        return described

    def field2property(self, field: f.Field[Any]) -> Json:
        """Describe the fields of a step that the server itself reads."""
        described: Json = super().field2property(field)
        if isinstance(field, Properties):
            described |= _PROPERTIES
        if isinstance(field, DeviceModels):
            described |= _MODELS
        if isinstance(field, Step):
            described["description"] = (
                "An action; all fields that are not listed here are for the host."
            )
            described["examples"] = STEP_EXAMPLES
            described["properties"] = {
                name: {"anyOf": [self.field2property(item), PARAMETER]}
                for name, item in STEP_FIELDS.items()
            }
        return described

    def field2range(self, field: f.Field[Any], ret: Any) -> Json:
        """Describe an excluded lower bound as such."""
        described: Json = super().field2range(field, ret)
        for validator in field.validators:
            if isinstance(validator, Range) and not validator.min_inclusive:
                described["exclusiveMinimum"] = described.pop("minimum")
        return described

    def field2pattern(self, field: f.Field[Any], **kwargs: Any) -> Json:
        """Anchor the pattern, since JSON Schema matches patterns anywhere in a text."""
        described: Json = super().field2pattern(field, **kwargs)
        if "pattern" in described:
            described["pattern"] = f"^{described['pattern'].removesuffix(chr(92) + 'Z')}$"
        return described


class _Plugin(MarshmallowPlugin):
    Converter = _Converter


def _name_of(schema: Any) -> str:
    return document_name(schema if isinstance(schema, type) else type(schema))


def describe(app: web.Application) -> bytes:
    """Build the document of all routes of `app` that have an `@operation`, as JSON."""
    document = APISpec(
        title="vpt",
        version=__version__,
        openapi_version="3.1.1",
        info={
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        # Relative to the document, so that it holds below any prefix of a proxy, too.
        servers=[{"url": "..", "description": "This server"}],
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
    """Return our own routes that are missing in the document."""
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
        described: Json = {
            "operationId": self.handler.__name__,
            "summary": summary.strip(),
            "tags": [_tag(self.path)],
            "security": self._security(),
            "parameters": [*self._path_parameters(), *self._parameters()],
            "responses": {**self._successes(), **self._refusals()},
        }
        if more.strip():
            described["description"] = " ".join(more.split())
        if self.declared.body is not None:
            described["requestBody"] = self._body(self.declared.body)
        return described

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
                "description": "The id of the resource."
                if name == "id"
                else _PATH_PARAMETERS[name],
                "schema": _PATH_SCHEMAS.get(name, _WORD),
            }

    def _parameters(self) -> Iterator[Json]:
        for place, params in (("query", self.declared.query), ("header", self.declared.headers)):
            for param in params:
                yield _parameter(param, place)

    def _body(self, schema: Schema) -> Json:
        needed = any(field.required for field in schema.fields.values())
        most = self.declared.most
        about = {"description": f"At most {most // 2**20} MiB."} if most else {}
        return {**about, "required": needed, "content": {JSON: {"schema": schema}}}

    def _successes(self) -> Json:
        return {
            str(status): _success(status, spec) for status, spec in self.declared.responses.items()
        }

    def _refusals(self) -> Json:
        by_status: dict[int, list[type[VptError]]] = {}
        for error in dict.fromkeys(self._errors()):
            if error.status not in self.declared.responses:
                by_status.setdefault(error.status, []).append(error)
        return {str(status): self._shared(by_status[status]) for status in sorted(by_status)}

    def _shared(self, errors: list[type[VptError]]) -> str:
        """Return the name of the component for these errors, which many routes share."""
        name = "-".join(error.code for error in errors)
        if name not in self.responses.responses:
            self.responses.response(name, _refusal(errors))
        return name

    def _errors(self) -> Iterator[type[VptError]]:
        yield from self.declared.refuses
        declared = self.declared
        if declared.strict or declared.query or declared.headers or declared.body is not None:
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
    """Describe an optional parameter.

    Its example is in the schema, since Swagger UI would fill in one that is beside it.
    """
    examples = {} if param.example is None else {"examples": [param.example]}
    return {
        "name": param.name,
        "in": place,
        "required": False,
        "description": param.about,
        "schema": {**param.schema, **examples},
    }


def _success(status: int, spec: ResponseSpec) -> Json:
    schemas = [schema for schema in spec.content.values() if schema is not None]
    about = (schemas[0].__doc__ or "").strip() if schemas else ""
    described: Json = {
        "description": about or HTTPStatus(status).phrase,
        "headers": _headers(REQUEST_ID, *spec.headers),
    }
    if spec.content:
        described["content"] = {
            kind: {"schema": {} if schema is None else schema}
            for kind, schema in spec.content.items()
        }
    return described


def _refusal(errors: Sequence[type[VptError]]) -> Json:
    schemas = list(dict.fromkeys(_ERROR_SCHEMAS.get(error, ErrorResponse) for error in errors))
    waits = (hdrs.RETRY_AFTER,) if issubclass(errors[0], UnavailableError) else ()
    return {
        "description": " ".join(f"{_sentence(error).rstrip('.')}." for error in errors),
        "headers": _headers(REQUEST_ID, *waits),
        "content": {
            JSON: {
                "schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas},
                "examples": {error.code: {"value": _example(error)} for error in errors},
            }
        },
    }


def _example(error: type[VptError]) -> Any:
    schema = _ERROR_SCHEMAS.get(error)
    return schema.example if schema else {"error": _sentence(error), "code": error.code}


def _sentence(error: type[VptError]) -> str:
    return (error.__doc__ or "").strip()


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
