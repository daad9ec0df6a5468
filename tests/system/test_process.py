"""The server as a process: it starts, it dies, it is started again, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import socketio

from tests.actors.fake_host import FakeHost, Gate
from tests.conftest import TEMPLATE, Postgres, other_database
from tests.system.kit import (
    ROOT,
    SECRET,
    answers,
    ask,
    client,
    environment,
    execute,
    free_port,
    joined,
    make,
    process,
    server,
)
from vpt.model import Role
from vpt.store.tokens import issue_token


@pytest.fixture(scope="module")
def rivals(postgres: Postgres) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    """Start two servers on one database, the second when the first has it."""
    asyncio.run(postgres.statement(f"CREATE DATABASE vpt_rivals TEMPLATE {TEMPLATE}"))
    dsn = other_database(postgres.dsn, "vpt_rivals")
    with tempfile.TemporaryDirectory() as data:
        first = _serve(dsn, data)
        assert first.stderr is not None
        while "server_started" not in (line := first.stderr.readline()):
            assert line, "the first one did not start"
        second = _serve(dsn, data)
        yield first, second
        for one in (first, second):
            one.terminate()
            one.communicate(timeout=30)


def _serve(dsn: str, data: str) -> subprocess.Popen[str]:
    settings = {
        "DATABASE_URL": dsn,
        "SERVER_PORT": free_port(),
        "VPT_DATA_DIR": data,
        "LOG_FORMAT": "json",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "vpt", "serve"],
        env=environment(PYTHONPATH=ROOT, **settings),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module", autouse=True)
def _rivals_begin(rivals: object) -> None:
    """Let the second one wait its 15 s while the other tests run."""


# ---------------------------------------------------------------- SIGTERM


async def test_sigterm_ends_it_soon_whoever_is_connected_and_whatever_is_in_flight(
    tmp_path: Path, dsn: str
) -> None:
    settings = {"DATABASE_URL": dsn, "SHUTDOWN_GRACE": 0.5}
    async with (
        server(tmp_path, **settings) as one,
        client(one) as session,
        joined(session, FakeHost(model="desktop")) as host,
    ):
        gate = Gate()
        host.on("a", gate.held())
        page = socketio.AsyncClient(reconnection=False)
        token = issue_token(SECRET, "ann", Role.VIEWER, 1)
        await page.connect(one.url, auth={"token": token}, transports=["websocket"])
        execution_id = await execute(session, await make(session, "a", "b"))
        await gate.reached()
        path = f"/api/executions/{execution_id}?wait=60"
        waiting = asyncio.create_task(ask(session, "GET", path))
        await asyncio.sleep(0.2)  # it is on its way
        began = time.monotonic()
        assert await one.stop() == 0
        assert time.monotonic() - began < 6
        await asyncio.gather(waiting, return_exceptions=True)
        await page.disconnect()
        connection = await asyncpg.connect(dsn)
        status = await connection.fetchval("SELECT status FROM test_executions")
        left = await connection.fetch("SELECT id FROM server_instance")
        await connection.close()
        assert (status, left) == ("running", [])
        assert "Traceback" not in one.said()
        async with server(tmp_path, **settings, SERVER_PORT=one.url.rpartition(":")[2]) as again:
            await answers(again)
            gate.open()
            execution = await ask(session, "GET", path)
        assert (execution["status"], host.commands()) == ("completed", ["a", "a", "b"])


async def test_an_idle_server_stops_at_once_and_says_so(tmp_path: Path, dsn: str) -> None:
    async with server(tmp_path, DATABASE_URL=dsn) as one:
        began = time.monotonic()
        one.child.send_signal(signal.SIGINT)
        assert await one.ended() == 0
        assert time.monotonic() - began < 4
        events = [json.loads(line)["event"] for line in one.said().splitlines()]
        assert events[-1] == "server_stopped"


async def test_nothing_is_unpacked_for_strangers(tmp_path: Path, dsn: str) -> None:
    """A megabyte may be a gigabyte, and the loop stands still for it; aiohttp knows no brotli."""
    async with server(tmp_path, DATABASE_URL=dsn) as one, client(one) as session:
        packed = {"Content-Encoding": "br"}
        answer = await session.post("/api/testcases", data=b"x", headers=packed)
        assert (await answer.json())["error"] == "The body is compressed: send it uncompressed."


# ---------------------------------------------------------------- starts that fail


async def test_wrong_settings_are_all_named_in_one_line(tmp_path: Path) -> None:
    settings = {
        "SERVER_PORT": "many",
        "HOST_PROBE_INTERVAL": "-1",
        "SECRET_KEY": "short",
        "SUPABASE_JWT_SECRET": "short, too",
        "MAX_BODY": "much",
        "DATABASE_URL": "mysql://here",
    }
    async with server(tmp_path, wait=False, **settings) as one:
        assert await one.ended() == 4
    [line] = one.said().splitlines()
    assert all(name in line for name in settings), line


@pytest.mark.parametrize(
    "url",
    ["postgresql://vpt:hush@127.0.0.1:1/vpt", "postgresql://vpt:hush@/vpt?host=/nowhere"],
)
async def test_a_database_that_is_not_there_is_told_in_one_line(tmp_path: Path, url: str) -> None:
    async with server(tmp_path, wait=False, DATABASE_URL=url) as one:
        assert await one.ended() == 2
    [line] = one.said().splitlines()
    assert "hush" not in line
    assert "atabase" in line


async def test_a_port_in_use_is_told_in_one_line(tmp_path: Path, dsn: str) -> None:
    listener = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    taken = listener.sockets[0].getsockname()[1]
    settings = {"DATABASE_URL": dsn, "SERVER_PORT": taken}
    async with server(tmp_path, wait=False, **settings) as one:
        assert await one.ended() == 2
    listener.close()
    await listener.wait_closed()
    assert "Traceback" not in one.said()
    assert one.said().splitlines()[-1].startswith("Error:")


# ---------------------------------------------------------------- other databases


async def test_an_external_database_works_the_same(tmp_path: Path, external: str) -> None:
    async with (
        server(tmp_path, DATABASE_URL=external) as one,
        client(one) as session,
        joined(session, FakeHost(model="desktop")) as host,
    ):
        info = await ask(session, "GET", "/api/system/info")
        assert info["database"]["mode"] == "external"
        execution_id = await execute(session, await make(session, "a", "b"))
        execution = await ask(session, "GET", f"/api/executions/{execution_id}?wait=30")
        assert (execution["status"], len(host.actions)) == ("completed", 2)
        assert await one.stop() == 0
        assert "secret" not in one.said()
    assert not (tmp_path / "pg").exists(), "no embedded database was made"


# ---------------------------------------------------------------- installed


async def test_an_installed_package_works_from_elsewhere(tmp_path: Path, empty_dsn: str) -> None:
    source, target, elsewhere = tmp_path / "source", tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("vpt", "sql", "grafana"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = ("-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(source))
    async with process(tmp_path, *pip, cwd=elsewhere) as installing:
        assert await installing.ended() == 0, installing.said()
    shutil.rmtree(source)
    more = {"PYTHONPATH": target, "cwd": elsewhere}
    async with process(tmp_path, "-c", "import vpt; print(vpt.__file__)", **more) as which:
        await which.ended()
        assert which.said().strip() == str(target / "vpt" / "__init__.py")
    for folder in ("grafana", "vpt/web/console"):
        shipped, there = ROOT / folder, target / "vpt" / folder.removeprefix("vpt/")
        for path in shipped.rglob("*.*"):
            assert (there / path.relative_to(shipped)).exists(), path
    async with server(tmp_path, DATABASE_URL=empty_dsn, **more) as one, client(one) as session:
        assert (await ask(session, "GET", "/api/testcases"))["items"] == []
        async with session.get("/") as response:
            assert response.status == 200
            assert "<html" in await response.text()
        assert await one.stop() == 0


# ---------------------------------------------------------------- rivals


async def test_a_second_server_on_the_same_database_refuses_in_one_line(rivals: Any) -> None:
    first, second = rivals
    _, said = await asyncio.to_thread(second.communicate, timeout=30)
    assert second.returncode == 2
    lines = [line for line in said.splitlines() if "Error" in line]
    assert len(lines) == 1
    assert "Traceback" not in said
    assert "Another vpt server uses this database" in lines[0]
    assert first.poll() is None
