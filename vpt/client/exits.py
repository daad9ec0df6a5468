"""How a command ends: its exit codes, and the errors that stand for them."""

from __future__ import annotations

from enum import IntEnum

import click


class Exit(IntEnum):
    """What CI is told."""

    PASSED = 0
    FAILED = 1
    TROUBLE = 2
    WAITED = 3
    USAGE = 4


class MisuseError(click.ClickException):
    """What was asked makes no sense to the server, or its token does not suffice."""

    exit_code = Exit.USAGE


class TroubleError(click.ClickException):
    """Something around the command is in its way: infrastructure, never the test."""

    exit_code = Exit.TROUBLE
