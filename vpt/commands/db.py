"""`vpt db`: the commands that keep the database and bring it back."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

import click

from vpt import logs
from vpt.commands.command import Trouble, database, read_config, run
from vpt.config import Config
from vpt.store import backup, grafana_role
from vpt.store.artifacts import Artifacts
from vpt.store.backup import Content, Loaded
from vpt.store.seal import Sealer

_DASH = Path("-")


@click.group("db")
def db_group() -> None:
    """Keep the database in a file, and bring it back.

    It is the one of DATABASE_URL, or else the own one in VPT_DATA_DIR, whether it runs or not.
    """


@db_group.command("dump")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--no-screenshots", is_flag=True, help="Leave the screenshots in VPT_DATA_DIR out.")
def dump_command(*, file: Path, no_screenshots: bool) -> None:
    """Write all rows, and the screenshots in VPT_DATA_DIR, into FILE, which must not be there yet.

    A server may run meanwhile; FILE has everything as it was at one moment. SECRET_KEY, by which
    hosts' secrets in it are sealed, is not in it: keep that elsewhere. FILE may be - for standard
    output.
    """
    if file.exists() or (file == _DASH and sys.stdout.isatty()):
        raise click.BadParameter(f"{file} is there already", param_hint="FILE")
    settings = read_config()
    logs.setup(settings.log_format, "warning")
    with nullcontext(sys.stdout.buffer) if file == _DASH else _whole_file(file) as out:
        content = run(_dump(settings, out, screenshots=not no_screenshots))
    click.echo(f"dumped {_told(content)}", err=True)


@db_group.command("load")
@click.argument("file", type=click.File("rb"))
@click.option("--force", is_flag=True, help="Replace the data that the database has.")
def load_command(*, file: IO[bytes], force: bool) -> None:
    """Make the database, and the screenshots in VPT_DATA_DIR, what they are in FILE.

    All of it or nothing: when anything is wrong, the database stays as it is. Stop the server
    first. A dump of an older vpt is brought up to date, one of a newer vpt is refused. FILE may be
    - for standard input.
    """
    settings = read_config()
    logs.setup(settings.log_format, "warning")
    with _seekable(file) as source:
        loaded = run(_load(settings, source, force=force))
    click.echo(f"loaded {_told(loaded.content)}", err=True)
    if loaded.sealed:
        click.echo(
            f"Warning: the SECRET_KEY here does not open the secrets of {len(loaded.sealed)} hosts"
            f" ({', '.join(loaded.sealed[:5])}): put the one of the dumped server in its place, or"
            " restart them, so that they register anew, and set their API keys again.",
            err=True,
        )


@contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    try:
        with backup.whole_file(path) as out:
            yield out
    except OSError as error:
        raise Trouble(str(error)) from error


@contextmanager
def _seekable(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Give a copy of what comes through a pipe, since a dump is read from its end."""
    if file.seekable():
        yield file
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file, copy)
        yield copy


async def _dump(settings: Config, out: IO[bytes], *, screenshots: bool) -> Content:
    async with database(settings) as dsn:
        return await backup.dump(
            dsn, Artifacts(settings.vpt_data_dir), out, screenshots=screenshots
        )


async def _load(settings: Config, source: IO[bytes], *, force: bool) -> Loaded:
    async with database(settings) as dsn:
        artifacts, sealer = Artifacts(settings.vpt_data_dir), Sealer(str(settings.secret_key))
        loaded = await backup.load(dsn, artifacts, source, sealer, force=force)
        await grafana_role.prepare(dsn, settings)
        return loaded


def _told(content: Content) -> str:
    rows = f"{content.rows} rows of {len(content.tables)} tables"
    if content.screenshots is None:
        return f"{rows} without screenshots"
    return f"{rows} and {content.screenshots} screenshots"
