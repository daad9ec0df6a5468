"""`python -m vpt.host`: the host command alone, for machines without the server's code."""

import sys

import click

from vpt.host.launch import USAGE, host_command


def main() -> None:
    """Run the command; wrong usage exits with 4, like every command of vpt."""
    try:
        code = host_command.main(prog_name="vpt host", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(USAGE)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        code = 0
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
