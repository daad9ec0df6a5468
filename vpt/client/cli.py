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
from vpt.client.exits import MisuseError

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
    url, key = settings.vpt_server, settings.vpt_token
    if not key.isascii() or not key.isprintable():
        raise MisuseError("The token holds characters that no token has.")

    async def connect() -> Any:
        async with Api(url, key, patience, lambda words: click.echo(words, err=True)) as api:
            return await work(api)

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # names may be beyond what a terminal can show
    return asyncio.run(connect())


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

    Ctrl-C asks whether to cancel the run on the server, too; a second one leaves at once. Without
    a terminal SIGINT and SIGTERM cancel it: then nobody waits for it any more.
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


@run_group.command("testcase")
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


@run_group.command("campaign")
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
    from vpt.client.run import Order, run  # noqa: PLC0415

    if not options["wait"] and (options["junit"] or options["wait_timeout"]):
        raise click.UsageError("--junit and --wait-timeout need --wait.")
    order = Order(
        kind,
        options["name"],
        body,
        wait=options["wait"],
        wait_timeout_s=options["wait_timeout"],
        junit=_writable(options["junit"]),
    )
    code = connected(
        options["server"], options["token"], lambda api: run(api, order), options["patience"]
    )
    sys.exit(code)


def _writable(path: Path | None) -> Path | None:
    """Find out before the run whether its report can be written; make its folder."""
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.BadParameter(str(error), param_hint="--junit") from error
    if not os.access(path.parent, os.W_OK):
        raise click.BadParameter(f"{path.parent} cannot be written", param_hint="--junit")
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


commands: tuple[click.Command, ...] = (run_group,)
