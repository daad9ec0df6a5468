"""Routes of the API documents and of the page that shows them; each is built at first request."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from aiohttp import hdrs, web

from vpt.errors import NotFoundError
from vpt.web.http.auth import public
from vpt.web.http.keys import CONFIG
from vpt.web.http.middlewares import JSON_HEADERS
from vpt.web.http.operations import JSON, UNCHANGED, ResponseSpec, operation
from vpt.web.http.params import is_known

routes = web.RouteTableDef()

_DOCUMENT = ResponseSpec({JSON: None}, headers=(hdrs.ETAG,))
_FOLDER = Path(__file__).parent / "swagger"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_FRONT, _PACKED = "index.html", ".gz"
#: `data:` because Swagger UI has its pictures inline.
_POLICY = "; ".join(
    (
        *("default-src 'none'", "script-src 'self'", "connect-src 'self'"),
        *("style-src 'self'", "img-src 'self' data:"),
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class _Text:
    """A body that is the same for everybody, and the same compressed by gzip when there is that.

    It is hashed and unpacked once, and not for each request, which would hold up all others.
    """

    body: bytes
    headers: Mapping[Any, str]
    packed: bytes | None = None
    tag: str = field(init=False)

    def __post_init__(self) -> None:
        """Hash the body, for its ETag."""
        object.__setattr__(self, "tag", hashlib.sha256(self.body).hexdigest()[:16])

    def answer(self, request: web.Request) -> web.Response:
        """Answer with the body; 304 when the client has it already."""
        headers: dict[str, str] = {
            **self.headers,
            hdrs.ETAG: f'"{self.tag}"',
            hdrs.CACHE_CONTROL: "no-cache",
        }
        if is_known(request, self.tag):
            return web.Response(status=304, headers=headers)
        if self.packed is None:
            return web.Response(body=self.body, headers=headers)
        headers[hdrs.VARY] = hdrs.ACCEPT_ENCODING
        if "gzip" not in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
            return web.Response(body=self.body, headers=headers)
        headers[hdrs.CONTENT_ENCODING] = "gzip"
        return web.Response(body=self.packed, headers=headers)


@dataclass(slots=True)
class _Document:
    """A document that is built once per application, in a thread."""

    make: Callable[[web.Application], bytes]
    text: _Text | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def answer(self, request: web.Request) -> web.Response:
        """Answer with the document."""
        async with self.turn:
            if self.text is None:
                self.text = await asyncio.to_thread(
                    lambda: _Text(self.make(request.app), JSON_HEADERS)
                )
        return self.text.answer(request)


_OPENAPI = web.AppKey("openapi", _Document)
_ASYNCAPI = web.AppKey("asyncapi", _Document)


def setup(app: web.Application) -> None:
    """Prepare the documents of `app`."""
    app[_OPENAPI], app[_ASYNCAPI] = _Document(_openapi), _Document(_asyncapi)


def _openapi(app: web.Application) -> bytes:
    from vpt.web.docs.openapi import describe  # noqa: PLC0415 (loads its libraries only when needed)

    return describe(app)


def _asyncapi(app: web.Application) -> bytes:
    from vpt.web.docs.asyncapi import describe  # noqa: PLC0415 (as above)

    return describe(app[CONFIG])


@routes.get("/api/openapi.json")
@public
@operation(_DOCUMENT, also=UNCHANGED, any_query=True)
async def openapi_document(request: web.Request) -> web.Response:
    """Show this document, in OpenAPI 3.1."""
    return await request.app[_OPENAPI].answer(request)


@routes.get("/api/asyncapi.json")
@public
@operation(_DOCUMENT, also=UNCHANGED, any_query=True)
async def asyncapi_document(request: web.Request) -> web.Response:
    """Show the document of the live events, in AsyncAPI 3."""
    return await request.app[_ASYNCAPI].answer(request)


@routes.get("/api/docs")
@public
@operation(ResponseSpec({"text/html": None}, headers=(hdrs.ETAG,)), also=UNCHANGED, any_query=True)
async def docs(request: web.Request) -> web.Response:
    """Show this document as a page on which the routes can be tried."""
    return _file(_FRONT).answer(request)


@routes.get("/api/docs/{name}")
@public
@operation(
    ResponseSpec(dict.fromkeys(_TYPES.values()), headers=(hdrs.ETAG,)),
    also=UNCHANGED,
    refuses=(NotFoundError,),
    any_query=True,
)
async def docs_file(request: web.Request) -> web.Response:
    """Show one file of the documentation page."""
    name = request.match_info["name"]
    if name not in _names():
        raise NotFoundError
    return _file(name).answer(request)


@cache
def _names() -> frozenset[str]:
    """Return the names of the files, so that no path of a request reaches the file system."""
    names = (path.name.removesuffix(_PACKED) for path in _FOLDER.iterdir())
    return frozenset(name for name in names if Path(name).suffix in _TYPES)


@cache
def _file(name: str) -> _Text:
    path, packed = _FOLDER / name, _FOLDER / f"{name}{_PACKED}"
    headers = {**_HEADERS, hdrs.CONTENT_TYPE: f"{_TYPES[path.suffix]}; charset=utf-8"}
    if packed.exists():
        content = packed.read_bytes()
        return _Text(gzip.decompress(content), headers, content)
    return _Text(path.read_bytes(), headers)
