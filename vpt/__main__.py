"""`vpt` and `python -m vpt`."""

from __future__ import annotations

import sys
import traceback

import click

from vpt.client.exits import ExitCode
from vpt.commands.cli import cli
from vpt.config import ConfigError


def main() -> None:
    """Run a command; print any error in one line and exit with the documented exit code."""
    code: object
    try:
        code = cli.main(prog_name="vpt", standalone_mode=False)
    except ConfigError as error:
        code = _fail(str(error), ExitCode.USAGE)
    except click.UsageError as error:  # no arguments at all is one, too
        error.show()
        code = ExitCode.USAGE
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        code = ExitCode.INFRASTRUCTURE
    except Exception:  # noqa: BLE001 (Python would exit with 1, which says that a test failed)
        traceback.print_exc()
        code = _fail("this is a bug in vpt; please report it.", ExitCode.INFRASTRUCTURE)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(words: str, code: ExitCode) -> ExitCode:
    click.echo(f"Error: {words}", err=True)
    return code


if __name__ == "__main__":
    main()
