"""Checks of the database and of external services, in the background: no request waits for one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import aiohttp
import structlog

from vpt.background import Background, every
from vpt.config import Config
from vpt.errors import VptError
from vpt.store.db import Database

log = structlog.get_logger(__name__)

#: Seconds.
INTERVAL, TIMEOUT = 30.0, 5.0
DATABASE_TIMEOUT, DATABASE_FRESH = 2.0, 2.0
_OPENROUTER = "https://openrouter.ai/api/v1/key"
#: The lowest HTTP status that counts as a failure: a broken service, or also a refusal.
_BROKEN, _REFUSED = 500, 400


@dataclass(frozen=True, slots=True)
class CheckTarget:
    """An external service to check; a response status of `bad_from` or above is a failure."""

    name: str
    url: str
    bad_from: int = _BROKEN
    headers: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check: `error` or None, duration in ms, end in epoch seconds."""

    error: str | None
    ms: float
    at: float

    @property
    def ok(self) -> bool:
        """True when the check succeeded."""
        return self.error is None


def targets_of(config: Config) -> list[CheckTarget]:
    """Return the services that are configured; others are not checked."""
    targets = []
    if config.grafana_url:
        url = f"{config.grafana_url.rstrip('/')}/api/health"
        targets.append(CheckTarget("grafana", url, _REFUSED))
    if config.supabase_url:
        url = f"{config.supabase_url.rstrip('/')}/auth/v1/health"
        key = config.supabase_anon_key
        bad_from = _REFUSED if key else _BROKEN  # without a key a healthy service answers 401
        targets.append(CheckTarget("supabase", url, bad_from, {"apikey": key} if key else {}))
    if config.openrouter_api_key:
        headers = {"Authorization": f"Bearer {config.openrouter_api_key}"}
        targets.append(CheckTarget("openrouter", _OPENROUTER, _REFUSED, headers))
    if config.cloudflare_r2_endpoint:
        targets.append(CheckTarget("cloudflare_r2", config.cloudflare_r2_endpoint))
    return targets


class ExternalChecks:
    """Checks every target each INTERVAL seconds and keeps the last results."""

    def __init__(self, targets: Sequence[CheckTarget]) -> None:
        self._targets = tuple(targets)
        self._results: dict[str, CheckResult] = {}
        self._first = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Check in the background for as long as the context lasts."""
        background = Background()
        background.start(self._run_rounds(), "external-checks")
        try:
            yield
        finally:
            await background.close()

    async def results(self) -> dict[str, CheckResult]:
        """Return the last result of each target by its name; waits for the first round only."""
        await self._first.wait()
        return dict(self._results)

    async def _run_rounds(self) -> None:
        if not self._targets:
            self._first.set()
            return
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await self._check_all(session)
            await every(INTERVAL, partial(self._check_all, session))

    async def _check_all(self, session: aiohttp.ClientSession) -> None:
        await asyncio.gather(*(self._check(session, target) for target in self._targets))
        self._first.set()

    async def _check(self, session: aiohttp.ClientSession, target: CheckTarget) -> None:
        began = time.perf_counter()
        try:
            error = await _error_of(session, target)
        except Exception as crash:  # a defect of ours must not end the checks of all targets
            log.exception("external_check_crashed", service=target.name)
            error = type(crash).__name__
        result = CheckResult(error, round((time.perf_counter() - began) * 1000, 1), time.time())
        before = self._results.get(target.name)
        if result.ok != (before is None or before.ok):
            log.warning("external_check_changed", service=target.name, ok=result.ok, error=error)
        self._results[target.name] = result


async def _error_of(session: aiohttp.ClientSession, target: CheckTarget) -> str | None:
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
    """Checks the database at most every DATABASE_FRESH seconds; callers share a check."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = asyncio.Lock()
        self._last: CheckResult | None = None

    async def result(self) -> CheckResult:
        """Return a result that is at most DATABASE_FRESH seconds old."""
        async with self._lock:
            if self._last is None or time.time() - self._last.at > DATABASE_FRESH:
                began = time.perf_counter()
                error = await self._error()
                ms = round((time.perf_counter() - began) * 1000, 1)
                self._last = CheckResult(error, ms, time.time())
            return self._last

    async def _error(self) -> str | None:
        try:
            async with asyncio.timeout(DATABASE_TIMEOUT):
                await self._db.value("database_answers")
        except TimeoutError:
            if self._db.load.full:
                return f"all {self._db.use[2]} connections are in use: raise DATABASE_POOL"
            return f"no answer within {DATABASE_TIMEOUT:.0f} s"
        except VptError as error:
            return error.message
        except Exception as error:  # the database refuses even this
            log.exception("database_check_failed")
            return type(error).__name__
        return None
