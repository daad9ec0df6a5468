"""Chaos: real processes under load, killed, frozen and restarted; then everything is compared.

The moments come from the seed. What they hit depends on the machine, so a seed is a place to
begin, not a replay.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import jwt
import structlog
from checks import Comparison, Records
from listener import Listener
from processes import DatabaseProcess, HostProcess, ServerProcess, mistakes, quiet_port
from spoil import KINDS as SPOILS
from spoil import Spoiler
from truth import HostTruth
from workload import KINDS, Workload

from vpt import embedded

HELLO = 60.0  # seconds for the server and all hosts to be there
ORDERED = 60.0  # seconds after the chaos until every request was answered
QUIET = 240.0  # seconds until everything is over and every device free
LAST_WORD = 60.0  # seconds for one more run on each device
SAID = 5.0  # seconds between lines of progress
SHOWN = 20  # differences that are printed
PAUSE_OF_HOST = {"short": (0.2, 2.5), "long": (7.0, 16.0)}
PAUSE_OF_DEVICE = 5.0  # seconds, the first one; a tenth with --tenth
COUNTED = (
    *("server kills", "server stops", "host kills", "host stops", "database restarts"),
    *SPOILS,
)
NONE_OF = (
    "lost",
    "started twice",
    "acted twice",
    "acted elsewhere",
    "never acted",
    "stuck",
    "device given twice",
    "false failed",
    "false completed",
    "false cancelled",
    "false step",
    "wrong error",
    "wrong answers",
    "mistakes",
    "gap",
    "device used twice",
    "somebody else's verdict",
    "not held back",
    "used while away",
    "needless error",
)


class CannotRunError(Exception):
    """The run could not be completed; the message says why."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line."""

    seconds: float
    hosts: int
    scripted: int
    executions: int
    seed: int
    tenth: bool


@dataclass(frozen=True, slots=True)
class Harm:
    """One fault: what is broken, when (seconds after the start), and for how long."""

    at: float
    what: str
    seconds: float = 0.0


