"""Tokens that can be revoked: their owner, and whether they are valid.

A user's token is signed and carries the id of its row; of a host's own token only the hash is kept.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jwt

from vpt.errors import InvalidTokenError
from vpt.model import Role
from vpt.store.db import Database

#: Seconds for which the database is not asked again: a revoked token may be accepted so long.
KNOWN_FOR = 4.0
#: The names that a host may have, but for those that `is_dots`.
HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: A host's own names of its devices, also as adb has them over TCP: with a port.
LOCAL_ID = re.compile(r"[A-Za-z0-9._-]{1,64}(:[0-9]{1,5})?")
#: The ids that new_id returns.
TOKEN_ID = re.compile(r"tok_[0-9a-f]{16}")
#: Characters of a token, and of the user name in it.
LONGEST_TOKEN, LONGEST_USER = 4096, 200
#: Tokens whose signature is remembered as good: checking one costs more than most requests.
CACHED_TOKENS = 1024
_ALGORITHM = "HS256"
_DAY = 86_400  # seconds
_MOST_KNOWN = 1024
_BYTES = 32
_FORM = re.compile(r"[A-Za-z0-9_-]{43}")  # of token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class User:
    """Who a token speaks for; `expires_at` is in seconds since the epoch, None for never.

    With role host, `user_id` is the id of the host. Only a token that can be revoked has an id.
    """

    user_id: str
    role: Role
    expires_at: float | None
    token_id: str | None = None


def is_dots(name: str) -> bool:
    """Return whether a name is dots alone: clients take "." and ".." out of a path."""
    return not name.strip(".")


def new_id() -> str:
    """Return a new id for a token."""
    return f"tok_{secrets.token_hex(8)}"


_verified_tokens: dict[tuple[str, str], User] = {}


def issue_token(
    secret: str, user: str, role: Role, days: float, token_id: str | None = None
) -> str:
    """Sign a token that expires in `days`; with role host, `user` is the id of the host.

    A token with an id is valid only while its row is in the database and has not expired.
    """
    now = int(time.time())
    claims = {
        "user_id": user,
        "sub": user,
        "role": role.value,
        "iat": now,
        "exp": now + int(days * _DAY),
    }
    if token_id is not None:
        claims["jti"] = token_id
    return jwt.encode(claims, secret, algorithm=_ALGORITHM)


def read_token(secret: str, token: str) -> User:
    """Return the user of a token that we signed; InvalidTokenError when it is wrong or expired.

    It does not check whether the token was revoked: that is `Tokens.lives`.
    """
    user = _verified_tokens.get((token, secret))
    if user is None:
        user = _verified(secret, token)
        if len(_verified_tokens) >= CACHED_TOKENS:
            del _verified_tokens[next(iter(_verified_tokens))]
        _verified_tokens[token, secret] = user
    if user.expires_at is not None and user.expires_at <= time.time():
        raise InvalidTokenError
    return user


def _verified(secret: str, token: str) -> User:
    if len(token) > LONGEST_TOKEN:
        raise InvalidTokenError
    options: Any = {"verify_aud": False, "verify_iat": False, "verify_sub": False}
    try:
        claims = jwt.decode(token, secret, algorithms=[_ALGORITHM], options=options)
        role = Role(claims.get("role", Role.OPERATOR))
        expires_at = int(claims["exp"]) if "exp" in claims else None
        token_id = claims.get("jti")
    # PyJWT lets the JSON parser's own errors through: RecursionError and ValueError among them.
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidTokenError from error
    # Other issuers use this claim, too, for ids that have no row here.
    ours = isinstance(token_id, str) and TOKEN_ID.fullmatch(token_id)
    return User(user_id_of(claims), role, expires_at, token_id if ours else None)


def user_id_of(claims: dict[str, Any]) -> str:
    """Return the user name of the claims; InvalidTokenError when they have no usable one."""
    user = claims.get("user_id", claims.get("sub"))
    if isinstance(user, int) and not isinstance(user, bool):
        user = str(user)
    if not isinstance(user, str) or not 0 < len(user) <= LONGEST_USER or not user.isprintable():
        raise InvalidTokenError
    return user


async def make_token(
    db: Database,
    host_id: str,
    *,
    token_id: str | None = None,
    name: str | None = None,
    created_by: str = "vpt host-token",
    expires_at: datetime | None = None,
) -> str:
    """Store one more token of that host and return it: only its hash is kept."""
    token = secrets.token_urlsafe(_BYTES)
    await db.row(
        "insert_token",
        id=token_id or new_id(),
        name=name or host_id,
        role=Role.HOST,
        host_id=host_id,
        hash=_hash(token),
        created_by=created_by,
        expires_at=expires_at,
    )
    return token


async def listed_tokens(db: Database) -> list[Any]:
    """Return a row for each host with tokens: `host_id`, `tokens` (count), `newest` (made at)."""
    return await db.rows("host_tokens")


async def revoke_tokens(db: Database, host_id: str) -> int:
    """Revoke all tokens of a host; return how many it had."""
    return len(await db.rows("revoke_host_tokens", host_id=host_id))


class Tokens:
    """Looks tokens up, and asks the database about each at most every KNOWN_FOR seconds."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._known: dict[bytes | str, tuple[float, str]] = {}
        self._forgotten = 0

    async def host_of(self, token: str) -> str | None:
        """Return the id of the host that owns `token`, None when there is no such token."""
        if not _FORM.fullmatch(token):
            return None
        return await self._asked(_hash(token), "host_of_token", "hash")

    async def lives(self, token_id: str) -> bool:
        """Return whether the token with that id exists and was not revoked."""
        return await self._asked(token_id, "token_lives", "id") is not None

    def forget(self, known_as: bytes | str) -> None:
        """Ask the database at the next use of a token, named by its hash or its id."""
        self._known.pop(known_as, None)
        self._forgotten += 1

    async def _asked(self, known_as: bytes | str, query: str, argument: str) -> str | None:
        asked = self._clock()
        until, host_id = self._known.get(known_as, (asked, ""))
        if until > asked:
            return host_id
        self._known.pop(known_as, None)
        forgotten = self._forgotten
        found = await self._db.value(query, **{argument: known_as})
        if found is None:
            return None
        if forgotten != self._forgotten:  # the answer may be older than the change
            return str(found)
        if len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[known_as] = (asked + KNOWN_FOR, str(found))
        return str(found)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
