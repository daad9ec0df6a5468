"""A data folder is its account's: root makes no files there that the account could not read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from vpt.commands.cli import cli
from vpt.config import ConfigError


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives a folder away")
def test_root_does_nothing_in_the_folder_of_another_account(tmp_path: Path) -> None:
    shutil.chown(tmp_path, "nobody")
    env = {"VPT_DATA_DIR": str(tmp_path)}
    for command in (["token", "--user", "ann"], ["db", "dump", "/nowhere"], ["grafana-env"]):
        said = CliRunner().invoke(cli, command, env=env)
        assert isinstance(said.exception, ConfigError), command
        assert "run vpt as that user" in str(said.exception)
    assert list(tmp_path.iterdir()) == []
    shutil.chown(tmp_path, "root")
    assert CliRunner().invoke(cli, ["token", "--user", "ann"], env=env).exit_code == 0
