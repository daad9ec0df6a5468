"""Fixtures of the system tests: a folder for PostgreSQL, and a PostgreSQL of somebody else's."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.actors.fake_host import until
from tests.system.kit import free_port, open_folder
from vpt import embedded

DEBIAN = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that PostgreSQL may use, which as root is another user."""
    with open_folder() as folder:
        yield folder


@pytest.fixture
async def external(folder: Path) -> AsyncIterator[str]:
    """Give a PostgreSQL of somebody else's, over TCP: Debian's 15, or else our own on a port."""
    if not DEBIAN.is_dir():
        port = free_port()
        started = await embedded.start(folder / "pg", port=port)
        password = (folder / "pg" / "pg.password").read_text()
        yield f"postgresql://vpt:{password}@127.0.0.1:{port}/vpt"
        await started.stop()
        return
    data = folder / "pg15"
    data.mkdir()
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(data, "postgres")
        user = {"user": "postgres"}
    secret = folder / "password"
    secret.write_text("it's a secret / of 15")
    secret.chmod(0o644)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    made = await asyncio.create_subprocess_exec(
        *(str(DEBIAN / "initdb"), "-N", "-D", str(data), "-U", "vpt", "-A", "scram-sha-256"),
        *("--pwfile", str(secret)),
        **user,
        **quiet,
    )
    assert await made.wait() == 0
    while True:  # a port that was free may be taken a moment later: then with another one
        port = free_port()
        running = await asyncio.create_subprocess_exec(
            *(str(DEBIAN / "postgres"), "-D", str(data), "-p", str(port), "-k", ""),
            *("-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"),
            **user,
            **quiet,
        )
        url = f"postgresql://vpt:it%27s%20a%20secret%20%2F%20of%2015@127.0.0.1:{port}/postgres"
        ready = asyncio.create_task(until(lambda url=url: _reachable(url), 30))
        ended = asyncio.create_task(running.wait())
        await asyncio.wait([ready, ended], return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            break
        ready.cancel()
    await ready
    ended.cancel()
    yield url
    running.send_signal(signal.SIGINT)
    await running.wait()


async def _reachable(url: str) -> bool:
    try:
        await (await asyncpg.connect(url)).close()
    except (OSError, asyncpg.PostgresError):
        return False
    return True
