"""The processes that chaos breaks: a database, a server, hosts; each can be started again.

All are children in sessions of their own; the kernel ends them when the bench itself is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import asyncpg
from lab import clean_environment, die_with_parent, end
from proxy import CuttableProxy

from vpt import embedded

_POLL = 0.1  # seconds between looks whether a server answers
_CUT = """
SELECT pg_terminate_backend(pid)
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
#: Errors in the log that say how a run ended.
_NO_MISTAKE = ("test_execution_failed",)
_AGAIN = 0.5  # seconds before a server that could not start is started again


def quiet_port() -> int:
    """Return a free port of 127.0.0.1 below the range that the OS assigns to clients."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


async def _start(
    command: tuple[str, ...], settings: dict[str, str], folder: Path, log: Path
) -> asyncio.subprocess.Process:
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vpt", *command),
            env={**clean_environment(), **settings},
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


class DatabaseProcess:
    """The database, which is restarted while all other processes run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: embedded.EmbeddedPostgres | None = None
        self.dsn = ""

    async def start(self) -> None:
        """Start it on the existing data."""
        self._server = await embedded.start(self._folder)
        self.dsn = self._server.dsn

    async def stop(self) -> None:
        """Stop it as an operator does: connections are closed, nothing is lost."""
        if self._server is not None:
            await self._server.stop()
            self._server = None

    async def cut(self) -> None:
        """Close all connections to it, as a failing network or a pooler does."""
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            connection = await asyncpg.connect(self.dsn)
            await connection.execute(_CUT)
            await connection.close()

    def crash(self) -> None:
        """End it at once, without a checkpoint; its watchdog restarts it, and it recovers."""
        if self._server is not None:
            os.kill(self._server.pid, signal.SIGQUIT)


class ServerProcess:
    """`vpt serve`, restarted whenever it ends, as an init system does."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self._folder = folder
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._killed = False
        self.url = f"http://127.0.0.1:{settings['SERVER_PORT']}"
        self.log = folder / "server.log"
        self.ready = asyncio.Event()
        self.starts = 0
        self.surprises: list[str] = []  # how it ended though nobody killed it

    def begin(self) -> None:
        """Keep it running from now on."""
        self._keeper = asyncio.create_task(self._keep(), name="server")

    async def close(self) -> int:
        """Stop it cleanly and return its exit code."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._process is None:
            return 0
        self.go_on()
        await end(self._process)
        return self._process.returncode or 0

    def kill(self) -> bool:
        """Kill it with SIGKILL; return False when there is nothing to kill now."""
        if self._process is None or self._process.returncode is not None:
            return False
        self._killed = True
        self.ready.clear()
        self._process.kill()
        return True

    def freeze(self) -> None:
        """Freeze it (SIGSTOP); its connections stay open."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Continue it (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _keep(self) -> None:
        while True:
            self._killed = False
            self._process = await _start(("serve",), self._settings, self._folder, self.log)
            self.starts += 1
            answers = asyncio.create_task(self._answers(), name="server answers")
            try:
                code = await self._process.wait()
            finally:
                answers.cancel()
                await asyncio.gather(answers, return_exceptions=True)
            if self.ready.is_set() and not self._killed:
                self.surprises.append(f"the server ended by itself, exit code {code}")
            self.ready.clear()
            if not self._killed:
                await asyncio.sleep(_AGAIN)

    async def _answers(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"{self.url}/api/health/ready") as response:
                        if response.status == 200:
                            self.ready.set()
                            return
                await asyncio.sleep(_POLL)


def mistakes(log: Path) -> Iterator[str]:
    """Return the log lines that injected faults alone do not explain."""
    for line in log.read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            record = {"level": "error" if line.startswith("Traceback") else "info"}
        if record.get("level") in {"error", "critical"} and record.get("event") not in _NO_MISTAKE:
            yield f"{log}: {line[:300]}"


class HostProcess:
    """A reference host; its journal and the effects of its steps outlive its processes."""

    def __init__(self, name: str, folder: Path, url: str, token: str, number: int) -> None:
        """Make it; every second one has a wire, every third one has two devices.

        One with a wire listens on one port for ever, any other on a new one with each start.
        """
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.harmed = False
        self._settings = {"HOST_JOIN_TOKEN": token, "ACTS": str(self.folder / "acts")}
        self._command = ("host", "--server", url, "--name", name, "--allow-shell")
        self._command += ("--data-dir", str(self.folder / "data"), "--heartbeat", "2")
        self._command += ("--pass-env", "ACTS")
        self.log = self.folder / "host.log"
        self.devices = ("a", "b") if number % 3 == 0 else ("a",)
        for device in self.devices:
            self._command += ("--device", f"desktop={device}")
        self._port = quiet_port()
        self.proxy = CuttableProxy(self._port) if number % 2 == 0 else None
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start its process; the effects of steps are in its folder."""
        if self.proxy is not None and self._process is None:
            url = await self.proxy.open()
            self._command += ("--listen", f"127.0.0.1:{self._port}", "--advertise", url)
        self._process = await _start(self._command, self._settings, self.folder, self.log)

    async def close(self) -> None:
        """End its process, even one that was stopped."""
        if self._process is not None:
            self.go_on()
            await end(self._process)
        if self.proxy is not None:
            await self.proxy.close()

    async def kill(self) -> None:
        """Kill it with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    def freeze(self) -> None:
        """Freeze it (SIGSTOP); its connections stay open."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Continue it (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def check(self) -> str | None:
        """Return how it ended, if it was not killed."""
        if self._process is None or self._process.returncode is None:
            return None
        return f"host {self.name} ended by itself, exit code {self._process.returncode}"

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
