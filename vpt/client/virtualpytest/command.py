"""The command `vpt import-virtualpytest`: its options and help."""

from __future__ import annotations

from pathlib import Path

import click

from vpt.client.connection import connected, with_server
from vpt.client.exits import MisuseError

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    "import-virtualpytest",
    short_help="Bring test cases, campaigns, tags and results of a VirtualPyTest system.",
)
@click.argument("dump", required=False, metavar="[DUMP]", type=_FILE)
@click.option("--supabase-url", metavar="URL", help="The project: https://PROJECT.supabase.co.")
@click.option(
    "--key",
    metavar="KEY",
    envvar="VPT_SUPABASE_KEY",
    help="The project's service_role key [VPT_SUPABASE_KEY]. Prefer the environment variable: "
    "other users of the machine can see a command line.",
)
@click.option(
    "--team", metavar="ID", help="Only what is of this team; needed when there are several."
)
@click.option(
    "--default-model",
    metavar="MODEL",
    help="The device model of test cases whose userinterface names none; without it they are left "
    "out.",
)
@click.option("--results", is_flag=True, help="Import finished results as history, too.")
@click.option(
    "--since", metavar="DATE", help="Only results that began at this date or later (2026-01-31)."
)
@click.option("--dry-run", is_flag=True, help="Print what would change and what has no place.")
@with_server
def import_virtualpytest(
    *,
    dump: Path | None,
    supabase_url: str | None,
    key: str | None,
    team: str | None,
    default_model: str | None,
    results: bool,
    since: str | None,
    dry_run: bool,
    server: str | None,
    token: str | None,
) -> None:
    """Bring what a VirtualPyTest system has in its tables to this server.

    It is read from its Supabase project, or from the file DUMP: JSON with the rows of each table
    by its name, or the text of pg_dump --data-only. Nothing is written there. Names identify test
    cases and campaigns, so a second run changes nothing, and one after a change there brings the
    change. Register the hosts first: campaigns and device flags name their devices.

    \b
    vpt import-virtualpytest --supabase-url https://abc.supabase.co --dry-run
    vpt import-virtualpytest dump.json --team 7fdeb4bb-... --results

    Printed are the changes, what has no place in vpt, and what each deployment would be. --results
    needs the role admin.
    """
    from vpt.client.virtualpytest.migrate import Options, Source, migrate  # noqa: PLC0415
    from vpt.client.virtualpytest.supabase import SupabaseProject  # noqa: PLC0415

    if (dump is None) == (supabase_url is None):
        raise MisuseError("Name one source: the file of a dump, or --supabase-url with --key.")
    if supabase_url is not None and not key:
        raise MisuseError("No key of the project: set VPT_SUPABASE_KEY or use --key.")
    project = (
        None if supabase_url is None else SupabaseProject(supabase_url, (key or "").strip(), team)
    )
    options = Options(team, default_model, results, since, dry_run)
    connected(server, token, lambda api: migrate(api, Source(dump, project, options), options))
