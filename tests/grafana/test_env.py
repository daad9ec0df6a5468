"""An operator sets one thing, and Grafana's variables follow from it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from vpt.commands.cli import cli
from vpt.commands.grafana_env import NOWHERE, as_lines, grafana_env
from vpt.config import Config, ConfigError


def database(url: str | None, port: int | None = None) -> tuple[str, str, str, str]:
    """Give address, user, name and sslmode for a DATABASE_URL."""
    env = grafana_env(Config(database_url=url, vpt_pg_port=port))
    names = ("ADDRESS", "USER", "NAME", "SSLMODE")
    address, user, name, mode = (env[f"VPT_GRAFANA_DB_{part}"] for part in names)
    return address, user, name, mode


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@db:5433/lab", ("db:5433", "vpt_grafana", "lab", "require")),
        ("postgresql://u:p@db/lab", ("db:5432", "vpt_grafana", "lab", "require")),
        ("postgres://u:p%2Fx@127.0.0.1/lab", ("127.0.0.1:5432", "vpt_grafana", "lab", "disable")),
        ("postgresql://u@[fd00::1]/lab", ("[fd00::1]:5432", "vpt_grafana", "lab", "require")),
        ("postgresql://u:p@/lab?host=/run/pg", ("/run/pg", "vpt_grafana", "lab", "disable")),
        ("postgresql://u@db/a%20b?sslmode=disable", ("db:5432", "vpt_grafana", "a b", "disable")),
        ("postgresql://u@db/lab?sslmode=prefer", ("db:5432", "vpt_grafana", "lab", "require")),
        (
            "postgresql://postgres.ref:p@aws-0.pooler.supabase.com:6543/postgres",
            ("aws-0.pooler.supabase.com:5432", "vpt_grafana.ref", "postgres", "require"),
        ),
    ],
)
def test_the_datasource_follows_from_the_database_url(url: str, expected: tuple[str, ...]) -> None:
    assert database(url) == expected


def test_the_own_database_needs_a_port() -> None:
    assert database(None, 5999) == ("127.0.0.1:5999", "vpt_grafana", "vpt", "disable")
    with pytest.raises(ConfigError, match="VPT_PG_PORT"):
        database(None)


@pytest.mark.parametrize(
    "url", ["postgresql://u@a:1,b:2/lab", "postgresql://u@/lab?host=/run/pg&port=5555"]
)
def test_what_grafana_cannot_reach_is_said(url: str) -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL"):
        database(url)


def test_the_command_makes_its_keys_once(tmp_path: Path) -> None:
    env = {"DATABASE_URL": "postgresql://u:hush@db/lab", "VPT_DATA_DIR": str(tmp_path)}
    first, second = (CliRunner().invoke(cli, ["grafana-env"], env=env) for _ in range(2))
    assert first.exit_code == 0, first.output
    assert first.output == second.output
    assert "hush" not in first.output
    said = dict(line.split("=", 1) for line in first.output.splitlines())
    assert said["VPT_ALERT_WEBHOOK_URL"] == NOWHERE
    for name in ("VPT_GRAFANA_DB_PASSWORD", "GRAFANA_ADMIN_PASSWORD", "GRAFANA_SECRET_KEY"):
        kept = tmp_path / name.lower()
        assert said[name] == kept.read_text()
        assert kept.stat().st_mode & 0o777 == 0o600
    assert (Path(said["VPT_GRAFANA_HOME"]) / "grafana.ini").is_file()


def test_a_shell_reads_the_lines_as_they_were_meant() -> None:
    env = {"A": 'it\'s $HOME "x" `y`', "B": "plain"}
    done = subprocess.run(
        ["sh", "-c", f'{as_lines(env)}\nprintf "%s|%s" "$A" "$B"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "|".join(env.values())
