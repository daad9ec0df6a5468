"""The connection of a command to its server: options, token, event loop."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vpt import config
from vpt.client.exits import ExitCode, InfrastructureError, MisuseError
from vpt.client.shutdown import cancel_all_tasks

if TYPE_CHECKING:
    from vpt.client.api import Api

Command = TypeVar("Command", bound=Callable[..., Any])


def with_server(command: Command) -> Command:
    """Add the options --server and --token."""
    token = click.option(
        "--token",
        metavar="TOKEN",
        help="An API token of the server [VPT_TOKEN]. Prefer the environment variable: other users "
        "of the machine can see a command line.",
    )
    server = click.option(
        "--server",
        metavar="URL",
        help="The URL of the vpt server [VPT_SERVER, else http://127.0.0.1:5109].",
    )
    return server(token(command))


def connected(
    server: str | None,
    token: str | None,
    work: Callable[[Api], Coroutine[Any, Any, Any]],
    patience: float = 0.0,
) -> Any:
    """Run `work` with a connection to the server and return its result.

    Raises MisuseError when there is no usable token, InfrastructureError for an OSError.
    """
    from vpt.client.api import Api  # noqa: PLC0415

    settings = config.client_from_env({"VPT_SERVER": server, "VPT_TOKEN": token})
    if settings.vpt_token is None:
        raise MisuseError(
            "No token: set VPT_TOKEN or use --token. To make one, run `vpt token --user me` on the "
            "server's machine."
        )
    url, key = settings.vpt_server, settings.vpt_token.strip()  # a file may end in a newline
    if not key.isascii() or not key.isprintable():
        raise MisuseError("The token has characters that no token can have: copy it again.")

    async def connect() -> Any:
        try:
            async with Api(url, key, patience, lambda line: click.echo(line, err=True)) as api:
                return await work(api)
        finally:
            await cancel_all_tasks()

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal cannot show every name
    try:
        return asyncio.run(connect())
    except BrokenPipeError:  # the reader of our output ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.INFRASTRUCTURE
    except OSError as error:
        raise InfrastructureError(str(error)) from error
