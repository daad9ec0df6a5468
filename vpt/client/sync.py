"""`vpt import` and `vpt export`: compare the server's test cases and campaigns with files."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

import click
import msgspec

from vpt.client.api import Api, path_segment
from vpt.client.exits import InfrastructureError, MisuseError
from vpt.client.files import (
    SUFFIXES,
    CampaignEntry,
    CampaignSpec,
    FileContent,
    Spec,
    TestCaseSpec,
    changed_fields,
    dump,
    first_of,
    read_files,
)
from vpt.client.known_commands import check_commands
from vpt.client.runnables import CAMPAIGN, TEST_CASE, Runnable
from vpt.client.text import one_line
from vpt.model import Json

_SHOWN, _LONGEST_STEM = 20, 200


@dataclass(slots=True)
class ServerItems(Generic[Spec]):
    """The server's test cases, or its campaigns: their ids, versions and contents, by name."""

    kind: Runnable
    things: dict[str, Spec] = field(default_factory=dict)
    ids: dict[str, list[str]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)

    def add(self, item: Json, thing: Spec) -> None:
        """Add one; a name may have several ids, of which `duplicates` tells."""
        self.things[thing.name] = thing
        self.ids.setdefault(thing.name, []).append(item["id"])
        if "version" in item:
            self.versions[thing.name] = item["version"]

    def id_of(self, name: str) -> str:
        """Return the id of the only one with this name."""
        return self.ids[name][0]

    def duplicates(self) -> Iterator[str]:
        """Yield an error for each name that several have."""
        for name, ids in self.ids.items():
            if len(ids) > 1:
                yield f"several {self.kind.label}s are named {name!r}: {', '.join(ids)}"


@dataclass(frozen=True, slots=True)
class ServerContent:
    """All test cases and campaigns of the server."""

    test_cases: ServerItems[TestCaseSpec]
    campaigns: ServerItems[CampaignSpec]


async def read_server(api: Api) -> ServerContent:
    """Read all test cases and campaigns of the server."""
    server = ServerContent(ServerItems(TEST_CASE), ServerItems(CAMPAIGN))
    names: dict[str, str] = {}
    async for item in api.items(TEST_CASE.path, fields="steps"):
        names[item["id"]] = item["name"]
        server.test_cases.add(item, msgspec.convert(_of(item, TestCaseSpec), TestCaseSpec))
    async for item in api.items(CAMPAIGN.path):
        entries = [_entry(entry, names) for entry in item["test_cases"]]
        campaign = _of(item, CampaignSpec) | {"test_cases": entries}
        server.campaigns.add(item, msgspec.convert(campaign, CampaignSpec))
    return server


def _of(item: Json, kind: type[TestCaseSpec] | type[CampaignSpec]) -> Json:
    return {name: item[name] for name in kind.__struct_fields__}


def _entry(entry: Json, names: Mapping[str, str]) -> Json:
    name = names.get(entry["test_case_id"])
    if name is None:
        raise InfrastructureError(
            "The server's test cases changed while they were read: try again."
        )
    kept = {key: entry[key] for key in ("device_id", "host_id", "parameters")}
    return {"test_case": name, **kept}


# ---------------------------------------------------------------- vpt export


async def export(api: Api, to: str, form: str, *, prune: bool) -> None:
    """Write all test cases and campaigns to a file, to standard output (`-`), or to a folder."""
    _export(await read_server(api), to, form, prune=prune)


def _export(server: ServerContent, to: str, form: str, *, prune: bool) -> None:
    unclear = [*server.test_cases.duplicates(), *server.campaigns.duplicates()]
    if unclear:
        raise MisuseError("Names must be unique. Rename all but one of:\n" + first_of(unclear))
    cases, campaigns = _sorted(server.test_cases), _sorted(server.campaigns)
    path = Path(to)
    if to == "-":
        sys.stdout.write(dump(cases, campaigns, form))
    elif path.suffix in SUFFIXES and not path.is_dir():
        chosen = "json" if path.suffix == ".json" else "yaml"
        path.write_text(dump(cases, campaigns, chosen), encoding="utf-8")
    else:
        _export_folder(path, cases, campaigns, form, prune=prune)


def _sorted(held: ServerItems[Spec]) -> list[Spec]:
    return [held.things[name] for name in sorted(held.things)]


