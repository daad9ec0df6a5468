"""`python -m vpt.host`: the host command alone, for machines without the server's code."""

import io
import sys

import click

from vpt.host.launch import USAGE, host_command
from vpt.printable import sanitized


def main() -> None:
    """Run the command; wrong usage exits with 4, like every command of vpt."""
    try:
        code = host_command.main(prog_name="vpt host", standalone_mode=False)
    except click.UsageError as error:
        _show(error)
        sys.exit(USAGE)
    except click.ClickException as error:
        _show(error)
        sys.exit(error.exit_code)
    except click.Abort:
        code = 0
    sys.exit(code or 0)


def _show(error: click.ClickException) -> None:
    """Print an error without what steers a terminal: it quotes arguments, which a file may set."""
    text = io.StringIO()
    error.show(text)
    click.echo(sanitized(text.getvalue()), err=True, nl=False)


if __name__ == "__main__":
    main()
