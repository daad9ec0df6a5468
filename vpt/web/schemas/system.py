"""The server itself: its health, and how busy it is."""

from __future__ import annotations

from typing import ClassVar

from marshmallow import fields as f

from vpt.model import Json
from vpt.web.schemas.fields import about
from vpt.web.schemas.response import EARLY, ResponseSchema, flag, moment, number, text, whole


class AliveResponse(ResponseSchema):
    """Whether the server answers, or whether its database does (`ready`, `not_ready`)."""

    status = text("`alive`, `ready` or `not_ready`.")
    example: ClassVar[Json] = {"status": "alive"}


class NotReadyResponse(ResponseSchema):
    """The server answers, but its database does not."""

    status = text("`not_ready`.")
    reason = text("Why.")
    example: ClassVar[Json] = {
        "status": "not_ready",
        "reason": "all 10 connections are in use: raise DATABASE_POOL",
    }


class Checks(ResponseSchema):
    """Whether each part works; a part that is not configured counts as working."""

    database = flag()
    grafana = flag()
    hosts = flag()
    external_services = flag()


class HealthResponse(ResponseSchema):
    """The health of the server and of what it depends on."""

    status = text("`healthy` when every check is true, else `unhealthy`.")
    checks = f.Nested(Checks)
    timestamp = moment()
    details = f.Dict(
        metadata=about("Details of each check; only in responses to requests with a valid token.")
    )
    maybe = frozenset({"details"})
    example: ClassVar[Json] = {
        "status": "healthy",
        "checks": {"database": True, "grafana": True, "hosts": True, "external_services": True},
        "timestamp": EARLY,
    }


class DatabaseInfo(ResponseSchema):
    """The database."""

    version = text()
    mode = text("`embedded` or `external`.")


class SystemInfoResponse(ResponseSchema):
    """Versions, settings and addresses of this server."""

    version = text()
    started_at = moment()
    uptime_s = number()
    python = text()
    database = f.Nested(DatabaseInfo)
    settings = f.Dict(metadata=about("The settings, without secrets."))
    urls = f.Dict(keys=f.String(), values=f.String())
    example: ClassVar[Json] = {
        "version": "0.1.0",
        "started_at": EARLY,
        "uptime_s": 4.2,
        "python": "3.13.1",
        "database": {"version": "18.4", "mode": "embedded"},
        "settings": {"SERVER_PORT": 5109},
        "urls": {"server": "http://127.0.0.1:5109"},
    }


class LabMeasures(ResponseSchema):
    """Figures of the server process that the database does not have."""

    queue_length = whole()
    queue_oldest_s = number(none=True)
    actors = whole()
    inbox_depth = whole()
    campaigns_running = whole()


class SystemStatusResponse(ResponseSchema):
    """How busy the lab and the server process are."""

    hosts = f.Dict(
        keys=f.String(), values=f.Integer(), metadata=about("Numbers by status, and the total.")
    )
    devices = f.Dict(
        keys=f.String(), values=f.Integer(), metadata=about("Numbers by status, and the total.")
    )
    queue_length = whole()
    queue_oldest_s = number(none=True)
    running = whole()
    success_rate = number(
        "Percent of `completed` among `completed` and `failed` in the last 30 days.", none=True
    )
    memory_bytes = whole()
    cpu_percent = number()
    loop_lag_ms = number()
    loop_lag_worst_ms = number("The largest lag of the last minute.")
    uptime_s = number()
    lab = f.Nested(LabMeasures)
    example: ClassVar[Json] = {
        "hosts": {"total": 1, "available": 1},
        "devices": {"total": 1, "online": 1},
        "queue_length": 0,
        "queue_oldest_s": None,
        "running": 0,
        "success_rate": 98.5,
        "memory_bytes": 73400320,
        "cpu_percent": 1.5,
        "loop_lag_ms": 0.21,
        "loop_lag_worst_ms": 3.4,
        "uptime_s": 86400.0,
        "lab": {
            "queue_length": 0,
            "queue_oldest_s": None,
            "actors": 1,
            "inbox_depth": 0,
            "campaigns_running": 0,
        },
    }
