"""The OpenAPI document: valid, complete, and its examples are true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.conftest import Client
from tests.web.kit import Json
from vpt.web.api import testcases
from vpt.web.docs.openapi import undeclared
from vpt.web.http.auth import Access, access_of
from vpt.web.http.operations import operation_of

OURS = {"GET", "POST", "PUT", "DELETE", "PATCH"}


@pytest.fixture
async def document(nobody: Client) -> Json:
    """Return the document as anybody gets it."""
    response = await nobody.get("/api/openapi.json")
    assert response.status == 200
    document: Json = await response.json()
    return document


def handlers(app: web.Application) -> Iterator[tuple[str, str, Any]]:
    """Return path, method and handler of each route, without those of Socket.IO."""
    for route in app.router.routes():
        path = route.resource.canonical if route.resource else ""
        if route.method in OURS and not path.startswith("/socket.io"):
            yield path, route.method, route.handler


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Return path, method and operation of each that the document has."""
    for path, item in document["paths"].items():
        for method, told in item.items():
            yield path, method.upper(), told


def resolved(document: Json, value: Json) -> Json:
    """Follow a reference."""
    while "$ref" in value:
        kind, name = value["$ref"].split("/")[-2:]
        value = document["components"][kind][name]
    return value


def validator(document: Json, schema: Json) -> Draft202012Validator:
    """Return what holds values to a schema of the document."""
    return Draft202012Validator({**schema, "components": document["components"]})


def test_the_document_is_valid(document: Json) -> None:
    assert document["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_every_route_is_in_the_document_and_nothing_else(
    document: Json, server: TestServer
) -> None:
    app = server.app
    assert app is not None
    assert [one for one in undeclared(app) if "socket.io" not in one] == []
    ours = {(path, method) for path, method, _ in handlers(app)}
    assert ours == {(path, method) for path, method, _ in operations(document)}
    assert len(ours) > 40


def test_a_route_that_declares_nothing_is_found() -> None:
    async def silent(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.add_routes(testcases.routes)
    app.router.add_get("/api/silent", silent)
    assert undeclared(app) == ["GET /api/silent"]


def test_every_operation_says_what_it_takes_answers_and_needs(
    document: Json, server: TestServer
) -> None:
    app = server.app
    assert app is not None
    told = {(path, method): one for path, method, one in operations(document)}
    names = [one["operationId"] for one in told.values()]
    assert len(set(names)) == len(names)
    for path, method, handler in handlers(app):
        one, declared = told[path, method], operation_of(handler)
        assert declared is not None
        assert one["summary"].endswith("."), path
        assert ("requestBody" in one) == (declared.body is not None)
        known = {item["name"] for item in one["parameters"]}
        assert {item.name for item in (*declared.query, *declared.headers)} <= known
        assert all(item["description"] for item in one["parameters"])
        assert all(item["schema"] for item in one["parameters"])
        access = access_of(handler)
        open_to_all = not one["security"] or {} in one["security"]
        assert (access is Access.PUBLIC) == open_to_all, path
        assert {"401", "403"} <= one["responses"].keys() or access is Access.PUBLIC, path
        assert any(int(status) < 400 for status in one["responses"])


def test_every_parameter_of_a_path_is_described(document: Json) -> None:
    for path, method, told in operations(document):
        named = {item["name"] for item in told["parameters"] if item["in"] == "path"}
        assert named == set(re.findall(r"{(.+?)}", path)), (method, path)


def test_every_field_of_a_body_is_described(document: Json) -> None:
    bodies = {
        name: one for name, one in document["components"]["schemas"].items() if "Body" in name
    }
    assert len(bodies) > 12
    for name, body in bodies.items():
        for field, told in body["properties"].items():
            assert told.get("description"), (name, field)


def test_every_refusal_has_an_example_that_its_schema_takes(document: Json) -> None:
    for path, method, told in operations(document):
        for status, answer in told["responses"].items():
            if int(status) < 400 or path.startswith("/api/health"):
                continue
            content = resolved(document, answer)["content"]["application/json"]
            assert content["examples"], (method, path, status)
            for example in content["examples"].values():
                validator(document, content["schema"]).validate(example["value"])


def test_bodies_and_answers_have_examples_that_their_schemas_take(document: Json) -> None:
    for path, method, told in operations(document):
        bodies = [told["requestBody"]] if "requestBody" in told else []
        good = [one for status, one in told["responses"].items() if int(status) < 400]
        for one in (*bodies, *good):
            schema = one.get("content", {}).get("application/json", {}).get("schema")
            if schema:
                examples = list(examples_of(document, schema))
                assert examples, (method, path)
                for example in examples:
                    validator(document, schema).validate(example)


def examples_of(document: Json, schema: Json) -> Iterator[Any]:
    """Return a schema's own examples; a page's are made of those of its items."""
    told = resolved(document, schema)
    yield from told.get("examples", ())
    items = told["properties"].get("items") if "properties" in told else None
    if items and "next_cursor" in told["properties"]:
        yield {"items": list(examples_of(document, items["items"])), "next_cursor": None}


def test_the_examples_of_bodies_are_what_the_schemas_take(server: TestServer) -> None:
    app = server.app
    assert app is not None
    bodies = [one.body for _, _, handler in handlers(app) if (one := operation_of(handler))]
    for body in filter(None, bodies):
        assert body.validate(body.example) == {}, body  # type: ignore[attr-defined]


def test_bounds_and_patterns_are_those_that_are_checked(document: Json) -> None:
    schemas = document["components"]["schemas"]
    timeout = schemas["ExecuteBody"]["properties"]["timeout_s"]
    assert timeout["exclusiveMinimum"] == 0
    assert "minimum" not in timeout
    name = schemas["RegistrationBody"]["properties"]["host_name"]
    assert name["pattern"] == "^[A-Za-z0-9._-]{1,64}$"
    assert schemas["TestCaseBody"]["additionalProperties"] is False
    assert "additionalProperties" not in schemas["RegistrationBody"]


async def test_who_has_it_is_not_sent_it_again_as_the_document_says(
    document: Json, nobody: Client
) -> None:
    told = {path for path, _, one in operations(document) if "304" in one["responses"]}
    told.remove("/api/devices/{id}/screenshot")  # a host is needed: tests/virtualpytest
    assert told == {"/", "/api/openapi.json", "/api/asyncapi.json", "/api/docs", "/api/docs/{name}"}
    for path in (one.replace("{name}", "start.js") for one in told):
        first = await nobody.get(path)
        again = await nobody.get(path, headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status, await again.read()) == (304, b""), path
        other = await nobody.get(path, headers={"If-None-Match": '"other"'})
        assert other.status == 200, path


def test_every_tag_is_described(document: Json) -> None:
    used = {tag for *_, one in operations(document) for tag in one["tags"]}
    assert {tag["name"] for tag in document["tags"] if tag["description"]} == used
