"""The screens of devices: pictures and streams, fetched while somebody looks, once for all.

Each fetch is a message to the host's actor, which knows what the host is doing. Nothing here runs
by itself: whoever looks asks again and again, and the cost ends with that.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from yarl import URL

from vpt.actors import messages as m
from vpt.actors.fetches import SharedFetches
from vpt.actors.supervisor import Supervisor
from vpt.dialects.base import ScreenPart, ScreenRequest
from vpt.errors import BadGatewayError, NotFoundError, UnavailableError
from vpt.model import HostView
from vpt.playlists import PlaylistError, is_name, rewritten
from vpt.store.artifacts import kind_of
from vpt.store.db import Database
from vpt.urls import is_same_server

PLAYLIST = "index.m3u8"
_PICTURE_AGE = 0.9  # seconds: those who look each second share a picture of that second
_PLAYLIST_AGE, _SEGMENT_AGE, _STREAM_AGE = 0.5, 20.0, 60.0
_PATIENCE = 8.0  # seconds that a person waits
_MOST_HELD = 64 * 2**20  # bytes, of pictures and of segments
_TRIES, _AGAIN = 15, 0.2  # how often a serial host is asked for its stream; seconds between
_LONGEST_PLAYLIST = 2**20
_MOST_FETCHED = 6  # files of one stream at a time: a player asks for two or three
#: How a segment begins: MPEG-TS, the boxes of fragmented MP4.
_TS, _BOXES = b"\x47", (b"ftyp", b"styp", b"moof", b"sidx", b"moov", b"emsg")
HLS_TYPE, TS_TYPE, MP4_TYPE = "application/vnd.apple.mpegurl", "video/mp2t", "video/mp4"


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown: its bytes, their content type by what they are, and a name of just these."""

    content: bytes
    kind: str
    digest: str


class Screens:
    """Shows what is on the screens of devices."""

    def __init__(
        self, db: Database, supervisor: Supervisor, views: Callable[[], Sequence[HostView]]
    ) -> None:
        self._db = db
        self._supervisor = supervisor
        self._views = views
        self._pictures = SharedFetches[Shown | None](_size_of, _MOST_HELD)
        self._files = SharedFetches[Shown](_size_of, _MOST_HELD)
        self._fetching: Counter[str] = Counter()  # files by device
        self._streams = SharedFetches[URL](lambda _: 0, 0)

    async def close(self) -> None:
        """End all fetches."""
        await asyncio.gather(self._pictures.close(), self._files.close(), self._streams.close())

    async def picture(self, device_id: str) -> Shown | None:
        """Return a picture of the last second; None while its host is at work.

        Raises NotFoundError, HostUnreachableError, BadGatewayError, UnavailableError.
        """
        # Before the fetch, so that ids that nobody has leave nothing behind.
        host_id = self._host_of(device_id).host.id
        fetch = partial(self._picture, host_id, device_id)
        return await self._pictures.get(device_id, _PICTURE_AGE, fetch)

    async def _picture(self, host_id: str, device_id: str) -> Shown | None:
        content = await self._ask(host_id, device_id, ScreenRequest(ScreenPart.PICTURE))
        if not content:
            return None
        # By what it is, not by what its host calls it: the browser gets it from our own address.
        kind = kind_of(content)
        if kind is None:
            raise BadGatewayError("The host answered with something else than a PNG or JPEG.")
        return await asyncio.to_thread(_shown, content, f"image/{kind}")

    async def stream(self, device_id: str, name: str) -> Shown:
        """Return a file of a device's stream, PLAYLIST first; raises as `picture` does."""
        if not is_name(name):
            raise NotFoundError("There is no such file in the stream.")
        host = self._host_of(device_id).host
        find = partial(self._stream, host.id, device_id)
        playlist = await self._streams.get(device_id, _STREAM_AGE, find)
        folder = playlist.join(URL("."))
        url = playlist if name == PLAYLIST else folder.join(URL(name))
        # The host itself notices what is asked of it; the web server beside it does not delay it.
        beside = not is_same_server(url, URL(host.url))
        request = ScreenRequest(ScreenPart.FILE, str(url), beside=beside)
        listed = url.path.endswith(".m3u8")
        fetch = partial(self._file, host.id, device_id, request, folder if listed else None)
        age = _PLAYLIST_AGE if listed else _SEGMENT_AGE
        return await self._files.get((device_id, request.url), age, fetch)

    async def _stream(self, host_id: str, device_id: str) -> URL:
        """Return where the playlist of the device's stream is."""
        # The stream may be on the machine's other server, whose address is the one for browsers.
        page_url = await self._db.value("host_page_url", id=host_id)
        request = ScreenRequest(ScreenPart.STREAM, page_url=page_url)
        return URL((await self._shown_by(host_id, device_id, request)).decode())

    async def _file(
        self, host_id: str, device_id: str, request: ScreenRequest, folder: URL | None
    ) -> Shown:
        if self._fetching[device_id] >= _MOST_FETCHED:
            raise UnavailableError("Too many files of this stream are asked for at a time.")
        self._fetching[device_id] += 1
        try:
            content = await self._shown_by(host_id, device_id, request)
        finally:
            self._fetching[device_id] -= 1
        if folder is None:
            return await asyncio.to_thread(_shown, content, _segment_type(content))
        if len(content) > _LONGEST_PLAYLIST:
            raise BadGatewayError("The playlist of the stream is longer than 1 MiB.")
        try:
            return _shown(rewritten(content, folder, URL(str(request.url))), HLS_TYPE)
        except PlaylistError as error:
            raise BadGatewayError(str(error)) from error

    async def _shown_by(self, host_id: str, device_id: str, request: ScreenRequest) -> bytes:
        # Mostly it is another screen or a probe that the host is at work on, which is soon over.
        for _ in range(_TRIES):
            content = await self._ask(host_id, device_id, request)
            if content:
                return content
            await asyncio.sleep(_AGAIN)
        raise UnavailableError("The host is at work, and shows its stream when it has time.")

    async def _ask(self, host_id: str, device_id: str, request: ScreenRequest) -> bytes:
        content: bytes = await self._supervisor.ask(
            host_id, lambda ask: m.ShowScreen(ask, device_id, request), _PATIENCE
        )
        return content

    def _host_of(self, device_id: str) -> HostView:
        for view in self._views():
            if any(each.device.id == device_id for each in view.devices):
                return view
        raise NotFoundError("No host has this device now.")


def _size_of(shown: Shown | None) -> int:
    return 0 if shown is None else len(shown.content)


def _shown(content: bytes, kind: str) -> Shown:
    return Shown(content, kind, hashlib.sha256(content).hexdigest()[:32])


def _segment_type(content: bytes) -> str:
    """Return the type of a segment by what it is; raise BadGatewayError for anything else."""
    if content.startswith(_TS):
        return TS_TYPE
    if content[4:8] in _BOXES:
        return MP4_TYPE
    raise BadGatewayError("The host answered with something else than a piece of video.")
