"""The client refuses in a file what the server would refuse in a body, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.conftest import Client
from tests.web.kit import Json
from vpt.client import files

BOUNDS = {
    *("minLength", "maxLength", "minItems", "maxItems"),
    *("minimum", "exclusiveMinimum", "maximum"),
}
#: Of a campaign's entry: the server knows test cases by id, files by name.
BY_NAME = {"test_case": "test_case_id"}


@pytest.fixture
async def bodies(nobody: Client) -> Json:
    """Return the schemas of the OpenAPI document."""
    document = await (await nobody.get("/api/openapi.json")).json()
    schemas: Json = document["components"]["schemas"]
    return schemas


def of_client(kind: type[Any]) -> dict[str, Json]:
    """Return the fields of a document of the client, as JSON Schema."""
    _, components = msgspec.json.schema_components([kind])
    fields: dict[str, Json] = components[kind.__name__]["properties"]
    return fields


def bounds(schema: Json) -> Json:
    """Return the bounds of a field and of its items, whatever else may stand in its place."""
    found: Json = {name: schema[name] for name in BOUNDS & schema.keys()}
    for choice in schema.get("anyOf", ()):
        found |= bounds(choice)
    if "items" in schema and "$ref" not in schema["items"]:
        found |= {f"items.{name}": value for name, value in bounds(schema["items"]).items()}
    return found


@pytest.mark.parametrize(
    ("kind", "body"), [(files.TestCaseSpec, "TestCaseBody"), (files.CampaignSpec, "CampaignBody")]
)
def test_bounds_and_defaults_are_those_of_the_server(
    kind: type[Any], body: str, bodies: Json
) -> None:
    theirs = bodies[body]["properties"]
    for name, ours in of_client(kind).items():
        assert bounds(ours) == bounds(theirs[name]), name
        # The document leaves out an empty list.
        assert (ours.get("default") or None) == (theirs[name].get("default") or None), name
    read_only = {name for name, field in theirs.items() if field.get("readOnly")}
    assert of_client(kind).keys() == theirs.keys() - read_only


def test_bounds_of_entries_are_those_of_the_server(bodies: Json) -> None:
    theirs, ours = bodies["EntryBody"]["properties"], of_client(files.CampaignEntry)
    assert {BY_NAME.get(name, name) for name in ours} == theirs.keys()
    for name in ours.keys() & theirs.keys():
        assert bounds(ours[name]) == bounds(theirs[name]), name


def test_bounds_of_steps_are_those_of_the_server(bodies: Json) -> None:
    theirs = bodies["TestCaseBody"]["properties"]["steps"]["items"]["properties"]
    ours = of_client(files._Step)
    assert ours.keys() == theirs.keys()
    for name, field in ours.items():
        assert bounds(field) == bounds(theirs[name]), name
