"""A client of the server's REST API: retries while the server is away, raises its refusals."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import click
from aiohttp import hdrs
from yarl import URL

from vpt.client.exits import ExitCode, InfrastructureError, MisuseError
from vpt.client.text import format_field_errors, one_line
from vpt.config import proxy_of
from vpt.model import Json

#: Seconds: for a response, in addition to the query's `wait`; to connect; the longest backoff.
RESPONSE_TIMEOUT, CONNECT_TIMEOUT, LONGEST_BACKOFF = 30.0, 10.0, 2.0
LARGEST_PAGE = 1000
NOTHING_FITS = "nothing_fits"

_NO_ROUTE = "There is no such route."
_HINTS = {
    401: ": the token in VPT_TOKEN (or --token) is wrong, has expired or was revoked.",
    403: " The token comes from VPT_TOKEN (or --token).",
}
#: The server itself, a proxy or a CDN (52x, 530) says that nobody answers now.
_UNAVAILABLE = {502, 503, 504, *range(520, 531)}
_MISUSES = {400, 401, 403, 404, 405, 413, 422}


class RefusedError(click.ClickException):
    """The server refused the request because of the state of the lab (exit code 2)."""

    exit_code = ExitCode.INFRASTRUCTURE

    def __init__(self, status: int, code: str, message: str) -> None:
        """Store the HTTP status, the server's error code, and its message for people."""
        super().__init__(message)
        self.status, self.code = status, code


class InvalidRequestError(RefusedError):
    """The server refused the request itself or the token: repeating it is useless (exit code 4)."""

    exit_code = ExitCode.USAGE


class _UnavailableError(Exception):
    """The server did not answer, or asked for a retry; the request may have been executed."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def path_segment(name: str) -> str:
    """Return a name quoted for use as one segment of a URL path."""
    return quote(name, safe="")


class Api:
    """Sends requests to one server with one user's token; an async context manager."""

    def __init__(
        self,
        url: str,
        token: str,
        patience: float = 0.0,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Retry for `patience` seconds while the server is away; `notify` prints that it is."""
        self.url = URL(url.rstrip("/")).with_user(None)
        self.token = token
        self._patience = patience
        self.notify = notify
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._opened = aiohttp.ClientSession(
            headers={hdrs.AUTHORIZATION: f"Bearer {self.token}"}, proxy=proxy_of(str(self.url))
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP session; it is open inside the `async with` block only."""
        if self._opened is None:
            raise AssertionError("the session is not open")
        return self._opened

    def page_url(self, path: str) -> str:
        """Return the absolute URL of a path that a browser can open."""
        return f"{str(self.url).rstrip('/')}{path}"

    async def get(self, path: str, **query: Any) -> Any:
        """Send a GET and return its JSON; `wait` makes it a long poll of so many seconds."""
        return _parsed(await self.request("GET", path, query=query))

    async def write(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Send a POST, PUT or DELETE and return its JSON, or None for an empty response.

        With patience it is sent again after a broken connection, so it must be idempotent.
        """
        return _parsed(await self.request(method, path, body=body, headers=headers))

    async def items(self, path: str, most: int | None = None, **query: Any) -> AsyncIterator[Json]:
        """Yield the items of a list route, fetched page by page, at most `most` of them."""
        cursor: str | None = None
        left = most
        while left is None or left > 0:
            limit = LARGEST_PAGE if left is None else min(left, LARGEST_PAGE)
            page = await self.get(path, limit=limit, cursor=cursor, **query)
            for item in page["items"]:
                yield item
            cursor = page["next_cursor"]
            left = None if left is None else left - len(page["items"])
            if cursor is None:
                return

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Send a request until the server answers, and return the body of a 2xx response.

        Raises RefusedError for a refusal, InfrastructureError when the patience is used up.
        """
        asked = {name: str(value) for name, value in (query or {}).items() if value is not None}
        pause, away_at = 0.1, None
        while True:
            try:
                answer = await self._once(method, path, asked, body, headers or {})
            except _UnavailableError as error:
                now = time.monotonic()
                away_at = away_at or now
                left = away_at + self._patience - now
                if left <= 0:
                    raise InfrastructureError(f"{self.url} does not answer: {error}") from error
                if now == away_at:
                    self.notify(f"{self.url} does not answer ({error}); retrying for {left:.0f} s")
                await asyncio.sleep(min(max(pause, error.retry_after), left))
                pause = min(2 * pause, LONGEST_BACKOFF)
                continue
            if away_at is not None:
                self.notify(f"{self.url} answers again")
            return answer

    async def _once(
        self, method: str, path: str, query: dict[str, str], body: Any, headers: Mapping[str, str]
    ) -> bytes:
        total = RESPONSE_TIMEOUT + float(query.get("wait", 0))
        try:
            async with self.session.request(
                method,
                URL(f"{str(self.url).rstrip('/')}{path}", encoded=True).with_query(query),
                json=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=total, connect=CONNECT_TIMEOUT),
                allow_redirects=False,
            ) as response:
                return self._checked(response, await response.read())
        except aiohttp.ClientSSLError as error:
            raise InfrastructureError(f"{self.url}: {error}") from error
        except aiohttp.InvalidURL as error:
            raise MisuseError(f"{self.url} is not the URL of a server.") from error
        except TimeoutError as error:
            raise _UnavailableError("no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _UnavailableError(_reason(error)) from error

    def _checked(self, response: aiohttp.ClientResponse, body: bytes) -> bytes:
        if response.status in _UNAVAILABLE:
            code, words = _refusal(response, body)
            if code == "host_unreachable":
                raise RefusedError(response.status, code, words)
            raise _UnavailableError(words, _retry_after(response))
        if response.status >= 400:  # noqa: PLR2004
            code, words = _refusal(response, body)
            if not code or words == _NO_ROUTE:
                words = f"{self.url}: {words.rstrip('.')}. Is that the URL of a vpt server?"
            words += _HINTS.get(response.status, "")
            misuse = response.status in _MISUSES and code != NOTHING_FITS
            raise (InvalidRequestError if misuse else RefusedError)(response.status, code, words)
        if response.status >= 300:  # noqa: PLR2004
            to = response.headers.get(hdrs.LOCATION, "another URL")
            raise MisuseError(f"{self.url} redirects to {to}: use that URL as --server.")
        return body


def _reason(error: Exception) -> str:
    """Return why there was no response: the operating system's text where it has one."""
    if isinstance(error, aiohttp.ClientConnectorError) and (number := error.os_error.errno):
        words = os.strerror(number) if number > 0 else error.os_error.strerror
        return str(words).lower()
    return str(error) or type(error).__name__


def _retry_after(response: aiohttp.ClientResponse) -> float:
    try:
        return float(response.headers.get(hdrs.RETRY_AFTER, "0"))
    except ValueError:
        return 0.0  # a date, which a proxy may send: vpt sends seconds


def _refusal(response: aiohttp.ClientResponse, body: bytes) -> tuple[str, str]:
    """Return the error code ("" if the response is not vpt's) and one sentence for people."""
    try:
        refusal = json.loads(body)
        if "errors" in refusal:
            return "invalid", one_line(format_field_errors(refusal["errors"]))
        return str(refusal.get("code", "")), one_line(refusal["error"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return "", f"{response.status} {response.reason}, which is not a response of vpt"


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError as error:
        raise InfrastructureError(
            "The response is not JSON: is that the URL of a vpt server?"
        ) from error
