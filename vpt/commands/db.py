"""`vpt db`: the commands that dump the database into a file and load it again."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from vpt.client.exits import InfrastructureError
from vpt.commands.command import read_config_of, server_part, with_env_file

if TYPE_CHECKING:
    from vpt.store.backup import Content

_DASH = Path("-")


@click.group("db")
def db_group() -> None:
    """Dump the database into a file, and load it again.

    It is the one of DATABASE_URL, else vpt's own in VPT_DATA_DIR, whether it is running or not.
    """


@db_group.command("dump")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--no-screenshots", is_flag=True, help="Leave out the screenshots in VPT_DATA_DIR.")
@with_env_file
def dump_command(*, file: Path, no_screenshots: bool, env_file: Path | None) -> None:
    """Write all rows, and the screenshots in VPT_DATA_DIR, into FILE, which must not exist yet.

    A server may run meanwhile; FILE has everything as it was at one moment. SECRET_KEY, which
    encrypts hosts' secrets in it, is not in it: keep that elsewhere. FILE may be - for standard
    output.
    """
    if file.exists() or (file == _DASH and sys.stdout.isatty()):
        raise click.BadParameter(f"{file} exists already", param_hint="FILE")
    with server_part():
        from vpt.commands import server_side  # noqa: PLC0415
    settings = read_config_of(env_file)
    with nullcontext(sys.stdout.buffer) if file == _DASH else _whole_file(file) as out:
        content = server_side.dump(settings, out, screenshots=not no_screenshots)
    click.echo(f"dumped {_counts(content)}", err=True)


@db_group.command("load")
@click.argument("file", type=click.File("rb"))
@click.option("--force", is_flag=True, help="Replace the data that the database has.")
@with_env_file
def load_command(*, file: IO[bytes], force: bool, env_file: Path | None) -> None:
    """Replace the database, and the screenshots in VPT_DATA_DIR, by the content of FILE.

    It is all or nothing: when anything is wrong, the database stays as it is. Stop the server
    first. A dump of an older vpt is brought up to date, one of a newer vpt is refused. FILE may be
    - for standard input.
    """
    with server_part():
        from vpt.commands import server_side  # noqa: PLC0415
    settings = read_config_of(env_file)
    with _seekable(file) as source:
        loaded = server_side.load(settings, source, force=force)
    click.echo(f"loaded {_counts(loaded.content)}", err=True)
    if loaded.sealed:
        click.echo(
            "Warning: the SECRET_KEY of this server cannot decrypt the secrets of"
            f" {len(loaded.sealed)} hosts ({', '.join(loaded.sealed[:5])}): replace it by that of"
            " the dumped server, or restart these hosts, so that they register again, and set"
            " their API keys again.",
            err=True,
        )
    if loaded.sealed_names:
        click.echo(
            f"Warning: nor can it decrypt {len(loaded.sealed_names)} named secrets"
            f" ({', '.join(loaded.sealed_names[:5])}): an admin must store them again.",
            err=True,
        )


@contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Provide a file that gets its name only when it is complete."""
    from vpt.store import backup  # noqa: PLC0415 (of the server part)

    try:
        with backup.whole_file(path) as out:
            yield out
    except OSError as error:
        raise InfrastructureError(str(error)) from error


@contextmanager
def _seekable(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Provide a copy of what comes through a pipe, since a dump is read from its end."""
    if file.seekable():
        yield file
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file, copy)
        yield copy


def _counts(content: Content) -> str:
    rows = f"{content.rows} rows of {len(content.tables)} tables"
    if content.screenshots is None:
        return f"{rows} without screenshots"
    return f"{rows} and {content.screenshots} screenshots"
