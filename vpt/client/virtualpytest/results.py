"""Finished results of a VirtualPyTest system, as history of vpt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from vpt.bounds import LONGEST_NAME
from vpt.client.api import Api
from vpt.model import Json

#: Results that one request stores.
AT_ONCE = 500
_LONGEST_ERROR, _LONGEST_URL = 10_000, 2000
SOURCE = "virtualpytest"


class ResultImport:
    """Stores results, page by page; those that are stored already are left as they are."""

    def __init__(self, api: Api, test_cases: Mapping[str, str], devices: Sequence[Json]) -> None:
        """Know the ids of test cases by name, and which devices are registered."""
        self._api, self._test_cases = api, test_cases
        self._devices = {(one["host_id"], one["name"]): one for one in devices}
        self.imported = self.known = self.left_out = 0

    async def store(self, rows: Sequence[Json]) -> None:
        """Store the finished ones of these rows."""
        items = [item for row in rows if (item := self._item(row)) is not None]
        self.left_out += len(rows) - len(items)
        for begin in range(0, len(items), AT_ONCE):
            body = {"source": SOURCE, "executions": items[begin : begin + AT_ONCE]}
            done = await self._api.write("POST", "/api/executions/import", body)
            self.imported += done["imported"]
            self.known += done["known"]

    async def look(self, rows: Sequence[Json]) -> None:
        """Count those that would be stored."""
        self.imported += len(items := [row for row in rows if self._item(row) is not None])
        self.left_out += len(rows) - len(items)

    def _item(self, row: Json) -> Json | None:
        """Return a result as vpt has it; None when it has not finished, or was discarded there."""
        began, ended = _moment(row.get("started_at")), _moment(row.get("completed_at"))
        # A running one has equal times and `success` false there.
        if began is None or ended is None or ended <= began or row.get("discard") is True:
            return None
        name, host = _text(row, "script_name")[:LONGEST_NAME], _text(row, "host_name")
        device = self._devices.get((host, _text(row, "device_name")))
        success = row.get("success") is True
        return {
            "id": _text(row, "id"),
            "test_case_name": name or "unnamed",
            "test_case_id": self._test_cases.get(name),
            "device_model": (device or {}).get("model") or "unknown",
            "host_id": host[:LONGEST_NAME] or "unknown",
            "device_id": device["id"] if device else f"{host}:{_text(row, 'device_name')}"[:200],
            "status": "completed" if success else "failed",
            "error": None if success else _text(row, "error_msg")[:_LONGEST_ERROR] or None,
            "output": _links(row) or None,
            "started_at": began.isoformat(),
            "completed_at": ended.isoformat(),
        }


def _links(row: Json) -> str:
    """Return where that system keeps the report and the log."""
    urls = (("report", "html_report_r2_url"), ("log", "logs_r2_url"))
    told = ((word, _text(row, column)[:_LONGEST_URL]) for word, column in urls)
    return "\n".join(f"{word}: {url}" for word, url in told if url)


def _text(row: Json, name: str) -> str:
    value = row.get(name)
    return "" if value is None else str(value).replace("\0", "").strip()


def _moment(told: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(told))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
