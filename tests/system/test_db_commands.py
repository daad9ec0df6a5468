"""`vpt db`: from the own database to a server of one's own, and back."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.grafana.conftest import as_role
from tests.system.kit import ROOT, SECRET, environment, process
from tests.test_backup import (
    SEED,
    connected,
    everything,
    execute,
    keep_pictures,
    pictures,
)
from vpt import embedded
from vpt.store.migrations import migrate


async def said(folder: Path, *command: str, code: int = 0, **settings: Any) -> str:
    """Run `vpt db ...` to its end; give what it said."""
    settings = {"SECRET_KEY": SECRET, "LOG_FORMAT": "json"} | settings
    async with process(folder, "-m", "vpt", "db", *command, **settings) as one:
        assert await one.ended() == code, one.said()
        assert "Traceback" not in one.said()
        return one.said()


async def piped(source: dict[str, Any], target: dict[str, Any]) -> None:
    """Let one command's output be the other's input."""
    reading, writing = os.pipe()
    children = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vpt", "db", command, "-"),
            env=environment(PYTHONPATH=ROOT, SECRET_KEY=SECRET, **settings),
            **{way: end},
        )
        for command, settings, way, end in (
            ("dump", source, "stdout", writing),
            ("load", target, "stdin", reading),
        )
    ]
    os.close(reading)
    os.close(writing)
    assert [await child.wait() for child in children] == [0, 0]


async def there(place: Path, dsn: str) -> tuple[dict[str, list[str]], dict[str, bytes]]:
    """Give all that a place has, but where its page is, which the command says anew."""
    rows = await everything(dsn)
    del rows["grafana_page"]
    return rows, pictures(place)


@pytest.mark.long
async def test_from_the_own_database_to_a_server_and_back(
    tmp_path: Path, folder: Path, external: str
) -> None:
    own, others, again = (folder / name for name in ("own", "others", "again"))
    file = str(tmp_path / "lab.vpt")
    nowhere = str(tmp_path / "no" / "folder")
    server = await embedded.start(own)
    try:
        await migrate(server.dsn)
        await execute(server.dsn, SEED)
        keep_pictures(own)
        before = await there(own, server.dsn)
        told = await said(tmp_path, "dump", file, VPT_DATA_DIR=own)
        assert "tables and 3 screenshots" in told
    finally:
        await server.stop()
    settings = {
        "DATABASE_URL": external,
        "VPT_DATA_DIR": others,
        "VPT_GRAFANA_DB_PASSWORD": "to read",
    }
    assert "exists already" in await said(tmp_path, "dump", file, code=4, **settings)
    assert "No such file" in await said(tmp_path, "load", f"{file}2", code=4, **settings)
    assert "nothing to dump" in await said(tmp_path, "dump", f"{file}2", code=2, **settings)
    assert " tables " in await said(tmp_path, "load", file, **settings)
    assert await there(others, external) == before
    async with connected(as_role(external, "to read")) as reader:
        assert await reader.fetchval("SELECT count(*) FROM hosts") == 2
    assert "No such file" in await said(tmp_path, "dump", nowhere, code=2, **settings)
    assert "--force" in await said(tmp_path, "load", file, code=2, **settings)
    await piped(settings, {"VPT_DATA_DIR": again})
    server = await embedded.start(again)
    try:
        assert await there(again, server.dsn) == before
    finally:
        await server.stop()
