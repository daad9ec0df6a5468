"""`vpt ls`: a table on a terminal, tab-separated columns for scripts, JSON lines for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click

from vpt.client.api import Api
from vpt.client.text import format_seconds, one_line
from vpt.model import Json
from vpt.printable import escape_json

Column = Callable[[Json], object]


@dataclass(frozen=True, slots=True)
class Listing:
    """A list of the API: its path, and the columns to print."""

    path: str
    columns: Mapping[str, Column]
    whole: str | None = None  # what `fields` adds to the items, for programs


def _field(name: str) -> Column:
    return lambda item: item[name]


@dataclass(frozen=True, slots=True)
class _TimeColumn:
    """A column with a time, which a terminal shows short and in the local time zone."""

    name: str

    def __call__(self, item: Json) -> object:
        return item.get(self.name)


def _host_why(item: Json) -> object:
    """Return why the host cannot be reached, or else why it gets no runs, in words."""
    trouble = item.get("trouble")  # servers before it do not send it
    return trouble["text"] if trouble else item.get("reason_text")


def _status(item: Json) -> str:
    return f"{item['status']} ({item['reason']})" if item.get("reason") else str(item["status"])


def _models(item: Json) -> str:
    asked = item["device_model"]
    return asked if isinstance(asked, str) else ", ".join(asked)


HOSTS = Listing(
    "/api/hosts",
    {
        "host": _field("id"),
        "status": _status,
        "devices": lambda item: len(item["devices"]),
        "last seen": _TimeColumn("last_seen"),
        "tags": lambda item: ", ".join(item["tags"]),
        "why": _host_why,
        "until": _TimeColumn("reason_until"),
    },
)
DEVICES = Listing(
    "/api/devices",
    {
        "device": _field("id"),
        "name": _field("name"),
        "model": _field("model"),
        "status": _status,
        "host": _field("host_id"),
        "why": lambda item: item.get("reason_text"),
        "until": _TimeColumn("reason_until"),
    },
)
TEST_CASES = Listing(
    "/api/testcases",
    {
        "id": _field("id"),
        "name": _field("name"),
        "model": _models,
        "steps": _field("total_steps"),
        "tags": lambda item: ", ".join(item["tags"]),
        "changed": _TimeColumn("updated_at"),
    },
    whole="steps",
)
CAMPAIGNS = Listing(
    "/api/campaigns",
    {
        "id": _field("id"),
        "name": _field("name"),
        "tests": lambda item: len(item["test_cases"]),
        "changed": _TimeColumn("updated_at"),
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
        "began": _TimeColumn("created_at"),
        "took": lambda item: format_seconds(item["duration_s"]),
    },
)


async def show(
    api: Api, listing: Listing, limit: int, filters: Mapping[str, Any], *, as_json: bool
) -> None:
    """Print the newest `limit` items that match the filters."""
    fields = {"fields": listing.whole} if as_json and listing.whole else {}
    items = api.items(listing.path, limit, **filters, **fields)
    if as_json:
        async for item in items:
            click.echo(escape_json(json.dumps(item, ensure_ascii=False)))
    elif sys.stdout.isatty():
        _print_table(listing, [_cells(listing, item, people=True) async for item in items])
    else:
        async for item in items:
            click.echo("\t".join(_cells(listing, item)))


def _cells(listing: Listing, item: Json, *, people: bool = False) -> list[str]:
    cells = []
    for column in listing.columns.values():
        value = column(item)
        if people and value is not None and isinstance(column, _TimeColumn):
            value = _for_people(datetime.fromisoformat(str(value)).astimezone())
        cells.append("" if value is None else one_line(value))
    return cells


def _for_people(time: datetime) -> str:
    this_year = time.year == datetime.now().astimezone().year
    return f"{time:%m-%d %H:%M}" if this_year else f"{time:%Y-%m-%d}"


def _print_table(listing: Listing, rows: list[list[str]]) -> None:
    """Print a table without its empty columns.

    Only free text is wrapped. Ids stay on one line, even on a terminal that is too narrow, so that
    they can be copied into other commands.
    """
    from rich.cells import cell_len  # noqa: PLC0415 (for terminals only)
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    table = Table(box=None, pad_edge=False, padding=(0, 2 if console.width >= _WIDE else 1, 0, 0))
    filled = [number for number in range(len(listing.columns)) if any(row[number] for row in rows)]
    for number, title in enumerate(listing.columns):
        if number in filled:
            longest = max(cell_len(row[number]) for row in rows)
            free = title in _FREE
            least = min(longest, _SHORTEST) if free else longest
            table.add_column(title, no_wrap=not free, overflow="fold", min_width=least)
    for row in rows:
        table.add_row(*(Text(row[number]) for number in filled))
    boundless = console.options.update(max_width=10_000)
    console.width = max(console.width, console.measure(table, options=boundless).minimum)
    console.print(table if rows else "Nothing matches.")


_FREE = ("name", "test case", "tags", "why")
_WIDE, _SHORTEST = 100, 8
