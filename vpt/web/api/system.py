"""The server itself: health, version and settings, load, and figures over time."""

from __future__ import annotations

import platform
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import orjson
import psutil
from aiohttp import web

from vpt import __version__
from vpt.background import Background, every
from vpt.config import Config
from vpt.connections import Connections
from vpt.health import CheckResult, DatabaseCheck, ExternalChecks, targets_of
from vpt.model import DeviceStatus, HostStatus, HostView, Json, Role
from vpt.store.disk import Disk
from vpt.web.http.auth import needs, public, user_or_none
from vpt.web.http.keys import CONFIG, CONNECTIONS, DB, LAB
from vpt.web.http.operations import JSON, NOBODY, USER, ResponseSpec, operation, query_of
from vpt.web.http.params import number
from vpt.web.http.requests import json_response, json_text
from vpt.web.schemas.metrics import DevicesFiguresResponse, SuccessRateResponse
from vpt.web.schemas.system import (
    AliveResponse,
    HealthResponse,
    NotReadyResponse,
    SystemInfoResponse,
    SystemStatusResponse,
)

routes = web.RouteTableDef()

DEFAULT_DAYS, MAX_DAYS = 30, 3650
_DAYS = number(
    "days",
    "The number of days to count, until today.",
    lowest=1,
    highest=MAX_DAYS,
    absent=DEFAULT_DAYS,
)
#: Seconds between two measurements of the loop and the processor, and how many are kept.
_BEAT, _BEATS = 1.0, 60
_UNAVAILABLE = 503


@dataclass(slots=True)
class Pulse:
    """Measurements of the process: the loop's lag in seconds, the processor's use in percent."""

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    began: float = field(default_factory=time.monotonic)
    lags: deque[float] = field(default_factory=lambda: deque([0.0], _BEATS))
    cpu_percent: float = 0.0
    process: psutil.Process = field(default_factory=psutil.Process)
    due: float = float("inf")  # when the next beat is due, by perf_counter

    @property
    def uptime_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    async def beat(self) -> None:
        """Measure how late the loop called this, a beat after the last call."""
        self.lags.append(max(0.0, time.perf_counter() - self.due))
        self.cpu_percent = self.process.cpu_percent()
        self.due = time.perf_counter() + _BEAT


PULSE = web.AppKey("pulse", Pulse)
_DATABASE = web.AppKey("database_check", DatabaseCheck)
_EXTERNAL = web.AppKey("external_checks", ExternalChecks)


def setup(app: web.Application) -> None:
    """Prepare what these routes read. CONFIG and DB of `app` must be set."""
    app[CONNECTIONS] = Connections(proxies=app[CONFIG].trusted_proxies)
    app[PULSE] = Pulse()
    app[_DATABASE] = DatabaseCheck(app[DB])
    app[_EXTERNAL] = ExternalChecks(targets_of(app[CONFIG]))
    app.cleanup_ctx.append(_background)


async def _background(app: web.Application) -> AsyncIterator[None]:
    background = Background()
    background.start(every(_BEAT, app[PULSE].beat), "pulse")
    async with app[_EXTERNAL].running():
        yield
    await background.close()


@routes.get("/api/health")
@public
@operation(
    HealthResponse,
    also={_UNAVAILABLE: ResponseSpec({JSON: HealthResponse})},
    credentials=(NOBODY, USER),
)
async def health(request: web.Request) -> web.Response:
    """Show whether the server and all that it depends on work; 503 when something does not."""
    database = await request.app[_DATABASE].result()
    external = await request.app[_EXTERNAL].results()
    hosts = _registered(request)
    checks = {
        "database": database.ok,
        "grafana": "grafana" not in external or external["grafana"].ok,
        "hosts": not hosts or any(view.status is not HostStatus.LOST for view in hosts),
        "external_services": all(v.ok for name, v in external.items() if name != "grafana"),
    }
    well = all(checks.values())
    answer: Json = {
        "status": "healthy" if well else "unhealthy",
        "checks": checks,
        "timestamp": datetime.now(UTC),
    }
    if await user_or_none(request) is not None:
        answer["details"] = _details(database, external, hosts, request.app[LAB].disk)
    return json_response(answer, 200 if well else _UNAVAILABLE)


@routes.get("/api/health/live")
@public
@operation(AliveResponse)
async def health_live(_: web.Request) -> web.Response:
    """Show that the server answers."""
    return json_response({"status": "alive"})


