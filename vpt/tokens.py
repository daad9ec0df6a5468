"""Own tokens of hosts: made once, shown once, revoked; only their hash is kept."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from typing import Any

from vpt.db import Database

#: Seconds for which a token is known without asking: a revoked one is refused after that.
KNOWN_FOR = 4.0
#: What a host may be called.
HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MOST_KNOWN = 1024
_BYTES = 32
_FORM = re.compile(r"[A-Za-z0-9_-]{43}")  # what token_urlsafe makes of 32 bytes


async def make_token(db: Database, host_id: str) -> str:
    """Make one more token of that host's; this is the only time that anybody sees it."""
    token = secrets.token_urlsafe(_BYTES)
    await db.row("add_host_token", hash=_hash(token), host_id=host_id)
    return token


async def listed_tokens(db: Database) -> list[Any]:
    """Give for each host that has any: `host_id`, `tokens` (how many), `newest` (when made)."""
    return await db.rows("host_tokens")


async def revoke_tokens(db: Database, host_id: str) -> int:
    """Take all tokens of a host away; give how many it had."""
    return len(await db.rows("revoke_host_tokens", host_id=host_id))


class HostTokens:
    """Tells whose a token is, and asks the database at most every KNOWN_FOR seconds."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._known: dict[bytes, tuple[float, str]] = {}

    async def host_of(self, token: str) -> str | None:
        """Give the id of the host whose token it is, None when it is nobody's."""
        if not _FORM.fullmatch(token):
            return None
        asked, hashed = self._clock(), _hash(token)
        until, host_id = self._known.get(hashed, (asked, ""))
        if until > asked:
            return host_id
        self._known.pop(hashed, None)
        found: str | None = await self._db.value("host_of_token", hash=hashed)
        if found is not None:
            self._remember(hashed, asked + KNOWN_FOR, found)
        return found

    def _remember(self, hashed: bytes, until: float, host_id: str) -> None:
        if len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[hashed] = (until, host_id)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
