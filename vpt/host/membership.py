"""Membership: keeps the host registered at the server, by heartbeats, until it unregisters."""

import asyncio
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import structlog

from vpt.host.description import HostDescription
from vpt.host.folder import keep_token
from vpt.host.stats import system_stats
from vpt.upkeep import attempt, note_failure

CALL_S = 10
UNREGISTER_S = 2
LONGEST_PAUSE_S = 30
LONGEST_ANSWER = 64 * 1024

log = structlog.get_logger()


class HostReplacedError(Exception):
    """The server has another host of this name now, so this one stops."""

    def __init__(self, name: str) -> None:
        """Build the message about the host `name`."""
        super().__init__(
            f"the server has another host of the name {name} now, so this one has stopped:"
            " give one of them another name by --name"
        )


@dataclass(frozen=True, slots=True)
class ServerResponse:
    """A status (None without a response), the start of the body, and whether it says `replaced`."""

    status: int | None
    reason: str
    replaced: bool = False


class Membership:
    """Keeps one host registered; retries without end, unless another one replaced it."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        server: str,
        token: str | None,
        description: HostDescription,
        *,
        folder: Path,
        heartbeat_s: float,
    ) -> None:
        """Prepare to register what `description` says at `server` with the join token `token`.

        `folder` keeps the token once the server has accepted it: a wrong one replaces no good one.
        Heartbeats are sent every `heartbeat_s` seconds, with the use of the disk of `folder`.
        """
        self._session = session
        self._base = server.rstrip("/")
        self._token = token
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._description = description
        self._name = description.name
        self._folder = folder
        self._heartbeat_s = heartbeat_s
        self._failure: object = None
        self._known = False
        self._replaced = False

    async def keep(self) -> None:
        """Register, and again whenever the server does not know the host, until cancelled.

        Returns when the server says that another host has replaced this one.
        """
        while not self._replaced:
            if not await attempt(self._stay_registered):
                await asyncio.sleep(min(self._heartbeat_s, LONGEST_PAUSE_S))

    async def _stay_registered(self) -> None:
        await self._register()
        if not self._replaced:
            await self._beat()

    async def leave(self) -> None:
        """Unregister from the server within two seconds; a failure is only logged.

        The server is told which installation leaves: another one may have the name by now.
        """
        if self._known and not self._replaced:
            body = {"instance_id": self._description.instance_id}
            response = await self._post(f"{self._name}/unregister", body, UNREGISTER_S)
            log.info("host_unregistered", status=response.status, reason=response.reason)

    async def _register(self) -> None:
        for pause in _pauses(LONGEST_PAUSE_S):
            response = await self._post("register", await self._description.registration())
            if response.status == HTTPStatus.OK:
                self._known, self._failure = True, None
                self._keep_token()
                log.info("host_registered", host_id=self._name, server=self._base)
                return
            if response.replaced:
                self._note_replaced(response)
                return
            hint = self._token_hint() if response.status == HTTPStatus.UNAUTHORIZED else {}
            self._log_failure("host_not_registered", response, **hint)
            await asyncio.sleep(pause)

    async def _beat(self) -> None:
        """Send heartbeats until the server answers that it has no such host, or another one."""
        pauses = _pauses(self._heartbeat_s)
        pause = self._heartbeat_s
        while True:
            await asyncio.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311 (only jitter)
            response = await self._post(f"{self._name}/heartbeat", await self._told())
            if response.replaced:
                self._note_replaced(response)
                return
            if response.status == HTTPStatus.NOT_FOUND:
                log.info("host_forgotten", host_id=self._name)
                return
            if response.status == HTTPStatus.OK and self._failure is not None:
                log.info("host_heartbeat_back", host_id=self._name)
            if response.status == HTTPStatus.OK:
                self._failure, pause, pauses = None, self._heartbeat_s, _pauses(self._heartbeat_s)
            else:
                self._log_failure("host_heartbeat_lost", response)
                pause = next(pauses)

    def _note_replaced(self, response: ServerResponse) -> None:
        self._replaced = True
        log.error("host_replaced", host_id=self._name, server=self._base, reason=response.reason)

    async def _told(self) -> dict[str, Any]:
        """Return the body of a heartbeat."""
        return {**await self._stats(), **await self._description.heartbeat()}

    async def _stats(self) -> dict[str, Any]:
        """Return the load of the machine; nothing when this machine cannot tell it."""
        try:
            return {"system_stats": await asyncio.to_thread(system_stats, self._folder)}
        except Exception as error:  # noqa: BLE001 (logged; the server must hear that we are alive)
            note_failure(error, "heartbeat")
            return {}

    def _keep_token(self) -> None:
        """Keep the token for later starts; a full disk must not end a host that is registered."""
        if self._token:
            try:
                keep_token(self._folder, self._base, self._token)
            except OSError as error:
                log.warning("host_token_not_kept", error=str(error))

    def _token_hint(self) -> dict[str, str]:
        fault = (
            "the join token is wrong" if self._token else "there is no join token for this server"
        )
        command = f"vpt host-token {self._name}"
        return {"hint": f"{fault}: start with HOST_JOIN_TOKEN set to what `{command}` prints there"}

    def _log_failure(self, event: str, response: ServerResponse, **hint: str) -> None:
        """Log a failure once, not at each retry."""
        status = response.status
        if self._failure != (event, status):
            self._failure = (event, status)
            log.warning(event, server=self._base, status=status, reason=response.reason, **hint)

    async def _post(
        self, path: str, body: Mapping[str, Any], limit_s: float = CALL_S
    ) -> ServerResponse:
        """Send a request and return the response; redirects are not followed."""
        try:
            async with (
                asyncio.timeout(limit_s),
                self._session.post(
                    f"{self._base}/api/hosts/{path}",
                    json=body,
                    headers=self._headers,
                    allow_redirects=False,
                ) as response,
            ):
                text = await response.content.read(LONGEST_ANSWER)
                reason = text[:200].decode(errors="replace")
                return ServerResponse(response.status, reason, _replaced(response.status, text))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return ServerResponse(None, str(error) or type(error).__name__)


def _replaced(status: int, text: bytes) -> bool:
    """Return whether a response says that another host has this one's name."""
    if status != HTTPStatus.CONFLICT:
        return False
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return isinstance(body, dict) and body.get("status") == "replaced"


def _pauses(longest_s: float) -> Iterator[float]:
    """Yield the backoff before each retry: 0.5 s, doubled up to `longest_s`, with jitter."""
    pause = 0.5
    while True:
        yield min(pause, longest_s) * random.uniform(0.8, 1.2)  # noqa: S311 (only jitter)
        pause = min(pause * 2, longest_s)
