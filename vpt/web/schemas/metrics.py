"""Figures over time and by device."""

from __future__ import annotations

from typing import ClassVar

from marshmallow import fields as f

from vpt.model import DeviceStatus, Json
from vpt.web.schemas.fields import about
from vpt.web.schemas.response import ResponseSchema, number, one_of, text, whole


class DayFigures(ResponseSchema):
    """How the executions ended that started on one day."""

    day = f.Date()
    completed = whole()
    failed = whole()
    error = whole()


class SuccessRateResponse(ResponseSchema):
    """The percentage of `completed` among `completed` and `failed` executions."""

    days = whole()
    total = whole()
    completed = whole()
    failed = whole()
    error = whole("Infrastructure errors; they do not count in any rate.")
    success_rate = number(none=True)
    by_day = f.List(
        f.Nested(DayFigures), metadata=about("By day (UTC), without days on which nothing started.")
    )
    example: ClassVar[Json] = {
        "days": 30,
        "total": 204,
        "completed": 197,
        "failed": 3,
        "error": 4,
        "success_rate": 98.5,
        "by_day": [{"day": "2026-01-31", "completed": 197, "failed": 3, "error": 4}],
    }


class DeviceFigures(ResponseSchema):
    """Figures of one device."""

    id = text()
    name = text()
    status = one_of(DeviceStatus)
    test_count = whole()
    success_rate = number("Percent of `completed` among `completed` and `failed`.", none=True)
    avg_duration = number("Mean duration of an execution in seconds.", none=True)


class DevicesFiguresResponse(ResponseSchema):
    """Figures of each device."""

    items = f.List(f.Nested(DeviceFigures))
    example: ClassVar[Json] = {
        "items": [
            {
                "id": "pi-1:desktop",
                "name": "Desktop of pi-1",
                "status": "online",
                "test_count": 204,
                "success_rate": 98.5,
                "avg_duration": 4.2,
            }
        ]
    }
