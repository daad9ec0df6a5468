"""Who reads .env, and what it may not decide."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.client.kit import Cli
from tests.system.kit import process
from vpt.commands.cli import cli
from vpt.config import ConfigError, from_env, from_file
from vpt.store.tokens import read_token

READERS = [("serve",), ("demo", "--once"), ("migrate",), ("host", "--name", "h")]
#: Lines of a .env that nobody may take for settings, and what the one line of error names.
WRONG = {
    "latin-1": ("SERVER_PORT=0 # Ä".encode("latin-1"), "expected UTF-8"),
    "utf-16": ("SERVER_PORT=0".encode("utf-16"), "expected UTF-8"),
    "utf-16 without a mark": ("SERVER_PORT=0".encode("utf-16-le"), "expected UTF-8"),
    "programs": (b"VPT_PG_BIN=/tmp/programs", "VPT_PG_BIN is read from the environment only"),
}


@pytest.mark.parametrize(("command", "wrong"), [*zip(READERS, WRONG, strict=True)])
async def test_a_wrong_file_is_one_line_that_says_what_to_do(
    tmp_path: Path, command: tuple[str, ...], wrong: str
) -> None:
    content, words = WRONG[wrong]
    (tmp_path / ".env").write_bytes(content)
    settings = {"VPT_DATA_DIR": tmp_path / "data"}
    async with process(tmp_path, "-m", "vpt", *command, cwd=tmp_path, **settings) as one:
        assert await one.ended() == 4, one.said()
    assert one.said().count("\n") <= 4, "usage of the command, and one line"
    assert ".env: " in one.said() and words in one.said()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("wrong", WRONG)
def test_what_nobody_may_take_for_settings_is_refused(tmp_path: Path, wrong: str) -> None:
    content, words = WRONG[wrong]
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        from_env(folder=tmp_path)
    with pytest.raises(ConfigError, match=words):
        from_file(tmp_path / ".env")


def test_a_good_file_may_have_a_mark_and_be_missing(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("\ufeffSERVER_PORT=7".encode())
    assert from_env(folder=tmp_path).server_port == 7
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()
    assert from_env(folder=tmp_path).server_port == 5109


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to(".env")
    with pytest.raises(ConfigError, match=r"\.env: it cannot be read"):
        from_env(folder=tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        ("ls", "hosts"),
        ("run", "testcase", "x", "--no-wait"),
        ("import", "x.yaml"),
        ("export",),
    ],
    ids=lambda command: str(command[0]),
)
async def test_a_client_sends_no_token_where_a_checkout_says(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    asked: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(4096))
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        (tmp_path / ".env").write_text(f"VPT_SERVER=http://127.0.0.1:{port}\nVPT_TOKEN=theirs\n")
        (tmp_path / "x.yaml").write_text("test_cases: []\n")
        settings = {"VPT_TOKEN": "my-own-token"} | Cli("", "").settings
        if command[0] == "run":
            command = (*command, "--patience", "0")
        async with process(tmp_path, "-m", "vpt", *command, cwd=tmp_path, **settings) as one:
            assert await one.ended() in (2, 4)
    assert asked == []
    assert "127.0.0.1:5109" in one.said(), "the default server"


async def test_a_host_sends_no_token_of_the_environment_where_a_file_says(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("VPT_SERVER=http://127.0.0.1:9\n")
    command = ("-m", "vpt", "host", "--name", "h", "--data-dir", str(tmp_path / "host"))
    async with process(tmp_path, *command, cwd=tmp_path, HOST_JOIN_TOKEN="mine") as one:
        assert await one.ended() == 4
    assert "not sent to the server that .env names" in one.said()


SERVERS_COMMANDS = [
    ("token", "--user", "ann"),
    ("host-token", "--list"),
    ("grafana-env",),
    ("prune", "--dry-run"),
    ("db", "dump", "dump.vpt"),
    ("db", "load", "dump.vpt", "--force"),
]


@pytest.mark.parametrize("command", SERVERS_COMMANDS, ids=" ".join)
def test_other_commands_of_a_server_read_only_the_file_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VPT_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "dump.vpt").touch()
    (tmp_path / "named").write_text("SERVER_PORT=named\n")
    (tmp_path / ".env").write_text("KEEP_STEPS_DAYS=wrong\nSERVER_PORT=1\n")
    wanted = {
        (): "KEEP_STEPS_DAYS, SERVER_PORT: set in the .env here, .* use --env-file .env",
        ("--env-file", "named"): "^SERVER_PORT: expected",
        ("--env-file", ".env"): "^KEEP_STEPS_DAYS: expected",
        ("--env-file", "none"): "--env-file: there is no file none",
    }
    if command[:2] == ("db", "dump"):
        (tmp_path / "dump.vpt").unlink()
    for option, words in wanted.items():
        with pytest.raises(ConfigError, match=words):
            cli.main([*command, *option], standalone_mode=False)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("content", "option"),
    [
        ("SECRET_KEY=" + "x" * 32, ("--env-file", "/dev/null")),
        ("LOG_LEVEL=debug\nSOMETHING=else\n", ()),
        ("SECRET_KEY=" + "s" * 32, ()),
        ("\udcff", ()),
    ],
    ids=["none is wanted", "nothing that matters", "the same in the environment", "no UTF-8"],
)
def test_a_file_that_changes_nothing_is_no_hindrance(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
    option: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VPT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SECRET_KEY", "s" * 32)
    if content == "SECRET_KEY=" + "x" * 32:
        monkeypatch.delenv("SECRET_KEY")
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "secret_key").write_text("s" * 32)
    (tmp_path / ".env").write_text(content, errors="surrogateescape")
    cli.main(["token", "--user", "ann", *option], standalone_mode=False)
    assert read_token("s" * 32, capsys.readouterr().out.strip()).user_id == "ann"
