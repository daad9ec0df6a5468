"""A stand-in that shows its devices: pictures, streams, taps, elements, and the care of the host.

Its web server for streams listens on a port of its own, as nginx does in the field.
"""

from __future__ import annotations

import asyncio
import base64
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web

from .body import Json
from .stand_in import Handler, NoError, StandIn, must

VIDEO = Path(__file__).parent / "data" / "stream.mp4"
WIDTH, HEIGHT = 90, 160


def png(red: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """Return a picture in one shade of red."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    rows = (b"\0" + bytes((red % 256, 30, 60)) * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", head),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        )
    )


ELEMENT = {
    "id": 3,
    "text": "Home",
    "className": "android.widget.TextView",
    "contentDesc": "",
    "package": "app",
    "bounds": {"left": 10, "top": 20, "right": 60, "bottom": 40},
    "clickable": True,
    "enabled": True,
    "xpath": None,
}


class ScreenStandIn(StandIn):
    """Takes pictures as the real host does, by two requests."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.streams = StreamServer()
        self.taken: Counter[str] = Counter()  # pictures by device
        self.without_av: set[str] = set()  # devices whose stream is down
        self.taps: list[Json] = []
        self.cared: list[tuple[str, Json]] = []
        self.picture: bytes | None = None  # instead of a new one each time
        self.named: str | None = None  # the stream's URL, instead of its own

    async def start(self) -> None:
        """Serve streams beside the rest."""
        await self.streams.start()
        self.membership.says |= {"host_url": self.streams.url, "host_api_url": self.url}
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        await self.streams.stop()

    def _handler(self, method: str, path: str) -> Handler:
        mine: dict[tuple[str, str], Handler] = {
            ("POST", "/host/av/takeScreenshot"): self._take_by_av,
            ("POST", "/host/remote/takeScreenshot"): self._take_by_remote,
            ("GET", "/host/av/images"): self._image,
            ("GET", "/host/av/getStreamUrl"): self._stream_url,
            ("POST", "/host/remote/tapCoordinates"): self._tap,
            ("POST", "/host/remote/dumpUi"): self._dump,
        }
        if path.startswith(("/host/system/re", "/host/power/")):
            return self._care
        return mine.get((method, path)) or super()._handler(method, path)

    def _of(self, device: Any) -> str:
        must(device in self.devices, f"Device {device} not found", 404)
        return str(device)

    def _new_picture(self, device: str) -> bytes:
        self.taken[device] += 1
        return self.picture or png(self.taken[device])

    async def _take_by_av(self, request: web.Request, body: Json) -> web.Response:
        device = self._of(body.get("device_id"))
        must(device not in self.without_av, f"No AV controller found for device {device}", 404)
        # It names the file on its web server, of which it leaves out the port.
        url = f"http://127.0.0.1/host/stream/{device}/captures/verification_source.jpg"
        return web.json_response({"success": True, "screenshot_url": url, "device_id": device})

    async def _take_by_remote(self, request: web.Request, body: Json) -> web.Response:
        picture = base64.b64encode(self._new_picture(self._of(body.get("device_id")))).decode()
        return web.json_response({"success": True, "screenshot": picture})

    async def _image(self, request: web.Request, body: Json) -> web.Response:
        path = request.query.get("path", "")
        must(path.startswith("/var/www/html/stream/"), "File not found", 404)
        content = self._new_picture(self._of(path.split("/")[5]))
        return web.Response(body=content, content_type="image/jpeg")

    async def _stream_url(self, request: web.Request, body: Json) -> web.Response:
        device = self._of(request.query.get("device_id"))
        url = self.named or f"{self.streams.url}/host/stream/{device}/segments/output.m3u8"
        return web.json_response({"success": True, "stream_url": url, "device_id": device})

    async def _tap(self, request: web.Request, body: Json) -> web.Response:
        self._of(body.get("device_id"))
        self.taps.append(body)
        message = f"Tap executed at coordinates ({body['x']}, {body['y']})"
        return web.json_response({"success": True, "message": message})

    async def _dump(self, request: web.Request, body: Json) -> web.Response:
        if self.devices[self._of(body.get("device_id"))] == "stb":
            raise NoError(400, "UI dump not supported by this remote controller")
        return web.json_response({"success": True, "elements": [ELEMENT]})

    async def _care(self, request: web.Request, body: Json) -> web.Response:
        self.cared.append((request.path, body))
        return web.json_response({"success": True, "message": "done"})


class StreamServer:
    """Serves a live stream of one piece, to whoever asks: it needs no key."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answers = asyncio.Event()  # cleared: pieces are not answered
        self.answers.set()
        self.playlist = (
            "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:1\n"
            '#EXT-X-MAP:URI="{folder}/init.mp4"\n#EXTINF:1.0,\nsegment_000000001.m4s\n'
            "#EXTINF:1.0,\n{folder}/segment_000000002.m4s\n#EXT-X-ENDLIST\n"
        )
        self._pieces = _pieces_of(VIDEO.read_bytes())
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/host/stream/{device}/segments/{name}", self._file)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _file(self, request: web.Request) -> web.Response:
        name, device = request.match_info["name"], request.match_info["device"]
        self.asked.append((name, dict(request.headers)))
        folder = f"{self.url}/host/stream/{device}/segments"
        if name.endswith(".m3u8"):
            return web.Response(text=self.playlist.format(folder=folder))
        await self.answers.wait()
        piece = 0 if name.startswith("init") else int(name[-5])
        return web.Response(body=self._pieces[piece])


def _pieces_of(video: bytes) -> list[bytes]:
    """Return the head of a fragmented MP4, and each fragment of it."""
    pieces, rest = [b""], video
    while rest and (size := int.from_bytes(rest[:4])):
        if rest[4:8] == b"moof":
            pieces.append(b"")
        if rest[4:8] != b"mfra":
            pieces[-1] += rest[:size]
        rest = rest[size:]
    return pieces
