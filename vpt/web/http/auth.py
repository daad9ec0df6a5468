"""Who may call a route: a route that declares nothing is closed.

A handler declares it with one decorator: `@public`, `@needs(Role.VIEWER)`, or
`@own_credential` when it checks the credential itself (hosts, metrics, signed links).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, TypeVar

from aiohttp import hdrs, web

from vpt.errors import ForbiddenError, InvalidTokenError, NoTokenError, UnavailableError
from vpt.model import Role
from vpt.store.tokens import User, read_token
from vpt.web.http.caller import routed_path
from vpt.web.http.keys import CONFIG, SUPABASE, TOKENS, USER

_RANK = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}
_MARK = "vpt_access"

Handler = TypeVar("Handler", bound=Callable[..., Any])


class Access(Enum):
    """Access to a route that needs no user."""

    PUBLIC = auto()
    OWN_CREDENTIAL = auto()


def public(handler: Handler) -> Handler:
    """Mark a handler that anybody may call; `user_or_none` returns the user, if there is one."""
    setattr(handler, _MARK, Access.PUBLIC)
    return handler


def own_credential(handler: Handler) -> Handler:
    """Mark a handler that checks the credential of the caller itself."""
    setattr(handler, _MARK, Access.OWN_CREDENTIAL)
    return handler


def needs(role: Role) -> Callable[[Handler], Handler]:
    """Mark a handler for users of `role` or a higher one; `user_of(request)` returns the user."""

    def mark(handler: Handler) -> Handler:
        setattr(handler, _MARK, role)
        return handler

    return mark


def access_of(handler: Any) -> Role | Access | None:
    """Return what the handler declares, None when it declares nothing."""
    access: Role | Access | None = getattr(handler, _MARK, None)
    return access


async def user_of_token(app: web.Application, token: str) -> User:
    """Return the user of a token, issued by us or by a Supabase project.

    InvalidTokenError when it is wrong, expired or revoked; DatabaseAwayError or UnavailableError
    when that cannot be checked now.
    """
    try:
        user = read_token(secret_of(app), token)
    except InvalidTokenError:
        if SUPABASE not in app:
            raise
        return await app[SUPABASE].user_of(token)
    if user.token_id is not None and not await app[TOKENS].lives(user.token_id):
        raise InvalidTokenError
    return user


def bearer(header: str | None) -> str | None:
    """Return the token of an Authorization header: `Bearer <token>` or the bare token."""
    if header is None:
        return None
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip() or None
    return header.strip() or None


def secret_of(app: web.Application) -> str:
    """Return the key that signs tokens; `vpt serve` does not start without one."""
    secret = app[CONFIG].secret_key
    if secret is None:
        raise RuntimeError("SECRET_KEY is not set")
    return secret


async def authenticate(request: web.Request) -> User:
    """Return the user of the request's token, whatever the role; raises as `user_of_token` does."""
    token = bearer(request.headers.get(hdrs.AUTHORIZATION))
    if token is None:
        raise NoTokenError
    user = await user_of_token(request.app, token)
    request[USER] = user
    return user


async def require(request: web.Request, role: Role) -> User:
    """Return the user; ForbiddenError when the role is lower than `role`."""
    user = await authenticate(request)
    if not allowed(user, role):
        raise ForbiddenError
    return user


def allowed(user: User, role: Role) -> bool:
    """Return whether the user has `role` or a higher one; role host is below all of them."""
    return _RANK.get(user.role, -1) >= _RANK[role]


def user_of(request: web.Request) -> User:
    """Return the user of a route that `needs` one."""
    return request[USER]


async def user_or_none(request: web.Request) -> User | None:
    """Return the user who calls a public route with a valid token, else None."""
    try:
        return await require(request, Role.VIEWER)
    except (NoTokenError, InvalidTokenError, ForbiddenError, UnavailableError):
        return None


async def admit(request: web.Request) -> User | None:
    """Return the user of the request, None where no user is needed; raise when access is denied.

    An unknown path below /api is 401 without a token, so that strangers cannot list the routes.
    """
    match = request.match_info
    access = access_of(match.handler)
    if isinstance(access, Role):
        return await require(request, access)
    if access is not None or _is_preflight(request):
        return None
    if match.http_exception is not None:
        return await authenticate(request) if routed_path(request).startswith("/api") else None
    if isinstance(match.route.resource, web.StaticResource):
        return None
    if routed_path(request).startswith("/socket.io/"):  # it checks the token when a client connects
        return None
    raise ForbiddenError("This route is closed: its handler does not declare who may call it.")


def _is_preflight(request: web.Request) -> bool:
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )
