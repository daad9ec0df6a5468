"""`vpt run`, `ls`, `logs`, `import`, `export`: the commands that ask a server."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vpt import config
from vpt.client.exits import Exit, MisuseError, TroubleError
from vpt.client.shutdown import end_all
from vpt.model import DeviceStatus, ExecutionStatus, HostStatus

if TYPE_CHECKING:
    from vpt.client.api import Api

#: Seconds that a server may be away while a run is started and waited for.
PATIENCE = 60.0
LONGEST_TIMEOUT = 86_400.0

Command = TypeVar("Command", bound=Callable[..., Any])


def with_server(command: Command) -> Command:
    """Add the options that say which server, and who asks."""
    token = click.option(
        "--token",
        metavar="TOKEN",
        help="A token of the server's [VPT_TOKEN]. Better by the environment: a command line can "
        "be seen.",
    )
    server = click.option(
        "--server", metavar="URL", help="The vpt server [VPT_SERVER, else http://127.0.0.1:5109]."
    )
    return server(token(command))


def connected(
    server: str | None,
    token: str | None,
    work: Callable[[Api], Coroutine[Any, Any, Any]],
    patience: float = 0.0,
) -> Any:
    """Do `work` with the server; give what it gives."""
    from vpt.client.api import Api  # noqa: PLC0415 (the other commands start faster without)

    settings = config.client_from_env({"VPT_SERVER": server, "VPT_TOKEN": token})
    if settings.vpt_token is None:
        raise MisuseError(
            "No token: set VPT_TOKEN, or give --token. `vpt token --user me`, on the server's "
            "machine, makes one."
        )
    url, key = settings.vpt_server, settings.vpt_token.strip()  # a secret may end in a new line
    if not key.isascii() or not key.isprintable():
        raise MisuseError("The token holds characters that no token has.")

    async def connect() -> Any:
        try:
            async with Api(url, key, patience, lambda words: click.echo(words, err=True)) as api:
                return await work(api)
        finally:
            await end_all()

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # names may be beyond what a terminal can show
    try:
        return asyncio.run(connect())
    except BrokenPipeError:  # who reads has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.TROUBLE
    except OSError as error:
        raise TroubleError(str(error)) from error


# ---------------------------------------------------------------- vpt run


@click.group("run", short_help="Run a test case or a campaign, and exit with its verdict.")
def run_group() -> None:
    """Run a test case or a campaign on the server, follow it, and exit with its verdict.

    \b
    vpt run testcase "Start the app" --device pi-1:tv
    vpt run testcase "Start the app" --param app=news --param retries=3
    vpt run campaign Nightly --junit report.xml --wait-timeout 3600

    Exit codes: 0 passed, 1 a test failed, 2 infrastructure (also: cancelled, the server does not
    answer), 3 the wait ran out, 4 wrong usage. A server that restarts meanwhile is waited for,
    and nothing is ever started twice.

    Ctrl-C asks whether to cancel the run on the server, too; a second one leaves at once, and the
    run goes on. Without a terminal SIGINT and SIGTERM cancel it: then nobody waits for it any more.
    """


def _waiting(command: Command) -> Command:
    """Add what both kinds of runs have."""
    for option in reversed(
        (
            click.option(
                "--wait/--no-wait",
                default=True,
                show_default=True,
                help="Wait for the end; without, print the execution's id and exit with 0.",
            ),
            click.option(
                "--wait-timeout",
                type=click.FloatRange(0, min_open=True),
                metavar="SECONDS",
                help="Wait no longer, and exit with 3; the run goes on [no limit].",
            ),
            click.option(
                "--junit",
                type=click.Path(dir_okay=False, path_type=Path),
                metavar="FILE",
                help="Write JUnit XML there at the end, whatever the verdict.",
            ),
            click.option(
                "--patience",
                type=click.FloatRange(0),
                default=PATIENCE,
                show_default=True,
                metavar="SECONDS",
                help="How long the server may be away before that is exit code 2.",
            ),
        )
    ):
        command = option(command)
    return with_server(command)


@run_group.command("testcase", short_help="Run a test case, by its id or name.")
@click.argument("name", metavar="NAME-OR-ID")
@click.option("--device", metavar="ID", help="The device to run on, by its id [any that fits].")
@click.option("--host", metavar="ID", help="The host to run on [any].")
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter; may be given again. A value that is JSON is taken as such (3, true, "
    "null, [1,2], {...}), all else as text; to have text that looks like JSON, quote it: "
    "--param 'pin=\"42\"'. Numbers count as JSON only as JSON writes them: 1.10 and 007 are text.",
)
@click.option(
    "--priority", type=click.IntRange(0, 100), help="Higher goes first [50, in the middle]."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, LONGEST_TIMEOUT, min_open=True),
    metavar="SECONDS",
    help="The longest that one attempt may take [the test case's].",
)
@click.option(
    "--queue-timeout",
    type=click.FloatRange(0, LONGEST_TIMEOUT, min_open=True),
    metavar="SECONDS",
    help="The longest that it may wait for a device [QUEUE_TIMEOUT of the server].",
)
@_waiting
def run_test_case(**options: Any) -> None:
    """Run the test case with this id or, if none has it, with this name.

    \b
    vpt run testcase "Start the app" --device pi-1:tv --junit report.xml
    ID=$(vpt run testcase tc_0123456789abcdef --no-wait)
    """
    from vpt.client.kinds import TEST_CASE  # noqa: PLC0415

    body = {
        "device_id": options["device"],
        "host_id": options["host"],
        "priority": options["priority"],
        "timeout_s": options["timeout"],
        "queue_timeout_s": options["queue_timeout"],
        "parameters": _parameters(options["params"]),
    }
    _run(TEST_CASE, {key: value for key, value in body.items() if value is not None}, options)


@run_group.command("campaign", short_help="Run a campaign, by its id or name.")
@click.argument("name", metavar="NAME-OR-ID")
@_waiting
def run_campaign(**options: Any) -> None:
    """Run the campaign with this id or, if none has it, with this name.

    Devices, parameters and priority are those that the campaign itself names.

    \b
    vpt run campaign Nightly --junit report.xml --wait-timeout 3600
    """
    from vpt.client.kinds import CAMPAIGN  # noqa: PLC0415

    _run(CAMPAIGN, {}, options)


def _run(kind: Any, body: dict[str, Any], options: dict[str, Any]) -> None:
    from vpt.client.run import RunOptions, run  # noqa: PLC0415

    if not options["wait"] and (options["junit"] or options["wait_timeout"]):
        raise click.UsageError("--junit and --wait-timeout need --wait.")
    what = RunOptions(
        kind,
        options["name"],
        body,
        wait=options["wait"],
        wait_timeout_s=options["wait_timeout"],
        junit=_writable(options["junit"]),
    )
    code = connected(
        options["server"], options["token"], lambda api: run(api, what), options["patience"]
    )
    sys.exit(code)


def _writable(path: Path | None) -> Path | None:
    """Find out before the run whether its report can be written; make its folder.

    An older report goes: whatever happens, it must not be taken for the one of this run.
    """
    from vpt.client.run import is_plain, write  # noqa: PLC0415

    if path is None:
        return None
    if not path.name:
        raise click.BadParameter("that is no name of a file", param_hint="--junit")
    try:
        if not is_plain(path):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            return path
        path = path.resolve()  # a link stays one
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
            raise click.BadParameter(f"{name} is given twice", param_hint="--param")
        found[name] = parameter(value)
    return found


def parameter(text: str) -> Any:
    """Give the value that JSON makes of it, else the text itself.

    A number that JSON would write otherwise is text: versions, PINs and long numbers stay whole.
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
    """List what the server has, the newest first.

    A table on a terminal; else a line each with tabs between the columns, and no heading. With
    --json each line is an object with all that the server says of it.

    \b
    vpt ls hosts --status lost
    vpt ls executions --status failed --since 2026-11-01 --limit 1000 --json
    vpt ls devices --model pixel | cut -f 1
    """


