"""A stand-in for the hosts that labs run today, in this process or as one of its own.

It does one HTTP request at a time, mixes up devices when two things overlap, and forgets
all executions when it is restarted. It names its pictures as files of its own, which it serves by
`/host/av/images?path=` only; nginx, which would serve them on port 80, is not there.
`python -m tests.virtualpytest.stand_in --help` is the process.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import itertools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from .body import DEVICES, Json, capabilities_of
from .membership import NO_ANSWER, QUICK, Membership, Pace
from .scripts import Script, Scripts
from .work import Batch, Behaviour, Execution, Graph, Run, Work, commands

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
HEALTH = "/host/system/health"
STREAMS = "/var/www/html/stream/"  # where a real host keeps its pictures
LARGEST = 64 * 2**20
Handler = Callable[[web.Request, Json], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Asked:
    """One request that arrived, and when (time.monotonic())."""

    method: str
    path: str
    query: dict[str, str]
    key: str | None  # of X-API-Key
    body: Any
    at: float


class NoError(Exception):
    """The request is answered with a status of its own."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


def must(true: object, words: str, status: int = 400) -> None:
    """Answer with an error unless something holds."""
    if not true:
        raise NoError(status, words)


class StandIn:
    """Serves `/host/*` on a port that stays its own while it is away, and belongs to a server."""

    def __init__(
        self,
        server: str,
        name: str = "pi",
        *,
        port: int = 0,
        devices: Mapping[str, str] = DEVICES,
        key: str | None = None,
        pace: Pace = QUICK,
        says: Json | None = None,
        journal: Path | None = None,
    ) -> None:
        self.server = server.rstrip("/")
        self.name = name
        self.devices = dict(devices)
        self.key = key
        self.pace = pace
        self.lose_callback = False
        self.requests: list[Asked] = []
        self.overlaps: list[tuple[str, str]] = []  # path in hand, path that came meanwhile
        self.refused: list[Asked] = []  # those with a wrong key
        self.control: list[tuple[str, str]] = []  # take or release, device
        self.callbacks: list[tuple[str, int | None]] = []  # task, status; None for a lost one
        self.files: dict[str, bytes] = {}  # by path: its screenshots, and what nginx would serve
        self.missing: dict[str, set[str]] = {}  # controllers that a device has lost
        self.warnings: dict[str, str] = {}  # what takeControl says of a device beside that
        self.says_busy = False  # a newer version, which says whether a device is at work
        self.scripts = Scripts(
            {"SERVER_URL": self.server, "API_KEY": key or "", "DEVICE1_POWER_PWD": "tapo-password"}
        )
        self._journal = journal
        self._shots = itertools.count(1)
        self._here: list[str] = []  # requests that arrived and are not answered
        self._turn = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind(("127.0.0.1", port))
        self.port = int(self._reserved.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.work = Work(tuple(devices), self._shoot, self._keep)
        self.membership = Membership(self.server, name, self.url, self.devices, pace, says or {})

    # ------------------------------------------------------------ for tests

    def on(self, command: str, *, times: int | None = None, **how: Any) -> None:
        """Let a command, or a script by its name, go so; see `Behaviour`."""
        self.work.on(command, times, Behaviour(**how))

    def break_controller(self, device: str, controller: str, warning: str | None = None) -> None:
        """Let a device lose its `av` or `remote`; `takeControl` succeeds all the same."""
        self.missing.setdefault(device, set()).add(controller)
        if warning is not None:
            self.warnings[device] = warning

    def mend(self, device: str) -> None:
        """Let a device have all its controllers again."""
        self.missing.pop(device, None)
        self.warnings.pop(device, None)

    def done(self, device: str) -> list[str]:
        """Return the commands that a device really was put through, in order."""
        return commands(self.work.acts, device)

    def asked(self, path: str) -> list[Asked]:
        """Return the requests whose path begins so."""
        return [each for each in self.requests if each.path.startswith(path)]

    # ------------------------------------------------------------ there and not there

    async def start(self) -> None:
        """Serve, and join a moment later."""
        self._session = aiohttp.ClientSession()
        await self.appear()
        self.membership.start()

    async def stop(self) -> None:
        """End cleanly: the server is told. The port is free then."""
        await self.kill()
        await self.membership.leave()
        self._reserved.close()

    async def kill(self) -> None:
        """Be gone at once, with all executions; the server is not told. `start` may follow."""
        await self.membership.end()
        await self.vanish()
        await self.work.forget()
        if self._session is not None:
            await self._session.close()

    async def restart(self) -> None:
        """Come back on the same port, and remember nothing."""
        await self.kill()
        await self.start()

    async def appear(self) -> None:
        """Listen (again), always on the same port."""
        app = web.Application(client_max_size=LARGEST, middlewares=[self._one_at_a_time])
        app.router.add_route("*", "/{path:.*}", self._nothing)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_port=True).start()

    async def vanish(self) -> None:
        """Break every connection and refuse new ones; what it does, and its pings, go on."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        server = runner.server
        await runner.cleanup()
        for _ in range(3):  # a connection that was just accepted begins a turn of the loop later
            await asyncio.sleep(0)
        if server is not None:
            await server.shutdown(0)

    # ------------------------------------------------------------ one request at a time

    @web.middleware
    async def _one_at_a_time(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Let a request wait for the one in hand, whatever it is for."""
        if self._here:
            self.overlaps.append((self._here[0], request.path))
            self._keep("overlap", paths=self.overlaps[-1])
        self._here.append(request.path)
        try:
            async with self._turn:
                await asyncio.sleep(self.pace.handling)
                response = await self._answer(request)
        finally:
            self._here.remove(request.path)
        response.force_close()  # or a client that is silent would keep all others out
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            asked = await self._read(request)
            return await self._handler(request.method, request.path)(request, asked.body)
        except NoError as error:
            return web.json_response({"success": False, "error": str(error)}, status=error.status)

    async def _read(self, request: web.Request) -> Asked:
        raw, key = await request.read(), request.headers.get("X-API-Key")
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = None
        arrived = time.monotonic()
        asked = Asked(request.method, request.path, dict(request.query), key, body, arrived)
        self.requests.append(asked)
        if request.path != HEALTH and self.key is not None and key != self.key:
            self.refused.append(asked)
            raise NoError(401, "wrong key")
        must(request.method == "GET" or isinstance(body, dict), "a JSON object is needed")
        return asked

    def _handler(self, method: str, path: str) -> Handler:
        routes: dict[tuple[str, str], Handler] = {
            ("GET", HEALTH): self._health,
            ("POST", "/host/takeControl"): self._control,
            ("POST", "/host/releaseControl"): self._control,
            ("POST", "/host/action/executeBatch"): self._batch,
            ("POST", "/host/verification/executeBatch"): self._batch,
            ("POST", "/host/testcase/execute"): self._graph,
            ("POST", "/host/script/execute"): self._script,
            ("POST", "/host/av/takeScreenshot"): self._screenshot,
            ("POST", "/host/remote/takeScreenshot"): self._screenshot,
            ("GET", "/host/av/images"): self._file,
        }
        if method == "GET" and path.endswith("/status"):
            return self._status
        if method == "GET" and path.endswith("/is_busy") and self.says_busy:
            return self._busy
        if method == "GET" and path in self.files and not path.startswith(STREAMS):
            return self._file
        return routes.get((method, path), self._nothing)

    async def _nothing(self, request: web.Request, body: Json | None = None) -> web.Response:
        raise NoError(404, "there is nothing here")

    # ------------------------------------------------------------ what it answers

    async def _health(self, request: web.Request, body: Json) -> web.Response:
        return web.json_response({"status": "ok", "host_name": self.name})

    async def _control(self, request: web.Request, body: Json) -> web.Response:
        verb = "take" if request.path.endswith("takeControl") else "release"
        name = body.get("device_id", "")
        self.control.append((verb, name))
        told: Json = {"success": True}  # for a device that is not there, too
        if verb == "take":
            told["available_controllers"] = self._controllers(name)
            told |= {"warning": self.warnings[name]} if name in self.warnings else {}
        return web.json_response(told)

    def _controllers(self, name: str) -> list[str]:
        """Return those of a device's two controllers that are there; it is asked for no others."""
        model = self.devices.get(name)
        has = capabilities_of(model) if model is not None else {}
        lost = self.missing.get(name, set())
        return [each for each in ("av", "remote") if has.get(each) and each not in lost]

    async def _busy(self, request: web.Request, body: Json) -> web.Response:
        device = request.path.split("/")[-2]
        busy = device in self.membership.deploying or self.work.is_at_work_on(device)
        return web.json_response({"busy": busy, "device_id": device, "active_jobs": []})

    async def _batch(self, request: web.Request, body: Json) -> web.Response:
        kind = request.path.split("/")[2]
        steps = body.get(f"{kind}s")
        must(isinstance(steps, list) and steps, f"{kind}s is needed")
        must(all(isinstance(step.get("command"), str) for step in steps), "command is needed")
        if kind == "verification":
            must(steps[0].get("userinterface_name"), "userinterface_name is needed")
        more = (body.get(f"{word}_{kind}s") or [] for word in ("retry", "failure"))
        batch = Batch(self.work, kind, steps, *more)
        execution = self._begin(kind, body, batch.run, Batch.fresh())
        return web.json_response({"success": True, "execution_id": execution.id})

    async def _graph(self, request: web.Request, body: Json) -> web.Response:
        must(request.query.get("team_id"), "team_id is required")
        must(body.get("graph_json"), "graph_json is required")
        must(body.get("host_name") == self.name, "this is another host")
        interface = body.get("userinterface_name") or ""
        graph = Graph.read(self.work, body["graph_json"], interface)
        if isinstance(graph, str):
            execution = self._begin("testcase", body, Graph.invalid(graph), {"status": "running"})
        else:
            execution = self._begin("testcase", body, graph.run, graph.fresh())
        if not body.get("async_execution") and execution.task is not None:
            await asyncio.shield(execution.task)  # and the host does nothing else
            return web.json_response({"success": True, "result": execution.state["result"]})
        return web.json_response({"success": True, "execution_id": execution.id})

    async def _script(self, request: web.Request, body: Json) -> web.Response:
        name, parameters = body.get("script_name"), body.get("parameters", "")
        must(isinstance(name, str) and name, "script_name is needed")
        must(isinstance(parameters, str), "parameters are one string")
        task_id = body.get("task_id")

        async def tell(state: Json) -> None:
            if task_id is not None:
                await self._call_back(task_id, state)

        script = Script(self.work, self.scripts, name, parameters, tell)
        execution = self._begin("script", body, script.run)
        if task_id is None and execution.task is not None:
            await asyncio.shield(execution.task)  # and the host does nothing else
            return web.json_response({"success": True} | execution.state)
        return web.json_response({"task_id": task_id}, status=202)

    def _begin(self, kind: str, body: Json, run: Run, state: Json | None = None) -> Execution:
        device = body.get("device_id")
        must(isinstance(device, str), "device_id is needed")
        must(device in self.devices, f"there is no device {device}", 404)
        return self.work.begin(kind, str(device), run, state)

    async def _status(self, request: web.Request, body: Json) -> web.Response:
        parts = request.path.split("/")
        must(len(parts) == 6 and parts[3] == "execution", "there is nothing here", 404)
        execution = self.work.find(parts[2], parts[4])
        if execution is None:
            raise NoError(404, "there is no such execution")
        if parts[2] == "testcase":
            return web.json_response({"success": True, "status": execution.state})
        asked = request.query.get("device_id")
        must(asked, "device_id is needed")
        must(asked == execution.asked, "there is no such execution on that device", 404)
        return web.json_response(execution.state)

    async def _screenshot(self, request: web.Request, body: Json) -> web.Response:
        device = body.get("device_id")
        must(device in self.devices, f"there is no device {device}", 404)
        if request.path.startswith("/host/remote"):
            picture = base64.b64encode(PNG).decode()
            return web.json_response({"success": True, "screenshot": picture})
        if "av" not in self._controllers(str(device)):
            raise NoError(500, "Failed to take temporary screenshot - controller returned None")
        path = self._shoot(str(device))
        # The URL is that of nginx, which listens on another port than the host.
        url = f"http://127.0.0.1/host/stream/{path.removeprefix(STREAMS)}"
        told = {"screenshot_path": path, "screenshot_url": url, "device_id": device}
        return web.json_response({"success": True} | told)

    async def _file(self, request: web.Request, body: Json) -> web.Response:
        path = request.query.get("path", request.path)
        must(path in self.files, f"Image not found: {path}", 404)
        kind = "image/jpeg" if path.startswith(STREAMS) else "image/png"
        return web.Response(body=self.files[path], content_type=kind)

    def _shoot(self, device: str) -> str:
        number = list(self.devices).index(device) + 1 if device in self.devices else 0
        path = f"{STREAMS}capture{number}/captures/capture_{next(self._shots):09}.jpg"
        self.files[path] = PNG
        return path

    async def _call_back(self, task_id: str, state: Json) -> None:
        """Report the end of a script, once, and ignore the answer."""
        status: int | None = None
        if not self.lose_callback and self._session is not None:
            url, told = f"{self.server}/server/script/taskComplete", {"task_id": task_id} | state
            limit = aiohttp.ClientTimeout(self.pace.limit)
            try:
                async with self._session.post(url, json=told, timeout=limit) as answer:
                    status = answer.status
            except (aiohttp.ClientError, TimeoutError):
                status = NO_ANSWER
        self.callbacks.append((task_id, status))
        self._keep("callback", task_id=task_id, status=status)

    # ------------------------------------------------------------ as a process

    def _keep(self, what: str, **fields: Any) -> None:
        """Write down what was done in a file, which outlives a kill."""
        if self._journal is not None:
            with self._journal.open("a") as file:
                file.write(json.dumps({"what": what} | fields) + "\n")


