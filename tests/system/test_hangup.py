"""SIGHUP: another log level, or the end of the terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.actors.fake_host import until
from tests.system.kit import LIMIT, ROOT, SECRET, ask, client, environment, free_port, server


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Give both ends of a terminal; the test may close the first."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            assert end == ends[0]


async def test_another_level_is_read_from_the_file(dsn: str, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    settings = {"DATABASE_URL": dsn, "PYTHONPATH": ROOT, "LOG_LEVEL": "warning"}
    async with server(tmp_path, cwd=tmp_path, **settings) as one, client(one) as session:
        await ask(session, "GET", "/api/hosts")
        assert "http_request" not in one.said()
        for text, event in (
            ("LOG_LEVEL=info", '"log_level":"info"'),
            ("LOG_LEVEL=loud", "log_level_not_changed"),
        ):
            file.write_text(text)
            one.child.send_signal(signal.SIGHUP)
            await until(lambda event=event: event in one.said())
            await ask(session, "GET", "/api/devices")
        assert one.said().count("/api/devices") == 2
        file.unlink()
        one.child.send_signal(signal.SIGHUP)
        await until(lambda: '"log_level":"warning"' in one.said())
        await ask(session, "GET", "/api/testcases")
        assert "/api/testcases" not in one.said()
        assert await one.stop() == 0


async def test_a_server_ends_with_its_terminal(
    dsn: str, tmp_path: Path, terminal: tuple[int, int]
) -> None:
    theirs, ours = terminal
    settings = {
        "DATABASE_URL": dsn,
        "PYTHONPATH": ROOT,
        "VPT_DATA_DIR": tmp_path,
        "SERVER_PORT": free_port(),
        "SECRET_KEY": SECRET,
    }
    log = tmp_path / "log"
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vpt", "serve"),
            env=environment(**settings),
            cwd=tmp_path,
            stdin=ours,
            stdout=output,
            stderr=output,
        )
    try:
        await until(lambda: "server_started" in log.read_text(), LIMIT)
        child.send_signal(signal.SIGHUP)
        await until(lambda: "log_level_changed" in log.read_text())
        os.close(theirs)
        child.send_signal(signal.SIGHUP)
        assert await asyncio.wait_for(child.wait(), LIMIT) == 0
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
