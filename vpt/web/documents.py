"""The routes of the documents about the API; each is made when it is first asked for."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import hdrs, web

from vpt.web.auth import public
from vpt.web.middlewares import JSON_HEADERS
from vpt.web.operations import JSON, Answer, operation

routes = web.RouteTableDef()

_DOCUMENT = Answer({JSON: None}, headers=(hdrs.ETAG,))


@dataclass(slots=True)
class _Document:
    """Text that is made once, in a thread: that takes a twentieth of a second."""

    make: Callable[[web.Application], bytes]
    text: bytes = b""
    etag: str = ""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def answer(self, request: web.Request) -> web.Response:
        """Answer with it; 304 to who has it as it is."""
        async with self.turn:
            if not self.text:
                self.text = await asyncio.to_thread(self.make, request.app)
                self.etag = hashlib.sha256(self.text).hexdigest()[:16]
        headers = {hdrs.ETAG: f'"{self.etag}"', hdrs.CACHE_CONTROL: "no-cache"}
        if any(tag.value == self.etag for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=self.text, headers={**JSON_HEADERS, **headers})


_OPENAPI = web.AppKey("openapi", _Document)


def setup(app: web.Application) -> None:
    """Prepare to make the documents of `app`."""
    app[_OPENAPI] = _Document(_openapi)


def _openapi(app: web.Application) -> bytes:
    from vpt.web.openapi import describe  # noqa: PLC0415 (its libraries are for those who ask)

    return describe(app)


@routes.get("/api/openapi.json")
@public
@operation(_DOCUMENT)
async def openapi_document(request: web.Request) -> web.Response:
    """Give this document, in OpenAPI 3.1."""
    return await request.app[_OPENAPI].answer(request)
