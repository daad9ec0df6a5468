"""README's table of settings and .env.example, made of declaration.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

from vpt.config.declaration import ClientConfig, Config, Setting, settings_of

BEGIN = "<!-- settings: made by python -m vpt.config -->"
END = "<!-- end of settings -->"
_HEAD = """\
# The settings of vpt, made by `python -m vpt.config`. Copy this file to .env, in the folder where
# vpt is started (systemd: /etc/vpt; docker compose: beside docker-compose.yml). All are optional:
# each line has the default; no value behind = means unset. The environment wins over the file.
# Durations are seconds.
"""
#: What docker-compose.yml reads by itself: name, default, meaning.
_COMPOSE = (
    ("VPT_DB_PASSWORD", "", "Password of its PostgreSQL, required there: letters and digits only."),
    ("VPT_PORT", "127.0.0.1:5109", "Where this machine publishes vpt; 0.0.0.0:5109 is for all."),
    ("VPT_GRAFANA_PORT", "127.0.0.1:3001", "The same for Grafana."),
)


def write(folder: Path) -> None:
    """Bring README.md and .env.example in `folder` up to date."""
    readme = folder / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / ".env.example").write_text(example(), encoding="utf-8")


def with_table(readme: str) -> str:
    """Return README's text with the present table between its marks."""
    before, _, rest = readme.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"README.md has no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{table()}{END}{after}"


def table() -> str:
    """Return the table of all settings in Markdown."""
    return "".join(_rows())


def example() -> str:
    """Return the text of .env.example."""
    return _HEAD + "".join(_lines())


def _rows() -> Iterator[str]:
    yield "| name | default | meaning |\n|---|---|---|\n"
    for item, setting in (*settings_of(Config), *settings_of(ClientConfig)):
        if setting.heading:
            yield f"| **{setting.heading}** | | |\n"
        default = _default(item, setting)
        shown = f"`{default}`" if default else setting.otherwise or "unset"
        yield f"| `{item.name.upper()}` | {shown} | {setting.meaning} |\n"


def _lines() -> Iterator[str]:
    for item, setting in settings_of(Config):
        if setting.heading:
            yield f"\n# ---- {setting.heading}\n\n"
        otherwise = f" Default: {setting.otherwise}." if setting.otherwise else ""
        yield f"# {setting.meaning}{otherwise}\n"
        yield f"#{item.name.upper()}={_default(item, setting)}\n"
    yield "\n# ---- docker-compose.yml alone\n\n"
    for name, default, meaning in _COMPOSE:
        yield f"# {meaning}\n#{name}={default}\n"


def _default(item: Field[Any], setting: Setting) -> str:
    """Return the default as it would be written, nothing when it depends or is none."""
    if item.default is MISSING or item.default in (None, ()):
        return ""
    return setting.value_type.show(item.default)
