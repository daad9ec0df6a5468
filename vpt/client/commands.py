"""`vpt run`, `ls`, `logs`, `import`, `export`, `completion`: options, help and exit codes.

The modules that do the work are imported inside the commands, so that `vpt --help` and shell
completion start fast.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from vpt.bounds import HIGHEST_PRIORITY, LONGEST_TIMEOUT_S
from vpt.client.connection import Command, connected, with_server
from vpt.client.virtualpytest.command import import_virtualpytest
from vpt.model import DeviceStatus, ErrorKind, ExecutionStatus, HostStatus

#: Seconds that a server may be away while a run is started and followed.
PATIENCE = 60.0


# ---------------------------------------------------------------- vpt run


@click.group("run", short_help="Run a test case or a campaign, and exit with its result.")
def run_group() -> None:
    """Run a test case or a campaign on the server, follow it, and exit with its result.

    \b
    vpt run testcase "Start the app" --device pi-1:tv
    vpt run testcase "Start the app" --param app=news --param retries=3
    vpt run campaign Nightly --junit report.xml --wait-timeout 3600

    Exit codes: 0 passed, 1 a test failed, 2 infrastructure error (also: cancelled, or the server
    does not answer), 3 --wait-timeout ran out, 4 wrong usage. While the server restarts the command
    waits for it, and it never starts a run twice.

    Ctrl-C asks whether to cancel the run on the server. A second Ctrl-C ends the command at once;
    the run continues. Without a terminal, as in CI, SIGINT and SIGTERM cancel the run.
    """


def _waiting(command: Command) -> Command:
    """Add the options that `run testcase` and `run campaign` share."""
    for option in reversed(
        (
            click.option(
                "--wait/--no-wait",
                default=True,
                show_default=True,
                help="Wait for the end. With --no-wait, print the execution's id and exit with 0.",
            ),
            click.option(
                "--wait-timeout",
                type=click.FloatRange(0, min_open=True),
                metavar="SECONDS",
                help="Stop waiting after this time and exit with 3; the run continues [no limit].",
            ),
            click.option(
                "--junit",
                type=click.Path(dir_okay=False, path_type=Path),
                metavar="FILE",
                help="Write a JUnit XML report to this file at the end, whatever the result.",
            ),
            click.option(
                "--patience",
                type=click.FloatRange(0),
                default=PATIENCE,
                show_default=True,
                metavar="SECONDS",
                help="How long the server may be unreachable before the command exits with 2.",
            ),
        )
    ):
        command = option(command)
    return with_server(command)


@run_group.command("testcase", short_help="Run a test case, given by its id or name.")
@click.argument("name", metavar="NAME-OR-ID")
@click.option("--device", metavar="ID", help="The id of the device to run on [any that fits].")
@click.option("--host", metavar="ID", help="The id of the host to run on [any].")
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the test case; may be repeated. A JSON value (3, true, null, [1,2], "
    "{...}) is used as JSON, anything else as text. To pass text that looks like JSON, quote it: "
    "--param 'pin=\"42\"'. 1.10 and 007 are text, since JSON does not write numbers like that.",
)
@click.option(
    "--priority",
    type=click.IntRange(0, HIGHEST_PRIORITY),
    help="0 to 100; a higher one runs first [50].",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, LONGEST_TIMEOUT_S, min_open=True),
    metavar="SECONDS",
    help="The time limit of one attempt [that of the test case].",
)
@click.option(
    "--queue-timeout",
    type=click.FloatRange(0, LONGEST_TIMEOUT_S, min_open=True),
    metavar="SECONDS",
    help="The time limit for waiting in the queue [QUEUE_TIMEOUT of the server].",
)
@_waiting
def run_test_case(**options: Any) -> None:
    """Run the test case that has this id or, if there is none, this name.

    \b
    vpt run testcase "Start the app" --device pi-1:tv --junit report.xml
    ID=$(vpt run testcase tc_0123456789abcdef --no-wait)
    """
    from vpt.client.runnables import TEST_CASE  # noqa: PLC0415

    body = {
        "device_id": options["device"],
        "host_id": options["host"],
        "priority": options["priority"],
        "timeout_s": options["timeout"],
        "queue_timeout_s": options["queue_timeout"],
        "parameters": _parameters(options["params"]),
    }
    _run(TEST_CASE, {key: value for key, value in body.items() if value is not None}, options)


@run_group.command("campaign", short_help="Run a campaign, given by its id or name.")
@click.argument("name", metavar="NAME-OR-ID")
@_waiting
def run_campaign(**options: Any) -> None:
    """Run the campaign that has this id or, if there is none, this name.

    Devices, parameters and priority are those of the campaign.

    \b
    vpt run campaign Nightly --junit report.xml --wait-timeout 3600
    """
    from vpt.client.runnables import CAMPAIGN  # noqa: PLC0415

    _run(CAMPAIGN, {}, options)


def _run(kind: Any, body: dict[str, Any], options: dict[str, Any]) -> None:
    from vpt.client.run import RunRequest, run  # noqa: PLC0415

    if not options["wait"] and (options["junit"] or options["wait_timeout"]):
        raise click.UsageError("--junit and --wait-timeout need --wait.")
    request = RunRequest(
        kind,
        options["name"],
        body,
        wait=options["wait"],
        wait_timeout_s=options["wait_timeout"],
        junit=_writable(options["junit"]),
    )
    code = connected(
        options["server"], options["token"], lambda api: run(api, request), options["patience"]
    )
    sys.exit(code)


def _writable(path: Path | None) -> Path | None:
    """Check before the run that its report can be written; make the folder of the report.

    Deletes an older report: whatever happens, it must not be mistaken for the one of this run.
    """
    from vpt.client.run import is_plain, write  # noqa: PLC0415

    if path is None:
        return None
    if not path.name:
        raise click.BadParameter("that is not the name of a file", param_hint="--junit")
    try:
        if not is_plain(path):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            return path
        path = path.resolve()  # write to the target of a link, and keep the link
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, b"")
        path.unlink()
    except OSError as error:
        raise click.BadParameter(str(error), param_hint="--junit") from error
    return path


def _parameters(given: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{item!r} is not NAME=VALUE", param_hint="--param")
        if name in found:
            raise click.BadParameter(f"{name} appears twice", param_hint="--param")
        found[name] = parameter(value)
    return found


def parameter(text: str) -> Any:
    """Return the value of a JSON text, or the text itself when it is not JSON.

    A number that JSON would write differently stays text, so that versions (1.10), PINs (007) and
    numbers beyond 64 bits are not changed.
    """
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        fits = math.isfinite(value) and abs(value) < 2**63 and json.dumps(value) == text.strip()
        return value if fits else text
    return value


# ---------------------------------------------------------------- vpt ls


@click.group("ls", short_help="List hosts, devices, test cases, campaigns or executions.")
def ls_group() -> None:
    """List what is on the server, newest first.

    Prints a table on a terminal, else one line per item with tabs between the columns and no
    heading. With --json each line is the whole JSON object of an item.

    \b
    vpt ls hosts --status lost
    vpt ls executions --status failed --since 2026-11-01 --limit 1000 --json
    vpt ls devices --model pixel | cut -f 1
    """


def _listed(what: str, listing: str, help_text: str, **filters: Any) -> None:
    """Add a command `vpt ls WHAT`; `filters` are its options by the names of query fields."""

    def list_command(
        *, server: str | None, token: str | None, limit: int, as_json: bool, **given: Any
    ) -> None:
        from vpt.client import listing as listings  # noqa: PLC0415

        chosen = getattr(listings, listing)
        connected(
            server,
            token,
            lambda api: listings.show(api, chosen, limit, given, as_json=as_json),
        )

    command: Callable[..., Any] = with_server(list_command)
    command = click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object per line."
    )(command)
    command = click.option(
        "--limit",
        type=click.IntRange(1),
        default=100,
        show_default=True,
        help="The largest number of items to print.",
    )(command)
    for name, option in reversed(filters.items()):
        flag = option.pop("flag", f"--{name.replace('_', '-')}")
        command = click.option(flag, name, **option)(command)
    ls_group.command(what, help=help_text)(command)


def _one_of(choices: Any) -> dict[str, Any]:
    return {"type": click.Choice([*map(str, choices)]), "help": "Only those with this status."}


def _only(metavar: str, words: str, flag: str | None = None) -> dict[str, Any]:
    more = {"flag": flag} if flag else {}
    return {"metavar": metavar, "help": words, **more}


_listed(
    "hosts",
    "HOSTS",
    "List hosts with their status and the number of their devices.",
    status=_one_of(HostStatus),
    tag=_only("TAG", "Only those with this tag."),
    capability=_only("NAME", "Only those with this capability."),
)
_listed(
    "devices",
    "DEVICES",
    "List devices with their models and status.",
    status=_one_of(DeviceStatus),
    model=_only("MODEL", "Only those of this model."),
    host_id=_only("ID", "Only those of this host.", "--host"),
    tag=_only("TAG", "Only those with this tag."),
)
_listed(
    "testcases",
    "TEST_CASES",
    "List test cases.",
    q=_only("TEXT", "Only those with this text in their names.", "--name"),
    device_model=_only("MODEL", "Only those for this device model.", "--model"),
    tag=_only("TAG", "Only those with this tag."),
)
_listed(
    "campaigns",
    "CAMPAIGNS",
    "List campaigns.",
    q=_only("TEXT", "Only those with this text in their names.", "--name"),
)
_listed(
    "executions",
    "EXECUTIONS",
    "List executions with their results.",
    status=_one_of(ExecutionStatus),
    test_case_id=_only("ID", "Only those of this test case.", "--testcase"),
    host_id=_only("ID", "Only those on this host.", "--host"),
    device_id=_only("ID", "Only those on this device.", "--device"),
    campaign_execution_id=_only(
        "ID", "Only those of this campaign execution.", "--campaign-execution"
    ),
    error_kind=_one_of(ErrorKind) | {"help": "Only those that ended with this kind of error."},
    requested_by=_only("USER", "Only those that this user started."),
    since=_only(
        "TIME", "Only those created at this time or later (ISO 8601; UTC without an offset)."
    ),
    until=_only("TIME", "Only those created before this time."),
)


# ---------------------------------------------------------------- vpt logs


@click.command("logs", short_help="Show an execution step by step.")
@click.argument("execution")
@click.option(
    "--attempt", type=click.IntRange(1), metavar="N", help="Show only this attempt [all]."
)
@click.option("--follow", "-f", is_flag=True, help="Continue until the execution ends.")
@with_server
def logs_command(
    *, execution: str, attempt: int | None, follow: bool, server: str | None, token: str | None
) -> None:
    """Show an execution: its attempts, steps, outputs, errors, and links to its screenshots.

    EXECUTION is the id of an execution or of a campaign execution, as printed by `vpt run` and
    `vpt ls executions`. The links work for one hour, without a token.

    \b
    vpt logs 73ba339468c8448fbdc9fdf9b772d600 --attempt 1
    vpt logs 73ba339468c8448fbdc9fdf9b772d600 --follow
    """
    from vpt.client.execution_log import print_execution  # noqa: PLC0415

    patience = PATIENCE if follow else 0.0
    connected(
        server, token, lambda api: print_execution(api, execution, attempt, follow=follow), patience
    )


# ---------------------------------------------------------------- vpt import, vpt export


@click.command("import", short_help="Create or update test cases and campaigns from files.")
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH...",
)
@click.option("--dry-run", is_flag=True, help="Print the changes without making them.")
@click.option(
    "--prune", is_flag=True, help="Delete the test cases and campaigns that are in no file."
)
@click.option("--yes", is_flag=True, help="Delete without asking.")
@click.option("--no-check", is_flag=True, help="Import commands that no device knows, too.")
@with_server
def import_command(
    *,
    paths: tuple[Path, ...],
    dry_run: bool,
    prune: bool,
    yes: bool,
    no_check: bool,
    server: str | None,
    token: str | None,
) -> None:
    """Create or update test cases and campaigns from files, matched by name.

    PATH is a file, or a folder whose .yaml, .yml and .json files are read, with its subfolders. All
    files are checked before the first change. Only differences are written, and what somebody
    else changes meanwhile is not overwritten. After a failure, run the same command again.

    \b
    vpt export tests/lab
    vpt import tests/lab --dry-run
    vpt import tests/lab --prune --yes

    A file, as `vpt export` writes it; fields that are left out have their defaults, and
    device_model may be a list, where any of several models will do:

    \b
    test_cases:
      - name: Start the app
        device_model: pixel
        steps:
          - command: launch_app
            params: {app: "${app}"}
    campaigns:
      - name: Nightly
        test_cases:
          - test_case: Start the app
            parameters: {app: news}
    """
    from vpt.client.sync import import_files  # noqa: PLC0415

    connected(
        server,
        token,
        lambda api: import_files(
            api, list(paths), dry_run=dry_run, prune=prune, yes=yes, check=not no_check
        ),
    )


@click.command("export", short_help="Write the server's test cases and campaigns to files.")
@click.argument("to", metavar="[FOLDER|FILE|-]", default="-")
@click.option(
    "--format",
    "form",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    show_default=True,
    help="The format for standard output and for a FOLDER; a FILE's suffix decides its own.",
)
@click.option(
    "--prune",
    is_flag=True,
    help="Delete the files in FOLDER whose test case or campaign is not on the server.",
)
@with_server
def export_command(
    *, to: str, form: str, prune: bool, server: str | None, token: str | None
) -> None:
    """Write all test cases and campaigns, by name and without ids: for git or another server.

    Writes to a folder (one file each), to one .yaml, .yml or .json file, or to standard output.
    Equal content gives equal bytes.

    \b
    vpt export tests/lab --prune
    vpt export lab.yaml
    vpt export --format json | jq -r '.test_cases[].name'
    """
    from vpt.client.sync import export  # noqa: PLC0415

    connected(server, token, lambda api: export(api, to, form, prune=prune))


# ---------------------------------------------------------------- vpt completion


@click.command("completion", short_help="Print a shell script that completes commands and options.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, *, shell: str) -> None:
    """Print a script with which a shell completes the names of commands and options.

    \b
    bash (4.4 or newer), in ~/.bashrc:          eval "$(vpt completion bash)"
    zsh, in ~/.zshrc:                           eval "$(vpt completion zsh)"
    fish: vpt completion fish > ~/.config/fish/completions/vpt.fish
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    known = get_completion_class(shell)
    if known is None:
        raise AssertionError(shell)
    root = context.find_root().command
    click.echo(known(root, {}, "vpt", "_VPT_COMPLETE").source())


commands: tuple[click.Command, ...] = (
    run_group,
    ls_group,
    logs_command,
    import_command,
    export_command,
    import_virtualpytest,
    completion_command,
)
