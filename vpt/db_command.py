"""`vpt db`: the commands that keep the database and bring it back."""

from __future__ import annotations

from pathlib import Path

import click

from vpt import backup, grafana_role, logs
from vpt.artifacts import Artifacts
from vpt.backup import Content, Loaded
from vpt.command import database, read_config, run
from vpt.config import Config
from vpt.seal import Sealer


@click.group("db")
def db_group() -> None:
    """Keep the database in a file, and bring it back.

    It is the one of DATABASE_URL, or else the own one in VPT_DATA_DIR, whether it runs or not.
    """


@db_group.command("dump")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--no-screenshots", is_flag=True, help="Leave the screenshots in VPT_DATA_DIR out.")
def dump_command(*, file: Path, no_screenshots: bool) -> None:
    """Write all rows, and the screenshots in VPT_DATA_DIR, into FILE, which must not be there yet.

    A server may run meanwhile; FILE has everything as it was at one moment. SECRET_KEY, by which
    hosts' secrets in it are sealed, is not in it: keep that elsewhere.
    """
    if file.exists():
        raise click.BadParameter(f"{file} is there already", param_hint="FILE")
    settings = read_config()
    logs.setup(settings.log_format, "warning")
    content = run(_dump(settings, file, screenshots=not no_screenshots))
    click.echo(f"{file}: {_told(content)}, {file.stat().st_size / 1e6:.1f} MB")


@db_group.command("load")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace the data that the database has.")
def load_command(*, file: Path, force: bool) -> None:
    """Make the database, and the screenshots in VPT_DATA_DIR, what they are in FILE.

    All of it or nothing: when anything is wrong, the database stays as it is. Stop the server
    first. A dump of an older vpt is brought up to date, one of a newer vpt is refused.
    """
    settings = read_config()
    logs.setup(settings.log_format, "warning")
    loaded = run(_load(settings, file, force=force))
    click.echo(f"loaded {_told(loaded.content)}")
    if loaded.sealed:
        click.echo(
            f"Warning: the SECRET_KEY here does not open the secrets of {len(loaded.sealed)} hosts"
            f" ({', '.join(loaded.sealed[:5])}): put the one of the dumped server in its place, or"
            " let them register anew and set their API keys again.",
            err=True,
        )


async def _dump(settings: Config, file: Path, *, screenshots: bool) -> Content:
    async with database(settings) as dsn:
        artifacts = Artifacts(settings.vpt_data_dir)
        return await backup.dump(dsn, artifacts, file, screenshots=screenshots)


async def _load(settings: Config, file: Path, *, force: bool) -> Loaded:
    async with database(settings) as dsn:
        artifacts, sealer = Artifacts(settings.vpt_data_dir), Sealer(str(settings.secret_key))
        loaded = await backup.load(dsn, artifacts, file, sealer, force=force)
        await grafana_role.prepare(dsn, settings)
        return loaded


def _told(content: Content) -> str:
    rows = f"{content.rows} rows of {len(content.tables)} tables"
    if content.screenshots is None:
        return f"{rows} without screenshots"
    return f"{rows} and {content.screenshots} screenshots"
