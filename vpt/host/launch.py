"""`vpt host`: the command that starts a host."""

import asyncio
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import click
from yarl import URL

from vpt.config import ConfigError, dotenv
from vpt.host.environment import reduced_environment
from vpt.host.settings import HostSettings
from vpt.host.shell_supervisor import forbid_inspection

INFRASTRUCTURE = 2
USAGE = 4
REPLACED = 5
GREATEST_PORT = 65535


class HostOptionsError(click.UsageError):
    """The options are wrong, or a device cannot work on this machine."""

    exit_code = USAGE


class HostStartError(click.ClickException):
    """The host cannot run: its port, its folder or the network is not available."""

    exit_code = INFRASTRUCTURE


class HostReplaced(click.ClickException):
    """Another host has this one's name at the server: starting it again does not help."""

    exit_code = REPLACED


def default_name() -> str:
    """Return this machine's name, with other characters replaced by dashes."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64] or "host"


@click.command("host", short_help="Hold devices and run their actions.")
@click.option(
    "--server",
    envvar="VPT_SERVER",
    show_envvar=True,
    metavar="URL",
    help="URL of the vpt server. A password in it is used as the join token.  [required]",
)
@click.option(
    "--name", default=default_name, metavar="NAME", help="Name of this host [this machine's name]."
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    default=("desktop",),
    show_default=True,
    metavar="KIND[:MODEL][=ID]",
    help="A device: desktop, or web (a browser). May be given again; two of a kind need ids: "
    "--device web=left --device web=right. MODEL, which test cases ask for, is the kind by "
    "default.",
)
@click.option(
    "--listen",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS[:PORT]",
    help="Where the server reaches this host; without a port it uses a free one.",
)
@click.option(
    "--advertise",
    metavar="URL",
    help="URL of this host for the server, where it differs (port forwarding, a TLS proxy).",
)
@click.option(
    "--join-token",
    envvar="HOST_JOIN_TOKEN",
    show_envvar=True,
    metavar="TOKEN",
    help="Token with which this host joins; needed once, since it is kept in the data folder. "
    "Better set the variable: other users can see a command line.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the journal, the host's own secret and its token [the user's data folder].",
)
@click.option(
    "--allow-shell",
    is_flag=True,
    help="Let test cases run any shell command here. Every operator of the server can then do all "
    "that this account can, and read all its files, this host's token among them: give the host an "
    "account of its own and a token of its own (`vpt host-token NAME`).",
)
@click.option(
    "--pass-env",
    multiple=True,
    metavar="VARIABLE",
    help="A further variable of the environment that shell commands get, such as JAVA_HOME; they "
    "get PATH, HOME, the language, the desktop and proxies without a password. May be given again.",
)
@click.option(
    "--heartbeat",
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between heartbeats.",
)
def host_command(**options: Any) -> None:
    """Hold devices, run their actions, and report to the server.

    The host registers itself at the server, sends heartbeats, and waits when the server does not
    answer. Each device runs one action at a time; an action that the server sends twice is done
    once, and a cancelled one is really stopped. When a shell command ends, all that it started
    ends, also in the background (on Linux; elsewhere what stays in its process group). Only the
    server can call the host: the host makes a secret at its first start and sends it to the server
    alone.

    The token, one of `vpt host-token NAME` on the server's machine, is needed at the first start
    only: the host keeps it in its data folder, readable for this user only.

    VPT_SERVER and HOST_JOIN_TOKEN may be in .env of the working folder, both of them or none: a
    token of the environment is never sent to a server that a file names.

    Ctrl-C or SIGTERM stops the host: it tells the server and ends running actions. When another
    host has taken its name at the server, it stops by itself with exit code 5.

    \b
    The first start:  HOST_JOIN_TOKEN=... vpt host --server http://10.0.0.5:5109 --name pi-1
    From then on:     vpt host --server http://10.0.0.5:5109 --name pi-1
    Reached from elsewhere:  vpt host --server http://10.0.0.5:5109 --listen 0.0.0.0
    Two browsers:     vpt host --server http://10.0.0.5:5109 --device web=a --device web=b
    """
    configure_logging()
    protect_process(allow_shell=options["allow_shell"])
    try:
        settings = read_settings(**with_dotenv(options))
        with reduced_environment(settings.pass_env):
            asyncio.run(_until_signal(settings))
    except (ValueError, ConfigError) as error:
        raise HostOptionsError(str(error)) from error
    except OSError as error:
        raise HostStartError(f"the host cannot run: {error}") from error


def with_dotenv(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with server and token of `.env` when none names a server.

    Raises HostOptionsError when there is no server, or a token for another one, ConfigError when
    the file is wrong.
    """
    if options["server"]:
        return options
    kept = dotenv()
    if "VPT_SERVER" not in kept:
        raise HostOptionsError("Missing option '--server': set it, or VPT_SERVER.")
    if options["join_token"]:
        raise HostOptionsError(
            "the join token is not sent to the server that .env names: use --server or set"
            " VPT_SERVER, or put HOST_JOIN_TOKEN into .env, too"
        )
    return options | {"server": kept["VPT_SERVER"], "join_token": kept.get("HOST_JOIN_TOKEN")}


