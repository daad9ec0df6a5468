"""The AsyncAPI document: its references and examples hold, and events are as it says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import pytest
import socketio
from jsonschema import Draft202012Validator

from tests.conftest import Client, token
from tests.web.kit import Json, got
from vpt.events import Events
from vpt.model import Event, Role
from vpt.web.docs.asyncapi import EXAMPLES
from vpt.web.live.publisher import NAMES

PAGE = Path(__file__).parents[2] / "docs" / "sockets.md"


def payload(document: Json, message: str) -> Draft202012Validator:
    """Return the validator of a message's payloads."""
    components = document["components"]
    schema = {**components["messages"][message]["payload"], "components": components}
    return Draft202012Validator(schema)


def references(value: Any) -> Iterator[str]:
    """Yield every reference below `value`."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


@pytest.fixture
async def document(nobody: Client) -> Json:
    return await got(nobody, "/api/asyncapi.json")


def test_references_lead_somewhere(document: Json) -> None:
    assert document["asyncapi"] == "3.0.0"
    found = list(references(document))
    for reference in found:
        value = document
        for part in reference.removeprefix("#/").split("/"):
            value = value[part]
    assert len(found) > 20


def test_every_event_is_there_with_all_its_fields(document: Json) -> None:
    assert {type(one) for one in EXAMPLES} == set(get_args(Event)) == NAMES.keys()
    schemas = document["components"]["schemas"]
    for event, name in NAMES.items():
        operation = document["operations"][name]
        assert operation["action"] == "send"
        schema = schemas[event.__name__]
        assert schema["required"] == [item.name for item in fields(event)]
        assert schema["properties"].keys() == set(schema["required"])
    asked = {name for name, one in document["operations"].items() if one["action"] == "receive"}
    assert asked == {"subscribe", "unsubscribe"}


def test_examples_are_what_their_schemas_say(document: Json) -> None:
    for name, message in document["components"]["messages"].items():
        for example in message["examples"]:
            payload(document, name).validate(example["payload"])


async def test_what_is_told_is_what_the_document_says(
    document: Json, nobody: Client, events: Events
) -> None:
    io = socketio.AsyncClient(reconnection=False)
    told: asyncio.Queue[tuple[str, Json]] = asyncio.Queue()

    async def take(name: str, data: Json) -> None:
        await told.put((name, data))

    io.on("*", take)
    await io.connect(
        str(nobody.make_url("/")), auth={"token": token(Role.VIEWER)}, transports=["websocket"]
    )
    for event in EXAMPLES:
        events.publish(event)
    for event in EXAMPLES:
        async with asyncio.timeout(5):
            name, data = await told.get()
        assert name == NAMES[type(event)]
        assert data == {key: _as_told(value) for key, value in asdict(event).items()}
        payload(document, name).validate(data)
    for wish in ({"execution_id": "no such"}, {"after_seq": 1}):
        answer = await io.call("subscribe", wish, timeout=5)
        assert answer["ok"] is False
        payload(document, "answer").validate(answer)
    await io.disconnect()


def _as_told(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_the_page_on_sockets_names_every_event_with_its_fields() -> None:
    rows = {
        cells[1].strip(" `"): cells[2].split("`")[1::2]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if len(cells := line.split("|")) == 5
    }
    for event, name in NAMES.items():
        assert rows[name] == [item.name for item in fields(event)], name
