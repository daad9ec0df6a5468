"""Dumps: what is in them comes back whole, into any database, or nothing changes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.actors.fake_host import until
from tests.conftest import SECRET
from vpt.store import backup
from vpt.store.artifacts import Artifacts
from vpt.store.backup import BackupError, dump, load
from vpt.store.db import SQL
from vpt.store.migrations import migrate, migrations
from vpt.store.seal import Sealer

HERE = Path(__file__).parent
SEED = "".join(
    (HERE / name).read_text(encoding="utf-8") for name in ("grafana/seed.sql", "backup_rows.sql")
)
LIVES = "INSERT INTO server_instance (id, expires_at) VALUES ('one', "
OF_ONE_PLACE = {"schema_migrations", "server_instance", "pruner"}
PICTURES = {"e1/1-1.png": b"\x89PNG", "e1/2-13.jpeg": b"\xff\xd8", "e7/1-1.png": b""}


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def execute(dsn: str, sql: str) -> None:
    async with connected(dsn) as connection:
        await connection.execute(sql)


async def everything(dsn: str) -> dict[str, list[str]]:
    """Give all rows of all tables as text, and the migrations that the database has."""
    async with connected(dsn) as connection:
        await connection.execute("SET timezone = 'Asia/Kolkata'; SET datestyle = 'SQL, DMY'")
        tables = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        )
        found = {
            name: [
                row[0] for row in await connection.fetch(f"SELECT t::text FROM {name} t ORDER BY 1")
            ]
            for (name,) in tables
            if name not in OF_ONE_PLACE
        }
        rows = await connection.fetch("SELECT name FROM schema_migrations ORDER BY name")
        return found | {"schema_migrations": [row[0] for row in rows]}


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def pictures(data: Path) -> dict[str, bytes]:
    root = data / "screenshots"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def keep_pictures(data: Path, kept: dict[str, bytes] = PICTURES) -> None:
    for name, content in kept.items():
        path = data / "screenshots" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class Place:
    """A database and a data folder."""

    def __init__(self, dsn: str, data: Path) -> None:
        self.dsn, self.data = dsn, data
        data.mkdir()

    async def all(self) -> tuple[dict[str, list[str]], dict[str, bytes]]:
        return await everything(self.dsn), pictures(self.data)

    async def dump(self, file: Path, **options: Any) -> backup.Content:
        with backup.whole_file(file) as out:
            return await dump(self.dsn, Artifacts(self.data), out, **options)

    async def load(self, file: Path, **options: Any) -> backup.Loaded:
        with file.open("rb") as source:
            return await load(self.dsn, Artifacts(self.data), source, Sealer(SECRET), **options)


@pytest.fixture
async def lab(dsn: str, tmp_path: Path) -> Place:
    """Give a place with rows in every table and with screenshots."""
    await execute(dsn, SEED)
    lab = Place(dsn, tmp_path / "lab")
    keep_pictures(lab.data)
    return lab


@pytest.fixture
def other(empty_dsn: str, tmp_path: Path) -> Place:
    """Give a place where vpt never was."""
    return Place(empty_dsn, tmp_path / "other")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give where the dump goes."""
    return tmp_path / "backups" / "lab.vpt"


@pytest.fixture(autouse=True)
def _folder(file: Path) -> None:
    file.parent.mkdir()


# ---------------------------------------------------------------- there and back


async def test_all_that_was_dumped_comes_back_elsewhere(
    lab: Place, other: Place, file: Path
) -> None:
    before = await lab.all()
    assert [name for name, rows in before[0].items() if not rows] == []
    content = await lab.dump(file)
    assert (await other.load(file)).content == content
    assert await other.all() == before == await lab.all()
    assert content.rows == sum(len(rows) for rows in before[0].values()) - len(content.schema)
    assert content.screenshots == len(PICTURES)
    assert file.stat().st_mode & 0o777 == 0o600
    assert names(file.parent) == [file.name]
    assert names(other.data) == ["screenshots"]


async def test_it_does_not_matter_how_a_database_writes_its_values(
    lab: Place, other: Place, file: Path
) -> None:
    before = await lab.all()
    for name, value in (
        ("datestyle", "SQL, DMY"),
        ("timezone", "Asia/Kolkata"),
        ("extra_float_digits", "-5"),
    ):
        await execute(
            other.dsn,
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET "
            f"{name} = %L', current_database(), '{value}'); END $$",
        )
    await lab.dump(file)
    await other.load(file)
    await other.dump(file.with_name("again"))
    await lab.load(file.with_name("again"), force=True)
    assert await lab.all() == before


async def test_what_vpt_makes_in_a_database_is_known(dsn: str) -> None:
    async with connected(dsn) as connection:
        tables = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        )
        functions = await connection.fetch(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        )
        others = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND relkind NOT IN ('r', 'i')"
        )
    made = backup._made([path.stem for path in migrations()])
    assert {row[0] for row in tables} <= {*made["TABLE"], "schema_migrations"}
    assert {row[0] for row in functions} <= set(made["FUNCTION"])
    assert others == [], "neither dump nor load knows of sequences and views"