def read_settings(**options: Any) -> HostSettings:
    """Return the options as settings; ValueError names what is wrong."""
    server = URL(options["server"])
    listen, port = read_address(options["listen"])
    return HostSettings(
        server=str(server.with_user(None)) if server.user or server.password else str(server),
        name=options["name"],
        devices=options["devices"],
        listen=listen,
        port=port,
        advertise=options["advertise"],
        join_token=options["join_token"] or server.password,
        data_dir=options["data_dir"],
        allow_shell=options["allow_shell"],
        pass_env=options.get("pass_env", ()),
        heartbeat_s=options["heartbeat"],
    )


def read_address(text: str) -> tuple[str, int]:
    """Split `ADDRESS[:PORT]`; an IPv6 address with a port is in brackets."""
    match = re.fullmatch(
        r"\[([^]]+)\](?::(\d{1,5}))?|([^:]*)(?::(\d{1,5}))?|([\w.%]*:[\w.%]*:[\w.:%]*)", text
    )
    if match is None:
        raise ValueError(f"listen: {text!r} is not ADDRESS[:PORT]")
    address = match[1] or match[3] or match[5] or "127.0.0.1"
    port = int(match[2] or match[4] or 0)
    if port > GREATEST_PORT:
        raise ValueError(f"listen: there is no port {port}")
    return address, port


def configure_logging() -> None:
    """Log to standard error: for people on a terminal, JSON lines otherwise."""
    from vpt import logs  # noqa: PLC0415 (`vpt --help` starts faster without)

    logs.setup("console" if sys.stderr.isatty() else "json", "info")


def protect_process(*, allow_shell: bool) -> None:
    """Close this process to others of the account; log where commands could still look into it."""
    import structlog  # noqa: PLC0415 (as above)

    if not forbid_inspection() and allow_shell:
        hint = "use Linux, or trust all who may run test cases: commands can read this process and"
        structlog.get_logger().warning(
            "shell_not_contained", system=sys.platform, hint=f"{hint} leave processes behind"
        )


async def _until_signal(settings: HostSettings) -> None:
    """Run the host until the first SIGTERM or SIGINT; further ones do not interrupt the stop."""
    from vpt.host.membership import HostReplacedError  # noqa: PLC0415 (as below)
    from vpt.host.server import run_host  # noqa: PLC0415 (`vpt --help` starts faster without)

    loop = asyncio.get_running_loop()
    running = asyncio.create_task(run_host(settings), name="host")
    asked = False

    def stop() -> None:
        nonlocal asked
        if not asked:
            asked = True
            running.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await asyncio.wait({running})
    if running.cancelled():
        return
    try:
        running.result()
    except HostReplacedError as error:
        raise HostReplaced(str(error)) from error
