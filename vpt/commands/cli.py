"""The commands of servers and hosts, and where those of clients come in."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from vpt import __version__, config, logs
from vpt.client.commands import commands as client_commands
from vpt.commands.command import database, read_config, run
from vpt.commands.db import db_group
from vpt.commands.grafana_env import as_lines, grafana_env
from vpt.config import Config
from vpt.host.launch import host_command
from vpt.model import Role
from vpt.store import grafana_role
from vpt.store.artifacts import Artifacts
from vpt.store.db import Database, migrate
from vpt.store.prune import Ages, Pruned, Pruning
from vpt.store.tokens import HOST_NAME, issue_token, listed_tokens, make_token, revoke_tokens


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vpt")
def cli() -> None:
    """Device-lab test orchestrator: hosts, devices, test cases and campaigns.

    \b
    Try it:        vpt demo
    A server:      vpt serve
    A host:        vpt host --server http://127.0.0.1:5109 --name pi-1
    A user token:  vpt token --user me
    A host token:  vpt host-token pi-1
    A run, for CI: vpt run campaign Nightly --junit report.xml

    Settings come from the environment and from .env in the working folder; the README lists
    them. Exit codes: 0 passed, 1 a test failed, 2 infrastructure, 3 waited too long, 4 usage.
    """


@cli.command()
@click.option("--quiet", is_flag=True, help="Do not say where to go on.")
def serve(*, quiet: bool) -> None:
    """Run the server until Ctrl-C or SIGTERM.

    Without DATABASE_URL it starts a PostgreSQL of its own in VPT_DATA_DIR, and stops it again.
    At SIGTERM new work gets 503, steps in flight get SHUTDOWN_GRACE, the rest goes on at the
    next start.
    """
    from vpt.serve import Running  # noqa: PLC0415 (the other commands start faster without)
    from vpt.serve import serve as serve_until_stopped  # noqa: PLC0415

    settings = read_config()
    logs.setup(settings.log_format, settings.log_level)

    def started(server: Running) -> None:
        if not quiet and sys.stdout.isatty():
            click.echo(
                f"vpt answers at {server.url}\n"
                "  a token:  vpt token --user me\n"
                f"  a host:   HOST_JOIN_TOKEN=$(cat {settings.vpt_data_dir}/host_join_token)"
                f" vpt host --server {server.url} --name pi-1"
            )

    sys.exit(run(serve_until_stopped(settings, started)))


@cli.command(short_help="Print a token for a user.")
@click.option("--user", required=True, help="Whose it is; it stands in logs and records.")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.OPERATOR.value,
    show_default=True,
    help="viewer reads, operator also writes and runs, admin also manages, host joins as --user.",
)
@click.option(
    "--days",
    type=click.FloatRange(0, 3650, min_open=True),
    default=30.0,
    show_default=True,
    help="How long it is good for.",
)
def token(user: str, role: str, days: float) -> None:
    """Print a token signed with SECRET_KEY (the one of this data folder, or of the environment)."""
    settings = read_config()
    if not user or len(user) > 200:  # noqa: PLR2004
        raise click.BadParameter("1 to 200 characters", param_hint="--user")
    click.echo(issue_token(str(settings.secret_key), user, Role(role), days))


@cli.command("migrate", short_help="Bring the database's schema up to date.")
def migrate_command() -> None:
    """Bring the database's schema up to date (serve does it too); says what it applied.

    It also makes the role vpt_grafana, which may read what Grafana shows.
    """
    settings = read_config()
    logs.setup(settings.log_format, "warning")
    applied = run(_migrate(settings))
    click.echo(f"{applied} migrations applied" if applied else "the schema is up to date")


async def _migrate(settings: Config) -> int:
    async with database(settings) as dsn:
        applied = await migrate(dsn)
        await grafana_role.prepare(dsn, settings)
        return len(applied)


@cli.command(short_help="Delete what is older than the KEEP_..._DAYS.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
def prune(*, dry_run: bool) -> None:
    """Delete what is older than the KEEP_..._DAYS settings; says how much it was.

    A running server does it by itself once a day, and need not be stopped. Run it as the server's
    user and with its settings, since the screenshots are in its data folder. What is pinned stays.
    """
    settings = read_config()
    logs.setup(settings.log_format, "warning")
    run(_prune(settings, dry_run=dry_run))


async def _prune(settings: Config, *, dry_run: bool) -> None:
    async with _opened(settings) as db:
        pruning = Pruning(db, Artifacts(settings.vpt_data_dir), Ages.of(settings))
        done = await (pruning.preview() if dry_run else pruning.prune())
    click.echo("would go" if dry_run else "gone")
    for line in _as_table(done):
        click.echo(line)


def _as_table(done: Pruned) -> list[str]:
    counts = asdict(done)
    counts["megabytes"] = round(counts.pop("bytes") / 1e6, 1)
    return [f"{count:>14,} {name.replace('_', ' ')}" for name, count in counts.items()]


@cli.command("grafana-env", short_help="Print the settings of Grafana, with passwords.")
def grafana_env_command() -> None:
    """Print the variables that Grafana needs, passwords among them, as NAME=value lines.

    They come from DATABASE_URL; with vpt's own database from VPT_PG_PORT, which vpt serve needs
    then, too. In a shell:

    \b
    set -a; eval "$(vpt grafana-env)"
    grafana server --homepath /usr/share/grafana --config "$VPT_GRAFANA_HOME/grafana.ini"
    """
    click.echo(as_lines(grafana_env(config.with_grafana_keys(read_config()))))


@asynccontextmanager
async def _opened(settings: Config) -> AsyncIterator[Database]:
    """Give the database, its schema up to date."""
    async with database(settings) as dsn:
        await migrate(dsn)
        db = Database(dsn)
        await db.open()
        try:
            yield db
        finally:
            await db.close()


def _host_name(_: Any, param: click.Parameter, name: str | None) -> str | None:
    if name is None or HOST_NAME.fullmatch(name):
        return name
    raise click.BadParameter("1 to 64 letters, digits, '.', '_' or '-'", param=param)


@cli.command("host-token", short_help="Make, list or revoke tokens of one host.")
@click.argument("name", required=False, callback=_host_name)
@click.option("--list", "show", is_flag=True, help="Say which hosts have tokens of their own.")
@click.option("--revoke", is_flag=True, help="Take all of NAME's tokens away.")
def host_token(*, name: str | None, show: bool, revoke: bool) -> None:
    """Make one more token for the host NAME and print it; nobody sees it again.

    With it the host NAME joins, and no other: as Authorization: Bearer TOKEN, or as the password
    of SERVER_URL=http://NAME:TOKEN@server:5109. A running server need not be stopped; it refuses
    a revoked token within 5 seconds.
    """
    if show == (name is not None) or (revoke and name is None):
        raise click.UsageError("Expected NAME, NAME --revoke, or --list.")
    settings = read_config()
    logs.setup(settings.log_format, "warning")
    run(_host_token(settings, name, revoke=revoke))


async def _host_token(settings: Config, name: str | None, *, revoke: bool) -> None:
    async with _opened(settings) as db:
        if name is None:
            for row in await listed_tokens(db):
                newest = row["newest"].strftime("%Y-%m-%dT%H:%M:%SZ")
                click.echo(f"{row['host_id']}  {row['tokens']}  newest {newest}")
        elif revoke:
            click.echo(f"{await revoke_tokens(db, name)} tokens of {name} revoked")
        else:
            click.echo(await make_token(db, name))


@cli.command(short_help="Show it all, live, on this machine.")
@click.option("--once", is_flag=True, help="Exit after the campaign, with its exit code.")
def demo(*, once: bool) -> None:
    """Show it all: database, server, a host with real devices, and a campaign, live.

    It has a data folder of its own (vpt-demo beside the default one), and takes a free port when
    SERVER_PORT is in use. The sample test cases run shell commands on this machine.
    """
    from vpt.commands.demo import run_demo  # noqa: PLC0415 (the other commands start faster without)

    settings = config.from_env()
    if settings.vpt_data_dir == config.default_data_dir():
        settings = replace(settings, vpt_data_dir=_demo_folder(settings.vpt_data_dir))
    settings = config.with_keys(replace(settings, database_url=None))
    sys.exit(run(run_demo(settings, once=once)))


def _demo_folder(default: Path) -> Path:
    return default.with_name(f"{default.name}-demo")


cli.add_command(host_command)
cli.add_command(db_group)
for client_command in client_commands:
    cli.add_command(client_command)