def _listed(what: str, listing: str, help_text: str, **filters: Any) -> None:
    """Add a command that lists; `filters` are options by the names of the query's fields."""

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
    command = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")(
        command
    )
    command = click.option(
        "--limit",
        type=click.IntRange(1),
        default=100,
        show_default=True,
        help="So many at most.",
    )(command)
    for name, option in reversed(filters.items()):
        flag = option.pop("flag", f"--{name.replace('_', '-')}")
        command = click.option(flag, name, **option)(command)
    ls_group.command(what, help=help_text)(command)


def _one_of(choices: Any) -> dict[str, Any]:
    return {"type": click.Choice([*map(str, choices)]), "help": "Only these."}


def _only(metavar: str, words: str, flag: str | None = None) -> dict[str, Any]:
    more = {"flag": flag} if flag else {}
    return {"metavar": metavar, "help": words, **more}


_listed(
    "hosts",
    "HOSTS",
    "List hosts with their status and the number of their devices.",
    status=_one_of(HostStatus),
    tag=_only("TAG", "Only with this tag."),
    capability=_only("NAME", "Only with this capability."),
)
_listed(
    "devices",
    "DEVICES",
    "List devices with their models and status.",
    status=_one_of(DeviceStatus),
    model=_only("MODEL", "Only of this model."),
    host_id=_only("ID", "Only of this host.", "--host"),
    tag=_only("TAG", "Only with this tag."),
)
_listed(
    "testcases",
    "TEST_CASES",
    "List test cases.",
    q=_only("TEXT", "Only with this in their names.", "--name"),
    device_model=_only("MODEL", "Only for this model.", "--model"),
    tag=_only("TAG", "Only with this tag."),
)
_listed(
    "campaigns",
    "CAMPAIGNS",
    "List campaigns.",
    q=_only("TEXT", "Only with this in their names.", "--name"),
)
_listed(
    "executions",
    "EXECUTIONS",
    "List executions with their verdicts.",
    status=_one_of(ExecutionStatus),
    test_case_id=_only("ID", "Only of this test case.", "--testcase"),
    host_id=_only("ID", "Only on this host.", "--host"),
    device_id=_only("ID", "Only on this device.", "--device"),
    campaign_execution_id=_only("ID", "Only of this run of a campaign.", "--campaign-execution"),
    since=_only("TIME", "Only made at this time or later (ISO 8601; UTC unless it says)."),
    until=_only("TIME", "Only made before this time."),
)


