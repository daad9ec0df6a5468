"""`vpt` and `python -m vpt`."""

from __future__ import annotations

import io
import sys
import traceback

import click

from vpt.client.exits import ExitCode
from vpt.commands.cli import cli
from vpt.config import ConfigError
from vpt.host.shell_supervisor import forbid_inspection
from vpt.printable import escape_lines, sanitized


def main() -> None:
    """Run a command; print any error in one line and exit with the documented exit code.

    Nearly each has a key or a token in its memory, which is not for others of the account.
    """
    code: object
    forbid_inspection()
    try:
        code = cli.main(prog_name="vpt", standalone_mode=False)
    except ConfigError as error:
        code = _fail(str(error), ExitCode.USAGE)
    except click.UsageError as error:  # no arguments at all is one, too
        _show(error)
        code = ExitCode.USAGE
    except click.ClickException as error:
        _show(error)
        code = error.exit_code
    except click.Abort:
        code = ExitCode.INFRASTRUCTURE
    except Exception:  # noqa: BLE001 (Python would exit with 1, which says that a test failed)
        click.echo(escape_lines(traceback.format_exc().rstrip()), err=True)
        code = _fail("this is a bug in vpt; please report it.", ExitCode.INFRASTRUCTURE)
    sys.exit(code if isinstance(code, int) else 0)


def _show(error: click.ClickException) -> None:
    """Print an error of click without what steers a terminal: it may quote a server or a file."""
    text = io.StringIO()
    error.show(text)
    click.echo(sanitized(text.getvalue()), err=True, nl=False)


def _fail(words: str, code: ExitCode) -> ExitCode:
    click.echo(f"Error: {sanitized(words)}", err=True)
    return code


if __name__ == "__main__":
    main()
