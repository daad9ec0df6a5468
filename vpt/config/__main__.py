"""`python -m vpt.config`, in a checkout: write README's table of settings and .env.example."""

from __future__ import annotations

from pathlib import Path

from vpt.config.documentation import write

if __name__ == "__main__":
    write(Path.cwd())
