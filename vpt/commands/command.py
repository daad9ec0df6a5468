"""What the commands share: the settings, and one line for an error or for what is not installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from vpt import config
from vpt.client.exits import ExitCode
from vpt.config import Config

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class NotInstalledError(click.ClickException):
    """The command needs a part of vpt that is not installed."""

    exit_code = ExitCode.USAGE


@contextmanager
def server_part() -> Iterator[None]:
    """Import inside of this what only `vpt[server]` brings; NotInstalledError says what to do."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "vpt").partition(".")[0]
        if missing == "vpt":  # a fault of ours: a traceback is of use
            raise
        command = click.get_current_context().command_path
        raise NotInstalledError(
            f"{command} needs the server part of vpt ({missing} is not installed): "
            "pip install 'vpt[server]'"
        ) from error


def with_env_file(command: Decorated) -> Decorated:
    """Add --env-file to a command that works on a server's data and runs no server."""
    option = click.option(
        "--env-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="File with the server's settings, such as .env; variables of the environment win. "
        "No file is read without it.",
    )
    return option(command)


def read_config() -> Config:
    """Read the settings of the environment and of `.env`, and make the keys that are missing."""
    return config.with_keys(config.from_env())


def read_config_of(env_file: Path | None) -> Config:
    """Read the settings of the environment and of the named file; make missing keys."""
    return config.with_keys(config.from_file(env_file))
