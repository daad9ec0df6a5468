"""`vpt` and `python -m vpt`."""

from __future__ import annotations

import sys
import traceback

import click

from vpt.commands.cli import cli
from vpt.commands.command import TROUBLE, USAGE
from vpt.config import ConfigError


def main() -> None:
    """Run a command; whatever is wrong is told in one line, with the contract's exit code."""
    code: object
    try:
        code = cli.main(prog_name="vpt", standalone_mode=False)
    except ConfigError as error:
        code = _tell(str(error), USAGE)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = USAGE
    except click.UsageError as error:
        error.show()
        code = USAGE
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        code = TROUBLE
    except Exception:  # noqa: BLE001 (Python would exit with 1, which says that a test failed)
        traceback.print_exc()
        code = _tell("That is a fault of vpt itself; please report it.", TROUBLE)
    sys.exit(code if isinstance(code, int) else 0)


def _tell(words: str, code: int) -> int:
    click.echo(f"Error: {words}", err=True)
    return code


if __name__ == "__main__":
    main()
