"""The server's REST API: requests that are sent again while it is away, and refusals as errors."""

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

from vpt.client.exits import Exit, MisuseError, TroubleError
from vpt.client.text import one_line, what_is_invalid
from vpt.model import Json

#: Seconds: for an answer beyond what it may wait by itself; to connect; between tries, at most.
ANSWER, CONNECT, LONGEST_PAUSE = 30.0, 10.0, 2.0
LARGEST_PAGE = 1000
NOTHING_FITS = "nothing_fits"

_NO_ROUTE = "There is no such route."
_HINTS = {
    401: ": the one of VPT_TOKEN (or --token) is wrong, has expired or was revoked.",
    403: " The token is that of VPT_TOKEN (or --token).",
}
_AWAY = {502, 503, 504}
_MISUSES = {400, 401, 403, 404, 405, 413, 422}


class RefusedError(click.ClickException):
    """The server said no, for the state of the lab."""

    exit_code = Exit.TROUBLE

    def __init__(self, status: int, code: str, words: str) -> None:
        """Take the HTTP status, the server's code, and its sentence."""
        super().__init__(words)
        self.status, self.code = status, code


class WrongError(RefusedError):
    """The server said no, for what it was asked or by whom."""

    exit_code = Exit.USAGE


class _AwayError(Exception):
    """Nobody can tell whether the request arrived, or the server asks to try again later."""

    def __init__(self, words: str, retry_after: float = 0.0) -> None:
        super().__init__(words)
        self.retry_after = retry_after


def segment(name: str) -> str:
    """Give a name as one piece of a path."""
    return quote(name, safe="")


class Api:
    """A server, and a user's token for it."""

    def __init__(
        self,
        url: str,
        token: str,
        patience: float = 0.0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Send requests again for `patience` seconds while it is away, and say so once."""
        self.url = URL(url.rstrip("/")).with_user(None)
        self.token = token
        self._patience = patience
        self.say = say
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._opened = aiohttp.ClientSession(headers={hdrs.AUTHORIZATION: f"Bearer {self.token}"})
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """Give the open session."""
        if self._opened is None:
            raise AssertionError("the session is not open")
        return self._opened

    def page(self, path: str) -> str:
        """Give the URL of something that the server shows."""
        return f"{str(self.url).rstrip('/')}{path}"

    async def get(self, path: str, **query: Any) -> Any:
        """GET, and give the JSON; `wait` (seconds) is what the server may take by itself."""
        return _parsed(await self.ask("GET", path, query=query))

    async def write(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """POST, PUT or DELETE, and give the JSON.

        Who has patience sends it again when the connection breaks, so it must be harmless twice.
        """
        return _parsed(await self.ask(method, path, body=body, headers=headers))

    async def items(self, path: str, most: int | None = None, **query: Any) -> AsyncIterator[Json]:
        """Give the items of a list, page by page, `most` of them."""
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

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Give a good answer's body. Raises RefusedError, and TroubleError when nobody answers."""
        asked = {name: str(value) for name, value in (query or {}).items() if value is not None}
        pause, away_at = 0.1, None
        while True:
            try:
                answer = await self._once(method, path, asked, body, headers or {})
            except _AwayError as away:
                now = time.monotonic()
                away_at = away_at or now
                left = away_at + self._patience - now
                if left <= 0:
                    raise TroubleError(f"{self.url} does not answer: {away}") from away
                if now == away_at:
                    self.say(f"{self.url} does not answer ({away}); trying for {left:.0f} s")
                await asyncio.sleep(min(max(pause, away.retry_after), left))
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            if away_at is not None:
                self.say(f"{self.url} answers again")
            return answer

    async def _once(
        self, method: str, path: str, query: dict[str, str], body: Any, headers: Mapping[str, str]
    ) -> bytes:
        total = ANSWER + float(query.get("wait", 0))
        try:
            async with self.session.request(
                method,
                URL(f"{str(self.url).rstrip('/')}{path}", encoded=True).with_query(query),
                json=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=total, connect=CONNECT),
                allow_redirects=False,
            ) as response:
                return self._checked(response, await response.read())
        except aiohttp.ClientSSLError as error:
            raise TroubleError(f"{self.url}: {error}") from error
        except aiohttp.InvalidURL as error:
            raise MisuseError(f"{self.url} is no URL of a server.") from error
        except TimeoutError as error:
            raise _AwayError("no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _AwayError(_why(error)) from error

    def _checked(self, response: aiohttp.ClientResponse, body: bytes) -> bytes:
        if response.status in _AWAY:
            code, words = _refusal(response, body)
            if code == "host_unreachable":
                raise RefusedError(response.status, code, words)
            raise _AwayError(words, _retry_after(response))
        if response.status >= 400:  # noqa: PLR2004
            code, words = _refusal(response, body)
            if not code or words == _NO_ROUTE:
                words = f"{self.url}: {words.rstrip('.')}. Is that the URL of a vpt server?"
            words += _HINTS.get(response.status, "")
            misuse = response.status in _MISUSES and code != NOTHING_FITS
            raise (WrongError if misuse else RefusedError)(response.status, code, words)
        if response.status >= 300:  # noqa: PLR2004
            to = response.headers.get(hdrs.LOCATION, "somewhere else")
            raise MisuseError(f"{self.url} points to {to}: name that as --server.")
        return body


def _why(error: Exception) -> str:
    """Say why nobody answers, in the system's words where it is the system that says so."""
    if isinstance(error, aiohttp.ClientConnectorError) and (number := error.os_error.errno):
        words = os.strerror(number) if number > 0 else error.os_error.strerror
        return str(words).lower()
    return str(error) or type(error).__name__


def _retry_after(response: aiohttp.ClientResponse) -> float:
    try:
        return float(response.headers.get(hdrs.RETRY_AFTER, "0"))
    except ValueError:
        return 0.0  # a date: who sends one is no vpt


def _refusal(response: aiohttp.ClientResponse, body: bytes) -> tuple[str, str]:
    """Give the code and one sentence."""
    try:
        told = json.loads(body)
        if "errors" in told:
            return "invalid", one_line(what_is_invalid(told["errors"]))
        return str(told.get("code", "")), one_line(told["error"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return "", f"{response.status} {response.reason}, and not in the words of vpt"


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError as error:
        raise TroubleError("The answer is not JSON: is that a vpt server?") from error
