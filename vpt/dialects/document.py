"""The document dialect: one POST an action, answered when the action is over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import aiohttp
import orjson
from yarl import URL

from vpt.dialects.base import MAX_ANSWER, Call, HostTroubleError, clean
from vpt.model import Answer, Device, Host, Json
from vpt.urls import CheckedResolver

_CONNECT = 5.0  # seconds
_KEEP = 1.5  # seconds; some hosts close an idle connection after 2
_BIG = 256 * 1024  # bytes; a larger answer is parsed beside the loop
_BUSY = (408, 429)

_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_BROKEN = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError)


class DocumentDialect:
    """Speaks to hosts over two pools: kept connections for those that know repeated keys."""

    def __init__(self) -> None:
        self._resolver = CheckedResolver()
        self._kept = _session(self._resolver, keep=True)
        self._fresh = _session(self._resolver, keep=False)
        self._urls: dict[tuple[str, str], URL] = {}

    async def close(self) -> None:
        """Close all connections."""
        await self._kept.close()
        await self._fresh.close()
        await self._resolver.close()

    async def probe(self, host: Host, limit: float) -> None:
        """GET /host/health: any 2xx is alive."""
        request = self._kept.get(
            self._url(host, "/host/health"),
            headers=_headers(host),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=limit),
        )
        try:
            async with request as response:
                if response.status // 100 != 2:  # noqa: PLR2004
                    raise HostTroubleError("HOST_ERROR", f"The probe got {response.status}.")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise HostTroubleError("NOT_CONNECTED", _words(error)) from error

    async def send(self, call: Call) -> Answer:
        """POST /host/remote/executeAction, once more when a kept connection had just closed."""
        data = orjson.dumps({**call.body, "device_id": call.device.local_id})
        try:
            return await self._post(call, data)
        except HostTroubleError as trouble:
            if trouble.trouble != "BROKEN" or not call.host.idempotency:
                raise
            broken = trouble
        try:
            return await self._post(call, data)
        except HostTroubleError as trouble:
            if trouble.trouble == "NOT_CONNECTED":  # but the first one may have been acted on
                raise broken from trouble
            raise

    async def _post(self, call: Call, data: bytes) -> Answer:
        host = call.host
        session = self._kept if host.idempotency else self._fresh
        try:
            async with session.post(
                self._url(host, "/host/remote/executeAction"),
                data=data,
                headers={**_headers(host), "Idempotency-Key": call.key},
                timeout=_timeout(call.limit, call.connect),
                allow_redirects=False,
            ) as response:
                content = await _read(response)
                status = response.status
        except _NOT_SENT as error:
            raise HostTroubleError("NOT_CONNECTED", _words(error)) from error
        except TimeoutError as error:
            raise HostTroubleError("TIMEOUT", "The action did not end in time.") from error
        except _BROKEN as error:
            raise HostTroubleError("BROKEN", _words(error)) from error
        except (aiohttp.ClientError, ValueError) as error:
            raise HostTroubleError("HOST_ERROR", _words(error)) from error
        return await _understood(status, content)

    async def cancel(self, host: Host, execution_id: str, attempt: int, limit: float) -> bool:
        """POST /host/cancel: any 2xx is an acknowledgement."""
        try:
            async with self._fresh.post(
                self._url(host, "/host/cancel"),
                data=orjson.dumps({"execution_id": execution_id, "attempt": attempt}),
                headers=_headers(host),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=limit, sock_connect=_CONNECT),
            ) as response:
                return response.status // 100 == 2  # noqa: PLR2004
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return False

    async def leave(self, host: Host, device: Device, limit: float) -> None:
        """Say nothing: these hosts know no attempts."""

    def task_complete(self, task_id: str, said: Json, host_id: str | None) -> bool:  # noqa: ARG002
        """Wait for nothing: an action's answer is its end."""
        return False

    def _url(self, host: Host, path: str) -> URL:
        """Parse a host's URL once; the few that are known are kept."""
        url = self._urls.get((host.url, path))
        if url is None:
            if len(self._urls) > 10_000:  # noqa: PLR2004
                self._urls.clear()
            url = self._urls[host.url, path] = URL(host.url + path)
        return url


@lru_cache(maxsize=1000)  # a handful of limits for all steps
def _timeout(seconds: float, connect: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, connect=min(connect, _CONNECT))


def _session(resolver: CheckedResolver, *, keep: bool) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=0,
        resolver=resolver,
        **({"keepalive_timeout": _KEEP} if keep else {"force_close": True}),
    )
    return aiohttp.ClientSession(
        connector=connector,
        connector_owner=True,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept-Encoding"),
    )


def _headers(host: Host) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if host.secret is not None:
        headers["Authorization"] = f"Bearer {host.secret}"
    return headers


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read an answer of 16 MiB at most."""
    if (response.content_length or MAX_ANSWER + 1) <= MAX_ANSWER:
        return await response.read()
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_ANSWER:
            raise HostTroubleError("HOST_ERROR", "The host's answer is over 16 MiB.")
    return b"".join(chunks)


async def _understood(status: int, content: bytes) -> Answer:
    """Tell an answer from the ways in which there is none."""
    if status // 100 == 2:  # noqa: PLR2004
        raw = await _parsed(content)
        if raw is None or not isinstance(raw.get("success"), bool):
            raise HostTroubleError("HOST_ERROR", "The host's answer has no success in it.")
        return Answer(raw["success"], clean(raw.get("output")), clean(raw.get("error")), raw=raw)
    raw = await _parsed(content) or {}
    said = clean(raw.get("error") or raw.get("code"))
    words = f"The host answered {status}" + (f": {said[:500]}" if said else ".")
    if status == 503 and raw.get("code") == "fate_unknown":  # noqa: PLR2004
        raise HostTroubleError("FATE_UNKNOWN", "The host died and cannot tell what it did.")
    refused = 400 <= status < 500 and status not in _BUSY  # noqa: PLR2004
    raise HostTroubleError("HOST_REFUSED" if refused else "HOST_ERROR", words)


async def _parsed(content: bytes) -> Mapping[str, Any] | None:
    if len(content) > _BIG:
        return await asyncio.to_thread(_loads, content)
    return _loads(content)


def _loads(content: bytes) -> Mapping[str, Any] | None:
    """Parse an object; orjson refuses lone surrogates, which a host may well send."""
    try:
        raw = orjson.loads(content)
    except orjson.JSONDecodeError:
        try:
            raw = json.loads(content)
        except (ValueError, RecursionError):
            return None
    return raw if isinstance(raw, dict) else None


def _words(error: BaseException) -> str:
    """Say what went wrong, without the host's URL."""
    reason = getattr(error, "os_error", None) or error
    return f"{type(error).__name__}: {getattr(reason, 'strerror', None) or 'no connection'}"
