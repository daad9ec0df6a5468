"""Hosts inside the bench whose behaviour is switched: they answer badly, as another, elsewhere.

They execute the steps of the workload as reference hosts do, and write the same journal, so that
the same checks hold for both. What they do is a task that no change of address and no broken
connection ends, as on a real machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from processes import quiet_port

_CALL = aiohttp.ClientTimeout(total=5)
_SLOW = 2.0  # seconds that a slow host keeps an answer
REPLACED = "replaced"

#: How a host that is broken answers an action: the status and the body.
BROKEN: dict[str, tuple[int, bytes]] = {
    "answers 500": (500, b'{"error": "the driver crashed"}'),
    "answers 503": (503, b'{"error": "no space left on device"}'),
    "answers 401": (401, b'{"error": "who are you"}'),
    "answers {}": (200, b"{}"),
    "answers garbage": (200, b"<html>\xff\xfe it works</html>"),
    "answers success as text": (200, b'{"success": "true"}'),
    "closes the connection": (0, b""),
}
GOOD, SLOW, ANOTHER_HOST, ANOTHER_SERVICE = "good", "slow", "another host", "another service"


@dataclass(frozen=True, slots=True)
class BadAnswer:
    """An action that was answered badly; `at` is a time of the wall clock, as the database's."""

    at: float
    device: str
    attempt: str


