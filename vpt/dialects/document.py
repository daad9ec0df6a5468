"""The document dialect: one POST for each action, answered when the action is over."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, NoReturn
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from vpt import bodies
from vpt.dialects import http
from vpt.dialects.base import (
    Call,
    HostTroubleError,
    Identity,
    ScreenPart,
    ScreenRequest,
    Touch,
    Trouble,
    check_identity,
    clean,
    not_understood,
    presence_of,
)
from vpt.model import Answer, Device, Host, Json, Presence, TroubleKind
from vpt.urls import CheckedResolver

_JSON_TYPES = ((str, "text"), (list, "an array"), (dict, "an object"))
_NOT_THERE = (Trouble.SOMEBODY_ELSE, Trouble.NOT_CONNECTED, Trouble.HELD_BACK)
#: What a touch is that these hosts take as an action; the care of a host is none.
_ACTIONS = (None, Touch.TAP, Touch.ELEMENTS)
_MAX_PICTURE = 8 * 2**20
_AT_WORK = 409
_NO_REASON = "The host could not run the step and gives no reason."
#: What the `kind` of an answer with `"outcome": "error"` means, where it is not the host's error.
_TROUBLES = {"step_timeout": Trouble.STOPPED}


class DocumentDialect:
    """Calls hosts over two pools: kept connections for those that know repeated keys."""

    def __init__(self) -> None:
        self._resolver = CheckedResolver()
        self._kept = http.open_session(self._resolver, keep=True)
        self._fresh = http.open_session(self._resolver, keep=False)
        self._urls: dict[tuple[str, str], URL] = {}

    async def close(self) -> None:
        """Close all connections."""
        await self._kept.close()
        await self._fresh.close()
        await self._resolver.close()

    async def probe(self, host: Host, limit: float) -> Identity:
        """GET /host/health: any 2xx of the host itself is alive."""
        request = self._kept.get(
            self._url(host, "/host/health"),
            headers=_headers(host),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=limit, sock_connect=limit * http.PROBE_CONNECT),
        )
        try:
            async with request as response:
                http.check_probe(response.status)
                identity = await http.identity_of(await http.read_health(response))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise http.not_connected(error) from error
        check_identity(host, identity)
        return identity

    async def send(self, call: Call) -> Answer:
        """POST /host/remote/executeAction, once more when a kept connection had just closed."""
        if call.touch not in _ACTIONS:
            raise HostTroubleError(Trouble.HOST_REFUSED, "The host has no such care of its own.")
        more = {"limit_s": call.step_limit, "lease_id": call.lease_id}
        told = {name: value for name, value in more.items() if value is not None}
        body = {**call.body, "device_id": call.device.local_id, **told}
        data = await bodies.written(body)
        try:
            return await self._post_checked(call, data)
        except HostTroubleError as error:
            if error.trouble is not Trouble.BROKEN or not call.host.idempotency:
                raise
            return await self._post_again(call, data, error)

    async def _post_checked(self, call: Call, data: bytes) -> Answer:
        """Send it over a kept connection, or else ask first who answers at the host's URL.

        Over a kept connection answers the same process as before, so it need not be asked again.
        """
        if call.host.named and call.host.idempotency:
            only_kept = http.ONLY_KEPT.set(True)
            try:
                return await self._post(call, data)
            except http.NewConnectionError:
                pass
            finally:
                http.ONLY_KEPT.reset(only_kept)
        await self._check_named(call.host, call.connect)
        return await self._post(call, data)

    async def _check_named(self, host: Host, limit: float) -> None:
        """Raise HostTroubleError when somebody else answers at a URL whose host says its name.

        A secret would not tell the two apart: many hosts act for whoever calls. Where nobody
        answers it is raised, too: another host may appear there before the call. Other troubles are
        the call's.
        """
        if not host.named:
            return
        try:
            await self.probe(host, limit)
        except HostTroubleError as trouble:
            if trouble.trouble in _NOT_THERE and not _is_slow(trouble):
                raise

    async def _post_again(self, call: Call, data: bytes, broken: HostTroubleError) -> Answer:
        """Send it again; when that reaches nobody, or another host, the first error stays.

        The host may be at work, and have another address by now.
        """
        try:
            await self._check_named(call.host, call.connect)
            return await self._post(call, data)
        except HostTroubleError as error:
            if error.trouble is Trouble.NOT_CONNECTED or error.is_of_another_host:
                raise broken from error
            if error.message == broken.message == http.BROKE_OFF:  # so it does each time
                raise not_understood(error.message) from error
            raise

    async def _post(self, call: Call, data: bytes) -> Answer:
        host = call.host
        session = self._kept if host.idempotency else self._fresh
        with http.ERRORS_AS_TROUBLE:
            async with session.post(
                self._url(host, "/host/remote/executeAction"),
                data=data,
                headers={**_headers(host), "Idempotency-Key": call.key},
                timeout=_timeout(call.limit, call.connect),
                allow_redirects=False,
            ) as response:
                text = await http.read_text(response)
                status = response.status
        return await http.made_of(text, partial(_answer_of, status, text))

    async def show(self, host: Host, device: Device, request: ScreenRequest, limit: float) -> bytes:
        """GET the device's screenshot; nothing while the device is at work."""
        if request.kind is not ScreenPart.PICTURE:
            raise HostTroubleError(Trouble.HOST_REFUSED, "The host has no live stream.")
        name = quote(device.local_id or host.id, safe="")
        url = URL(f"{host.url}/host/devices/{name}/screenshot", encoded=True)
        with http.ERRORS_AS_TROUBLE:
            async with self._fresh.get(
                url, headers=_headers(host), allow_redirects=False, timeout=_timeout(limit, limit)
            ) as response:
                content = await http.read(response, _MAX_PICTURE)
                status = response.status
        if status == _AT_WORK:
            return b""
        if not http.is_good(status):
            http.raise_for_status(status, await http.read_as(content, lambda body: body or {}))
        return content

    async def cancel(self, host: Host, execution_id: str, attempt: int, limit: float) -> bool:
        """POST /host/cancel: any 2xx is an acknowledgement."""
        try:
            await self._check_named(host, limit)
            async with self._fresh.post(
                self._url(host, "/host/cancel"),
                data=orjson.dumps({"execution_id": execution_id, "attempt": attempt}),
                headers=_headers(host),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=limit, sock_connect=http.CONNECT),
            ) as response:
                return http.is_good(response.status)
        except (HostTroubleError, aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return False

    async def look(self, host: Host, device: Device, limit: float) -> Presence | None:  # noqa: ARG002
        """Return None: these hosts say how their devices are without being asked."""
        return None

    async def check_key(self, host: Host, limit: float) -> None:
        """Do nothing: each of these hosts showed its own secret when it registered."""

    async def leave(self, host: Host, device: Device, limit: float) -> None:
        """Do nothing: these hosts do not know attempts."""

    def task_complete(self, task_id: str, report: Json, host_id: str | None) -> bool:  # noqa: ARG002
        """Return False: nothing waits for a report, since an action's answer is its end."""
        return False

    def _url(self, host: Host, path: str) -> URL:
        """Return a host's URL, parsed once; the few that are known are kept."""
        url = self._urls.get((host.url, path))
        if url is None:
            if len(self._urls) > 10_000:  # noqa: PLR2004
                self._urls.clear()
            url = self._urls[host.url, path] = URL(host.url + path)
        return url


def _is_slow(trouble: HostTroubleError) -> bool:
    """Return whether somebody is there, and may be at work."""
    return trouble.reason is not None and trouble.reason.kind is TroubleKind.TOO_SLOW


@lru_cache(maxsize=1000)  # a handful of limits for all steps
def _timeout(seconds: float, connect: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, connect=min(connect, http.CONNECT))


def _headers(host: Host) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Vpt-Host": host.id}
    if host.secret is not None:
        headers["Authorization"] = f"Bearer {host.secret}"
    return headers


def _answer_of(status: int, text: bytes, raw: Mapping[str, Any] | None) -> Answer:
    """Return the answer in a response; raise HostTroubleError when there is no verdict in it."""
    if not http.is_good(status):
        _raise_refusal(status, raw or {})
    if raw is None:
        raise http.no_object(text)
    presence = presence_of(raw)
    if raw.get("outcome") == "error":
        answer = _said(raw)
        trouble = _TROUBLES.get(str(raw.get("kind")), Trouble.HOST_ERROR)
        error = answer.error or _NO_REASON
        raise HostTroubleError(trouble, error, answer=answer, presence=presence)
    success = raw.get("success")
    if not isinstance(success, bool):
        raise not_understood(_no_success(success), presence)
    return _said(raw, success=success, presence=presence)


def _no_success(success: Any) -> str:
    """Return what is wrong with a `success` that is not true or false."""
    if success is None:
        return "The host answered without success: true or false must be in it."
    name = next((name for kind, name in _JSON_TYPES if isinstance(success, kind)), "a number")
    return f"The host answered success as {name}, not as true or false."


def _raise_refusal(status: int, raw: Mapping[str, Any]) -> NoReturn:
    """Raise what a status means that is no 2xx, with what the step printed before."""
    try:
        http.raise_for_status(status, raw)
    except HostTroubleError as error:
        error.answer = _said(raw) if raw.get("output") is not None else None
        raise


def _said(
    raw: Mapping[str, Any], *, success: bool = False, presence: Presence | None = None
) -> Answer:
    """Return what a host said of a step, not counting as a success unless told."""
    output, error = clean(raw.get("output")), clean(raw.get("error"))
    return Answer(success, output, error, raw=raw, presence=presence)
