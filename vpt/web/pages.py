"""The page at /: static files, read once, no path of a request ever meets the file system."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from vpt.errors import NotFoundError
from vpt.web.auth import public

routes = web.RouteTableDef()

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_FILES = {
    path.name: (path.read_bytes(), _TYPES[path.suffix])
    for path in sorted((Path(__file__).parent / "console").iterdir())
    if path.suffix in _TYPES
}
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@routes.get("/")
@public
async def front(_: web.Request) -> web.Response:
    """Give the page."""
    return _file("index.html")


@routes.get("/console/{name}")
@public
async def static(request: web.Request) -> web.Response:
    """Give one of the page's files."""
    return _file(request.match_info["name"])


def _file(name: str) -> web.Response:
    if name not in _FILES:
        raise NotFoundError
    body, kind = _FILES[name]
    return web.Response(body=body, content_type=kind, charset="utf-8", headers=_HEADERS)
