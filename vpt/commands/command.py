"""What the commands share: the settings, and one line for an error or for what is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from vpt import config
from vpt.client.exits import ExitCode
from vpt.config import Config


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


def read_config() -> Config:
    """Read the settings and make the keys that are missing."""
    return config.with_keys(config.from_env())
