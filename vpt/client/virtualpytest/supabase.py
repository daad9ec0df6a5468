"""Tables of a VirtualPyTest system in its Supabase project, read page by page over PostgREST."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

import aiohttp
from yarl import URL

from vpt.client.exits import InfrastructureError, MisuseError
from vpt.config import proxy_of
from vpt.model import Json

#: Rows of a page: a project may have a lower limit of its own, so a short page is not the last one.
PAGE = 500
MOST_ROWS = 1_000_000
_LARGEST_PAGE = 256 * 2**20
_TIMEOUT = aiohttp.ClientTimeout(total=120, connect=15)
_REFUSED, _MISSING, _OK = (401, 403), (400, 404), (200, 206)
#: The columns that put the rows of a table in one order, so that pages do not overlap.
ORDER = {
    "testcase_definitions": "testcase_id",
    "folders": "folder_id",
    "tags": "tag_id",
    "executable_tags": "executable_type,executable_id,tag_id",
    "campaigns": "campaign_id",
}
#: These have no team: whoever may read them reads all.
WITHOUT_TEAM = frozenset(("folders", "tags", "executable_tags", "device_flags"))


class SupabaseProject:
    """Reads the tables of one project with one key; an async context manager."""

    def __init__(self, url: str, key: str, team: str | None = None) -> None:
        """Read rows of `team` only, where a table has teams."""
        self._url, self._team = URL(url.rstrip("/")), team
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise MisuseError(
                f"--supabase-url {url!r} is no URL: expected https://PROJECT.supabase.co."
            )
        self._headers = {"apikey": key, "Authorization": f"Bearer {key}"}
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._opened = aiohttp.ClientSession(
            headers=self._headers, proxy=proxy_of(str(self._url)), timeout=_TIMEOUT
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._opened is not None:
            await self._opened.close()

    async def pages(self, table: str, where: Mapping[str, str]) -> AsyncIterator[list[Json]]:
        """Yield the rows of a table, page by page; nothing when the project has no such table.

        `where` are filters of PostgREST: `{"started_at": "gte.2026-01-01"}`.
        """
        query = {"select": "*", "order": ORDER.get(table, "id"), "limit": str(PAGE), **where}
        if self._team is not None and table not in WITHOUT_TEAM:
            query["team_id"] = f"eq.{self._team}"
        read = 0
        while page := await self._page(table, {**query, "offset": str(read)}):
            yield page
            read += len(page)
            if read >= MOST_ROWS:
                raise MisuseError(f"{table} has more than {MOST_ROWS} rows: use --since.")

    async def _page(self, table: str, query: Mapping[str, str]) -> list[Json]:
        if self._opened is None:
            raise AssertionError("the session is not open")
        url = self._url / "rest/v1" / table
        try:
            async with self._opened.get(url, params=query, allow_redirects=False) as response:
                body = await _bounded(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            words = str(error) or type(error).__name__
            raise InfrastructureError(f"{self._url} does not answer: {words}") from error
        return _rows(table, response.status, body)


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(2**20):
        body += chunk
        if len(body) > _LARGEST_PAGE:
            raise InfrastructureError(
                f"A page of {response.url.name} has more than {_LARGEST_PAGE >> 20} MiB."
            )
    return bytes(body)


def _rows(table: str, status: int, body: bytes) -> list[Json]:
    answer = _parsed(body)
    if status in _REFUSED:
        raise MisuseError(
            f"Supabase refuses to show {table} ({status}): use the service_role key of the project."
        )
    if status in _MISSING and _code(answer).startswith(("PGRST205", "42P01")):
        return []  # an older or newer system has no such table
    if status not in _OK or not isinstance(answer, list):
        words = answer.get("message") if isinstance(answer, dict) else None
        raise InfrastructureError(f"Supabase answers {status} for {table}: {words or 'no JSON'}.")
    return [row for row in answer if isinstance(row, dict)]


def _code(answer: Any) -> str:
    return str(answer.get("code")) if isinstance(answer, dict) else ""


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
