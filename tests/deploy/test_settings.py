"""The example of settings is whole and true."""

from __future__ import annotations

import re
from dataclasses import fields

from tests.system.kit import ROOT
from vpt.config import Config, from_env

LINES = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
SETTING = re.compile(r"#([A-Z][A-Z0-9_]*)=(\S*)")
OF_COMPOSE = {"VPT_DB_PASSWORD", "VPT_PORT", "VPT_GRAFANA_PORT"}


def settings() -> dict[str, str]:
    """Give what stands there, as it would be read without the # before each."""
    found = [match.groups() for line in LINES if (match := SETTING.fullmatch(line))]
    assert len(dict(found)) == len(found), "one stands there twice"
    return dict(found)


def test_every_setting_stands_there_with_its_default() -> None:
    names = {item.name.upper() for item in fields(Config)} - {"EMBEDDED"}
    assert set(settings()) - OF_COMPOSE == names
    assert from_env(settings()) == Config()


def test_nothing_is_set_and_each_has_a_line_that_explains_it() -> None:
    for number, line in enumerate(LINES):
        assert line == "" or line.startswith("#"), line
        if SETTING.fullmatch(line):
            above = LINES[number - 1]
            assert re.fullmatch(r"# [A-Z].*\.", above), f"{line} comes after {above!r}"


def test_what_is_for_compose_is_used_there() -> None:
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{([A-Z_]+)", compose))
    assert used == OF_COMPOSE
    for name, default in re.findall(r"\$\{([A-Z_]+):-(\w+)\}", compose):
        assert settings()[name] == default
