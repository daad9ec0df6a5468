"""The command line: its groups, options and help. What a command does is imported when it runs,
so that `--help` is quick and works where only the client and the host are installed.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from vpt import __version__, config
from vpt.client.commands import commands as client_commands
from vpt.commands.command import read_config, read_config_of, server_part, with_env_file
from vpt.commands.db import db_group
from vpt.host.launch import host_command
from vpt.model import Role

LONGEST_USER = 200
#: Days for which a token is valid, and for which one in a link is: links are easily left around.
TOKEN_DAYS, LINK_DAYS = 30.0, 1.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vpt")
def cli() -> None:
    """Device-lab test orchestrator: hosts, devices, test cases and campaigns.

    \b
    Try it:        vpt demo
    A server:      vpt serve
    Sign in:       vpt token --user me --link
    A host:        vpt host --server http://127.0.0.1:5109 --name pi-1
    A host token:  vpt host-token pi-1
    A run, for CI: vpt run campaign Nightly --junit report.xml

    run, ls, logs, import, export, import-virtualpytest and host work with pip install vpt; the
    other commands need pip install 'vpt[server]'.

    Settings are read from the environment; the README lists them. serve, demo, migrate and host
    also read .env in the working folder, other commands of a server take --env-file. Exit codes:
    0 passed, 1 a test failed, 2 infrastructure, 3 the wait timed out, 4 wrong usage or a part that
    is not installed.
    """


@cli.command()
@click.option("--quiet", is_flag=True, help="Do not print what to do next.")
def serve(*, quiet: bool) -> None:
    """Run the server until Ctrl-C or SIGTERM.

    Without DATABASE_URL it starts its own PostgreSQL in VPT_DATA_DIR, and stops it at the end.
    After SIGTERM new work gets 503, and steps in flight get SHUTDOWN_GRACE; all other runs continue
    at the next start.
    """
    with server_part():
        from vpt.commands import server_side  # noqa: PLC0415
    settings = read_config()

    def started(url: str) -> None:
        if not quiet and sys.stdout.isatty():
            click.echo(
                f"vpt answers at {url}\n"
                "  sign in:       vpt token --user me --role admin --link\n"
                "  a host token:  vpt host-token pi-1\n"
                f"  a host:        HOST_JOIN_TOKEN=... vpt host --server {url} --name pi-1"
            )

    server_side.serve(settings, started)


@cli.command(short_help="Print a token for a user, or a link that signs in.")
@click.option("--user", required=True, help="User name, as it appears in logs and the audit.")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.OPERATOR.value,
    show_default=True,
    help="viewer reads, operator also writes and runs, admin also manages; host joins as --user.",
)
@click.option(
    "--days",
    type=click.FloatRange(0, 3650, min_open=True),
    help=f"How long the token is valid [{TOKEN_DAYS:g}, with --link {LINK_DAYS:g}].",
)
@click.option(
    "--link", is_flag=True, help="Print a URL of the server's page that signs the browser in."
)
@with_env_file
def token(*, user: str, role: str, days: float | None, link: bool, env_file: Path | None) -> None:
    """Print a token signed with SECRET_KEY (from the environment, FILE or the data folder).

    With --link print a URL to open in a browser. The token is behind its #, which browsers do not
    send to any server, and the page removes it from the address at once. Everybody who has the link
    can use it until it expires, so do not share it. It begins with SERVER_URL.
    """
    if not user or len(user) > LONGEST_USER:
        raise click.BadParameter(f"1 to {LONGEST_USER} characters", param_hint="--user")
    if link and Role(role) is Role.HOST:
        raise click.UsageError(
            "A host does not sign in: --link is for people. For a host use vpt host-token NAME."
        )
    with server_part():
        from vpt.commands import server_side  # noqa: PLC0415
    settings = read_config_of(env_file)
    valid = days or (LINK_DAYS if link else TOKEN_DAYS)
    made = server_side.user_token(settings, user, Role(role), valid)
    click.echo(f"{settings.page_url}/#token={made}" if link else made)


@cli.command("migrate", short_help="Bring the database's schema up to date.")
def migrate_command() -> None:
    """Bring the database's schema up to date, as vpt serve does; print how many migrations ran.

    It also makes the role vpt_grafana, which may read what Grafana shows.
    """
    with server_part():
        from vpt.commands import server_side  # noqa: PLC0415
    applied = server_side.migrate(read_config())
    click.echo(f"{applied} migrations applied" if applied else "the schema is up to date")


@cli.command(short_help="Delete what is older than the KEEP_..._DAYS.")
@click.option("--dry-run", is_flag=True, help="Print what would be deleted, and change nothing.")
@with_env_file
def prune(*, dry_run: bool, env_file: Path | None) -> None:
    """Delete what is older than the KEEP_..._DAYS settings; print how much it was.

    A running server does this once a day, and need not be stopped for it. Run it as the server's
    user and with its settings, since the screenshots are in its data folder. Pinned executions
    are kept.
    """
    with server_part():
        from vpt.commands import server_side  # noqa: PLC0415
    lines = server_side.prune(read_config_of(env_file), dry_run=dry_run)
    click.echo("would go" if dry_run else "gone")
    for line in lines:
        click.echo(line)


@cli.command("grafana-env", short_help="Print the settings of Grafana, with passwords.")
@with_env_file
def grafana_env_command(*, env_file: Path | None) -> None:
    """Print the variables that Grafana needs, including passwords, as NAME=value lines.

    They are derived from DATABASE_URL; with vpt's own database from VPT_PG_PORT, which must then
    be set for vpt serve, too. In a shell:

    \b
    set -a; eval "$(vpt grafana-env)"
    grafana server --homepath /usr/share/grafana --config "$VPT_GRAFANA_HOME/grafana.ini"
    """
    with server_part():
        from vpt.commands.grafana_env import as_lines, grafana_env  # noqa: PLC0415
    settings = config.with_grafana_keys(read_config_of(env_file))
    click.echo(as_lines(grafana_env(settings)))


@cli.command("host-token", short_help="Make, list or revoke tokens of one host.")
@click.argument("name", required=False)
@click.option("--list", "show", is_flag=True, help="List the hosts that have tokens.")
@click.option("--revoke", is_flag=True, help="Revoke all tokens of NAME.")
@with_env_file
def host_token(*, name: str | None, show: bool, revoke: bool, env_file: Path | None) -> None:
    """Make one more token for the host NAME and print it; it is not shown again.

    With it the host NAME joins, and no other: as HOST_JOIN_TOKEN of vpt host, as Authorization:
    Bearer TOKEN, or as the password of SERVER_URL=http://NAME:TOKEN@server:5109. A running server
    need not be stopped; it refuses a revoked token within 5 seconds.
    """
    if show == (name is not None) or (revoke and name is None):
        raise click.UsageError("Expected NAME, NAME --revoke, or --list.")
    with server_part():
        from vpt.commands import server_side  # noqa: PLC0415
    if name is not None and not server_side.is_host_name(name):
        raise click.BadParameter(
            "1 to 64 letters, digits, '.', '_' or '-', not dots alone", param_hint="NAME"
        )
    settings = read_config_of(env_file)
    if name is None:
        for line in server_side.host_tokens(settings):
            click.echo(line)
    elif revoke:
        click.echo(f"{server_side.revoke_host_tokens(settings, name)} tokens of {name} revoked")
    else:
        click.echo(server_side.make_host_token(settings, name))


@cli.command(short_help="Show it all, live, on this machine.")
@click.option("--once", is_flag=True, help="Exit after the campaign, with its exit code.")
def demo(*, once: bool) -> None:
    """Show it all: database, server, a host with real devices, and a campaign, live.

    It has a data folder of its own (vpt-demo beside the default one), and takes a free port when
    SERVER_PORT is in use. The sample test cases run shell commands on this machine.
    """
    with server_part():
        from vpt.commands.demo import run_demo  # noqa: PLC0415
        from vpt.commands.server_side import run  # noqa: PLC0415
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
