"""What is attacked: a server, hosts, and the prober that asks all of them meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import hosts
from attack_process import Memory, prefer
from lab import BENCH, BenchLab, end, free_port
from raw_http import BadAnswerError

from vpt.model import Role
from vpt.store.tokens import issue_token

Json = dict[str, Any]

#: Hosts that must stay available: the instant one, and the reference host.
GOOD = ("b-1", "reference")
#: Whom the prober asks; the bystander is the instant host, which nobody attacks: how long it takes
#: to answer is what the machine costs.
SERVER, HOST, BYSTANDER = "server", "host", "bystander"
#: Few descriptors, and bodies as large as somebody may have allowed.
STRICT: Json = {"MAX_BODY": "64MiB", "descriptors": 1024}
_START_S = 60.0
_PAUSE, _SMALL_PAUSE = 0.008, 0.03  # seconds between two probes of a target
NO_CONTENT = 204
#: Of all but the attackers, in the full run: what else the machine does is none of their doing.
_PRECEDENCE = -10


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    small: bool
    only: tuple[str, ...]
    match: str
    seconds: float
    each: bool = False


class AttackLab:
    """One server with its hosts: `async with AttackLab(...) as lab`."""

    def __init__(
        self, bench: BenchLab, settings: Json, probe_interval: float, *, first: bool
    ) -> None:
        """Start `vpt serve` on the database of `bench` when it is entered.

        With `first` all processes go before whatever else the machine does, where that is allowed.
        """
        self.bench = bench
        self.port = free_port()
        self.pids: dict[str, int] = {}
        self.tokens = {
            role.value: issue_token(bench.secret, role.value, role, 1)
            for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN)
        } | {"join": bench.join_token, "": ""}
        self.host_port = free_port()
        self.bad_url = ""
        self._settings = settings
        self._interval = probe_interval
        self._first = first
        self._processes: list[asyncio.subprocess.Process] = []
        self._prober: asyncio.subprocess.Process | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> AttackLab:
        """Start all, and wait until the hosts are available."""
        try:
            await self._start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all; the database stays."""
        if self._session is not None:
            await self._session.close()
        for process in reversed(self._processes):
            await end(process)

    @property
    def url(self) -> str:
        """Return the URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    async def ask(
        self, method: str, path: str, body: Json | None = None, who: str = "admin"
    ) -> Any:
        """Send a request and return the JSON of a good answer."""
        assert self._session is not None
        headers = {"Authorization": f"Bearer {self.tokens[who]}"}
        async with self._session.request(method, path, json=body, headers=headers) as response:
            answer = await response.json() if response.status != NO_CONTENT else None
            if not response.ok:
                raise BadAnswerError(f"{method} {path}: {response.status} {answer}")
            return answer

    async def measure(self) -> Json:
        """Return what the prober measured since the last call, by target."""
        assert self._prober is not None
        assert self._prober.stdin is not None
        assert self._prober.stdout is not None
        self._prober.stdin.write(b"\n")
        line = await self._prober.stdout.readline()
        if not line:
            raise BadAnswerError(f"the prober ended:\n{self.bench.tail('prober')}")
        measured: Json = json.loads(line)
        return measured

    async def send(self, job: Json, victim: str) -> list[Json]:
        """Let an attacker do its job and return what it did."""
        port = self.host_port if victim == HOST else self.port
        job = {"port": port, "pid": self.pids[victim], "seconds": 0, **job}
        items: Any = await self.bench.ask("attack_sender.py", job)
        return list(items)

    async def join_bad(self, names: dict[str, str]) -> None:
        """Register hosts that answer badly: the path below the bad host's URL, by name."""
        for name, path in names.items():
            card = hosts.card(name, f"{self.bad_url}/{path}", 1)
            await self.ask("POST", "/api/hosts/register", card, "join")

    async def delete_host(self, name: str) -> None:
        """Delete a host."""
        await self.ask("DELETE", f"/api/hosts/{name}")

    async def statuses(self) -> dict[str, str]:
        """Return the status of each host."""
        items = (await self.ask("GET", "/api/hosts?limit=1000"))["items"]
        return {host["id"]: host["status"] for host in items}

    async def until_available(self, *names: str) -> None:
        """Wait until these hosts are available."""
        async with asyncio.timeout(_START_S):
            while True:
                statuses = await self.statuses()
                if all(statuses.get(name) == "available" for name in names):
                    return
                await asyncio.sleep(0.1)

    def memory(self) -> int:
        """Return the bytes of the server's memory."""
        return Memory(self.pids[SERVER]).resident()

    @property
    def log(self) -> Path:
        """Return the server's log."""
        return self.bench.folder / "server.log"

    def events(self, offset: int) -> Iterator[Json]:
        """Return the lines of the server's log from `offset` on."""
        with self.log.open("rb") as log:
            log.seek(offset)
            for line in log:
                with contextlib.suppress(ValueError):
                    yield json.loads(line)

    # ------------------------------------------------------------ what is started

    async def _start(self) -> None:
        await self._serve()
        self._session = aiohttp.ClientSession(self.url)
        await self._start_reference_host()
        await hosts.join(
            *(self.url, self.bench.join_token, self.tokens["viewer"]),
            [hosts.card(GOOD[0], self.bench.host_url, 1)],
        )
        await self.until_available(*GOOD)
        self.bad_url = await self._start_bad_host()
        await self._start_prober()
        if self._first:
            for pid in (*self.pids.values(), self.bench.pids["db"], self.bench.host_pid):
                prefer(pid, _PRECEDENCE)

    async def _serve(self) -> None:
        settings = dict(self._settings)
        descriptors = settings.pop("descriptors", None)
        limit = "" if descriptors is None else f"ulimit -n {descriptors}; "
        process = await self._run(
            SERVER,
            ["sh", "-c", f'{limit}exec "$0" -m vpt serve', sys.executable],
            {
                "DATABASE_URL": self.bench.dsn,
                "HOST_JOIN_TOKEN": self.bench.join_token,
                "HOST_PROBE_INTERVAL": str(self._interval),
                "INFRA_RETRIES": "0",
                "LOG_FORMAT": "json",
                "MIN_FREE_DISK": "0",
                "SECRET_KEY": self.bench.secret,
                "SERVER_PORT": str(self.port),
                "VPT_DATA_DIR": str(self.bench.folder / "vpt"),
                **settings,
            },
        )
        await self.bench.answers(SERVER, self.port, process)

    async def _start_reference_host(self) -> None:
        folder = self.bench.folder / GOOD[1]
        command = [sys.executable, "-m", "vpt", "host", "--server", self.url, "--name", GOOD[1]]
        command += ["--listen", f"127.0.0.1:{self.host_port}", "--data-dir", str(folder)]
        await self._run(HOST, command, {"HOST_JOIN_TOKEN": self.bench.join_token})
        await self.until_available(GOOD[1])
        self.tokens[HOST] = (folder / "host_secret").read_text("ascii").strip()

    async def _start_bad_host(self) -> str:
        command = [sys.executable, str(BENCH / "attack_host.py")]
        process = await self._run("bad host", command, {}, piped=True)
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        if not url:
            raise BadAnswerError(f"attack_host.py did not start:\n{self.bench.tail('bad host')}")
        return url

    async def _start_prober(self) -> None:
        command = [sys.executable, str(BENCH / "attack_prober.py")]
        self._prober = await self._run("prober", command, {}, piped=True)
        assert self._prober.stdin is not None
        bystander = int(self.bench.host_url.rpartition(":")[2])
        targets = {
            SERVER: (self.port, "/api/health/live", "", self.pids[SERVER]),
            HOST: (self.host_port, "/host/health", self.tokens[HOST], self.pids[HOST]),
            BYSTANDER: (bystander, "/host/health", "", self.bench.host_pid),
        }
        self._prober.stdin.write(
            json.dumps(
                {"targets": targets, "pause": _PAUSE if self._first else _SMALL_PAUSE}
            ).encode()
            + b"\n"
        )
        await self.measure()

    async def _run(
        self, name: str, command: list[str], env: dict[str, str], *, piped: bool = False
    ) -> asyncio.subprocess.Process:
        process = await self.bench.start(name, command, env, piped=piped)
        self.pids[name] = process.pid
        self._processes.append(process)
        return process