def arguments() -> argparse.Namespace:
    """Read the command line; what is not there comes from the environment, as in the field."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default=os.environ.get("SERVER_URL"))
    parser.add_argument("--name", default=os.environ.get("HOST_NAME", "pi"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("HOST_PORT", "0")))
    parser.add_argument("--key", default=os.environ.get("API_KEY"))
    parser.add_argument("--device", action="append", default=[], metavar="ID=MODEL")
    parser.add_argument("--on", action="append", default=[], metavar="COMMAND=JSON")
    parser.add_argument("--pace", type=json.loads, default={}, metavar="JSON")
    parser.add_argument("--journal", type=Path, help="file for what it does, a line each")
    return parser.parse_args()


@contextlib.asynccontextmanager
async def running(host: StandIn) -> AsyncIterator[StandIn]:
    """Start a host, and stop it at the end."""
    await host.start()
    try:
        yield host
    finally:
        await host.stop()


async def main() -> None:
    """Serve until SIGTERM or SIGINT, which are a clean stop."""
    said = arguments()
    devices = dict(each.split("=", 1) for each in said.device) or DEVICES
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    host = StandIn(
        said.server,
        said.name,
        port=said.port,
        devices=devices,
        key=said.key,
        pace=Pace(**said.pace),
        journal=said.journal,
    )
    for each in said.on:
        command, _, how = each.partition("=")
        host.on(command, **json.loads(how))
    async with running(host):
        sys.stdout.write(f"{host.url}\n")
        sys.stdout.flush()
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main())
