"""The one middleware: request id, access, errors as JSON, audit, and a line in the log.

It is one and not five because each middleware costs time at every request.
"""

from __future__ import annotations

import math
import re
import secrets
from itertools import count, islice
from time import perf_counter

import orjson
import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from structlog.contextvars import bind_contextvars

from vpt.errors import InvalidError, VptError
from vpt.store.audit import Entry
from vpt.web.http.auth import admit
from vpt.web.http.caller import caller_of
from vpt.web.http.held import release
from vpt.web.http.keys import AUDIT, REFUSALS, REFUSED_HOST, REQUESTS, USER
from vpt.web.http.refusals import Refusals

log = structlog.get_logger(__name__)

REQUEST_ID = "X-Request-ID"
JSON_HEADERS = {hdrs.CONTENT_TYPE: "application/json; charset=utf-8"}
MOST_FIELDS = 100
LONGEST_PATH = 500
#: The statuses of refusals are from this one to below that one.
_REFUSED, _FAILED = 400, 500

#: Request ids must differ, not be secret: a system call for each would cost 3 % of a request.
_FIRST, _numbers = secrets.token_hex(4), count(1)
_READS = frozenset((hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS))
#: Not audited: hosts send these twice a minute, some of them with an admin's token.
_HEARTBEATS = frozenset(("/api/hosts/{id}/heartbeat", "/server/system/ping"))
_GOOD_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_CODES = {
    400: "bad_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
    417: "expectation_failed",
}
_SENTENCES = {
    404: "There is no such route.",
    405: "This route does not support this method.",
    413: "The body is too large.",
    417: "Only `Expect: 100-continue` is supported.",
}
#: No browser may take an answer for something else than it is, nor show it inside another page.
_GUARDS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Content-Security-Policy", "frame-ancestors 'none'"),
)


def count_refusals(app: web.Application) -> None:
    """Count the refusals of an application; what is left at its stop is told then."""
    app[REFUSALS] = refusals = Refusals(app[AUDIT].note)

    async def stop(_: web.Application) -> None:
        refusals.close()

    app.on_shutdown.append(stop)


@web.middleware
async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check access, turn errors into JSON responses, note writes in the audit, log one line."""
    began = perf_counter()
    request_id = _request_id(request)
    bind_contextvars(request_id=request_id)
    try:
        response = await _answer(request, handler)
    finally:
        release(request)
    if not response.prepared:
        _complete(response, request_id)
    seconds = perf_counter() - began
    request.app[REQUESTS].add((_method_of(request), _route_of(request), response.status), seconds)
    entry = _entry(request, request_id, response.status)
    if _is_left_out(request, response.status, entry):
        return response
    if entry is not None:
        request.app[AUDIT].note(entry)
    _log_refused_host(request, response.status)
    log.info(
        "http_request",
        method=_method_of(request),
        path=request.path[:LONGEST_PATH],
        status=response.status,
        ms=round(seconds * 1000, 2),
    )
    return response


def _log_refused_host(request: web.Request, status: int) -> None:
    refused = request.get(REFUSED_HOST)
    if refused is not None:
        log.warning(
            "host_registration_refused",
            host_id=refused.name,
            peer=caller_of(request).address,
            status=status,
            reason=refused.reason,
        )


def _is_left_out(request: web.Request, status: int, entry: Entry | None) -> bool:
    """Return whether it is one refusal too many, which is counted and not logged."""
    if not _REFUSED <= status < _FAILED:
        return False
    user = request.get(USER)
    user_id = None if user is None else user.user_id
    return request.app[REFUSALS].left_out(user_id, caller_of(request).address, status, entry)


def _complete(response: web.StreamResponse, request_id: str) -> None:
    """Add the headers that every answer has; pages have a stricter policy of their own."""
    headers = response.headers
    headers[REQUEST_ID] = request_id
    for name, value in _GUARDS:
        headers.setdefault(name, value)


def expectation_refused(request: web.Request) -> web.Response:
    """Return the answer to an `Expect` other than 100-continue, which the library refuses."""
    response = _http_error(web.HTTPExpectationFailed())
    _complete(response, _request_id(request))
    return response


def _entry(request: web.Request, request_id: str, status: int) -> Entry | None:
    """Return what the audit notes: a request of a user that could have changed something."""
    user, route = request.get(USER), _route_of(request)
    if user is None or request.method in _READS or route in _HEARTBEATS:
        return None
    return Entry(
        user_id=user.user_id,
        role=user.role,
        token_id=user.token_id,
        method=_method_of(request),
        route=route,
        path=request.rel_url.raw_path[:LONGEST_PATH],
        status=status,
        peer=caller_of(request).address,
        request_id=request_id,
    )


def _method_of(request: web.Request) -> str:
    """Return the method, or `other` for one that is not of HTTP, so that labels stay few."""
    return request.method if request.method in hdrs.METH_ALL else "other"


def _route_of(request: web.Request) -> str:
    """Return the template of the route, since paths with ids would be labels without end."""
    resource = request.match_info.route.resource
    return "none" if resource is None else resource.canonical


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        user = await admit(request)
        if user is not None:
            bind_contextvars(user_id=user.user_id)
        return await handler(request)
    except VptError as error:
        return error_response(error)
    except web.HTTPException as error:
        if error.status < 400:  # noqa: PLR2004 (a redirect is an answer)
            raise
        return _http_error(error)
    except Exception as error:
        if _disconnected(request, error):
            return web.Response(status=400)
        log.exception(
            "request_failed", method=_method_of(request), path=request.path[:LONGEST_PATH]
        )
        return error_response(
            VptError("Internal error of the server: its log has the details, by the X-Request-ID.")
        )


def _request_id(request: web.Request) -> str:
    given = request.headers.get(REQUEST_ID)
    if given is not None and _GOOD_ID.fullmatch(given):
        return given
    return f"{_FIRST}{next(_numbers):08x}"


def error_response(error: VptError) -> web.Response:
    """Return the response of an error: `{"error", "code"}`, or `{"errors"}` by field."""
    headers = dict(JSON_HEADERS)
    if error.retry_after is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(error.retry_after)))
    return web.Response(body=_error_body(error), status=error.status, headers=headers)


def _error_body(error: VptError) -> bytes:
    if isinstance(error, InvalidError):
        some = dict(islice(error.errors.items(), MOST_FIELDS))
        return orjson.dumps({"errors": some}, option=orjson.OPT_NON_STR_KEYS)
    return orjson.dumps({"error": error.message, "code": error.code})


def _http_error(error: web.HTTPException) -> web.Response:
    headers = dict(JSON_HEADERS)
    if hdrs.ALLOW in error.headers:
        headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    body = {
        "error": _SENTENCES.get(error.status, error.reason),
        "code": _CODES.get(error.status, "error"),
    }
    return web.Response(body=orjson.dumps(body), status=error.status, headers=headers)


def _disconnected(request: web.Request, error: Exception) -> bool:
    """Return whether the connection broke during the handler, so that no response can be sent."""
    transport = request.transport
    return isinstance(error, ConnectionError) and (transport is None or transport.is_closing())
