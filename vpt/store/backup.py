"""Backups: all rows and screenshots of a moment in one file, loaded whole or not at all.

The file is a zip of the text of COPY, which every PostgreSQL reads: a pg_dump cannot be loaded into
an older server, and vpt's own PostgreSQL is newer than most. SECRET_KEY is not in it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import zipfile
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile

import asyncpg

from vpt import __version__
from vpt.errors import NotFoundError
from vpt.store.artifacts import Artifacts, private_file
from vpt.store.connect import connect
from vpt.store.db import Session, read_queries, translated
from vpt.store.locks import LockWatch
from vpt.store.migrations import SchemaLockedError, apply, lock_schema, migrations
from vpt.store.requirements import check_server
from vpt.store.seal import Sealer

FORMAT = 1
_MANIFEST = "manifest.json"
_LEVEL = 3  # of zlib: a little more than half the time of 6, for 5 % more bytes
_CHUNK = 2**20
_MADE = re.compile(r"^CREATE (?:OR REPLACE )?(TABLE|FUNCTION) (\w+)", re.MULTILINE)
_OF_A_PROCESS = ("server_instance", "pruner")  # which server lives, who prunes: only here
_SAID_ANEW = (*_OF_A_PROCESS, "grafana_page")  # by each server at its start
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError)
_ALIKE = """
    SET LOCAL statement_timeout = 0;
    SET LOCAL idle_in_transaction_session_timeout = 0;
    SET LOCAL lock_timeout = '10s';
    SET LOCAL timezone = 'UTC';
    SET LOCAL datestyle = 'ISO, YMD';
    SET LOCAL intervalstyle = 'postgres';
    SET LOCAL extra_float_digits = 1;
"""


class BackupError(Exception):
    """A dump cannot be made or loaded; nothing was changed. The message is for a person."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a dump."""

    name: str
    columns: list[str]
    rows: int


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a dump; `screenshots` is None when they were left out."""

    schema: list[str]
    tables: list[Table]
    screenshots: int | None

    @property
    def rows(self) -> int:
        """How many rows all tables have."""
        return sum(table.rows for table in self.tables)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded, and the hosts whose secrets this SECRET_KEY does not open."""

    content: Content
    sealed: list[str]
    sealed_names: list[str]  # of named secrets


# ---------------------------------------------------------------- dump


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write, which gets its name when it is complete and on the disk."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


async def dump(
    dsn: str, artifacts: Artifacts, out: IO[bytes], *, screenshots: bool = True
) -> Content:
    """Write the database as it is at one moment, and the screenshots; a server may run on it.

    Raises BackupError, DatabaseAwayError or OSError.
    """
    with ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        schema, tables = await _dump_rows(dsn, archive)
        # After the rows: a screenshot is written before its row says so.
        pictures = _dump_screenshots(archive, artifacts) if screenshots else None
        content = Content(schema, tables, pictures)
        about = {"format": FORMAT, "vpt": __version__, "made_at": datetime.now(UTC).isoformat()}
        archive.writestr(_MANIFEST, json.dumps(about | asdict(content), indent=1))
    return content