def _export_folder(
    folder: Path,
    cases: list[TestCaseSpec],
    campaigns: list[CampaignSpec],
    form: str,
    *,
    prune: bool,
) -> None:
    files = {
        folder / "test_cases" / name: dump([case], [], form) for name, case in _named(cases, form)
    } | {
        folder / "campaigns" / name: dump([], [campaign], form)
        for name, campaign in _named(campaigns, form)
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for kind in ("test_cases", "campaigns"):
        for path in sorted((folder / kind).glob("*")):
            if path.suffix in SUFFIXES and path not in files:
                _left_over(path, prune=prune)
    click.echo(f"{len(cases)} test cases and {len(campaigns)} campaigns in {folder}", err=True)


def _left_over(path: Path, *, prune: bool) -> None:
    """Delete or report a file whose test case or campaign is not on the server."""
    if prune:
        path.unlink()
    click.echo(f"{'deleted' if prune else 'not on the server'}: {path}", err=True)


def _named(things: list[Spec], form: str) -> Iterator[tuple[str, Spec]]:
    """Yield each with its file name, which depends on no ids, so that git shows real changes."""
    taken: set[str] = set()
    for thing in things:
        plain = re.sub(r"[\W_]+", "-", unicodedata.normalize("NFC", thing.name).lower())
        stem = _cut(plain).strip("-") or "unnamed"
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        yield f"{name}.{form}", thing


def _cut(name: str) -> str:
    """Cut a name to a length that fits into a file name (255 bytes on most file systems)."""
    return name.encode()[:_LONGEST_STEM].decode(errors="ignore")


# ---------------------------------------------------------------- vpt import


@dataclass(frozen=True, slots=True)
class Change:
    """One request to the server: `create`, `update` (of `fields`) or `delete`."""

    verb: str
    kind: Runnable
    name: str
    fields: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        more = f" ({', '.join(self.fields)})" if self.fields else ""
        return f"{self.verb} {self.kind.label} {one_line(self.name)!r}{more}"


class ImportPlan:
    """The changes that make the server equal to the files: first planned, then applied."""

    def __init__(self, api: Api, server: ServerContent, wanted: FileContent) -> None:
        self._api, self._server, self._wanted = api, server, wanted
        self._ids = {name: ids[0] for name, ids in server.test_cases.ids.items()}

    def planned(self, *, prune: bool) -> list[Change]:
        """Return all changes in an order in which the server accepts them.

        Raises MisuseError for ambiguous names and references to unknown test cases.
        """
        server, wanted = self._server, self._wanted
        self._check(prune=prune)
        changed = [
            *_creates_and_updates(server.test_cases, wanted.test_cases),
            *_creates_and_updates(server.campaigns, wanted.campaigns),
        ]
        if prune:
            changed += _deletes(server.campaigns, wanted.campaigns)
            changed += _deletes(server.test_cases, wanted.test_cases)
        return changed

    def _check(self, *, prune: bool) -> None:
        """Check that every name is unique and every reference has its test case."""
        server, wanted = self._server, self._wanted
        known = wanted.test_cases.keys() | (set() if prune else server.test_cases.ids.keys())
        used = {entry.test_case for one in wanted.campaigns.values() for entry in one.test_cases}
        wrong = [
            f"the campaign {campaign.name!r} names the test case {entry.test_case!r}, "
            + ("which is in no file" if prune else "which is neither in a file nor on the server")
            for campaign in wanted.campaigns.values()
            for entry in campaign.test_cases
            if entry.test_case not in known
        ]
        touched = wanted.test_cases.keys() | used
        wrong += _unclear(server.test_cases, None if prune else touched)
        wrong += _unclear(server.campaigns, None if prune else wanted.campaigns.keys())
        if wrong:
            raise MisuseError(first_of(wrong))

    async def apply(self, change: Change) -> None:
        """Send one change; If-Match keeps what somebody else changed meanwhile."""
        if change.kind is TEST_CASE:
            held: ServerItems[Any] = self._server.test_cases
            thing: Any = self._wanted.test_cases.get(change.name)
        else:
            held, thing = self._server.campaigns, self._wanted.campaigns.get(change.name)
        body = None if thing is None else self._body(thing)
        if change.verb == "create":
            made = await self._api.write("POST", change.kind.path, body)
            if change.kind is TEST_CASE:
                self._ids[change.name] = made["id"]
            return
        path = f"{change.kind.path}/{path_segment(held.id_of(change.name))}"
        version = held.versions.get(change.name)
        match = {} if version is None else {"If-Match": f'"{version}"'}
        await self._api.write("DELETE" if body is None else "PUT", path, body, match)

    def _body(self, thing: TestCaseSpec | CampaignSpec) -> Json:
        body: Json = msgspec.to_builtins(thing)
        if isinstance(thing, CampaignSpec):
            body["test_cases"] = [self._reference(entry) for entry in thing.test_cases]
        return body

    def _reference(self, entry: CampaignEntry) -> Json:
        body: Json = msgspec.to_builtins(entry)
        del body["test_case"]
        return {"test_case_id": self._ids[entry.test_case], **body}


def _unclear(held: ServerItems[Any], names: Iterable[str] | None) -> list[str]:
    return [
        words
        for name, words in zip(_duplicate_names(held), held.duplicates(), strict=True)
        if names is None or name in names
    ]


def _duplicate_names(held: ServerItems[Any]) -> list[str]:
    return [name for name, ids in held.ids.items() if len(ids) > 1]


def _creates_and_updates(held: ServerItems[Spec], wanted: Mapping[str, Spec]) -> Iterator[Change]:
    for name in sorted(wanted):
        if name not in held.things:
            yield Change("create", held.kind, name)
        elif fields := changed_fields(_named_as(wanted[name], held.things[name]), wanted[name]):
            yield Change("update", held.kind, name, fields)


def _named_as(wanted: Spec, stored: Spec) -> Spec:
    """Return what the server has, with the names of devices as the file has them.

    The server stores the id of a device (`pi-1:tv`) for its host's own name (`tv`): no difference.
    """
    if not isinstance(stored, CampaignSpec) or not isinstance(wanted, CampaignSpec):
        return stored
    entries: list[CampaignEntry] = list(stored.test_cases)
    for index, own in enumerate(wanted.test_cases[: len(entries)]):
        if _is_named(entries[index], own):
            entries[index] = msgspec.structs.replace(entries[index], device_id=own.device_id)
    return msgspec.structs.replace(stored, test_cases=entries)


def _is_named(stored: CampaignEntry, wanted: CampaignEntry) -> bool:
    """Return whether the file's name may be the one of which the server stored the id."""
    if stored.device_id is None or wanted.device_id is None:
        return False
    return stored.device_id.partition(":")[2] == wanted.device_id


def _deletes(held: ServerItems[Spec], wanted: Mapping[str, Spec]) -> list[Change]:
    return [Change("delete", held.kind, name) for name in sorted(held.things.keys() - wanted)]


async def import_files(
    api: Api, paths: list[Path], *, dry_run: bool, prune: bool, yes: bool, check: bool = True
) -> None:
    """Create, update and, with `prune`, delete on the server what differs from the files.

    With `check` a command that no device of the test case's model knows is a MisuseError.
    """
    wanted = read_files(paths)
    if prune and not wanted.test_cases and not wanted.campaigns:
        raise MisuseError(
            "The files define nothing: --prune would delete everything on the server."
        )
    plan = ImportPlan(api, await read_server(api), wanted)
    planned = plan.planned(prune=prune)
    same = len(wanted.test_cases) + len(wanted.campaigns)
    same -= sum(change.verb != "delete" for change in planned)
    if not planned:
        click.echo(f"nothing to do: {same} unchanged")
        return
    if check:
        await _check_commands(api, planned, wanted)
    if dry_run:
        for change in planned:
            click.echo(f"would {change}")
        click.echo(f"{same} unchanged")
        return
    _confirm([change for change in planned if change.verb == "delete"], yes=yes)
    for number, change in enumerate(planned):
        try:
            await plan.apply(change)
        except click.ClickException:
            click.echo(
                f"could not {change}; {number} of {len(planned)} changes were made, run the same "
                "command again for the rest",
                err=True,
            )
            raise
        click.echo(str(change))
    click.echo(f"{len(planned)} changes, {same} unchanged")


async def _check_commands(api: Api, planned: list[Change], wanted: FileContent) -> None:
    """Check the commands of test cases that change. Raises MisuseError for unknown ones."""
    names = [one.name for one in planned if one.kind is TEST_CASE and one.verb != "delete"]
    checked = await check_commands(api, [wanted.test_cases[name] for name in names])
    for words in checked.missing[:_SHOWN]:
        click.echo(f"warning: {words}", err=True)
    if checked.unknown:
        raise MisuseError(
            f"{first_of(checked.unknown)}\nCorrect them, or import them unchecked with --no-check."
        )


def _confirm(deletions: list[Change], *, yes: bool) -> None:
    """Ask before anything is deleted. Raises MisuseError for a no, or without a terminal."""
    if not deletions or yes:
        return
    if not sys.stdin.isatty():
        raise MisuseError(f"{len(deletions)} would be deleted: add --yes to confirm.")
    for change in deletions[:_SHOWN]:
        click.echo(f"would {change}")
    if not click.confirm(f"Delete {len(deletions)}, and make the other changes?"):
        raise MisuseError("Nothing was changed.")