def plan(options: Options, dice: random.Random) -> list[Harm]:
    """Plan the faults: each kind is spread evenly, at a random time within its share."""
    share = 0.1 if options.tenth else 1.0

    def spread(count: int) -> list[float]:
        slot = options.seconds / max(count, 1)
        return [slot * (number + dice.random()) for number in range(count)]

    harms = [Harm(at, "kill server") for at in spread(max(1, round(options.seconds / 22)))]
    kinds = ("stop database", "crash database")
    for at, kind in zip(spread(2 if options.seconds >= 60 else 1), kinds, strict=False):
        harms.append(Harm(at, kind, dice.uniform(0.5, 4)))
    harms.append(Harm(dice.uniform(0, options.seconds), "stop server", dice.uniform(1, 8)))
    harms += [Harm(at, "cut database") for at in spread(max(1, round(options.seconds / 20)))]
    harms += [Harm(at, "cut hosts") for at in spread(max(1, round(options.seconds)))]
    for at in spread(max(4, round(options.seconds / 4))):
        low, high = PAUSE_OF_HOST[dice.choice(("short", "long"))]
        pause = dice.uniform(low, high) * (share if low > 1 else 1)
        harms.append(Harm(at, dice.choice(("kill host", "stop host")), pause))
    spoils = max(8, round(options.seconds / 3)) if options.scripted else 0
    for number, at in enumerate(spread(spoils)):
        what = SPOILS[0] if number % 2 else SPOILS[1 + number // 2 % (len(SPOILS) - 1)]
        harms.append(Harm(at, what, max(0.7, dice.uniform(3, 12) * share)))
    return sorted(harms, key=lambda harm: harm.at)


class Chaos:
    """One run: `async with Chaos(options) as chaos`, then `run`."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.counts: Counter[str] = Counter()
        self.folder = Path()
        self.keep_folder = False
        self._dice = random.Random(options.seed)
        self._workload = Workload()
        self._hosts: list[HostProcess] = []
        self._secret, self._join_token = secrets.token_hex(32), secrets.token_hex(16)
        self._stack = contextlib.AsyncExitStack()
        self._harming: set[asyncio.Task[None]] = set()
        self._began = 0.0

    async def __aenter__(self) -> Chaos:
        """Start everything."""
        async with contextlib.AsyncExitStack() as stack:
            self.folder = Path(tempfile.mkdtemp(prefix="vpt-chaos-"))
            stack.callback(self._drop_folder)
            self.folder.chmod(0o711)  # as root PostgreSQL runs as another user
            self._postgres = DatabaseProcess(self.folder / "data")
            stack.push_async_callback(self._postgres.stop)
            await self._postgres.start()
            self._server = ServerProcess(self.folder, self._settings())
            stack.push_async_callback(self._server.close)
            self._server.begin()
            await self._within(HELLO, self._server.ready.wait(), "the server does not start")
            for number in range(self.options.hosts):
                await self._add_host(stack, number)
            self._spoiler = self._make_spoiler()
            stack.push_async_callback(self._spoiler.close)
            await self._spoiler.start(self._server.ready)
            self._session = await stack.enter_async_context(self._client())
            self._spoiler.watch_by(self._session)
            self._listener = Listener(self._server.url, self._token())
            stack.push_async_callback(self._listener.close)
            await self._listener.connect()
            stack.push_async_callback(self._end_harming)
            await self._within(HELLO, self._all_online(), "not all hosts have joined")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        """End everything; keep the folder when there was a difference or an error."""
        self.keep_folder |= isinstance(error, Exception)
        await self._stack.aclose()

    async def run(self) -> Comparison:
        """Inject faults and start executions for the whole time, wait for their end, compare."""
        options = self.options
        await self._workload.make(
            self._session, self._dice, options.executions, options.seconds * 0.9
        )
        harms = plan(options, self._dice)
        self._began = time.monotonic()
        talking = asyncio.create_task(self._talk(), name="progress")
        ordering = asyncio.create_task(self._workload.place(self._session), name="orders")
        try:
            await self._break(harms)
            await self._within(ORDERED, ordering, "not every request was answered")
            await self._within(QUIET, self._quiet(), "it does not become quiet", fatal=False)
            await self._one_more_each()
            truth = await self._compare()
        finally:
            for task in (talking, ordering):
                task.cancel()
            await asyncio.gather(talking, ordering, return_exceptions=True)
        self.keep_folder = bool(truth.differences)
        return truth

    # ------------------------------------------------------------ what is started

    def _make_spoiler(self) -> Spoiler:
        return Spoiler(self.folder, self._server.url, self._join_token, self.options.scripted)

    @property
    def _pause(self) -> float:
        return PAUSE_OF_DEVICE * (0.1 if self.options.tenth else 1.0)

    def _settings(self) -> dict[str, str]:
        share = 0.1 if self.options.tenth else 1.0
        return {
            "DATABASE_URL": self._postgres.dsn,
            "SERVER_PORT": str(quiet_port()),
            "SECRET_KEY": self._secret,
            "HOST_JOIN_TOKEN": self._join_token,
            "VPT_DATA_DIR": str(self.folder / "vpt"),
            "LOG_FORMAT": "json",
            "HOST_PROBE_INTERVAL": str(1.0 * share),
            "HOST_PROBE_TIMEOUT": str(2.0 * (0.25 if self.options.tenth else 1)),
            "RUN_GRACE": str(4.0 * share),
            "DEVICE_PAUSE": str(self._pause),
            "CANCEL_GRACE": str(6.0 * (0.25 if self.options.tenth else 1)),
        }

    async def _add_host(self, stack: contextlib.AsyncExitStack, number: int) -> None:
        host = HostProcess(f"h{number}", self.folder, self._server.url, self._join_token, number)
        stack.push_async_callback(host.close)
        self._hosts.append(host)
        await host.start()

    def _token(self) -> str:
        until = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
        claims = {"user_id": "chaos", "role": "operator", "exp": until}
        return jwt.encode(claims, self._secret, algorithm="HS256")

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[aiohttp.ClientSession]:
        headers = {"Authorization": f"Bearer {self._token()}"}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            self._server.url, headers=headers, connector=connector
        ) as session:
            yield session

    def _drop_folder(self) -> None:
        if not self.keep_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------ what is broken

    async def _break(self, harms: list[Harm]) -> None:
        doing: dict[str, Callable[[Harm], Any]] = {
            "kill server": self._kill_server,
            "stop server": self._stop_server,
            "stop database": self._stop_database,
            "crash database": self._crash_database,
            "cut database": self._cut_database,
            "cut hosts": self._cut_hosts,
            "kill host": self._kill_host,
            "stop host": self._stop_host,
            **dict.fromkeys(SPOILS, self._spoil),
        }
        for harm in harms:
            await asyncio.sleep(max(0, self._began + harm.at - time.monotonic()))
            task = asyncio.create_task(doing[harm.what](harm), name=harm.what)
            self._harming.add(task)
        await asyncio.sleep(max(0, self._began + self.options.seconds - time.monotonic()))
        await asyncio.gather(*self._harming)

    async def _end_harming(self) -> None:
        for task in self._harming:
            task.cancel()
        await asyncio.gather(*self._harming, return_exceptions=True)

    async def _kill_server(self, _: Harm) -> None:
        """Kill the server, mostly while it serves, sometimes while it starts."""
        if self._dice.random() < 0.85:
            await self._server.ready.wait()
        while not self._server.kill():  # noqa: ASYNC110 (for a moment, between two starts)
            await asyncio.sleep(0.1)
        self.counts["server kills"] += 1

    async def _stop_server(self, harm: Harm) -> None:
        await self._server.ready.wait()
        self._server.freeze()
        self.counts["server stops"] += 1
        await asyncio.sleep(harm.seconds)
        self._server.go_on()

    async def _stop_database(self, harm: Harm) -> None:
        await self._postgres.stop()
        await asyncio.sleep(harm.seconds)
        await self._postgres.start()
        self.counts["database restarts"] += 1

    async def _crash_database(self, _: Harm) -> None:
        self._postgres.crash()
        self.counts["database restarts"] += 1

    async def _cut_database(self, _: Harm) -> None:
        await self._postgres.cut()
        self.counts["database cuts"] += 1

    async def _cut_hosts(self, _: Harm) -> None:
        self.counts["cut connections"] += sum(
            host.proxy.cut() for host in self._hosts if host.proxy
        )

    async def _kill_host(self, harm: Harm) -> None:
        async with self._some_host() as host:
            await host.kill()
            self.counts["host kills"] += 1
            await asyncio.sleep(harm.seconds)
            await host.start()

    async def _stop_host(self, harm: Harm) -> None:
        async with self._some_host() as host:
            host.freeze()
            self.counts["host stops"] += 1
            await asyncio.sleep(harm.seconds)
            host.go_on()

    async def _spoil(self, harm: Harm) -> None:
        await self._spoiler.spoil(harm.what, harm.seconds, self._dice)

    @contextlib.asynccontextmanager
    async def _some_host(self) -> AsyncIterator[HostProcess]:
        while not (sound := [h for h in self._hosts if not h.harmed]):  # noqa: ASYNC110 (rare)
            await asyncio.sleep(0.1)
        busy = [host for host in sound if host.name in self._listener.busy]
        host = self._dice.choice(busy or sound)
        host.harmed = True
        yield host
        host.harmed = False

    # ------------------------------------------------------------ what is waited for

    async def _within(self, seconds: float, work: Any, words: str, *, fatal: bool = True) -> None:
        """Wait up to a limit; if it is exceeded the checks report that, or it is `fatal`."""
        try:
            async with asyncio.timeout(seconds):
                await work
        except TimeoutError as error:
            if fatal:
                raise CannotRunError(f"{words} after {seconds:.0f} s") from error
            print(f"  {words} after {seconds:.0f} s", flush=True)

    async def _all_online(self) -> None:
        while await self._not_online():  # noqa: ASYNC110 (as any client has to)
            await asyncio.sleep(0.2)

    async def _not_online(self) -> list[str]:
        """Return the devices that REST does not list as online."""
        items = (await self._get("/api/devices?limit=1000"))["items"]
        online = {item["id"] for item in items if item["status"] == "online"}
        return [device for device in self._devices if device not in online]

    @property
    def _devices(self) -> list[str]:
        hosts = (*self._hosts, *self._spoiler.hosts)
        return [f"{host.name}:{device}" for host in hosts for device in host.devices]

    async def _get(self, path: str) -> dict[str, Any]:
        """Send a request until it is answered."""
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._session.get(path) as response:
                    if response.status == 200:
                        answer: dict[str, Any] = await response.json()
                        return answer
            await asyncio.sleep(0.2)

    async def _quiet(self) -> None:
        """Return when all executions have ended and every device is free."""
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError):
                connection = await asyncpg.connect(self._postgres.dsn)
                try:
                    if not await connection.fetchval(_OPEN):
                        break
                finally:
                    await connection.close()
            await asyncio.sleep(0.5)
        await self._all_online()

    async def _one_more_each(self) -> None:
        """Run one more execution on each device; one that does not end `completed` is stuck."""
        body = {"name": "one more", "device_model": "desktop", **KINDS["waits"][1]}
        async with self._session.post("/api/testcases", json=body) as response:
            path = f"/api/testcases/{(await response.json())['id']}/execute"
        async with asyncio.TaskGroup() as group:
            for device in self._devices:
                group.create_task(self._one_more(path, device))

    async def _one_more(self, path: str, device: str) -> None:
        tag = f"last-{device}"
        body = {"device_id": device, "parameters": {"tag": tag}}
        async with self._session.post(path, json=body) as response:
            answer = await response.json()
        if response.status != 202:
            self._workload.wrong.append(f"one more on {device}: {response.status} {answer}")
            return
        found = await self._get(f"/api/executions/{answer['execution_id']}?wait={LAST_WORD:.0f}")
        if found["status"] != "completed":
            self._workload.wrong.append(f"one more on {device} is {found['status']}: {found}")

    # ------------------------------------------------------------ what is compared

    async def _compare(self) -> Comparison:
        records = await Records.read(self._postgres.dsn)
        truth = Comparison(records, self._workload, (*self._hosts, *self._spoiler.hosts))
        truth.check(self._listener)
        HostTruth(truth, records, self._spoiler, self._pause).check()
        for name in await self._not_online():
            truth.differ("stuck", f"device {name} is not online")
        for words in (*self._server.surprises, *filter(None, map(HostProcess.check, self._hosts))):
            truth.differ("wrong answers", words)
        for log in (self._server.log, *(host.log for host in self._hosts)):
            for line in mistakes(log):
                truth.differ("mistakes", line)
        await self._replay(truth)
        return truth

    async def _replay(self, truth: Comparison) -> None:
        """Act as a client that missed all events, for one execution after the other."""
        late = Listener(self._server.url, self._token())
        await late.connect()
        try:
            for execution_id, seq in truth.finals():
                truth.replayed(execution_id, await late.missed(execution_id, seq))
        finally:
            await late.close()

    async def _talk(self) -> None:
        while True:
            await asyncio.sleep(SAID)
            workload, finals = self._workload.counts, self._listener.finals
            counts = self.counts + self._spoiler.counts
            harms = ", ".join(f"{counts[word]} {word}" for word in COUNTED)
            print(
                f"{time.monotonic() - self._began:5.0f} s: {workload['accepted']} accepted,"
                f" {len(finals)} seen final; {harms}",
                flush=True,
            )

    def report(self, truth: Comparison) -> None:
        """Print all counts and all differences."""
        counts = self.counts + self._workload.counts + self._spoiler.counts + truth.counts
        counts["server starts"] = self._server.starts
        counts["connections"] = self._listener.connections
        for name in (*COUNTED, *NONE_OF):
            counts[name] += 0
        for name in sorted(counts, key=lambda name: (name in NONE_OF, name)):
            print(f"  {name}: {counts[name]}")
        for words in truth.differences[:SHOWN]:
            print(f"DIFFERENCE {words}")
        if truth.differences:
            print(f"{len(truth.differences)} differences; the folder is kept: {self.folder}")


_TROUBLES = (
    CannotRunError,
    embedded.EmbeddedError,
    asyncpg.PostgresError,
    aiohttp.ClientError,
    OSError,
)
_OPEN = """
SELECT EXISTS (SELECT FROM test_executions WHERE completed_at IS NULL)
    OR EXISTS (SELECT FROM campaign_executions WHERE completed_at IS NULL)
    OR EXISTS (SELECT FROM execution_attempts WHERE released_at IS NULL)
"""


def read_options() -> Options:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="bench/chaos",
        description="Break processes under load, then compare what each of them knows.",
        epilog="Hosts are probed each second (HOST_PROBE_INTERVAL 1, timeout 2, RUN_GRACE 4), a"
        " tenth of what is usual, so that a host can be lost and come back several times in two"
        " minutes; with --tenth each 0.1 s (timeout 0.5, RUN_GRACE 0.4). Exit codes: 0 all holds,"
        " 1 something differs (the folder is kept), 2 it could not be run.",
    )
    parser.add_argument("--seconds", type=float, default=120, help="how long things are broken")
    parser.add_argument("--hosts", type=int, default=20)
    parser.add_argument(
        "--scripted", type=int, default=5, help="further hosts, which answer badly or move"
    )
    parser.add_argument("--executions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1, help="what moments are drawn from")
    parser.add_argument("--tenth", action="store_true", help="a tenth of the intervals")
    return Options(**vars(parser.parse_args()))


async def main(options: Options) -> int:
    """Run chaos once and return the exit code."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    print(f"chaos: {options}", flush=True)
    chaos = Chaos(options)
    try:
        async with chaos:
            truth = await chaos.run()
            chaos.report(truth)
            return 1 if truth.differences else 0
    except _TROUBLES as error:
        print(f"chaos could not be run: {error!r}; see {chaos.folder}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main(read_options())))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(2)
