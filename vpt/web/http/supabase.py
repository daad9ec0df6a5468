"""Sign-in by a Supabase project: its users' tokens, checked by its secret or its public keys."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import Any

import aiohttp
import jwt
import structlog

from vpt.errors import InvalidTokenError, UnavailableError
from vpt.model import Role
from vpt.web.http.auth import CACHED_TOKENS, LONGEST_TOKEN, user_id_of
from vpt.web.http.keys import User

log = structlog.get_logger(__name__)

AUDIENCE = "authenticated"
_KEYS_PATH = "/auth/v1/.well-known/jwks.json"
#: What a public key may sign with; never HS256, or the key itself would be a secret.
_PUBLIC = ("RS256", "ES256", "EdDSA")
#: Seconds: for how long keys are taken for good, between two tries to get them, for one try.
_FRESH, _PAUSE, _LIMIT = 600.0, 10.0, 5.0
_MOST = 256 * 1024  # bytes
#: What asking may end with; the last three are how PyJWT takes JSON that is no set of keys.
_NO_KEYS = (
    *(aiohttp.ClientError, TimeoutError, OSError, ValueError, jwt.PyJWTError),
    *(AttributeError, TypeError, RecursionError),
)
_ROLES = {role.value: role for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN)}


class Supabase:
    """Tells who a token of the project speaks for.

    `url` is the project's, whose public keys are asked for; `secret` is its shared key (HS256).
    """

    def __init__(self, url: str | None, secret: str | None) -> None:
        self._url = url.rstrip("/") + _KEYS_PATH if url else None
        self._secret = secret
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = self._tried = float("-inf")
        self._turn = asyncio.Lock()
        self._known: dict[str, tuple[float, User]] = {}

    async def user_of(self, token: str) -> User:
        """Give the user; InvalidTokenError, or UnavailableError when its keys cannot be had.

        The role is what `app_metadata.role` says, which users cannot edit, else viewer. Anonymous
        users are nobody.
        """
        seen, user = self._known.get(token, (0.0, None))
        if user is None or time.monotonic() - seen > _FRESH:  # its key may have been taken back
            user = self._remember(token, await self._verified(token))
        if user.expires_at is None or user.expires_at <= time.time():
            raise InvalidTokenError
        return user

    def _remember(self, token: str, user: User) -> User:
        self._known.pop(token, None)
        if len(self._known) >= CACHED_TOKENS:
            del self._known[next(iter(self._known))]
        self._known[token] = time.monotonic(), user
        return user

    async def _verified(self, token: str) -> User:
        if len(token) > LONGEST_TOKEN:
            raise InvalidTokenError
        try:
            header = jwt.get_unverified_header(token)
            algorithm = str(header.get("alg"))
            key = await self._key(algorithm, header.get("kid"))
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=AUDIENCE,
                options={"require": ["exp", "sub", "aud"], "verify_iat": False},
            )
            expires_at = int(claims["exp"])
        # PyJWT lets the JSON parser's own errors through: RecursionError and ValueError among them.
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise InvalidTokenError from error
        if claims.get("is_anonymous") is True:
            raise InvalidTokenError
        return User(user_id_of({"sub": claims["sub"]}), _role_of(claims), expires_at)

    async def _key(self, algorithm: str, kid: Any) -> Any:
        """Give the key for a token that says it was signed so."""
        if algorithm == "HS256" and self._secret:
            return self._secret
        if algorithm not in _PUBLIC or self._url is None or not isinstance(kid, str):
            raise InvalidTokenError
        if self._may_be_new(kid):  # who shows a known key never waits for a stranger's made-up one
            async with self._turn:
                if self._may_be_new(kid) and time.monotonic() - self._tried > _PAUSE:
                    self._tried = time.monotonic()
                    await self._fetch(self._url)
        key = self._keys.get(kid)
        if key is None and self._fetched < self._tried:
            raise UnavailableError("The keys of the sign-in cannot be had: try again in a moment.")
        if key is None or key.algorithm_name != algorithm:
            raise InvalidTokenError
        return key

    def _may_be_new(self, kid: str) -> bool:
        return kid not in self._keys or time.monotonic() - self._fetched > _FRESH

    async def _fetch(self, url: str) -> None:
        """Ask for the public keys; those that are known stay when nobody answers."""
        timeout = aiohttp.ClientTimeout(total=_LIMIT)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url, allow_redirects=False) as response,
            ):
                body = await _read(response)
            keys = jwt.PyJWKSet.from_json(body.decode()).keys
        except _NO_KEYS as error:
            log.warning("supabase_keys_unavailable", error=type(error).__name__)
            return
        self._keys = {key.key_id: key for key in keys if isinstance(key.key_id, str)}
        self._fetched = time.monotonic()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    if response.status != HTTPStatus.OK:  # a redirect has a body, too
        raise ValueError(response.status)
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MOST:
            raise ValueError("More than any project's keys.")
    return bytes(body)


def _role_of(claims: dict[str, Any]) -> Role:
    metadata = claims.get("app_metadata")
    said = metadata.get("role") if isinstance(metadata, dict) else None
    return _ROLES.get(said, Role.VIEWER) if isinstance(said, str) else Role.VIEWER
