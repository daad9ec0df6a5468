"""Tokens, roles, and the rule that a route is closed until it says who may call it.

A handler declares it with one decorator: `@public`, `@needs(Role.VIEWER)`, or
`@own_credential` when it checks the caller by itself (hosts, metrics, signed links).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, TypeVar

import jwt
from aiohttp import hdrs, web

from vpt.errors import ForbiddenError, InvalidTokenError, NoTokenError, UnavailableError
from vpt.model import Role
from vpt.store.tokens import TOKEN_ID
from vpt.web.http.keys import CONFIG, SUPABASE, TOKENS, USER, User

ALGORITHM = "HS256"
LONGEST_TOKEN = 4096
LONGEST_USER = 200
CACHED_TOKENS = 1024
DAY = 86_400

_RANK = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}
_MARK = "vpt_access"
_cache: dict[tuple[str, str], User] = {}

Handler = TypeVar("Handler", bound=Callable[..., Any])


class Access(Enum):
    """Who may call a route that is not for users alone."""

    PUBLIC = auto()
    OWN_CREDENTIAL = auto()


def public(handler: Handler) -> Handler:
    """Let everybody call it; `user_or_none` tells whether a user does."""
    setattr(handler, _MARK, Access.PUBLIC)
    return handler


def own_credential(handler: Handler) -> Handler:
    """Let everybody reach it: the handler itself refuses who shows no credential."""
    setattr(handler, _MARK, Access.OWN_CREDENTIAL)
    return handler


def needs(role: Role) -> Callable[[Handler], Handler]:
    """Let users of `role` or a higher one call it; `user_of(request)` gives the user."""

    def mark(handler: Handler) -> Handler:
        setattr(handler, _MARK, role)
        return handler

    return mark


def access_of(handler: Any) -> Role | Access | None:
    """Give what the handler declares, None when it declares nothing."""
    access: Role | Access | None = getattr(handler, _MARK, None)
    return access


def issue_token(
    secret: str, user: str, role: Role, days: float, token_id: str | None = None
) -> str:
    """Sign a token that ends in `days`; for role host, `user` is the host's id.

    With an id it holds only for as long as the row of that id stands.
    """
    now = int(time.time())
    claims = {
        "user_id": user,
        "sub": user,
        "role": role.value,
        "iat": now,
        "exp": now + int(days * DAY),
    }
    if token_id is not None:
        claims["jti"] = token_id
    return jwt.encode(claims, secret, algorithm=ALGORITHM)


async def user_of_token(app: web.Application, token: str) -> User:
    """Give the user a token speaks for, ours or that of a Supabase project.

    InvalidTokenError when it is bad or revoked; DatabaseAwayError or UnavailableError when nobody
    can tell just now.
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


def read_token(secret: str, token: str) -> User:
    """Read a token of ours; InvalidTokenError when it is bad, unsigned or expired.

    Whether one with an id was revoked, `user_of_token` knows.
    """
    user = _cache.get((token, secret))
    if user is None:
        user = _verified(secret, token)
        if len(_cache) >= CACHED_TOKENS:
            del _cache[next(iter(_cache))]
        _cache[token, secret] = user
    if user.expires_at is not None and user.expires_at <= time.time():
        raise InvalidTokenError
    return user


def _verified(secret: str, token: str) -> User:
    if len(token) > LONGEST_TOKEN:
        raise InvalidTokenError
    options: Any = {"verify_aud": False, "verify_iat": False, "verify_sub": False}
    try:
        claims = jwt.decode(token, secret, algorithms=[ALGORITHM], options=options)
        role = Role(claims.get("role", Role.OPERATOR))
        expires_at = int(claims["exp"]) if "exp" in claims else None
        token_id = claims.get("jti")
    # PyJWT lets the JSON parser's own errors through: RecursionError and ValueError among them.
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidTokenError from error
    ours = isinstance(token_id, str) and TOKEN_ID.fullmatch(token_id)  # others number theirs, too
    return User(user_id_of(claims), role, expires_at, token_id if ours else None)


def user_id_of(claims: dict[str, Any]) -> str:
    """Give who the claims speak for; InvalidTokenError when that is no name."""
    user = claims.get("user_id", claims.get("sub"))
    if isinstance(user, int) and not isinstance(user, bool):
        user = str(user)
    if not isinstance(user, str) or not 0 < len(user) <= LONGEST_USER or not user.isprintable():
        raise InvalidTokenError
    return user


def bearer(header: str | None) -> str | None:
    """Give the token of an Authorization header: `Bearer <token>` or the bare token."""
    if header is None:
        return None
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip() or None
    return header.strip() or None


def secret_of(app: web.Application) -> str:
    """Give the key that signs tokens; the start-up made sure that there is one."""
    secret = app[CONFIG].secret_key
    if secret is None:
        raise RuntimeError("SECRET_KEY is not set")
    return secret


async def authenticate(request: web.Request) -> User:
    """Give the caller of any role; NoTokenError or InvalidTokenError when there is none."""
    token = bearer(request.headers.get(hdrs.AUTHORIZATION))
    if token is None:
        raise NoTokenError
    user = await user_of_token(request.app, token)
    request[USER] = user
    return user


async def require(request: web.Request, role: Role) -> User:
    """Give the caller, who has `role` or a higher one; else 401 or ForbiddenError."""
    user = await authenticate(request)
    if not allowed(user, role):
        raise ForbiddenError
    return user


def allowed(user: User, role: Role) -> bool:
    """True when the user's role is `role` or a higher one; hosts are no users."""
    return _RANK.get(user.role, -1) >= _RANK[role]


def user_of(request: web.Request) -> User:
    """Give the user of a route that `needs` one."""
    return request[USER]


async def user_or_none(request: web.Request) -> User | None:
    """Give the user who calls a public route with a good token, else None."""
    try:
        return await require(request, Role.VIEWER)
    except (NoTokenError, InvalidTokenError, ForbiddenError, UnavailableError):
        return None


async def admit(request: web.Request) -> User | None:
    """Let the request in or raise; unknown routes below /api are known to token holders only."""
    match = request.match_info
    access = access_of(match.handler)
    if isinstance(access, Role):
        return await require(request, access)
    if access is not None or _is_preflight(request):
        return None
    if match.http_exception is not None:
        return await authenticate(request) if request.path.startswith("/api") else None
    if isinstance(match.route.resource, web.StaticResource):
        return None
    if request.path.startswith("/socket.io/"):  # checks the token itself, at connect
        return None
    raise ForbiddenError("This route is closed.")


def _is_preflight(request: web.Request) -> bool:
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )
