"""The shipped supervisord.conf under the real supervisord, with a stand-in for Grafana's binary."""

from __future__ import annotations

import asyncio
import configparser
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import psutil
import pytest

from tests.actors.fake_host import until
from tests.system.kit import (
    JOIN_TOKEN,
    ROOT,
    SECRET,
    Process,
    answers,
    ask,
    client,
    environment,
    free_port,
    make,
    open_folder,
    process,
)

CONF = ROOT / "supervisord.conf"
PATHS = ("testcases", "campaigns", "hosts", "devices")
GRAFANA = Path(__file__).parent / "bin"
IMPORTED = os.pathsep.join((str(ROOT), str(Path(asyncpg.__file__).parents[1])))


def limits() -> dict[str, float]:
    """Return how long (s) supervisord waits for each program at the stop."""
    conf = configparser.RawConfigParser()
    conf.read(CONF, encoding="utf-8")
    names = [name for name in conf.sections() if name.startswith("program:")]
    return {name.partition(":")[2]: conf.getfloat(name, "stopwaitsecs") for name in names}


@dataclass(frozen=True)
class Accounts:
    """Whom vpt and Grafana run as, and a Python that they may run."""

    vpt: str
    grafana: str
    python: str


def accounts() -> Accounts:
    """As root others, where there is a Python that is not root's alone."""
    me = pwd.getpwuid(os.geteuid()).pw_name
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        if os.geteuid() == 0 and _runs_as_nobody(python):
            return Accounts("nobody", "daemon", python)
    return Accounts(me, me, sys.executable)


def _runs_as_nobody(python: str) -> bool:
    try:
        tried = subprocess.run(
            [python, "-c", "import vpt.commands.cli"],
            env=environment(PYTHONPATH=IMPORTED),
            cwd="/",
            user="nobody",
            group="nogroup",
            extra_groups=[],
            check=False,
            capture_output=True,
        )
    except OSError:
        return False
    return tried.returncode == 0


@dataclass
class Supervised:
    """supervisord with both programs."""

    server: Process
    settings: dict[str, Any]
    accounts: Accounts
    seen: set[psutil.Process] = field(default_factory=set)

    @property
    def grafana(self) -> str:
        return f"http://127.0.0.1:{self.settings['GF_SERVER_HTTP_PORT']}"

    async def status(self) -> dict[str, tuple[str, int]]:
        """Ask supervisorctl for the state and pid of each program; notes all processes, too."""
        asked = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "supervisor.supervisorctl", "-c", str(CONF), "status"),
            env=self.server.settings,
            stdout=subprocess.PIPE,
        )
        said, _ = await asked.communicate()
        self.seen |= set(psutil.Process(self.server.pid).children(recursive=True))
        words = [line.replace(",", "").split() for line in said.decode().splitlines()]
        return {w[0]: (w[1], int(w[3]) if w[1] == "RUNNING" else 0) for w in words}

    async def all_run(self, *, but: set[int] = frozenset()) -> dict[str, int]:
        """Wait until both programs run, as other processes than `but`; give their pids."""
        found: dict[str, tuple[str, int]] = {}

        async def run() -> bool:
            found.update(await self.status())
            return not {pid for _, pid in found.values()} & {0, *but}

        await until(run, 30)
        return {name: pid for name, (_, pid) in found.items()}

    async def told(self) -> Any:
        """Return the environment that Grafana got."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.grafana}/told") as response,
        ):
            return await response.json()


@pytest.fixture
async def supervised() -> AsyncIterator[Supervised]:
    """Provide both programs, running."""
    who = accounts()
    with open_folder() as folder:
        data, commands = folder / "data", folder / "commands"
        data.mkdir(mode=0o711)
        shutil.chown(data, who.vpt)
        commands.mkdir()
        (folder / "tmp").mkdir()
        shutil.chown(folder / "tmp", who.vpt)
        for name, module in (
            ("vpt", "-m vpt"),
            ("python", ""),
            ("supervisorctl", "-m supervisor.supervisorctl"),
        ):
            (commands / name).write_text(f'#!/bin/sh\nexec {who.python} {module} "$@"\n')
            (commands / name).chmod(0o755)
        path = os.pathsep.join(
            (str(commands), str(GRAFANA), str(ROOT / "deploy"), os.environ["PATH"])
        )
        settings = {
            "PATH": path,
            "PYTHONPATH": IMPORTED,
            "TMPDIR": folder / "tmp",
            "VPT_RUN_DIR": folder,
            "VPT_USER": who.vpt,
            "GRAFANA_USER": who.grafana,
            "VPT_DATA_DIR": data,
            "VPT_PG_PORT": free_port(),
            "SERVER_PORT": free_port(),
            "SECRET_KEY": SECRET,
            "HOST_JOIN_TOKEN": JOIN_TOKEN,
            "LOG_FORMAT": "json",
            "GF_SERVER_HTTP_PORT": free_port(),
        }
        (folder / ".env").write_text("KEEP_STEPS_DAYS=100\n")  # for both programs
        command = ("-m", "supervisor.supervisord", "-c", str(CONF))
        async with process(folder, *command, cwd=folder, **settings) as one:
            one.url = f"http://127.0.0.1:{settings['SERVER_PORT']}"
            one.settings = environment(**settings)
            await answers(one)
            yield Supervised(one, settings, who)


@pytest.mark.long
async def test_both_run_come_back_when_killed_and_stop_without_a_trace(
    supervised: Supervised,
) -> None:
    server = supervised.server
    first = await supervised.all_run()
    told = await supervised.told()
    await _each_has_its_account_and_grafana_knows_no_secret_of_vpt(supervised, first, told)
    async with client(server) as session:
        test_case_id = await make(session, "a")
        killed = {first["vpt"], told["pid"]}
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        again = await supervised.all_run(but=killed)
        await answers(server)
        assert sorted(again) == ["grafana", "vpt"]
        await _all_is_well(supervised)
        left = [await ask(session, "GET", f"/api/{path}") for path in PATHS]
        assert [item["id"] for things in left for item in things["items"]] == [test_case_id]
    await supervised.status()
    began = time.monotonic()
    assert await server.stop() == 0
    assert time.monotonic() - began < limits()["vpt"]
    assert "stopped: vpt (exit status 0)" in server.said()
    assert "killing" not in server.said()
    assert [one for one in supervised.seen if _lives(one)] == []
    assert len(supervised.seen) > 5, "PostgreSQL's are among them"
    assert server.said().count('"event":"server_stopped"') == 1, server.said()
    assert server.said().count("stand-in Grafana listens") == 2
    assert sorted(path.name for path in server.log.parent.iterdir()) == sorted(
        [".env", "commands", "data", "docker.log", "tmp", server.log.name]
    )


async def _each_has_its_account_and_grafana_knows_no_secret_of_vpt(
    supervised: Supervised, pids: dict[str, int], told: Any
) -> None:
    vpt, grafana = supervised.accounts.vpt, supervised.accounts.grafana
    assert psutil.Process(pids["vpt"]).username() == vpt
    assert (told["uid"], told["pid"]) == (pwd.getpwnam(grafana).pw_uid, pids["grafana"])
    assert 0 not in told["groups"] or grafana == "root"
    env = told["env"]
    assert env["VPT_GRAFANA_DB_ADDRESS"] == f"127.0.0.1:{supervised.settings['VPT_PG_PORT']}"
    kept = supervised.settings["VPT_DATA_DIR"]
    for name in ("VPT_GRAFANA_DB_PASSWORD", "GRAFANA_SECRET_KEY", "GRAFANA_ADMIN_PASSWORD"):
        assert env[name] == (kept / name.lower()).read_text()
    assert not {SECRET, JOIN_TOKEN} & set(env.values())
    assert not {"SECRET_KEY", "HOST_JOIN_TOKEN"} & set(env)
    conf = CONF.read_text(encoding="utf-8")
    assert not [name for name in env if name in conf and ("PASSWORD" in name or "KEY" in name)]


async def _all_is_well(supervised: Supervised) -> None:
    """Let the smoke script do what it does with the container."""
    log = supervised.server.log.parent / "docker.log"
    smoke = await asyncio.create_subprocess_exec(
        str(ROOT / "deploy" / "compose-smoke"),
        env=supervised.server.settings
        | {"DOCKER_LOG": str(log), "GRAFANA_URL": supervised.grafana, "URL": supervised.server.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await smoke.communicate()
    assert smoke.returncode == 0, said.decode()
    for words in ("a campaign completed", "Grafana is well", "all is well", " tables and "):
        assert words in said.decode()
    done = [line.split()[0] for line in log.read_text().splitlines()]
    assert done == ["up", "exec", "exec", "exec", "exec", "exec", "down"]


def _lives(one: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return one.is_running() and one.status() != psutil.STATUS_ZOMBIE
    return False
