"""`vpt import` and `vpt export`: the server's test cases and campaigns, and those of files."""

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

from vpt.client.api import Api, segment
from vpt.client.exits import MisuseError, TroubleError
from vpt.client.files import (
    SUFFIXES,
    Campaign,
    Entry,
    TestCase,
    Thing,
    Wanted,
    changes,
    read,
    shortened,
    written,
)
from vpt.client.runnables import CAMPAIGN, TEST_CASE, Kind
from vpt.client.text import one_line
from vpt.model import Json

_SHOWN, _LONGEST_STEM = 20, 200


@dataclass(slots=True)
class Held(Generic[Thing]):
    """What the server has of one kind: ids, versions, and contents, by name."""

    kind: Kind
    things: dict[str, Thing] = field(default_factory=dict)
    ids: dict[str, list[str]] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)

    def add(self, item: Json, thing: Thing) -> None:
        """Take one more."""
        self.things[thing.name] = thing
        self.ids.setdefault(thing.name, []).append(item["id"])
        if "version" in item:
            self.versions[thing.name] = item["version"]

    def id_of(self, name: str) -> str:
        """Give the id of the only one of this name."""
        return self.ids[name][0]

    def doubles(self) -> Iterator[str]:
        """Say which names are not clear."""
        for name, ids in self.ids.items():
            if len(ids) > 1:
                yield f"several {self.kind.word}s are named {name!r}: {', '.join(ids)}"


@dataclass(frozen=True, slots=True)
class Server:
    """All that the server has."""

    test_cases: Held[TestCase]
    campaigns: Held[Campaign]


async def look(api: Api) -> Server:
    """Read all test cases and campaigns of the server."""
    server = Server(Held(TEST_CASE), Held(CAMPAIGN))
    names: dict[str, str] = {}
    async for item in api.items(TEST_CASE.path):
        names[item["id"]] = item["name"]
        server.test_cases.add(item, msgspec.convert(_of(item, TestCase), TestCase))
    async for item in api.items(CAMPAIGN.path):
        entries = [_entry(entry, names) for entry in item["test_cases"]]
        campaign = _of(item, Campaign) | {"test_cases": entries}
        server.campaigns.add(item, msgspec.convert(campaign, Campaign))
    return server


def _of(item: Json, kind: type[TestCase] | type[Campaign]) -> Json:
    return {name: item[name] for name in kind.__struct_fields__}


def _entry(entry: Json, names: Mapping[str, str]) -> Json:
    name = names.get(entry["test_case_id"])
    if name is None:
        raise TroubleError("The server's test cases changed just now: try again.")
    kept = {key: entry[key] for key in ("device_id", "host_id", "parameters")}
    return {"test_case": name, **kept}


# ---------------------------------------------------------------- vpt export


async def export(api: Api, to: str, form: str, *, prune: bool) -> None:
    """Write it all: a file, `-` for standard output, or a folder with a file each."""
    _export(await look(api), to, form, prune=prune)


def _export(server: Server, to: str, form: str, *, prune: bool) -> None:
    unclear = [*server.test_cases.doubles(), *server.campaigns.doubles()]
    if unclear:
        raise MisuseError("Names have to be clear.\n" + shortened(unclear))
    cases, campaigns = _sorted(server.test_cases), _sorted(server.campaigns)
    path = Path(to)
    if to == "-":
        sys.stdout.write(written(cases, campaigns, form))
    elif path.suffix in SUFFIXES and not path.is_dir():
        chosen = "json" if path.suffix == ".json" else "yaml"
        path.write_text(written(cases, campaigns, chosen), encoding="utf-8")
    else:
        _export_folder(path, cases, campaigns, form, prune=prune)


def _sorted(held: Held[Thing]) -> list[Thing]:
    return [held.things[name] for name in sorted(held.things)]


