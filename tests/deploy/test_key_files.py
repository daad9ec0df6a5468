"""Key files of the data folder: strong ones only, and nobody else reads what is beside them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import psutil
import pytest

from tests.system.kit import ROOT, environment, open_folder, process, server
from tests.web.kit import PNG
from vpt.config import Config, ConfigError
from vpt.config.generated_keys import with_grafana_keys, with_keys
from vpt.store.artifacts import Artifacts

STRANGER = 123_456  # no account has this user id
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes another user")
KEYS = ("secret_key", "host_join_token", "vpt_grafana_db_password")
GRAFANA_KEYS = ("grafana_admin_password", "grafana_secret_key")
WEAK = {
    "empty": b"",
    "blank": b"\n" * 40,
    "one byte": b"k",
    "a byte too few": b"k" * 31 + b"\n",
    "not ASCII": ("ä" * 32).encode(),
    "binary": bytes(range(64)),
    "two lines": b"k" * 32 + b"\n" + b"k" * 32,
}


@pytest.mark.parametrize(
    ("name", "weak"), [*product(KEYS[:1], WEAK), *product((*KEYS[1:], *GRAFANA_KEYS), ["one byte"])]
)
def test_a_weak_key_is_refused_and_its_file_is_named(tmp_path: Path, name: str, weak: str) -> None:
    (tmp_path / name).write_bytes(WEAK[weak])
    with pytest.raises(ConfigError) as caught:
        with_grafana_keys(with_keys(Config(vpt_data_dir=tmp_path)))
    assert str(tmp_path / name) in str(caught.value)
    assert "at least 32 visible ASCII characters" in str(caught.value)
    assert "k" * 31 not in str(caught.value)


def test_a_strong_key_is_used_and_a_weak_one_that_is_set_elsewhere_is_not_read(
    tmp_path: Path,
) -> None:
    (tmp_path / "secret_key").write_text("s" * 32 + "\n")
    (tmp_path / "host_join_token").write_text("")
    config = with_keys(Config(vpt_data_dir=tmp_path, host_join_token="another"))
    assert (config.secret_key, config.host_join_token) == ("s" * 32, "another")


@pytest.mark.parametrize("command", [("serve",), ("token", "--user", "a"), ("grafana-env",)])
async def test_the_error_is_one_line_without_a_traceback(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "secret_key").write_bytes(b"")
    async with process(tmp_path, "-m", "vpt", *command, VPT_DATA_DIR=tmp_path) as one:
        assert await one.ended() == 4
    assert one.said().startswith(f"Error: {tmp_path}/secret_key: expected a key")
    assert one.said().count("\n") == 1


@pytest.fixture
def folder() -> Iterator[Path]:
    """Provide a data folder that an older vpt left, open to all."""
    with open_folder() as top:
        data = top / "data"
        (data / "screenshots" / "e1").mkdir(parents=True)
        for name in ("demo.log", "pg.log", "host_join_token"):
            (data / name).write_text("k" * 32)
        for path in data.rglob("*"):
            path.chmod(0o777 if path.is_dir() else 0o666)
        yield data


def open_to_others(folder: Path) -> dict[str, str]:
    """Return what other users can reach below the folder, with its mode."""
    found = {}
    for path in folder.iterdir():
        mode = path.lstat().st_mode
        if mode & 0o077 and not path.is_symlink():
            found[path.name] = oct(stat.S_IMODE(mode))
        elif path.is_dir() and path.name == "screenshots":
            new = [one for one in path.rglob("*") if "e1" not in one.parts]
            found |= {one.name: "new" for one in new if one.stat().st_mode & 0o077}
    return found


async def test_what_is_below_the_data_folder_is_for_the_server_alone(folder: Path) -> None:
    log = folder.parent  # of the test's process
    async with server(log, VPT_DATA_DIR=folder) as one:
        assert psutil.Process(one.pid).is_running()
        assert open_to_others(folder) == {}
    shutil.rmtree(folder / "screenshots")
    before = os.umask(0)
    try:
        await Artifacts(folder).save("e2", 1, 1, PNG)
    finally:
        os.umask(before)
    assert open_to_others(folder) == {}


@as_root
async def test_a_child_of_a_closed_process_gets_an_id_that_has_a_name(tmp_path: Path) -> None:
    become = (
        "import os\n"
        "from vpt.embedded.home import _become_known\n"
        "from vpt.host.shell_supervisor import forbid_inspection\n"
        f"os.setgid({STRANGER}); os.setuid({STRANGER}); forbid_inspection()\n"
        f"_become_known({STRANGER}, {STRANGER}, 1)\n"
        "assert os.getuid() == 1, os.getuid()\n"
    )
    async with process(tmp_path, "-c", become) as one:
        assert await one.ended() == 0, one.said()


@as_root
async def test_a_user_without_account_and_home_gets_a_server() -> None:
    """As in a container that is given any user id."""
    folder = Path(f"/var/tmp/vpt-{STRANGER}")
    shutil.rmtree(folder, ignore_errors=True)
    with open_folder() as top:
        top.chmod(0o777)
        # The capability lets it read this checkout and its Python, wherever they are.
        may_read = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
        who = (f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups")
        program = (
            "import os, sys; os.environ.pop('HOME', None);"
            f"command = ['setpriv', *{(*who, *may_read)!r}, sys.executable, *sys.argv[1:]];"
            "os.execvp('setpriv', command)"
        )
        try:
            async with process(
                top, "-c", program, "-m", "vpt", "serve", SERVER_PORT=0, LOG_FORMAT="json"
            ) as one:
                async with asyncio.timeout(60):
                    while "server_started" not in one.said():
                        assert one.child.returncode is None, one.said()
                        await asyncio.sleep(0.05)
                assert folder.stat().st_uid == STRANGER
                assert open_to_others(folder) == {}
                # Root has what nobody else of the account may read.
                (database,) = psutil.Process(one.pid).children()
                owners = [Path(f"/proc/{pid}/environ").stat() for pid in (one.pid, database.pid)]
                assert [info.st_uid for info in owners] == [0, STRANGER]
                one.child.send_signal(signal.SIGTERM)
                assert await one.ended() == 0, one.said()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@as_root
def test_a_folder_of_another_user_below_var_tmp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(f"/var/tmp/vpt-{STRANGER + 1}")
    folder.mkdir(mode=0o700)
    try:
        monkeypatch.setattr(os, "geteuid", lambda: STRANGER + 1)
        with pytest.raises(ConfigError, match="is not only ours"):
            with_keys(Config(vpt_data_dir=folder))
    finally:
        folder.rmdir()


def test_settings_are_documented_in_a_checkout_only(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "vpt.config"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=ROOT),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: run this in a checkout of vpt")
    assert ended.stderr.count("\n") == 1