async def _dump_rows(dsn: str, archive: ZipFile) -> tuple[list[str], list[Table]]:
    async with (
        _connected(dsn) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        session = await _alike(connection)
        schema = await _schema(session)
        if not schema:
            raise BackupError("There is nothing to dump: the database has no tables of vpt.")
        names = [name for name in _made(schema)["TABLE"] if name not in _OF_A_PROCESS]
        columns = {
            row["table_name"]: row["columns"]
            for row in await session.rows("columns_of", tables=names)
        }
        order = await _order(session, list(columns))
        return schema, [await _dump_table(connection, archive, n, columns[n]) for n in order]


async def _order(session: Session, names: Sequence[str]) -> list[str]:
    """Return the tables in an order in which each comes after those that it refers to."""
    graph: dict[str, set[str]] = {name: set() for name in names}
    for row in await session.rows("references_of", tables=names):
        graph[row["table_name"]].add(row["referenced"])
    return list(TopologicalSorter(graph).static_order())


async def _dump_table(connection: Any, archive: ZipFile, name: str, columns: list[str]) -> Table:
    with archive.open(_member(name), "w", force_zip64=True) as out:

        async def write(data: bytes) -> None:
            out.write(data)

        status = await connection.copy_from_table(name, columns=columns, output=write)
    return Table(name, columns, _count(status))


def _dump_screenshots(archive: ZipFile, artifacts: Artifacts) -> int:
    written = 0
    for name, path in artifacts.stored():
        try:
            archive.write(path, f"screenshots/{name}", zipfile.ZIP_STORED)
        except FileNotFoundError:  # it was pruned just now
            continue
        written += 1
    return written


# ---------------------------------------------------------------- load


async def load(
    dsn: str, artifacts: Artifacts, source: IO[bytes], sealer: Sealer, *, force: bool = False
) -> Loaded:
    """Replace the database and the screenshots by those of the dump, or leave them as they are.

    A dump of an older schema is migrated. `force` is for a database that has data. Raises
    BackupError, DatabaseAwayError, OSError, or PostgreSQL's own error.
    """
    with _opened(source) as archive, artifacts.staging() as staging:
        content = _content(archive)
        async with _connected(dsn) as connection, connection.transaction():
            await check_server(connection)
            session = await _alike(connection)
            await _make_room(connection, session, force=force)
            await _load_rows(connection, archive, content)
            sealed = await _sealed(session, sealer)
            rows = await session.rows("sealed_secrets")
            names = [row["name"] for row in rows if sealer.open(row["sealed_value"]) is None]
            _unpack(archive, staging)
        if content.screenshots is not None:
            artifacts.become(staging)
    return Loaded(content, sealed, names)


@contextmanager
def _opened(source: IO[bytes]) -> Iterator[ZipFile]:
    try:
        archive = ZipFile(source)
    except zipfile.BadZipFile as error:
        raise BackupError("This is no dump of vpt, or not all of it.") from error
    with archive:
        yield archive


def _content(archive: ZipFile) -> Content:
    try:
        about = json.loads(archive.read(_MANIFEST))
        newer = about["format"] != FORMAT or not _known(about["schema"])
        tables = [Table(t["name"], t["columns"], t["rows"]) for t in about["tables"]]
        content = Content(about["schema"], tables, about["screenshots"])
    except (*_BROKEN, ValueError, TypeError) as error:
        raise BackupError("This is no dump of vpt.") from error
    if newer:
        raise BackupError(f"The dump was made by a newer vpt ({about.get('vpt')}).")
    if strange := {table.name for table in tables} - set(_made(content.schema)["TABLE"]):
        raise BackupError(f"The dump has tables that are not vpt's: {sorted(strange)}")
    return content


async def _make_room(connection: Any, session: Session, *, force: bool) -> None:
    """Drop all that vpt ever made here, while nothing else uses the database."""
    # A server that starts waits for this before it looks at the schema.
    await lock_schema(connection)
    schema = await _schema(session)
    if not schema:
        return
    await session.row("lock_instance")
    if await session.value("a_server_lives"):
        raise BackupError(
            "A vpt server runs on this database: stop it first (one that was killed counts for"
            " 12 more seconds)."
        )
    made = _made(schema)
    if not force and await _has_data(connection, made["TABLE"]):
        raise BackupError("The database has data: --force replaces all of it.")
    await connection.execute(
        f"DROP TABLE IF EXISTS {', '.join([*made['TABLE'], 'schema_migrations'])}"
    )
    await connection.execute(f"DROP FUNCTION IF EXISTS {', '.join(made['FUNCTION'])}")


async def _has_data(connection: Any, names: Sequence[str]) -> bool:
    for name in names:
        there = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", name)
        # The names are our own migrations'.
        if (
            there
            and name not in _SAID_ANEW
            and await connection.fetchval(
                f"SELECT EXISTS (SELECT FROM {name})"  # noqa: S608
            )
        ):
            return True
    return False


async def _load_rows(connection: Any, archive: ZipFile, content: Content) -> None:
    """Load into the schema of the dump, then migrate: migrations may change rows."""
    await apply(connection, _files(content.schema))
    for table in content.tables:
        rows = _chunks(archive, table.name)
        status = await connection.copy_to_table(table.name, columns=table.columns, source=rows)
        if _count(status) != table.rows:
            raise BackupError(f"The dump is broken: {table.name} lacks rows.")
    await apply(connection, migrations())


async def _chunks(archive: ZipFile, table: str) -> AsyncIterator[bytes]:
    try:
        with archive.open(_member(table)) as member:
            while chunk := member.read(_CHUNK):
                yield chunk
    except _BROKEN as error:
        raise BackupError(f"The dump is broken: {error}") from error


def _unpack(archive: ZipFile, staging: Path) -> None:
    """Write the screenshots into `staging`; zip checks their sums."""
    for name in archive.namelist():
        if name.startswith("screenshots/"):
            try:
                path = Artifacts.place(staging, name.removeprefix("screenshots/"))
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with archive.open(name) as source, private_file(path) as target:
                    shutil.copyfileobj(source, target)
            except (*_BROKEN, NotFoundError) as error:
                raise BackupError(f"The dump is broken: {name}: {error}") from error
    os.sync()


async def _sealed(session: Session, sealer: Sealer) -> list[str]:
    """Return the hosts whose secrets are sealed with another SECRET_KEY."""
    return [
        row["id"]
        for row in await session.rows("sealed_of_hosts")
        for sealed in [[s for s in (row["sealed_secret"], row["sealed_api_key"]) if s is not None]]
        if any(sealer.open(one) is None for one in sealed)
    ]


# ---------------------------------------------------------------- both


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[Any]:
    async with translated():
        connection = await connect(dsn, name="vpt backup")
        try:
            async with LockWatch(dsn, connection) as watch:
                try:
                    yield connection
                except asyncpg.LockNotAvailableError as error:
                    raise _locked(watch.words()) from error
                except SchemaLockedError as error:
                    raise _locked(str(error)) from error
        finally:
            await connection.close(timeout=2)


def _locked(held_by: str) -> BackupError:
    return BackupError(f"Somebody else works in the database: end that first: {held_by}.")


async def _alike(connection: Any) -> Session:
    """Set how values are written and read in this transaction, alike for dump and load."""
    await connection.execute(_ALIKE)
    return Session(connection, read_queries())


async def _schema(session: Session) -> list[str]:
    """Return the migrations that the database has; none where vpt never ran."""
    if not await session.value("has_schema"):
        return []
    schema = [row["name"] for row in await session.rows("schema_names")]
    if not _known(schema):
        raise BackupError("The database is of a newer vpt than this one.")
    return schema


def _known(schema: Sequence[str]) -> bool:
    """Return whether this vpt has all these migrations."""
    return set(schema) <= {path.stem for path in migrations()}


def _files(schema: Sequence[str]) -> list[Path]:
    return [path for path in migrations() if path.stem in schema]


def _made(schema: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of TABLEs and FUNCTIONs that these migrations made, also dropped ones."""
    made: dict[str, list[str]] = {"TABLE": [], "FUNCTION": []}
    for path in _files(schema):
        for kind, name in _MADE.findall(path.read_text(encoding="utf-8")):
            made[kind].append(name)
    return made


def _member(table: str) -> str:
    return f"tables/{table}.copy"


def _count(status: str) -> int:
    """Return 12 for `COPY 12`."""
    return int(status.rpartition(" ")[2])
