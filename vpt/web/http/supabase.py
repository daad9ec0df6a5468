"""Sign-in with tokens of a Supabase project, checked by its secret or its public keys."""

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
from vpt.store.tokens import CACHED_TOKENS, LONGEST_TOKEN, User, user_id_of

log = structlog.get_logger(__name__)

AUDIENCE = "authenticated"
_KEYS_PATH = "/auth/v1/.well-known/jwks.json"
#: Algorithms of public keys; never HS256, which would make the public key a shared secret.
_PUBLIC = ("RS256", "ES256", "EdDSA")
#: Seconds: how long fetched keys are trusted, between two fetches, and the timeout of a fetch.
_FRESH, _PAUSE, _LIMIT = 600.0, 10.0, 5.0
_MOST = 256 * 1024  # bytes
#: How a fetch may fail; the last three are what PyJWT raises for JSON that is no key set.
_NO_KEYS = (
    *(aiohttp.ClientError, TimeoutError, OSError, ValueError, jwt.PyJWTError),
    *(AttributeError, TypeError, RecursionError),
)
_ROLES = {role.value: role for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN)}


class Supabase:
    """Checks tokens of the project.

    `url` is the project's, from where public keys are fetched; `secret` is its shared key (HS256).
    """

    def __init__(self, url: str | None, secret: str | None) -> None:
        self._url = url.rstrip("/") + _KEYS_PATH if url else None
        self._secret = secret
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = self._tried = float("-inf")
        self._turn = asyncio.Lock()
        self._known: dict[str, tuple[float, User]] = {}

    async def user_of(self, token: str) -> User:
        """Return the user; InvalidTokenError, or UnavailableError when the keys cannot be fetched.

        The role is that of `app_metadata.role`, which users cannot edit, else viewer. Anonymous
        users are refused.
        """
        seen, user = self._known.get(token, (0.0, None))
        if user is None or time.monotonic() - seen > _FRESH:  # its key may have been revoked
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
        """Return the key for a token with this header."""
        if algorithm == "HS256" and self._secret:
            return self._secret
        if algorithm not in _PUBLIC or self._url is None or not isinstance(kid, str):
            raise InvalidTokenError
        if self._may_be_new(kid):  # so tokens with a known key never wait for a fetch
            async with self._turn:
                if self._may_be_new(kid) and time.monotonic() - self._tried > _PAUSE:
                    self._tried = time.monotonic()
                    await self._fetch(self._url)
        key = self._keys.get(kid)
        if key is None and self._fetched < self._tried:
            raise UnavailableError(
                "The public keys of the Supabase project cannot be fetched: try again in a moment."
            )
        if key is None or key.algorithm_name != algorithm:
            raise InvalidTokenError
        return key

    def _may_be_new(self, kid: str) -> bool:
        return kid not in self._keys or time.monotonic() - self._fetched > _FRESH

    async def _fetch(self, url: str) -> None:
        """Fetch the public keys; when that fails, the known ones are kept."""
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
            raise ValueError("The key set is too long.")
    return bytes(body)


def _role_of(claims: dict[str, Any]) -> Role:
    metadata = claims.get("app_metadata")
    said = metadata.get("role") if isinstance(metadata, dict) else None
    return _ROLES.get(said, Role.VIEWER) if isinstance(said, str) else Role.VIEWER
