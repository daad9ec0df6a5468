"""The database says farewell between two queries, and its connection lingers."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from vpt.errors import DatabaseAwayError
from vpt.store.db import Database

SOCKET = ".s.PGSQL.5432"


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: asyncio.Event
) -> None:
    """Pass on what is said, but never that the speaker hung up."""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            writer.write(piece)
    heard.set()
    await asyncio.Event().wait()


@pytest.fixture
async def lingering(dsn: str) -> AsyncIterator[tuple[Database, asyncio.Event]]:
    """Give a database behind a line that outlives it, and an event: it has hung up."""
    folder, hung_up = Path(tempfile.mkdtemp(prefix="vpt-line-")), asyncio.Event()
    there = Path(parse_qs(urlsplit(dsn).query)["host"][0]) / SOCKET
    lines: list[asyncio.Task[None]] = []
    ends: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(there)
        ends.extend((writer, far_writer))
        for ears, mouth in ((reader, far_writer), (far_reader, writer)):
            event = hung_up if ears is far_reader else asyncio.Event()
            lines.append(asyncio.create_task(_pass_on(ears, mouth, event)))

    server = await asyncio.start_unix_server(answer, folder / SOCKET)
    db = Database(dsn.replace(str(there.parent), str(folder)))
    await db.open()
    yield db, hung_up
    db._pool.terminate()  # nobody answers a goodbye there
    server.close()
    for line in lines:
        line.cancel()
    await asyncio.gather(*lines, return_exceptions=True)
    for end in ends:
        end.close()
    shutil.rmtree(folder)


async def _cut_all(dsn: str) -> None:
    other = await asyncpg.connect(dsn)
    await other.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await other.close()


async def test_a_farewell_between_two_queries_is_a_database_that_is_away(
    lingering: tuple[Database, asyncio.Event], dsn: str
) -> None:
    db, hung_up = lingering
    assert await db.rows("lab_hosts") == []
    await _cut_all(dsn)
    await hung_up.wait()
    with pytest.raises(DatabaseAwayError):
        await db.rows("lab_hosts")
    assert await db.rows("lab_hosts") == []  # by another connection, though that one lingers


async def test_so_it_is_in_a_session(lingering: tuple[Database, asyncio.Event], dsn: str) -> None:
    db, hung_up = lingering
    await _cut_all(dsn)
    await hung_up.wait()
    with pytest.raises(DatabaseAwayError):
        async with db.session() as session:
            await session.rows("lab_hosts")
    async with db.transaction() as session:
        assert await session.rows("lab_hosts") == []
