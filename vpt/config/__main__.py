"""`python -m vpt.config`, in a checkout: write README's table of settings and .env.example."""

from __future__ import annotations

import sys
from pathlib import Path

from vpt.config.documentation import write

if __name__ == "__main__":
    try:
        write(Path())
    except (OSError, ValueError) as error:
        sys.exit(f"Error: run this in a checkout of vpt, which has README.md ({error})")
