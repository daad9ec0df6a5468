"""The documents match the code."""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click

from vpt.commands.cli import cli
from vpt.config import ClientConfig, Config, with_grafana_keys, with_keys

ROOT = Path(__file__).parents[1]
NOT_SETTINGS = {"embedded"}


def test_every_setting_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    settings = (*fields(Config), *fields(ClientConfig))
    names = {item.name.upper() for item in settings if item.name not in NOT_SETTINGS}
    assert sorted(name for name in names if f"`{name}`" not in readme) == []


def test_every_command_explains_itself() -> None:
    for command in _all_of(cli):
        assert command.help, command.name
        assert all(p.help for p in command.params if isinstance(p, click.Option)), command.name


def _all_of(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from _all_of(command)


def _documents() -> Iterator[tuple[Path, str]]:
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        yield path, path.read_text(encoding="utf-8")


def test_every_command_line_of_the_documents_is_one() -> None:
    blocks = "\n".join(
        block for _, text in _documents() for block in re.findall(r"(?ms)^```\w+\n(.*?)^```", text)
    )
    begin = r"^|\$\(|^\s*- |: exec |^\w+=\S+ |\) "
    lines = re.findall(rf"(?m)(?:{begin})(vpt [a-z][^)#>|\n]*)", blocks)
    assert len(lines) > 20
    for line in lines:
        _check(cli, shlex.split(line)[1:], line)


def _check(command: click.Command, args: list[str], line: str) -> None:
    """Check that the sub-commands and options exist."""
    if isinstance(command, click.Group):
        assert args[0] in command.commands, line
        _check(command.commands[args[0]], args[1:], line)
        return
    known = {name for param in command.params for name in param.opts}
    assert {arg for arg in args if arg.startswith("--")} <= known, line


def test_every_extra_that_is_to_be_installed_exists() -> None:
    conf = configparser.ConfigParser(interpolation=None)
    conf.read(ROOT / "setup.cfg", encoding="utf-8")
    scripts = ("Dockerfile", "CONTRIBUTING.md", "script/demo", "script/test")
    texts = [text for _, text in _documents()] + [(ROOT / name).read_text() for name in scripts]
    named = {
        extra
        for text in texts
        for extras in re.findall(r"install [^\n]*'\.?\[([a-z,]+)\]'", text)
        for extra in extras.split(",")
    }
    assert {"server", "test", "web"} == named
    assert named <= set(conf["options.extras_require"])


def test_every_file_that_the_documents_link_to_exists() -> None:
    links = [
        (path, link.partition("#")[0])
        for path, text in _documents()
        for link in re.findall(r"\]\(([^\s)]+)\)", text)
        if "://" not in link and not link.startswith("#")
    ]
    assert len(links) > 30
    assert [(path.name, link) for path, link in links if not (path.parent / link).exists()] == []


def test_every_module_that_the_architecture_names_exists() -> None:
    words = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("`")[1::2]
    paths = [word for word in words if word.startswith(("vpt/", "sql/")) and "*" not in word]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_operators_page_names_what_there_is() -> None:
    folder = ROOT / "docs"
    page = (folder / "operations.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"(?:bin/vpt|-u vpt vpt vpt|`vpt) ([a-z][a-z-]*)", page))
    assert commands >= {"db", "token", "migrate", "grafana-env", "host-token"}
    assert commands - set(cli.commands) == set()
    named = re.findall(r"\b(?:deploy/[\w.-]+|docker-compose\.yml|supervisord\.conf)", page)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
    events = {"screenshot_lost"}
    metrics = set(re.findall(r"`(vpt_\w+)`", page)) - {"vpt_grafana", "vpt_grafana_db_password"}
    for names, file in ((events, "logs.md"), (metrics, "metrics.md")):
        known = (folder / file).read_text(encoding="utf-8")
        assert sorted(name for name in names if f"`{name}`" not in known) == []


def test_the_operators_page_names_every_key_that_is_kept(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    with_grafana_keys(with_keys(Config(vpt_data_dir=tmp_path)))
    kept = [path.name for path in tmp_path.iterdir()]
    assert len(kept) > 3
    assert [name for name in kept if f"`{name}`" not in page] == []
