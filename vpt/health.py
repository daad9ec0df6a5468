"""The health of what vpt leans on: asked in the background, so that no caller waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
import structlog

from vpt.config import Config
from vpt.errors import VptError
from vpt.store.db import Database

log = structlog.get_logger(__name__)

#: Seconds.
INTERVAL, TIMEOUT = 30.0, 5.0
DATABASE_TIMEOUT, DATABASE_FRESH = 2.0, 2.0
_OPENROUTER = "https://openrouter.ai/api/v1/key"
_ANSWERS = 500  # whatever it says below this, it lives
_LIKES_US = 400


@dataclass(frozen=True, slots=True)
class Target:
    """What to ask; a status from `bad_from` on is a failure."""

    name: str
    url: str
    bad_from: int = _ANSWERS
    headers: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of asking; `error` is None when all is well, `ms` is how long it took."""

    error: str | None
    ms: float
    at: float

    @property
    def ok(self) -> bool:
        """True when all is well."""
        return self.error is None


def targets_of(config: Config) -> list[Target]:
    """Give what is configured; what is not is nobody's trouble."""
    targets = []
    if config.grafana_url:
        url = f"{config.grafana_url.rstrip('/')}/api/health"
        targets.append(Target("grafana", url, _LIKES_US))
    if config.supabase_url:
        url = f"{config.supabase_url.rstrip('/')}/auth/v1/health"
        key = config.supabase_anon_key
        bad_from = _LIKES_US if key else _ANSWERS  # without a key it lives, and says 401
        targets.append(Target("supabase", url, bad_from, {"apikey": key} if key else {}))
    if config.openrouter_api_key:
        headers = {"Authorization": f"Bearer {config.openrouter_api_key}"}
        targets.append(Target("openrouter", _OPENROUTER, _LIKES_US, headers))
    if config.cloudflare_r2_endpoint:
        targets.append(Target("cloudflare_r2", config.cloudflare_r2_endpoint))
    return targets


class ExternalChecks:
    """Asks every target each INTERVAL and keeps the last verdicts."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = tuple(targets)
        self._verdicts: dict[str, Verdict] = {}
        self._first = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask in the background for as long as the context lasts."""
        task = asyncio.create_task(self._ask_for_ever(), name="external-checks")
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def verdicts(self) -> dict[str, Verdict]:
        """Give the last verdict on each target; only the very first round is waited for."""
        await self._first.wait()
        return dict(self._verdicts)

    async def _ask_for_ever(self) -> None:
        if not self._targets:
            self._first.set()
            return
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                await asyncio.gather(*(self._ask(session, target) for target in self._targets))
                self._first.set()
                await asyncio.sleep(INTERVAL)

    async def _ask(self, session: aiohttp.ClientSession, target: Target) -> None:
        began = time.perf_counter()
        error = await _error_of(session, target)
        verdict = Verdict(error, round((time.perf_counter() - began) * 1000, 1), time.time())
        before = self._verdicts.get(target.name)
        if verdict.ok != (before is None or before.ok):
            log.warning("external_check_changed", service=target.name, ok=verdict.ok, error=error)
        self._verdicts[target.name] = verdict


async def _error_of(session: aiohttp.ClientSession, target: Target) -> str | None:
    try:
        async with session.get(
            target.url, headers=target.headers, allow_redirects=False
        ) as response:
            return None if response.status < target.bad_from else f"HTTP {response.status}"
    except TimeoutError:
        return f"no answer within {TIMEOUT:.0f} s"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return type(error).__name__


class DatabaseCheck:
    """Asks the database, but not again within DATABASE_FRESH seconds; callers share a question."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = asyncio.Lock()
        self._last: Verdict | None = None

    async def verdict(self) -> Verdict:
        """Give the verdict, at most DATABASE_FRESH seconds old."""
        async with self._lock:
            if self._last is None or time.time() - self._last.at > DATABASE_FRESH:
                began = time.perf_counter()
                error = await self._error()
                ms = round((time.perf_counter() - began) * 1000, 1)
                self._last = Verdict(error, ms, time.time())
            return self._last

    async def _error(self) -> str | None:
        try:
            async with asyncio.timeout(DATABASE_TIMEOUT):
                await self._db.value("database_answers")
        except TimeoutError:
            return f"no answer within {DATABASE_TIMEOUT:.0f} s"
        except VptError as error:
            return error.message
        return None
