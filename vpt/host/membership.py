"""Membership: keeps the host registered at the server, by heartbeats, until it unregisters."""

import asyncio
import random
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import structlog

from vpt.host.folder import keep_token
from vpt.host.stats import system_stats
from vpt.upkeep import attempt, note_failure

CALL_S = 10
UNREGISTER_S = 2
LONGEST_PAUSE_S = 30
LONGEST_ANSWER = 64 * 1024

log = structlog.get_logger()


class Membership:
    """Keeps one host registered; retries without end."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        server: str,
        token: str | None,
        card: Mapping[str, Any],
        *,
        folder: Path,
        heartbeat_s: float,
    ) -> None:
        """Prepare to register `card` (the request body) at `server` with the join token `token`.

        `folder` keeps the token once the server has accepted it: a wrong one replaces no good one.
        Heartbeats are sent every `heartbeat_s` seconds, with the use of the disk of `folder`.
        """
        self._session = session
        self._base = server.rstrip("/")
        self._token = token
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._card = card
        self._folder = folder
        self._heartbeat_s = heartbeat_s
        self._failure: object = None
        self._known = False

    async def keep(self) -> NoReturn:
        """Register, and again whenever the server does not know the host, until cancelled."""
        while True:
            if not await attempt(self._stay_registered):
                await asyncio.sleep(min(self._heartbeat_s, LONGEST_PAUSE_S))

    async def _stay_registered(self) -> None:
        await self._register()
        await self._beat()

    async def leave(self) -> None:
        """Unregister from the server within two seconds; a failure is only logged."""
        if self._known:
            status, reason = await self._post(
                f"{self._card['host_name']}/unregister", {}, UNREGISTER_S
            )
            log.info("host_unregistered", status=status, reason=reason)

    async def _register(self) -> None:
        for pause in _pauses(LONGEST_PAUSE_S):
            status, reason = await self._post("register", self._card)
            if status == HTTPStatus.OK:
                self._known, self._failure = True, None
                self._keep_token()
                log.info("host_registered", host_id=self._card["host_name"], server=self._base)
                return
            hint = self._token_hint() if status == HTTPStatus.UNAUTHORIZED else {}
            self._log_failure("host_not_registered", status, reason, **hint)
            await asyncio.sleep(pause)

    async def _beat(self) -> None:
        """Send heartbeats until the server answers 404: it has forgotten the host."""
        pauses = _pauses(self._heartbeat_s)
        pause = self._heartbeat_s
        while True:
            await asyncio.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311 (only jitter)
            path = f"{self._card['host_name']}/heartbeat"
            status, reason = await self._post(path, await self._stats())
            if status == HTTPStatus.NOT_FOUND:
                log.info("host_forgotten", host_id=self._card["host_name"])
                return
            if status == HTTPStatus.OK and self._failure is not None:
                log.info("host_heartbeat_back", host_id=self._card["host_name"])
            if status == HTTPStatus.OK:
                self._failure, pause, pauses = None, self._heartbeat_s, _pauses(self._heartbeat_s)
            else:
                self._log_failure("host_heartbeat_lost", status, reason)
                pause = next(pauses)

    async def _stats(self) -> dict[str, Any]:
        """Return the body of a heartbeat; without figures when this machine cannot tell them."""
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
        command = f"vpt host-token {self._card['host_name']}"
        return {"hint": f"{fault}: start with HOST_JOIN_TOKEN set to what `{command}` prints there"}

    def _log_failure(self, event: str, status: int | None, reason: str, **hint: str) -> None:
        """Log a failure once, not at each retry."""
        if self._failure != (event, status):
            self._failure = (event, status)
            log.warning(event, server=self._base, status=status, reason=reason, **hint)

    async def _post(
        self, path: str, body: Mapping[str, Any], limit_s: float = CALL_S
    ) -> tuple[int | None, str]:
        """Return the status (None without a response) and the start of the body; no redirects."""
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
                return response.status, text[:200].decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return None, str(error) or type(error).__name__


def _pauses(longest_s: float) -> Iterator[float]:
    """Yield the backoff before each retry: 0.5 s, doubled up to `longest_s`, with jitter."""
    pause = 0.5
    while True:
        yield min(pause, longest_s) * random.uniform(0.8, 1.2)  # noqa: S311 (only jitter)
        pause = min(pause * 2, longest_s)