# ---------------------------------------------------------------- vpt logs


@click.command("logs", short_help="Tell an execution step by step.")
@click.argument("execution")
@click.option(
    "--attempt", type=click.IntRange(1), metavar="N", help="Only this attempt [all of them]."
)
@click.option("--follow", "-f", is_flag=True, help="Go on until it is over.")
@with_server
def logs_command(
    *, execution: str, attempt: int | None, follow: bool, server: str | None, token: str | None
) -> None:
    """Tell an execution: its attempts, steps, outputs, errors, and links to its screenshots.

    EXECUTION is the id of a test's execution or of a campaign's, as `vpt run` and `vpt ls
    executions` show them. The links work for an hour, without a token.

    \b
    vpt logs 73ba339468c8448fbdc9fdf9b772d600 --attempt 1
    vpt logs 73ba339468c8448fbdc9fdf9b772d600 --follow
    """
    from vpt.client.story import tell  # noqa: PLC0415

    patience = PATIENCE if follow else 0.0
    connected(server, token, lambda api: tell(api, execution, attempt, follow=follow), patience)


# ---------------------------------------------------------------- vpt import, vpt export


@click.command("import", short_help="Make the server have the test cases and campaigns of files.")
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH...",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option(
    "--prune", is_flag=True, help="Delete what is in no file, campaigns and test cases alike."
)
@click.option("--yes", is_flag=True, help="Do not ask before deleting.")
@with_server
def import_command(
    *,
    paths: tuple[Path, ...],
    dry_run: bool,
    prune: bool,
    yes: bool,
    server: str | None,
    token: str | None,
) -> None:
    """Make the server have the test cases and campaigns that files say, by their names.

    PATH is a file, or a folder of which all .yaml, .yml and .json files are read. Everything is
    checked before the first change; only what differs is written, and nothing that somebody
    changed meanwhile is overwritten. After a failure the same command does the rest.

    \b
    vpt export tests/lab
    vpt import tests/lab --dry-run
    vpt import tests/lab --prune --yes

    A file, as `vpt export` writes it; what is left out has its default:

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
    from vpt.client.sync import bring  # noqa: PLC0415

    connected(
        server,
        token,
        lambda api: bring(api, list(paths), dry_run=dry_run, prune=prune, yes=yes),
    )


@click.command("export", short_help="Write the server's test cases and campaigns into files.")
@click.argument("to", metavar="[FOLDER|FILE|-]", default="-")
@click.option(
    "--format",
    "form",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    show_default=True,
    help="Of standard output and of the files of a folder; a FILE's name tells its own.",
)
@click.option(
    "--prune", is_flag=True, help="Delete a FOLDER's files of what is not on the server any more."
)
@with_server
def export_command(
    *, to: str, form: str, prune: bool, server: str | None, token: str | None
) -> None:
    """Write all test cases and campaigns, by name and without ids: for git, or another server.

    To a folder (a file for each), to one file that ends in .yaml, .yml or .json, or to standard
    output. The same content gives the same bytes.

    \b
    vpt export tests/lab --prune
    vpt export lab.yaml
    vpt export --format json | jq -r '.test_cases[].name'
    """
    from vpt.client.sync import export  # noqa: PLC0415

    connected(server, token, lambda api: export(api, to, form, prune=prune))


# ---------------------------------------------------------------- vpt completion


@click.command("completion", short_help="Print a script that completes commands and options.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, *, shell: str) -> None:
    """Print a script that lets a shell complete the names of commands and options.

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
    completion_command,
)