def _export_folder(
    folder: Path, cases: list[TestCase], campaigns: list[Campaign], form: str, *, prune: bool
) -> None:
    files = {
        folder / "test_cases" / name: written([case], [], form)
        for name, case in _named(cases, form)
    } | {
        folder / "campaigns" / name: written([], [campaign], form)
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
    """Deal with a file of what the server has not, or has under another name."""
    if prune:
        path.unlink()
    click.echo(f"{'deleted' if prune else 'not on the server'}: {path}", err=True)


def _named(things: list[Thing], form: str) -> Iterator[tuple[str, Thing]]:
    """Give each a file name, which depends on the names alone."""
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
    """Keep what fits into a file's name, which is 255 bytes at most."""
    return name.encode()[:_LONGEST_STEM].decode(errors="ignore")


# ---------------------------------------------------------------- vpt import


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to do: `create`, `update` or `delete`."""

    verb: str
    kind: Kind
    name: str
    fields: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        more = f" ({', '.join(self.fields)})" if self.fields else ""
        return f"{self.verb} {self.kind.word} {one_line(self.name)!r}{more}"


class Import:
    """Files against a server: first what is to be done, then doing it."""

    def __init__(self, api: Api, server: Server, wanted: Wanted) -> None:
        self._api, self._server, self._wanted = api, server, wanted
        self._ids = {name: ids[0] for name, ids in server.test_cases.ids.items()}

    def planned(self, *, prune: bool) -> list[Change]:
        """Give all changes in the order in which they can be made. Raises MisuseError."""
        server, wanted = self._server, self._wanted
        self._check(prune=prune)
        changed = [
            *_written(server.test_cases, wanted.test_cases),
            *_written(server.campaigns, wanted.campaigns),
        ]
        if prune:
            changed += _pruned(server.campaigns, wanted.campaigns)
            changed += _pruned(server.test_cases, wanted.test_cases)
        return changed

    def _check(self, *, prune: bool) -> None:
        """See that every name is clear and every reference leads somewhere."""
        server, wanted = self._server, self._wanted
        known = wanted.test_cases.keys() | (set() if prune else server.test_cases.ids.keys())
        used = {entry.test_case for one in wanted.campaigns.values() for entry in one.test_cases}
        wrong = [
            f"the campaign {campaign.name!r} names the test case {entry.test_case!r}, "
            + ("which is in no file" if prune else "which is nowhere")
            for campaign in wanted.campaigns.values()
            for entry in campaign.test_cases
            if entry.test_case not in known
        ]
        touched = wanted.test_cases.keys() | used
        wrong += _unclear(server.test_cases, None if prune else touched)
        wrong += _unclear(server.campaigns, None if prune else wanted.campaigns.keys())
        if wrong:
            raise MisuseError(shortened(wrong))

    async def do(self, change: Change) -> None:
        """Make one change."""
        if change.kind is TEST_CASE:
            held: Held[Any] = self._server.test_cases
            thing: Any = self._wanted.test_cases.get(change.name)
        else:
            held, thing = self._server.campaigns, self._wanted.campaigns.get(change.name)
        body = None if thing is None else self._body(thing)
        if change.verb == "create":
            made = await self._api.write("POST", change.kind.path, body)
            if change.kind is TEST_CASE:
                self._ids[change.name] = made["id"]
            return
        path = f"{change.kind.path}/{segment(held.id_of(change.name))}"
        version = held.versions.get(change.name)
        match = {} if version is None else {"If-Match": f'"{version}"'}
        await self._api.write("DELETE" if body is None else "PUT", path, body, match)

    def _body(self, thing: TestCase | Campaign) -> Json:
        body: Json = msgspec.to_builtins(thing)
        if isinstance(thing, Campaign):
            body["test_cases"] = [self._reference(entry) for entry in thing.test_cases]
        return body

    def _reference(self, entry: Entry) -> Json:
        body: Json = msgspec.to_builtins(entry)
        del body["test_case"]
        return {"test_case_id": self._ids[entry.test_case], **body}


def _unclear(held: Held[Any], names: Iterable[str] | None) -> list[str]:
    return [
        words
        for name, words in zip(_double_names(held), held.doubles(), strict=True)
        if names is None or name in names
    ]


def _double_names(held: Held[Any]) -> list[str]:
    return [name for name, ids in held.ids.items() if len(ids) > 1]


def _written(held: Held[Thing], wanted: Mapping[str, Thing]) -> Iterator[Change]:
    for name in sorted(wanted):
        if name not in held.things:
            yield Change("create", held.kind, name)
        elif fields := changes(held.things[name], wanted[name]):
            yield Change("update", held.kind, name, fields)


def _pruned(held: Held[Thing], wanted: Mapping[str, Thing]) -> list[Change]:
    return [Change("delete", held.kind, name) for name in sorted(held.things.keys() - wanted)]


async def bring(api: Api, paths: list[Path], *, dry_run: bool, prune: bool, yes: bool) -> None:
    """Make the server have what the files say."""
    wanted = read(paths)
    if prune and not wanted.test_cases and not wanted.campaigns:
        raise MisuseError("The files hold nothing: --prune would delete all that the server has.")
    work = Import(api, await look(api), wanted)
    planned = work.planned(prune=prune)
    same = len(wanted.test_cases) + len(wanted.campaigns)
    same -= sum(change.verb != "delete" for change in planned)
    if not planned:
        click.echo(f"nothing to do: {same} as they are")
        return
    if dry_run:
        for change in planned:
            click.echo(f"would {change}")
        click.echo(f"{same} as they are")
        return
    _confirm([change for change in planned if change.verb == "delete"], yes=yes)
    for number, change in enumerate(planned):
        try:
            await work.do(change)
        except click.ClickException:
            click.echo(
                f"could not {change}; {number} of {len(planned)} changes were made, the same "
                "command makes the rest",
                err=True,
            )
            raise
        click.echo(str(change))
    click.echo(f"{len(planned)} changes, {same} as they are")


def _confirm(deletions: list[Change], *, yes: bool) -> None:
    """Ask before anything is deleted; without a terminal nobody could answer."""
    if not deletions or yes:
        return
    if not sys.stdin.isatty():
        raise MisuseError(f"{len(deletions)} would be deleted: --yes says that it is meant.")
    for change in deletions[:_SHOWN]:
        click.echo(f"would {change}")
    if not click.confirm(f"Delete {len(deletions)}, and make the other changes?"):
        raise MisuseError("Nothing was changed.")