@routes.get("/api/health/ready")
@public
@operation(AliveResponse, also={_UNAVAILABLE: ResponseSpec({JSON: NotReadyResponse})})
async def health_ready(request: web.Request) -> web.Response:
    """Show whether the database answers; 503 when it does not."""
    verdict = await request.app[_DATABASE].result()
    if verdict.ok:
        return json_response({"status": "ready"})
    return json_response({"status": "not_ready", "reason": verdict.error}, _UNAVAILABLE)


@routes.get("/api/system/info")
@needs(Role.VIEWER)
@operation(SystemInfoResponse)
async def system_info(request: web.Request) -> web.Response:
    """Show version, settings and addresses of this server, without any secret."""
    config, pulse = request.app[CONFIG], request.app[PULSE]
    return json_response(
        {
            "version": __version__,
            "started_at": pulse.started_at,
            "uptime_s": round(pulse.uptime_s, 1),
            "python": platform.python_version(),
            "database": {
                "version": await request.app[DB].value("database_version"),
                "mode": "embedded" if config.embedded else "external",
            },
            "settings": config.public(),
            "urls": _urls(config),
        }
    )


@routes.get("/api/system/status")
@needs(Role.VIEWER)
@operation(SystemStatusResponse)
async def system_status(request: web.Request) -> web.Response:
    """Show how busy the lab and the server process are; memory in bytes, lag in milliseconds."""
    counts = await request.app[DB].row("lab_counts")
    rate = await request.app[DB].row("success_rate", days=DEFAULT_DAYS)
    pulse = request.app[PULSE]
    return json_response(
        {
            "hosts": _by_status(counts["hosts"], HostStatus),
            "devices": _by_status(counts["devices"], DeviceStatus),
            "queue_length": counts["queue_length"],
            "queue_oldest_s": counts["queue_oldest_s"],
            "running": counts["running"],
            "success_rate": rate["success_rate"],
            "memory_bytes": pulse.process.memory_info().rss,
            "cpu_percent": pulse.cpu_percent,
            "loop_lag_ms": round(pulse.lags[-1] * 1000, 2),
            "loop_lag_worst_ms": round(max(pulse.lags) * 1000, 2),
            "uptime_s": round(pulse.uptime_s, 1),
            "lab": request.app[LAB].measures(),
        }
    )


@routes.get("/api/metrics/success-rate")
@needs(Role.VIEWER)
@operation(SuccessRateResponse, query=(_DAYS,))
async def success_rate(request: web.Request) -> web.Response:
    """Show the percentage of `completed` among `completed` and `failed` executions, by day too."""
    days = query_of(request)["days"]
    row = await request.app[DB].row("success_rate", days=days)
    by_day = orjson.loads(await request.app[DB].value("success_by_day", days=days))
    return json_response({"days": days, **row, "by_day": by_day})


@routes.get("/api/metrics/devices")
@needs(Role.VIEWER)
@operation(DevicesFiguresResponse)
async def device_metrics(request: web.Request) -> web.Response:
    """Show for each device the number of executions, success rate (percent) and mean seconds."""
    items = await request.app[DB].value("device_metrics")
    return json_text(f'{{"items":{items}}}')


def _registered(request: web.Request) -> list[HostView]:
    """Return the hosts that have not unregistered."""
    return [view for view in request.app[LAB].views() if view.status is not HostStatus.OFFLINE]


def _details(
    database: CheckResult, external: Mapping[str, CheckResult], hosts: list[HostView], disk: Disk
) -> Json:
    lost = [view.host.id for view in hosts if view.status is HostStatus.LOST]
    return {
        "database": _told(database),
        "hosts": {"registered": len(hosts), "lost": lost},
        "external": {name: _told(verdict) for name, verdict in external.items()},
        "disk": {
            "ok": not disk.full,
            "free_percent": disk.room and disk.room.percent,
            "min_free_percent": disk.min_free,
        },
    }


def _told(verdict: CheckResult) -> Json:
    return {
        "ok": verdict.ok,
        "error": verdict.error,
        "ms": verdict.ms,
        "checked_at": datetime.fromtimestamp(verdict.at, UTC),
    }


def _by_status(counted: str, statuses: type[StrEnum]) -> Json:
    found: dict[str, Any] = orjson.loads(counted)
    by_status = {status.value: found.get(status.value, 0) for status in statuses}
    return {"total": sum(by_status.values()), **by_status}


def _urls(config: Config) -> dict[str, str]:
    named = {
        "server": config.server_url,
        "grafana": config.grafana_url,
        "supabase": config.supabase_url,
        "cloudflare_r2": config.cloudflare_r2_endpoint,
    }
    return {name: _bare(url) for name, url in named.items() if url}


def _bare(url: str) -> str:
    """Return `url` without user info, query and fragment."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