class ScriptedHost:
    """A host that registers, sends heartbeats, and behaves as `behaviour` says."""

    def __init__(self, name: str, folder: Path, server: str, token: str, number: int) -> None:
        """Prepare it: every second one has a secret and checks for whom a call is meant.

        The others are as most hosts in the field: they act for whoever calls. All say in their
        health who they are.
        """
        self.name = name
        self.folder = folder / name
        self.devices = ("a", "b") if number % 2 == 0 else ("a",)
        self.behaviour = GOOD
        self.away: dict[str, str] = {}  # why a device is away
        self.bad_answers: list[BadAnswer] = []
        self.acted_as_another: list[str] = []
        self.overlaps: list[str] = []
        self.starts: list[tuple[float, str]] = []  # when which device began an attempt
        self.port = quiet_port()
        self.harmed = False
        self.registrations = 0
        self.replaced = False
        self.quiet = False  # it sends nothing to the server
        self._server = server
        self._careful = number % 2 == 0
        self._secret = secrets.token_hex(32) if self._careful else None
        self._instance = secrets.token_hex(8)
        self._headers = {"Authorization": f"Bearer {token}"}
        self._journal = self.folder / "data" / "journal" / f"{self._instance}.jsonl"
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        self._keys: dict[str, asyncio.Task[dict[str, Any]]] = {}
        self._attempts: dict[tuple[str, int], set[asyncio.Task[Any]]] = {}
        self._cancelled: set[tuple[str, int]] = set()
        self._acting: Counter[str] = Counter()
        self._runner: web.AppRunner | None = None
        self._beating: asyncio.Task[None] | None = None
        # One message after the other, as hosts do: a heartbeat that overtakes a registration which
        # was sent before it would be undone by it until the next one.
        self._sending = asyncio.Lock()

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen, and stay registered from now on."""
        await self.listen()
        self.begin_heartbeats()

    def begin_heartbeats(self) -> None:
        """Stay registered from now on."""
        self.replaced = False
        self._beating = asyncio.create_task(self._stay_registered(), name=f"{self.name} beats")

    async def end_heartbeats(self) -> None:
        """Say nothing more to the server."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)

    async def close(self) -> None:
        """End it, and what it does."""
        await self.end_heartbeats()
        await self.leave_port()  # first: it would answer that what is cancelled has failed
        tasks = tuple(self._keys.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def listen(self) -> None:
        """Listen on its port."""
        app = web.Application()
        app.router.add_get("/host/health", self._health)
        app.router.add_post("/host/remote/executeAction", self._action)
        app.router.add_post("/host/cancel", self._cancel)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def leave_port(self) -> None:
        """Listen no more, and break all connections; what it does goes on."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def shows_away(self, device: str, reason: str | None) -> bool:
        """Send at once that a device is away, or (None) back; return whether the server has it."""
        self.away.pop(device, None)
        if reason is not None:
            self.away[device] = reason
        async with aiohttp.ClientSession(timeout=_CALL) as session, self._sending:
            return await self._beat(session) == 200

    # ------------------------------------------------------------ registration

    async def _stay_registered(self) -> None:
        registered = False
        async with aiohttp.ClientSession(timeout=_CALL) as session:
            while not self.replaced:
                if not self.quiet:
                    async with self._sending:
                        status = await (self._beat if registered else self._register)(session)
                    registered = status == 200 or (registered and status != 404)
                await asyncio.sleep(0.5)

    async def _register(self, session: aiohttp.ClientSession) -> int:
        card = {
            "host_name": self.name,
            "host_url": self.url,
            "instance_id": self._instance,
            "devices": [
                {"device_id": device, "name": device, "model": "desktop", **self._presence(device)}
                for device in self.devices
            ],
            "protocol": {"idempotency": True, "cancel": True},
            "host_secret": self._secret,
        }
        status = await self._post(session, "register", card)
        self.registrations += status == 200
        return status

    async def _beat(self, session: aiohttp.ClientSession) -> int:
        body = {
            "host_url": self.url,
            "instance_id": self._instance,
            "devices": {device: self._presence(device) for device in self.devices},
        }
        return await self._post(session, f"{self.name}/heartbeat", body)

    def _presence(self, device: str) -> dict[str, Any]:
        reason = self.away.get(device)
        return {"available": reason is None, "reason": reason}

    async def _post(self, session: aiohttp.ClientSession, path: str, body: Any) -> int:
        """Send it to the server; return the status, 0 without an answer."""
        try:
            async with session.post(
                f"{self._server}/api/hosts/{path}", json=body, headers=self._headers
            ) as response:
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return 0
        if response.status == 409 and answer.get("status") == REPLACED:
            self.replaced = True
        return response.status

    # ------------------------------------------------------------ what the server calls

    async def _health(self, request: web.Request) -> web.StreamResponse:
        if self.behaviour == ANOTHER_SERVICE:
            return web.Response(text="it works", content_type="text/html")
        if not self._is_for_us(request):
            return web.json_response({"error": "who are you"}, status=401)
        name, instance = self._identity
        return web.json_response({"status": "ok", "host_name": name, "instance_id": instance})

    async def _action(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.behaviour == ANOTHER_SERVICE:
            return web.Response(status=404, text="no such page", content_type="text/html")
        if (refused := self._refusal(request)) is not None:
            return refused
        key = request.headers.get("Idempotency-Key", "")
        if self.behaviour in BROKEN:
            return self._badly_answered(request, key, str(body["device_id"]))
        if self.behaviour == ANOTHER_HOST:
            self.acted_as_another.append(key)
            return web.json_response({"success": True})
        if (str(body["execution_id"]), int(body["attempt"])) in self._cancelled:
            return web.json_response({"code": "cancelled"}, status=409)
        answer = await asyncio.shield(self._once(key, body))
        if self.behaviour == SLOW:
            await asyncio.sleep(_SLOW)
        return web.json_response(answer)

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.behaviour == ANOTHER_SERVICE:
            return web.Response(status=404, text="no such page", content_type="text/html")
        if (refused := self._refusal(request)) is not None:
            return refused
        if self.behaviour == ANOTHER_HOST:
            return web.json_response({"success": True, "cancelled": 0})
        attempt = (str(body["execution_id"]), int(body["attempt"]))
        self._cancelled.add(attempt)
        tasks = tuple(self._attempts.get(attempt, ()))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return web.json_response({"success": True, "cancelled": len(tasks)})

    @property
    def _identity(self) -> tuple[str, str]:
        another = self.behaviour == ANOTHER_HOST
        return (f"not-{self.name}", "0" * 16) if another else (self.name, self._instance)

    def _is_for_us(self, request: web.Request) -> bool:
        if self._secret is None:
            return True
        another = self.behaviour == ANOTHER_HOST
        return not another and request.headers.get("Authorization") == f"Bearer {self._secret}"

    def _refusal(self, request: web.Request) -> web.Response | None:
        """Return the refusal of a careful host: the call has no good secret, or names another."""
        if not self._careful:
            return None
        if request.headers.get("Vpt-Host", self._identity[0]) != self._identity[0]:
            return web.json_response({"error": "another host"}, status=421)
        if not self._is_for_us(request):
            return web.json_response({"error": "who are you"}, status=401)
        return None

    def _badly_answered(self, request: web.Request, key: str, device: str) -> web.StreamResponse:
        attempt = key.rsplit("/", 2)[0]
        self.bad_answers.append(BadAnswer(time.time(), device, attempt))
        status, content = BROKEN[self.behaviour]
        if status == 0:
            assert request.transport is not None
            request.transport.abort()  # type: ignore[attr-defined]
            status = 500
        return web.Response(status=status, body=content, content_type="application/json")

    # ------------------------------------------------------------ acting

    def _once(self, key: str, body: dict[str, Any]) -> asyncio.Task[dict[str, Any]]:
        """Return the one task of a key: begun now, at work, or done."""
        task = self._keys.get(key)
        if task is None:
            task = asyncio.create_task(self._act(key, body), name=key)
            self._keys[key] = task
            attempt = (str(body["execution_id"]), int(body["attempt"]))
            self._attempts.setdefault(attempt, set()).add(task)
        return task

    async def _act(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        device = str(body["device_id"])
        self._write({"do": "begin", "key": key})
        if key.endswith("/1/1"):
            self.starts.append((time.time(), device))
        self._acting[device] += 1
        if self._acting[device] > 1:
            self.overlaps.append(f"{self.name}:{device} had to begin {key} while it was at work")
        try:
            success = await self._done(body)
        except asyncio.CancelledError:
            return {"success": False, "error": "cancelled"}
        finally:
            self._acting[device] -= 1
        answer = {"success": success}
        self._write({"do": "end", "key": key, "answer": answer})
        return answer

    async def _done(self, body: dict[str, Any]) -> bool:
        params = body["params"]
        if body["command"] == "wait":
            await asyncio.sleep(params["seconds"])
            return True
        process = await asyncio.create_subprocess_shell(
            params["command"],
            cwd=self.folder,
            env={**os.environ, "ACTS": str(self.folder / "acts")},
            start_new_session=True,
        )
        try:
            return await process.wait() == 0
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def _write(self, record: dict[str, Any]) -> None:
        with self._journal.open("a") as journal:
            journal.write(json.dumps(record) + "\n")
