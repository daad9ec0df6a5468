"""The documents say what is true."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import click

from vpt.cli import cli
from vpt.config import Config

ROOT = Path(__file__).parents[1]
NOT_SETTINGS = {"embedded"}


def test_every_setting_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = {item.name.upper() for item in fields(Config) if item.name not in NOT_SETTINGS}
    assert sorted(name for name in names if f"`{name}`" not in readme) == []


def test_every_command_explains_itself() -> None:
    for name, command in cli.commands.items():
        assert command.help, name
        assert all(p.help for p in command.params if isinstance(p, click.Option)), name


def test_every_module_that_the_architecture_names_exists() -> None:
    words = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("`")[1::2]
    paths = [word for word in words if word.startswith(("vpt/", "sql/")) and "*" not in word]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
