"""What people see and do by hand on a VirtualPyTest host: pictures, streams, taps, its care.

Each is one of the host's own requests beside those for steps. What the host names as a file of its
own is fetched by its `/host/av/images`, whatever server it says that the file is on.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping
from typing import Any

from yarl import URL

from vpt.bodies import in_thread
from vpt.dialects import http
from vpt.dialects.base import (
    Call,
    HostTroubleError,
    ScreenPart,
    ScreenRequest,
    Touch,
    Trouble,
    clean,
    not_understood,
    shortened,
)
from vpt.dialects.pictures import url_of_picture
from vpt.dialects.serial import SerialClient, SerialResponse
from vpt.dialects.start_requests import local_id
from vpt.model import Answer, Device, Host, Json

#: What a touch is on such a host: its path, and whether its body names the device.
_TOUCHES: Mapping[Touch, tuple[str, bool]] = {
    Touch.TAP: ("/host/remote/tapCoordinates", True),
    Touch.ELEMENTS: ("/host/remote/dumpUi", True),
    Touch.RESTART_SERVICE: ("/host/system/restartHostService", False),
    Touch.REBOOT: ("/host/system/rebootHost", False),
    Touch.RESTART_STREAM: ("/host/system/restartHostStreamService", True),
    Touch.POWER: ("/host/power/executeCommand", True),
}
#: After these the host may be gone before it has answered.
_ENDS_THE_HOST = (Touch.RESTART_SERVICE, Touch.REBOOT)
_CAPTURED, _BY_REMOTE = "/host/av/takeScreenshot", "/host/remote/takeScreenshot"
_MAX_PICTURE = 8 * 2**20
_MAX_FILE = 16 * 2**20
_LONGEST_WORDS = 1000
_KEPT = 10_000  # devices whose way to a picture is remembered
_PORTS = (80, 443)  # of the web server that such a host has beside its own


class HandRequests:
    """Sends what people do by hand; the client sends one request at a time to each host."""

    def __init__(self, client: SerialClient) -> None:
        self._client = client
        self._ways: dict[str, str] = {}  # by device: the path that brought a picture last

    # ------------------------------------------------------------ seeing

    async def show(self, host: Host, device: Device, request: ScreenRequest, limit: float) -> bytes:
        """Return a picture, the URL of a stream's playlist, or a file of a stream."""
        try:
            async with asyncio.timeout(limit):
                match request.kind:
                    case ScreenPart.PICTURE:
                        return await self._picture(host, device)
                    case ScreenPart.STREAM:
                        return str(await self._stream(host, device, request)).encode()
                    case ScreenPart.FILE:
                        return await self._file(host, request)
        except TimeoutError as error:
            raise HostTroubleError(Trouble.TIMEOUT, "The host did not show it in time.") from error

    async def _picture(self, host: Host, device: Device) -> bytes:
        """Return a picture by the way that brought one last, or else by the other."""
        first = self._ways.get(device.id, _CAPTURED)
        second = _BY_REMOTE if first == _CAPTURED else _CAPTURED
        try:
            return await self._picture_by(first, host, device)
        except HostTroubleError as refused:
            if refused.trouble not in (Trouble.HOST_ERROR, Trouble.HOST_REFUSED) or refused.reason:
                raise
            try:
                picture = await self._picture_by(second, host, device)
            except HostTroubleError:
                raise refused from None
        if len(self._ways) >= _KEPT:
            self._ways.clear()
        self._ways[device.id] = second
        return picture

    async def _picture_by(self, path: str, host: Host, device: Device) -> bytes:
        asked = {"device_id": local_id(host, device), "fast": True}
        response = await self._client.post(host, path, asked)
        body = await _good(response, "The host took no picture")
        encoded = body.get("screenshot")
        if isinstance(encoded, str) and encoded:
            return await in_thread(lambda: _decoded(encoded))
        name = body.get("screenshot_path") or body.get("screenshot_url")
        if not isinstance(name, str):
            raise not_understood("The host answered without a picture.")
        return await self._named_picture(host, name)

    async def _named_picture(self, host: Host, name: str) -> bytes:
        """Fetch what the host named as a file of its own."""
        url = url_of_picture(host, name)
        if url is None:
            raise not_understood("The host names a picture that is not on it.")
        response = await self._client.get(host, url, max_bytes=_MAX_PICTURE)
        if not response.good:
            http.raise_for_status(response.status, await response.parsed() or {})
        return response.content

    async def _stream(self, host: Host, device: Device, request: ScreenRequest) -> URL:
        query = {"device_id": local_id(host, device)}
        response = await self._client.get(host, "/host/av/getStreamUrl", query)
        body = await _good(response, "The host has no stream of the device")
        return _playlist_of(host, request.page_url, str(body.get("stream_url") or ""))

    async def _file(self, host: Host, request: ScreenRequest) -> bytes:
        url = URL(str(request.url))
        if request.beside:
            response = await self._client.get_beside(url, _MAX_FILE)
        else:
            response = await self._client.get(host, url, max_bytes=_MAX_FILE)
        if not response.good:
            http.raise_for_status(response.status, {})
        return response.content

    # ------------------------------------------------------------ touching

    async def touch(self, call: Call, touch: Touch) -> Answer:
        """Send a touch with the action's `params`; its failure is an answer, too."""
        path, of_device = _TOUCHES[touch]
        named = {"device_id": local_id(call.host, call.device)} if of_device else {}
        try:
            response = await self._client.post(
                call.host, path, {**named, **(call.body.get("params") or {})}
            )
        except HostTroubleError as trouble:
            if trouble.trouble is Trouble.BROKEN and touch in _ENDS_THE_HOST:
                return _answer({"success": True, "message": "The host ended the connection."})
            raise
        body = await response.parsed()
        if body is None and response.good:
            raise http.no_object(response.content)
        if body is None or not isinstance(body.get("success"), bool):
            http.raise_for_status(response.status, body or {})
        return _answer(body)


