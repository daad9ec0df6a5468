"""A host on loopback that does what the test says: answers, hangs, cuts, goes away, comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiohttp import web

from vpt.model import Credential, Device, Host, Json, Registration

HUGE = 17 * 2**20


async def until(true: Callable[[], Any], limit_s: float = 15) -> Any:
    """Wait until something holds (it may be awaited); give what it gave."""
    async with asyncio.timeout(limit_s):
        while True:
            value = true()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.005)


# ---------------------------------------------------------------- what a host may do


@dataclass(frozen=True)
class Reply:
    """What goes back over the wire."""

    status: int = 200
    body: bytes = b'{"success": true}'
    headers: dict[str, str] = field(default_factory=dict)
    chunked: bool = False


Behaviour = Callable[["FakeHost", Json], Awaitable[Reply]]


def replies(
    status: int = 200, /, *, headers: dict[str, str] | None = None, **body: Any
) -> Behaviour:
    """Answer at once."""
    reply = Reply(status, json.dumps(body).encode(), headers or {})

    async def behave(host: FakeHost, action: Json) -> Reply:
        return reply

    return behave


def passes(output: str = "") -> Behaviour:
    return replies(success=True, output=output)


def fails(error: str = "no") -> Behaviour:
    return replies(success=False, error=error)


def says(reply: Reply) -> Behaviour:
    """Answer with just these bytes."""

    async def behave(host: FakeHost, action: Json) -> Reply:
        return reply

    return behave


def hangs() -> Behaviour:
    """Accept and never answer."""

    async def behave(host: FakeHost, action: Json) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    return behave


class Gate:
    """Holds actions until the test opens it: `host.on("a", gate.held())`."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self.arrived = 0

    def open(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._open.clear()

    def held(self, then: Behaviour | None = None) -> Behaviour:
        async def behave(host: FakeHost, action: Json) -> Reply:
            self.arrived += 1
            await self._open.wait()
            return await (then or passes())(host, action)

        return behave

    async def reached(self, times: int = 1) -> None:
        await until(lambda: self.arrived >= times)


# ---------------------------------------------------------------- the host


@dataclass(frozen=True)
class Call:
    """One request that arrived."""

    path: str
    body: Json
    headers: dict[str, str]
    at: float
    peer: Any

    @property
    def key(self) -> str | None:
        return self.headers.get("Idempotency-Key")

    @property
    def command(self) -> str:
        return str(self.body.get("command"))


class FakeHost:
    """Speaks the document dialect on a port that stays its own while it is away."""

    def __init__(
        self,
        name: str = "h",
        devices: tuple[str, ...] = ("d1",),
        *,
        model: str = "tv",
        idempotency: bool = True,
        cancel: bool = True,
        secret: str | None = None,
        capabilities: tuple[str, ...] = (),
        believes: str | None = None,
        tls: ssl.SSLContext | None = None,
        named: bool = False,
        instance_id: str | None = None,
    ) -> None:
        self.name = name
        self.devices = devices
        self.model = model
        self.idempotency = idempotency
        self.cancel = cancel
        self.secret = secret
        self.capabilities = capabilities
        self.tls = tls
        self.named = named  # its health says its name
        self.instance_id = instance_id
        self.believes = believes or secret  # the secret that it asks for
        self.health: Behaviour = replies(status="ok")
        self.on_cancel: Behaviour = replies(cancelled=True)
        self.obeys_cancel = True
        self.may_overlap = False
        self.drips = 0.0  # seconds between two bytes of an answer
        self.loses = 0  # so many answers: it acts, then the connection breaks
        self.actions: list[Call] = []
        self.acted: list[Call] = []  # those that it did: a repeated key is not done again
        self.cancels: list[Call] = []
        self.probes: list[Call] = []
        self.overlaps: list[str] = []
        self.busiest = 0  # the most that it did at once
        self._scripts: dict[str, deque[Behaviour]] = {}
        self._acting: Counter[str | None] = Counter()
        self._answers: dict[str, asyncio.Task[Reply]] = {}
        self._dead_keys: set[str] = set()
        self._acts: set[asyncio.Task[Reply]] = set()
        self._attempts: dict[tuple[Any, Any], set[asyncio.Task[Reply]]] = defaultdict(set)
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port = int(self._reserved.getsockname()[1])
        self._runner: web.AppRunner | None = None
        self._transports: set[asyncio.BaseTransport] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def registration(self, *, credential: Credential = Credential.JOIN) -> Registration:
        """Give what the host says of itself when it joins."""
        host = Host(
            self.name,
            self.url,
            capabilities=frozenset(self.capabilities),
            idempotency=self.idempotency,
            cancel=self.cancel,
        )
        devices = tuple(
            Device(f"{self.name}:{name}", name, name, self.model) for name in self.devices
        )
        implicit = (Device(self.name, None, self.name, None),)
        return Registration(
            host,
            devices or implicit,
            {},
            self.secret,
            credential,
            instance_id=self.instance_id,
        )

    def exchange_address(self, other: FakeHost) -> None:
        """Exchange the ports of two hosts that vanished."""
        self.port, other.port = other.port, self.port
        self._reserved, other._reserved = other._reserved, self._reserved

    def on(self, command: str, *behaviours: Behaviour) -> None:
        """Let a command be answered so, one after the other; the last one stays."""
        self._scripts[command] = deque(behaviours)

    def commands(self) -> list[str]:
        """Give what it was asked, in order."""
        return [call.command for call in self.actions]

    def done(self, command: str) -> int:
        """Give how often it did that."""
        return sum(call.command == command for call in self.acted)

    # ------------------------------------------------------------ there and not there

    async def appear(self) -> None:
        """Listen (again), always on the same port."""
        app = web.Application(client_max_size=2 * HUGE)
        app.router.add_get("/host/health", self._health)
        app.router.add_post("/host/remote/executeAction", self._action)
        app.router.add_post("/host/cancel", self._cancel)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.01, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(
            self._runner, "127.0.0.1", self.port, reuse_port=True, ssl_context=self.tls
        ).start()

    async def vanish(self) -> None:
        """Break every connection and refuse new ones; what it does goes on."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in tuple(runner.sites):
            await site.stop()
        for transport in tuple(self._transports):
            transport.abort()  # type: ignore[attr-defined]
        await runner.cleanup()

    async def die(self) -> None:
        """Vanish, and forget what was being done: its fate is not known any more."""
        self._dead_keys |= {key for key, task in self._answers.items() if not task.done()}
        acts = tuple(self._acts)
        for task in acts:
            task.cancel()
        await self.vanish()
        await asyncio.gather(*acts, return_exceptions=True)

    async def close(self) -> None:
        """Be gone for good."""
        await self.die()
        self._reserved.close()

    # ------------------------------------------------------------ requests

    async def _note(self, request: web.Request, calls: list[Call]) -> Call:
        if request.transport is not None:
            self._transports.add(request.transport)
        body = await request.json() if request.can_read_body else {}
        peer = request.transport.get_extra_info("peername") if request.transport else None
        call = Call(request.path, body, dict(request.headers), perf_counter(), peer)
        calls.append(call)
        return call

    def _knows(self, call: Call) -> bool:
        return self.believes is None or (
            call.headers.get("Authorization") == f"Bearer {self.believes}"
        )

    async def _health(self, request: web.Request) -> web.StreamResponse:
        call = await self._note(request, self.probes)
        if not self._knows(call):
            return web.json_response({"error": "who are you"}, status=401)
        if self.named:
            said = {"host_name": self.name, "instance_id": self.instance_id}
            return web.json_response(said)
        return await self._sent(request, await self.health(self, call.body))

    async def _action(self, request: web.Request) -> web.StreamResponse:
        call = await self._note(request, self.actions)
        if not self._knows(call):
            return web.json_response({"error": "who are you"}, status=401)
        reply = await self._once(call)
        if self.loses > 0 and request.transport is not None:
            self.loses -= 1
            request.transport.abort()  # type: ignore[attr-defined]
        return await self._sent(request, reply)

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        call = await self._note(request, self.cancels)
        if not self._knows(call):
            return web.json_response({"error": "who are you"}, status=401)
        reply = await self.on_cancel(self, call.body)
        if reply.status == 200 and self.obeys_cancel:
            for task in self._attempts[call.body["execution_id"], call.body["attempt"]]:
                task.cancel()
        return await self._sent(request, reply)

    async def _sent(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        response = web.Response(
            status=reply.status,
            body=reply.body,
            headers={"Content-Type": "application/json", **reply.headers},
        )
        if reply.chunked:
            response.enable_chunked_encoding()
        return await self._dripped(request, reply) if self.drips else response

    async def _dripped(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        """Send an answer byte by byte, after a hundred spaces, which JSON may begin with."""
        response = web.StreamResponse(status=reply.status)
        await response.prepare(request)
        for byte in b" " * 100 + reply.body:
            await response.write(bytes([byte]))
            await asyncio.sleep(self.drips)
        return response

    # ------------------------------------------------------------ acting

    async def _once(self, call: Call) -> Reply:
        """A repeated key gets the first answer, or waits for it."""
        key = call.key
        if not self.idempotency or key is None:
            return await self._wait(self._begin(call))
        if key in self._dead_keys:
            return Reply(503, b'{"code": "fate_unknown"}')
        known = self._answers.get(key)
        if known is None:
            known = self._answers[key] = self._begin(call)
        return await self._wait(known)

    async def _wait(self, act: asyncio.Task[Reply]) -> Reply:
        await asyncio.wait([act])
        if act.cancelled():
            return Reply(body=b'{"success": false, "error": "cancelled"}')
        return act.result()

    def _begin(self, call: Call) -> asyncio.Task[Reply]:
        self.acted.append(call)
        act = asyncio.create_task(self._act(call.body), name=f"{self.name} acts")
        attempt = self._attempts[call.body.get("execution_id"), call.body.get("attempt")]
        for tasks in (self._acts, attempt):
            tasks.add(act)
            act.add_done_callback(tasks.discard)
        return act

    async def _act(self, action: Json) -> Reply:
        device = action.get("device_id")
        self._acting[device] += 1
        self.busiest = max(self.busiest, self._acting.total())
        if self._acting[device] > 1:
            self.overlaps.append(f"{self.name}: {device} was asked to {action} meanwhile")
        try:
            return await self._behaviour(action)(self, action)
        finally:
            self._acting[device] -= 1

    def _behaviour(self, action: Json) -> Behaviour:
        script = self._scripts.get(str(action.get("command")))
        if not script:
            return passes()
        return script.popleft() if len(script) > 1 else script[0]


class Wire:
    """A socket of PostgreSQL's in its own folder, that leads to the real one until it is cut."""

    def __init__(self, folder: Path, dsn: str) -> None:
        where = parse_qs(urlsplit(dsn).query)
        name = f".s.PGSQL.{where['port'][0]}"
        self.dsn = dsn.replace(where["host"][0], str(folder))
        self._here, self._there = str(folder / name), f"{where['host'][0]}/{name}"
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def mend(self) -> None:
        self._server = await asyncio.start_unix_server(self._join, self._here)

    async def cut(self) -> None:
        """Break all connections and refuse new ones."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        await until(lambda: not self._writers)
        Path(self._here).unlink()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = self._server
        far_reader, far_writer = await asyncio.open_unix_connection(self._there)
        both = {writer, far_writer}
        if server is None or self._server is not server:  # it was cut meanwhile
            for one in both:
                one.transport.abort()
            return
        self._writers |= both
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            self._writers -= both


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


class BlackHole:
    """A port of loopback whose connections are never taken up: its queue is full."""

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(0)
        self._fillers: list[socket.socket] = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(self._listener.getsockname())
            self._fillers.append(filler)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        for each in (*self._fillers, self._listener):
            each.close()
