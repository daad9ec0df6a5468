"""`vpt ls`: a table for people, tabs for scripts, JSON lines for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from vpt.client.api import Api
from vpt.client.words import one_line, seconds
from vpt.model import Json

Column = Callable[[Json], object]


@dataclass(frozen=True, slots=True)
class Listing:
    """What is listed: its path, and a table's columns."""

    path: str
    columns: Mapping[str, Column]


def _field(name: str) -> Column:
    return lambda item: item[name]


def _host_status(item: Json) -> str:
    return f"{item['status']} ({item['reason']})" if item["reason"] else str(item["status"])


HOSTS = Listing(
    "/api/hosts",
    {
        "host": _field("id"),
        "status": _host_status,
        "devices": lambda item: len(item["devices"]),
        "last seen": _field("last_seen"),
        "tags": lambda item: ", ".join(item["tags"]),
    },
)
DEVICES = Listing(
    "/api/devices",
    {
        "device": _field("id"),
        "name": _field("name"),
        "model": _field("model"),
        "status": _field("status"),
        "host": _field("host_id"),
    },
)
TEST_CASES = Listing(
    "/api/testcases",
    {
        "id": _field("id"),
        "name": _field("name"),
        "model": _field("device_model"),
        "steps": lambda item: len(item["steps"]),
        "tags": lambda item: ", ".join(item["tags"]),
        "changed": _field("updated_at"),
    },
)
CAMPAIGNS = Listing(
    "/api/campaigns",
    {
        "id": _field("id"),
        "name": _field("name"),
        "tests": lambda item: len(item["test_cases"]),
        "changed": _field("updated_at"),
    },
)
EXECUTIONS = Listing(
    "/api/executions",
    {
        "id": _field("execution_id"),
        "status": _field("status"),
        "error": _field("error_kind"),
        "test case": _field("test_case_name"),
        "device": _field("device_id"),
        "began": _field("created_at"),
        "took": lambda item: seconds(item["duration_s"]),
    },
)


async def show(
    api: Api, listing: Listing, limit: int, filters: Mapping[str, Any], *, as_json: bool
) -> None:
    """Print the newest `limit` that pass the filters."""
    items = api.items(listing.path, limit, **filters)
    if as_json:
        async for item in items:
            click.echo(json.dumps(item, ensure_ascii=False))
    elif sys.stdout.isatty():
        _print_table(listing, [_cells(listing, item) async for item in items])
    else:
        async for item in items:
            click.echo("\t".join(_cells(listing, item)))


def _cells(listing: Listing, item: Json) -> list[str]:
    values = [column(item) for column in listing.columns.values()]
    return ["" if value is None else one_line(value) for value in values]


def _print_table(listing: Listing, rows: list[list[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415 (for terminals only)
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for title in listing.columns:
        table.add_column(title)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table if rows else "There is nothing of that kind.")