def _answer(body: Mapping[str, Any]) -> Answer:
    """Return what the host answered to a touch, without the fields that nobody asked for."""
    success = body["success"] is True
    error = None if success else _words(body.get("error")) or "The host gives no reason."
    output = _words(body.get("message"))
    raw: Json = {"success": success, "output": output, "error": error}
    if isinstance(body.get("elements"), list):
        raw["elements"] = body["elements"]
    return Answer(success, output, error, raw=raw)


def _words(said: Any) -> str | None:
    text = clean(said) if said else None
    return shortened(text, _LONGEST_WORDS) if text else None


async def _good(response: SerialResponse, what: str) -> Mapping[str, Any]:
    """Return the body of a request that succeeded; raise HostTroubleError for another."""
    body = await response.parsed()
    if not response.good:
        http.raise_for_status(response.status, body or {})
    if body is None:
        raise http.no_object(response.content)
    if body.get("success") is not True:
        words = _words(body.get("error"))
        raise HostTroubleError(Trouble.HOST_ERROR, f"{what}: {words}" if words else f"{what}.")
    return body


def _decoded(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise not_understood("The picture of the host is not base64.") from error


def _playlist_of(host: Host, page_url: str | None, named: str) -> URL:
    """Return the URL of a playlist that the host named, when it is on the host's own machine.

    Else a host could make the server fetch from any address. The web server that serves streams has
    another port than the host, and often one that is left out.
    """
    try:
        url = URL(named)
        own = [URL(each) for each in (host.url, page_url) if each]
        ports = {*_PORTS, *(each.port for each in own)}
        there = url.host in {each.host for each in own} and url.port in ports
        plain = url.scheme in ("http", "https") and url.user is None
    except ValueError:
        there = plain = False
    if not there or not plain or not url.path.endswith(".m3u8"):
        raise HostTroubleError(
            Trouble.HOST_REFUSED, "The host names no HLS stream of its own for the device."
        )
    return url
