"""The exit codes of the commands, and the errors that end a command with one of them."""

from __future__ import annotations

from enum import IntEnum

import click


class ExitCode(IntEnum):
    """The exit code of a command; docs/ci.md lists what CI should do for each."""

    PASSED = 0
    FAILED = 1
    INFRASTRUCTURE = 2
    WAIT_TIMEOUT = 3
    USAGE = 4


class MisuseError(click.ClickException):
    """The command line, a file or the token is wrong: repeating the command does not help."""

    exit_code = ExitCode.USAGE


class InfrastructureError(click.ClickException):
    """The server, its database or the network failed: nothing is known about the product."""

    exit_code = ExitCode.INFRASTRUCTURE
