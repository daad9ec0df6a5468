"""`vpt token --link`: where the link leads, and how long it is valid."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest
from click.testing import CliRunner

from vpt.commands.cli import cli
from vpt.config import Config

SECRET = "the secret key of a server, long enough"
DAY = 86_400


def printed(folder: Path, *options: str, **settings: str) -> str:
    env = {"SECRET_KEY": SECRET, "VPT_DATA_DIR": str(folder), **settings}
    done = CliRunner().invoke(cli, ["token", "--user", "ann", *options], env=env)
    assert done.exit_code == 0, done.output
    return done.output.strip()


@pytest.mark.parametrize(
    ("options", "days"),
    [((), 30), (("--link",), 1), (("--days", "3"), 3), (("--link", "--days", "3"), 3)],
)
def test_a_link_is_valid_for_a_day_unless_told(
    tmp_path: Path, options: tuple[str, ...], days: int
) -> None:
    token = printed(tmp_path, *options).rpartition("token=")[2]
    claims = jwt.decode(token, SECRET, ["HS256"])
    assert claims["exp"] - claims["iat"] == days * DAY
    assert (claims["user_id"], claims["role"]) == ("ann", "operator")


def test_there_is_no_link_for_a_host(tmp_path: Path) -> None:
    env = {"SECRET_KEY": SECRET, "VPT_DATA_DIR": str(tmp_path)}
    command = ["token", "--user", "pi-1", "--role", "host", "--link"]
    done = CliRunner().invoke(cli, command, env=env)
    assert done.exit_code != 0
    assert "vpt host-token" in done.output


def test_the_link_begins_with_the_url_that_people_use(tmp_path: Path) -> None:
    url = printed(tmp_path, "--link", SERVER_URL="https://vpt.example/")
    assert url.startswith("https://vpt.example/#token=")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:5109"),
        ("0.0.0.0", "http://127.0.0.1:5109"),
        ("::", "http://[::1]:5109"),
        ("lab.example", "http://lab.example:5109"),
    ],
)
def test_without_server_url_it_leads_to_where_the_server_listens(host: str, url: str) -> None:
    assert Config(server_host=host).page_url == url
