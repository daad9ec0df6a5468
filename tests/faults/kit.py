"""What the fault tests kill, stop and look at: a PostgreSQL of their own, and what was logged."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import asyncpg

from tests.actors.fake_host import until
from tests.clusters import copy_cluster
from tests.host.kit import alive
from tests.system.kit import Process, ask
from vpt import embedded
from vpt.model import Json

#: Hosts are missed soon, and a run is given up soon.
SOON = {
    "HOST_PROBE_INTERVAL": 0.2,
    "HOST_PROBE_TIMEOUT": 0.5,
    "HOST_LOST_AFTER": 4,
    "RUN_GRACE": 2.5,
    "CANCEL_GRACE": 30,
}
#: Seconds in which a run of a host that went away is final, or on its next attempt.
BOUND = 4 * (1.2 * 0.2 + 0.5) + 2.5
SLACK = 1.0  # seconds that a machine with other work may take on top


class Postgres:
    """A PostgreSQL of the test's own, at the same place whenever it runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: embedded.EmbeddedPostgres | None = None
        self.dsn = ""

    async def start(self) -> None:
        if not (self._folder / "pg").exists():
            copy_cluster(self._folder)
        self._server = await embedded.start(self._folder)
        self.dsn = self._server.dsn

    async def stop(self) -> None:
        """Stop it in order: connections are broken, new ones refused."""
        if self._server is not None:
            await self._server.stop()
            self._server = None

    async def kill(self) -> None:
        """End its first process as a crash would, and let nobody start it again."""
        server = self._server
        assert server is not None and server._watchdog is not None
        server._watchdog.cancel()
        pid = server.pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not alive(pid))
        await self.stop()

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(sql, *args))
        finally:
            await connection.close()

    async def cut(self) -> int:
        """Break all connections of others; give how many there were."""
        rows = await self.fetch(
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
            """
        )
        return len(rows)


class Way:
    """The way over the network to a database; it can swallow all that goes over it.

    That is what a firewall or a dead switch does: nothing is refused, nothing breaks off.
    """

    def __init__(self, dsn: str) -> None:
        """Lead to where `dsn`, which names a socket's folder, leads."""
        self._far = urlsplit(dsn)
        self._free = asyncio.Event()
        self._free.set()
        self._carriers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def dsn(self) -> str:
        """Where to connect to, instead of to the database itself."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        who = f"{self._far.username}:{self._far.password}"
        return f"postgresql://{who}@127.0.0.1:{port}{self._far.path}"

    def swallow(self) -> None:
        self._free.clear()

    def heal(self) -> None:
        self._free.set()

    async def __aenter__(self) -> Way:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for carrier in self._carriers:
            carrier.cancel()
        await asyncio.gather(*self._carriers, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._carriers.add(asyncio.create_task(self._carry(reader, writer)))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = parse_qs(self._far.query)
        socket = f"{asked['host'][0]}/.s.PGSQL.{asked['port'][0]}"
        try:
            await self._free.wait()
            with suppress(OSError):
                far_reader, far_writer = await asyncio.open_unix_connection(socket)
                try:
                    await asyncio.gather(
                        self._pump(reader, far_writer), self._pump(far_reader, writer)
                    )
                finally:
                    far_writer.transport.abort()
        finally:
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._free.wait()
            writer.write(data)
        writer.close()


@asynccontextmanager
async def postgres(folder: Path) -> AsyncIterator[Postgres]:
    """Run a PostgreSQL whose data stand in `folder`."""
    one = Postgres(folder)
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


def events(one: Process, name: str) -> list[Json]:
    """Give what the server logged under this name."""
    lines = [line for line in one.said().splitlines() if line.startswith("{")]
    return [entry for entry in map(json.loads, lines) if entry["event"] == name]


async def host_is(session: aiohttp.ClientSession, name: str, *statuses: str) -> Json:
    """Wait until a host has one of these statuses; give what REST says of it."""

    async def look() -> Json | None:
        async with session.get(f"/api/hosts/{name}/status") as response:
            host: Json = await response.json()
            return host if response.ok and host["status"] in statuses else None

    found: Json = await until(look)
    return found


async def reason(session: aiohttp.ClientSession, execution_id: str) -> str | None:
    """Say why an execution waits."""
    answer = await ask(session, "GET", f"/api/executions/{execution_id}/queue")
    told: str | None = answer["reason"]
    return told


def kinds(execution: Json) -> list[tuple[str, str | None]]:
    """Give host and error kind of each attempt."""
    return [(item["host"], item["error_kind"]) for item in execution["attempts"]]


async def grown(path: Path, word: str) -> None:
    """Wait until a step has written that into its file."""
    await until(lambda: path.exists() and word in path.read_text().split(), 30)


def stopped(one: Process) -> None:
    """Stop a process where it stands, as a machine that hangs."""
    one.child.send_signal(signal.SIGSTOP)


def continued(one: Process) -> None:
    """Let a stopped process go on."""
    one.child.send_signal(signal.SIGCONT)


async def all_of(*work: Any) -> list[Any]:
    """Do these at once; give what each gave."""
    return list(await asyncio.gather(*work))


def check_calm(*servers: Process) -> None:
    """See that no server logged a traceback."""
    for one in servers:
        for line in one.said().splitlines():
            assert "Traceback" not in line, line.replace("\\n", "\n")
