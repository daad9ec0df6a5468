"""The route of screenshots, for requests with a token or with a signed link.

An `<img>` cannot send a token, so a page asks for a link that is valid for an hour without one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from datetime import UTC, datetime

from aiohttp import hdrs, web

from vpt.errors import InvalidTokenError
from vpt.model import Role
from vpt.web.http.auth import own_credential, require, secret_of
from vpt.web.http.keys import ARTIFACTS
from vpt.web.http.operations import JSON, SIGNED_LINK, USER, ResponseSpec, operation
from vpt.web.http.params import Param
from vpt.web.http.requests import json_response
from vpt.web.schemas.screenshots import SignedLinkResponse

LINK_SECONDS = 3600
_TIME = re.compile("[0-9]{1,15}")
_TYPES = {"png": "image/png", "jpeg": "image/jpeg"}
_SIGN = Param(
    "sign",
    "With 1 the response is a link that is valid for an hour without a token.",
    {"type": "string"},
    str,
    example="1",
)

routes = web.RouteTableDef()


@routes.get("/screenshots/{execution_id}/{attempt}/{step}.png")
@own_credential
@operation(
    ResponseSpec({**dict.fromkeys(_TYPES.values()), JSON: SignedLinkResponse}),
    query=(_SIGN,),
    credentials=(USER, SIGNED_LINK),
)
async def get_screenshot(request: web.Request) -> web.StreamResponse:
    """Show the picture, or with `?sign=1` a link to it."""
    if "signature" in request.query:
        _check_signature(request)
    else:
        await require(request, Role.VIEWER)
    match = request.match_info
    artifacts = request.app[ARTIFACTS]
    picture = await artifacts.find(match["execution_id"], match["attempt"], match["step"])
    if _SIGN.of(request.query) == "1" and "signature" not in request.query:
        return json_response(_link(request))
    return web.FileResponse(
        picture.path,
        headers={
            hdrs.CONTENT_TYPE: _TYPES[picture.kind],
            hdrs.CACHE_CONTROL: "private, max-age=3600",
            "X-Content-Type-Options": "nosniff",
        },
    )


def _link(request: web.Request) -> dict[str, str]:
    expires = int(time.time()) + LINK_SECONDS
    signature = _signature(request, str(expires))
    return {
        "url": f"{request.path}?expires={expires}&signature={signature}",
        "expires_at": f"{datetime.fromtimestamp(expires, UTC):%Y-%m-%dT%H:%M:%SZ}",
    }


def _check_signature(request: web.Request) -> None:
    expires, signature = request.query.get("expires", ""), request.query["signature"]
    good = _signature(request, expires)
    # compare_digest accepts only ASCII text
    if not hmac.compare_digest(good.encode(), signature.encode(errors="replace")):
        raise InvalidTokenError("The signature of the link is wrong")
    if not _TIME.fullmatch(expires) or int(expires) <= time.time():
        raise InvalidTokenError("The link has expired")


def _signature(request: web.Request, expires: str) -> str:
    """Sign with a key of its own, so that a signature is never valid as a token."""
    secret = secret_of(request.app).encode()
    key = hmac.digest(secret, b"vpt screenshots", hashlib.sha256)
    message = f"{request.path}\n{expires}".encode(errors="replace")
    return hmac.digest(key, message, hashlib.sha256).hex()