async def test_a_dump_is_of_one_moment(lab: Place, other: Place, file: Path) -> None:
    before = await lab.all()
    async with connected(lab.dsn) as connection:
        async with connection.transaction():
            await connection.execute("LOCK TABLE hosts IN ACCESS EXCLUSIVE MODE")
            dumping = asyncio.create_task(lab.dump(file))
            waits = "SELECT 1 FROM pg_locks WHERE NOT granted"
            await until(lambda: connection.fetchval(waits))
            await connection.execute("UPDATE execution_steps SET output = 'later'")
            await connection.execute("DELETE FROM leases")
        await dumping
    await other.load(file)
    assert await other.all() == before


@pytest.mark.parametrize("left_out", ["0003_replay", "0003_replay and what came later"])
async def test_a_dump_of_an_older_schema_is_brought_up_to_date(
    left_out: str, other: Place, dsn: str, tmp_path: Path, file: Path
) -> None:
    """What a later migration makes of rows is made of those that are loaded, too."""
    names = [path.stem for path in migrations()]
    old = names[:2] if "later" in left_out else [name for name in names if name != left_out]
    async with connected(other.dsn) as connection:
        await connection.execute("CREATE TABLE schema_migrations (name text, applied_at text)")
        for name in old:
            await connection.execute((SQL / "migrations" / f"{name}.sql").read_text())
            await connection.execute("INSERT INTO schema_migrations VALUES ($1)", name)
        await connection.execute((HERE / "backup_old.sql").read_text())
    assert (await other.dump(file)).schema == old
    target = Place(dsn, tmp_path / "target")
    await target.load(file)
    async with connected(dsn) as connection:
        assert await connection.fetchval("SELECT end_step FROM test_executions") == 2
    assert (await everything(dsn))["schema_migrations"] == names


async def test_screenshots_may_be_left_out_and_then_stay_as_they_are(
    lab: Place, other: Place, file: Path
) -> None:
    assert (await lab.dump(file, screenshots=False)).screenshots is None
    keep_pictures(other.data, {"x/1-1.png": b"mine"})
    await other.load(file)
    assert await everything(other.dsn) == await everything(lab.dsn)
    assert pictures(other.data) == {"x/1-1.png": b"mine"}


async def test_hosts_whose_secrets_stay_closed_are_named(
    lab: Place, other: Place, file: Path
) -> None:
    async with connected(lab.dsn) as connection:
        for host, key in (
            ("pi-1", "another key, which is as long as it has to be"),
            ("pi-2", SECRET),
        ):
            sealed = Sealer(key).seal("hush")
            await connection.execute(
                "UPDATE hosts SET sealed_api_key = $2 WHERE id = $1", host, sealed
            )
    await lab.dump(file)
    loaded = await other.load(file)
    assert (loaded.sealed, loaded.sealed_names) == (["pi-1"], ["s"])


# ---------------------------------------------------------------- what is refused


async def test_data_is_replaced_only_by_force(lab: Place, other: Place, file: Path) -> None:
    await lab.dump(file)
    wanted = await lab.all()
    await execute(lab.dsn, "DELETE FROM leases; UPDATE hosts SET draining = true")
    keep_pictures(lab.data, {"later/1-1.png": b"later"})
    later = await lab.all()
    with pytest.raises(BackupError, match="--force"):
        await lab.load(file)
    assert await lab.all() == later
    await lab.load(file, force=True)
    assert await lab.all() == wanted
    await other.load(file)  # it has the schema now, and the same data
    with pytest.raises(BackupError, match="--force"):
        await other.load(file)


async def test_what_a_server_says_of_itself_is_no_data(
    lab: Place, other: Place, file: Path
) -> None:
    await lab.dump(file)
    await migrate(other.dsn)
    await execute(
        other.dsn,
        f"INSERT INTO grafana_page (url) VALUES ('http://here');{LIVES} now())",
    )
    await other.load(file)
    assert await other.all() == await lab.all()


async def test_a_server_that_runs_is_left_alone_even_by_force(
    lab: Place, other: Place, file: Path
) -> None:
    await lab.dump(file)
    await execute(lab.dsn, f"{LIVES} now() + interval '10 seconds')")
    before = await lab.all()
    with pytest.raises(BackupError, match="server runs"):
        await lab.load(file, force=True)
    assert await lab.all() == before


