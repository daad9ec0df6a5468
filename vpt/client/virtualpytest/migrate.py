"""`vpt import-virtualpytest`: read the other system, compare with this server, store, report."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import click

from vpt.client.api import Api, path_segment
from vpt.client.exits import MisuseError
from vpt.client.files import FileContent
from vpt.client.known_commands import check_commands
from vpt.client.runnables import TEST_CASE
from vpt.client.sync import ImportPlan, read_server
from vpt.client.text import one_line
from vpt.client.virtualpytest.convert import (
    Migration,
    migration_of,
    only_team,
    teams_of,
    words_of,
)
from vpt.client.virtualpytest.dump import Tables, read_dump
from vpt.client.virtualpytest.results import ResultImport
from vpt.client.virtualpytest.supabase import MOST_ROWS, SupabaseProject
from vpt.model import Json

#: What test cases, campaigns, tags and schedules are made of.
DEFINITIONS = (
    "testcase_definitions",
    "folders",
    "tags",
    "executable_tags",
    "userinterfaces",
    "campaigns",
    "campaign_executions",
    "device_flags",
    "deployments",
)
RESULTS = "script_results"
#: Tables that hosts go on reading in Supabase, or that have no counterpart in vpt.
NO_PLACE = {
    "navigation_trees": "hosts read navigation in Supabase",
    "verifications_references": "hosts read references in Supabase",
    "requirements": "vpt has no requirements",
    "scripts": "scripts stay on the disks of hosts",
    "alerts": "vpt has no incidents",
}
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Options:
    """What the command was asked for."""

    team: str | None
    default_model: str | None
    results: bool
    since: str | None
    dry_run: bool


class Source:
    """The other system: a file, or its Supabase project; an async context manager."""

    def __init__(
        self, dump: Path | None, supabase: SupabaseProject | None, options: Options
    ) -> None:
        self._dump, self._supabase, self._options = dump, supabase, options
        self._tables: Tables = {}
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._dump is not None:
            self._tables = read_dump(self._dump)
        elif self._supabase is not None:
            await self._open.enter_async_context(self._supabase)
            for table in DEFINITIONS:
                self._tables[table] = await self._whole(table)
        self._choose_team()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    def definitions(self) -> Tables:
        """Return the tables of definitions, of one team."""
        return {name: self._tables.get(name, []) for name in DEFINITIONS}

    def others(self) -> list[str]:
        """Return what is to be said of tables that have no place."""
        return [
            f"no place: {len(self._tables[name])} rows of {name}: {why}"
            for name, why in NO_PLACE.items()
            if self._tables.get(name)
        ]

    async def results(self) -> AsyncIterator[list[Json]]:
        """Yield the results, page by page."""
        since = self._options.since
        if self._supabase is None:
            rows = self._tables.get(RESULTS, [])
            yield [row for row in rows if since is None or str(row.get("started_at")) >= since]
            return
        where = {} if since is None else {"started_at": f"gte.{since}"}
        async for page in self._supabase.pages(RESULTS, where):
            yield page

    async def _whole(self, table: str) -> list[Json]:
        if self._supabase is None:
            return []
        rows: list[Json] = []
        async for page in self._supabase.pages(table, {}):
            rows += page
        click.echo(f"read {len(rows)} rows of {table}", err=True)
        return rows

    def _choose_team(self) -> None:
        """Keep the rows of the team. Raises MisuseError when there are several to choose from."""
        team, teams = self._options.team, teams_of(self._tables)
        if team is None and len(teams) > 1:
            shown = ", ".join(teams[:_SHOWN])
            raise MisuseError(f"There are {len(teams)} teams: choose one with --team: {shown}.")
        if team is not None and team not in teams:
            known = f" There are {', '.join(teams[:_SHOWN])}." if teams else ""
            raise MisuseError(f"Nothing is of the team {team}.{known}")
        if team is not None:
            self._tables = only_team(self._tables, team)


async def migrate(api: Api, source: Source, options: Options) -> None:
    """Store what the source has and this server has not; print each change and what is left out."""
    async with source:
        devices = [device async for device in api.items("/api/devices")]
        migration = migration_of(source.definitions(), devices, options.default_model)
        changed = await _store_definitions(api, migration, options)
        changed += await _store_tags(api, migration, options)
        for words in (*words_of(migration), *source.others()):
            click.echo(one_line(words, 1000))
        if options.results:
            changed += await _store_results(api, source, devices, options)
        verb = "would change" if options.dry_run else "changed"
        click.echo(f"{changed} {verb}" if changed else "nothing to do")


def _change_printer(*, dry_run: bool) -> Callable[[object], None]:
    would = "would " if dry_run else ""
    return lambda change: click.echo(f"{would}{change}")


async def _store_definitions(api: Api, migration: Migration, options: Options) -> int:
    """Create and update test cases and campaigns; return how many."""
    wanted = FileContent(migration.test_cases, migration.campaigns)
    plan = ImportPlan(api, await read_server(api), wanted)
    planned = plan.planned(prune=False)
    changing = [migration.test_cases[one.name] for one in planned if one.kind is TEST_CASE]
    checked = await check_commands(api, changing)
    for words in [*checked.unknown, *checked.missing][:_SHOWN]:
        click.echo(f"warning: {words}", err=True)
    show = _change_printer(dry_run=options.dry_run)
    for change in planned:
        if not options.dry_run:
            await plan.apply(change)
        show(change)
    return len(planned)


async def _store_tags(api: Api, migration: Migration, options: Options) -> int:
    """Add the flags of devices to their tags; return how many devices were changed."""
    show = _change_printer(dry_run=options.dry_run)
    for device in migration.tags:
        if not options.dry_run:
            path = f"/api/devices/{path_segment(device.device_id)}"
            await api.write("PUT", path, {"tags": list(device.tags)})
        show(f"tag device {device.device_id} ({', '.join(device.tags)})")
    return len(migration.tags)


async def _store_results(api: Api, source: Source, devices: list[Json], options: Options) -> int:
    names = {item["name"]: item["id"] async for item in api.items("/api/testcases")}
    results = ResultImport(api, names, devices)
    read = 0
    async for page in source.results():
        await (results.look if options.dry_run else results.store)(page)
        read += len(page)
        if read > MOST_ROWS:
            raise MisuseError(f"There are more than {MOST_ROWS} results: use --since.")
        click.echo(f"read {read} rows of {RESULTS}", err=True)
    would = "would import" if options.dry_run else "imported"
    click.echo(
        f"{would} {results.imported} results; {results.known} were here, "
        f"{results.left_out} have not finished or were discarded"
    )
    return results.imported
