"""The page at /: static files, read once, so that no path of a request reaches the file system.

The paths of the files contain a digest of all of them, so that a browser can cache each file for
ever and never mixes files of two versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from aiohttp import hdrs, web

from vpt.errors import NotFoundError
from vpt.web.http.auth import public
from vpt.web.http.caller import caller_of
from vpt.web.http.operations import UNCHANGED, ResponseSpec, operation
from vpt.web.http.params import is_known

routes = web.RouteTableDef()

_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "media-src blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_CACHED_FOR_EVER, _CHECKED_EACH_TIME = "public, max-age=31536000, immutable", "no-cache"


def _read(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Return content and type of each file by its path in the folder."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), _TYPES[path.suffix])
        for path in sorted(folder.rglob("*"))
        if path.suffix in _TYPES
    }


def _digest(files: Mapping[str, tuple[bytes, str]]) -> str:
    digest = hashlib.sha256()
    for name, (body, _) in files.items():
        digest.update(f"{name}\n{len(body)}\n".encode() + body)
    return digest.hexdigest()[:16]


_FILES = _read(Path(__file__).parent / "console")
_VERSION = _digest(_FILES)
_FRONT = _FILES["index.html"][0].replace(b"VERSION", _VERSION.encode())
_FROM_THE_ROOT = b'="/console/'


@routes.get("/")
@public
@operation(ResponseSpec({"text/html": None}, headers=(hdrs.ETAG,)), also=UNCHANGED, any_query=True)
async def front(request: web.Request) -> web.Response:
    """Show the page; 304 when the client has it already.

    Its files are named with the prefix of a proxy; its modules find the rest by their own URL.
    """
    prefix = caller_of(request).prefix
    tag = _VERSION + prefix.replace("/", ".")
    headers = {**_HEADERS, hdrs.CACHE_CONTROL: _CHECKED_EACH_TIME, hdrs.ETAG: f'"{tag}"'}
    if is_known(request, tag):
        return web.Response(status=304, headers=headers)
    body = _FRONT.replace(_FROM_THE_ROOT, f'="{prefix}/console/'.encode())
    return web.Response(body=body, content_type="text/html", charset="utf-8", headers=headers)


@routes.get("/console/{version}/{name:.+}")
@public
@operation(ResponseSpec(dict.fromkeys(_TYPES.values())), refuses=(NotFoundError,), any_query=True)
async def page_file(request: web.Request) -> web.Response:
    """Show a file of the page; a page of an older version gets the current one."""
    if request.match_info["name"] not in _FILES:
        raise NotFoundError
    body, kind = _FILES[request.match_info["name"]]
    known = request.match_info["version"] == _VERSION
    headers = {**_HEADERS, hdrs.CACHE_CONTROL: _CACHED_FOR_EVER if known else _CHECKED_EACH_TIME}
    return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)
