"""The pictures of a step on a VirtualPyTest host, which names files of its own and serves them.

What a host names is never fetched from elsewhere, or it could make the server call any address and
get its API key there. A file on the host's disk, or below `/host/stream/` of whatever web server is
in front of the host, is asked of the host's own route for images. One that cannot be had is a note
on the step; it never fails it.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog
from yarl import URL

from vpt.dialects.base import Call, HostTroubleError, Trouble, clean, shortened
from vpt.dialects.results import StepResult
from vpt.dialects.serial import SerialClient, own_url, url_of
from vpt.dialects.start_requests import local_id
from vpt.model import Host

log = structlog.get_logger(__name__)

MOST = 20  # pictures of a step beside its screenshot
MOST_BYTES = 16 * 2**20  # of all of them; they wait in memory until they are stored
_MAX_PICTURE = 8 * 2**20
LIMIT = 5.0  # seconds for all pictures of a step: its result must not wait long for them
_MISSED = 2  # after so many in a row that cannot be had the others are not tried
_BIG = 256 * 1024  # bytes; more are encoded in a thread, since that holds up the loop
_IMAGES = "/host/av/images"
_SCREENSHOT = "/host/av/takeScreenshot"
#: A web server in front of the host serves this folder below this path.
_SERVED, _FOLDER = "/host/stream/", "/var/www/html/stream/"
#: Where files of its disk lie; other paths are those of its own routes.
_ROOTS = tuple(
    f"/{name}/" for name in ["var", "tmp", "home", "opt", "mnt", "srv", "dev", "run", "root"]
)
_SAID = 200  # characters of a host's reason


@dataclass(slots=True)
class Fetched:
    """The pictures that were fetched; `screenshot` is in base64."""

    screenshot: str | None = None
    others: list[tuple[str, str]] = field(default_factory=list)  # what each shows, in base64
    left_out: list[str] = field(default_factory=list)  # why, for each that could not be had

    @property
    def notes(self) -> str | None:
        """Return what is to be said of those that could not be had."""
        if not self.left_out:
            return None
        if self.screenshot is None and len(self.left_out) == 1:
            return f"The screenshot was left out: {self.left_out[0]}"
        return f"{len(self.left_out)} pictures were left out: {self.left_out[0]}"


class Pictures:
    """Fetches the pictures of steps from their hosts."""

    def __init__(self, client: SerialClient) -> None:
        self._client = client

    async def of(self, call: Call, result: StepResult, limit: float) -> Fetched:
        """Return the pictures that a step's result names, or one that is taken now."""
        fetched = Fetched()
        try:
            async with asyncio.timeout(limit):
                await self._fetch(call, result, fetched)
        except TimeoutError:
            fetched.left_out.append(f"The host did not send it within {limit:.0f} s.")
        if fetched.left_out:
            log.info("screenshot_not_fetched", host_id=call.host.id, why=fetched.left_out[0])
        return fetched

    async def _fetch(self, call: Call, result: StepResult, fetched: Fetched) -> None:
        names = list(dict.fromkeys((*result.pictures, *result.captions)))
        if not names:
            if not result.success and _wants_one(call):
                await self._add(call.host, await self._taken(call, fetched), fetched, None)
            return
        # The newest first: it is the step's screenshot, whatever becomes of the others.
        newest = result.pictures[-1] if result.pictures else names[0]
        await self._add(call.host, newest, fetched, None)
        names.remove(newest)
        await self._add_others(call.host, names, result, fetched)

    async def _add_others(
        self, host: Host, names: Sequence[str], result: StepResult, fetched: Fetched
    ) -> None:
        missed = len(fetched.left_out)
        for name in names[:MOST]:
            before = len(fetched.left_out)
            if missed < _MISSED and _size_of(fetched) < MOST_BYTES:
                await self._add(host, name, fetched, result.captions.get(name, ""))
            else:
                fetched.left_out.append("The host could not send those before it.")
            missed = missed + 1 if len(fetched.left_out) > before else 0
        left = len(names) - MOST
        fetched.left_out += [f"A step keeps {MOST} beside its screenshot."] * max(0, left)

    async def _add(
        self, host: Host, name: str | None, fetched: Fetched, caption: str | None
    ) -> None:
        """Fetch a picture; without a caption it is the step's screenshot."""
        if name is None:
            return
        try:
            picture = await self._picture(host, name)
        except HostTroubleError as trouble:
            fetched.left_out.append(trouble.message)
            return
        if caption is None:
            fetched.screenshot = picture
        else:
            fetched.others.append((caption, picture))

    async def _taken(self, call: Call, fetched: Fetched) -> str | None:
        """Let the host take a screenshot now; return the name of its file."""
        asked = {"device_id": local_id(call.host, call.device), "fast": True}
        try:
            response = await self._client.post(call.host, _SCREENSHOT, asked)
            body = await response.parsed() or {}
        except HostTroubleError as trouble:
            fetched.left_out.append(trouble.message)
            return None
        name = body.get("screenshot_path") or body.get("screenshot_url")
        if isinstance(name, str) and body.get("success") is True:
            return name
        why = clean(body.get("error")) or f"it answered {response.status}"
        said = shortened(why, _SAID).rstrip(".")
        fetched.left_out.append(f"The host could not take one: {said}.")
        return None

    async def _picture(self, host: Host, name: str) -> str:
        """Return a picture in base64; its content is checked where it is stored."""
        url = url_of_picture(host, name)
        if url is None:
            raise HostTroubleError(Trouble.HOST_ERROR, "It is not on the host.")
        response = await self._client.get(host, url, max_bytes=_MAX_PICTURE)
        if not response.good:
            raise HostTroubleError(Trouble.HOST_ERROR, f"The host answered {response.status}.")
        if len(response.content) > _BIG:
            return await asyncio.to_thread(_encoded, response.content)
        return _encoded(response.content)


def url_of_picture(host: Host, name: str) -> URL | None:
    """Return the URL at which the host serves a file that it named; None: it is elsewhere."""
    try:
        path = URL(name).path if "://" in name else name
    except ValueError:
        return None
    if path.startswith(_SERVED):
        path = f"{_FOLDER}{path.removeprefix(_SERVED)}"
    elif "://" in name or not path.startswith(_ROOTS):
        return own_url(host, name)
    return url_of(host, _IMAGES, {"path": path})


def _wants_one(call: Call) -> bool:
    """Return whether a failed step gets a picture: as it says, else if its device has a screen."""
    wanted = call.body.get("screenshot_on_failure")
    return wanted is True or (wanted is None and "av" in call.device.capabilities)


def _size_of(fetched: Fetched) -> int:
    return sum(len(data) for _, data in fetched.others) * 3 // 4


def _encoded(picture: bytes) -> str:
    return base64.b64encode(picture).decode()