async def test_who_works_in_the_database_is_not_waited_for(
    lab: Place, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.dump(file)
    before = await lab.all()
    monkeypatch.setattr(backup, "_ALIKE", backup._ALIKE.replace("'10s'", "'100ms'"))
    async with connected(lab.dsn) as connection, connection.transaction():
        await connection.execute("SELECT FROM hosts")
        with pytest.raises(BackupError, match="Somebody else"):
            await lab.load(file, force=True)
    assert await lab.all() == before


async def test_a_newer_vpt_is_not_understood(lab: Place, other: Place, file: Path) -> None:
    await lab.dump(file)
    await migrate(other.dsn)
    await execute(other.dsn, "INSERT INTO schema_migrations VALUES ('9999_later')")
    with pytest.raises(BackupError, match="newer"):
        await other.dump(file.with_name("other"))
    with pytest.raises(BackupError, match="newer"):
        await other.load(file, force=True)
    assert names(file.parent) == [file.name]


async def test_somebody_elses_tables_are_left_alone(lab: Place, other: Place, file: Path) -> None:
    await lab.dump(file)
    await execute(other.dsn, "CREATE TABLE hosts (name text); INSERT INTO hosts VALUES ('mine')")
    with pytest.raises(asyncpg.DuplicateTableError):
        await other.load(file, force=True)
    with pytest.raises(BackupError, match="nothing to dump"):
        await other.dump(file.with_name("other"))
    async with connected(other.dsn) as connection:
        assert await connection.fetch("SELECT name FROM hosts") == [("mine",)]
    await execute(lab.dsn, "CREATE VIEW ours AS SELECT id FROM hosts")
    before = await everything(lab.dsn)
    with pytest.raises(asyncpg.DependentObjectsStillExistError):
        await lab.load(file, force=True)
    await execute(lab.dsn, "DROP VIEW ours")
    assert await everything(lab.dsn) == before


# ---------------------------------------------------------------- broken files


def rewritten(file: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write the archive anew with other members; None leaves one out."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            if (changed := change(name, content)) is not None:
                archive.writestr(name, changed)


def damaged(file: Path, name: str) -> None:
    """Turn a bit in the middle of a member's bytes."""
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo(name)
    content = bytearray(file.read_bytes())
    content[info.header_offset + 30 + len(name) + 20 + info.compress_size // 2] ^= 0x10
    file.write_bytes(content)


def manifest(file: Path, **changes: Any) -> None:
    def change(name: str, content: bytes) -> bytes:
        return json.dumps(json.loads(content) | changes).encode() if "manifest" in name else content

    rewritten(file, change)


BREAKS: dict[str, Callable[[Path], Any]] = {
    "it is cut off": lambda file: os.truncate(file, file.stat().st_size * 2 // 3),
    "it is empty": lambda file: os.truncate(file, 0),
    "it is something else": lambda file: file.write_bytes(random.randbytes(10_000)),
    "it has no manifest": lambda file: rewritten(file, lambda n, c: None if "mani" in n else c),
    "its manifest is nonsense": lambda file: manifest(file, tables=7),
    "its manifest is no JSON": lambda file: rewritten(
        file, lambda n, c: c[:-9] if "mani" in n else c
    ),
    "a table is missing": lambda file: rewritten(file, lambda n, c: None if "devices" in n else c),
    "a table lacks its end": lambda file: rewritten(
        file, lambda n, c: c[: c.index(b"\n") + 1] if "devices" in n else c
    ),
    "a table's last row lacks its end": lambda file: rewritten(
        file, lambda n, c: c[:-4] if "host_health" in n else c
    ),
    "a table's bytes are others": lambda file: damaged(file, "tables/host_health.copy"),
    "a picture's bytes are others": lambda file: damaged(file, "screenshots/e1/1-1.png"),
    "a picture is to stand elsewhere": lambda file: added(file, "screenshots/../../x.png"),
    "a table is not for rows of vpt": lambda file: (
        added(file, "tables/schema_migrations.copy"),
        manifest(file, tables=[{"name": "schema_migrations", "columns": ["name"], "rows": 0}]),
    ),
    "its format is a later one": lambda file: manifest(file, format=2),
    "its schema is a later one": lambda file: manifest(
        file, schema=["0001_foundation", "0002_other"]
    ),
}


def added(file: Path, name: str) -> None:
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, b"")


async def test_a_broken_dump_changes_nothing(lab: Place, file: Path) -> None:
    keep_pictures(lab.data, {"e1/1-1.png": random.randbytes(1000)})
    await lab.dump(file)
    await execute(lab.dsn, "UPDATE hosts SET draining = true")
    keep_pictures(lab.data, {"e9/1-1.png": b"later"})
    before = await lab.all()
    broken = file.with_name("broken.vpt")
    for what, damage in BREAKS.items():
        shutil.copy(file, broken)
        damage(broken)
        with pytest.raises((BackupError, asyncpg.DataError)) as caught:
            await lab.load(broken, force=True)
        assert str(caught.value), what
        assert await lab.all() == before, what
        assert names(lab.data) == ["screenshots"], what
    await lab.load(file, force=True)
    assert await lab.all() != before
